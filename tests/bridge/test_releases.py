"""Releases of RD-Agent that are not run: their real files meet the table of seams, the diffs and the YAML."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import pytest

from rdagent_sota_bridge.bridge import seams, source_patch
from rdagent_sota_bridge.factor_set.locate import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import base_sets, model_yaml
from tests.forking import Forks

RELEASES = ("0.5.0", "0.6.1", "0.7.0")

# Each module of a release, beside the installed ones that it imports: what the seams replace in it.
MEET = """\
import importlib, importlib.util, json, pathlib, sys
import rdagent_sota_bridge as startup
startup.unregister()
from rdagent_sota_bridge.bridge import dry_run, seams
from rdagent.core.conf import RD_AGENT_SETTINGS
object.__setattr__(RD_AGENT_SETTINGS, "initial_fator_library_size", 20)  # a setting of theirs
answer = {}
for seam in seams.SEAMS:
    package, _, name = seam.module.rpartition(".")
    importlib.import_module(package)
    file = pathlib.Path(source, *seam.module.split(".")).with_suffix(".py")
    spec = importlib.util.spec_from_file_location(f"{package}.{name}_of_a_release", file)
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    answer[seam.name] = sorted({attribute for _, attribute, _ in seam.replacements(module)})
    if seam.name == "runner":
        sys.modules[seam.module] = module
        answer["asked"] = str(dry_run.ask_model_runner(module.QlibModelRunner))
    if seam.name == "factor runner":
        sys.modules[seam.module] = module
        answer["factors asked"] = str(dry_run.ask_factor_runner(module.QlibFactorRunner))
print(json.dumps(answer))
"""


def source(release: str) -> Path:
    """Return the folder of a release's files, which `make test` sets up."""
    folder = Path(os.environ.get("RDAGENT_SOURCES", str(Path(sys.prefix) / "sources"))) / release
    assert (folder / "rdagent").is_dir(), f"{folder} is not there: run the tests with `make test`"
    return folder


@pytest.mark.parametrize("release", RELEASES)
def test_every_seam_fits(release: str, forks_of_rdagent: Forks) -> None:
    """No seam is refused, both `develop` take the factors, and seams replace what they must."""
    found = forks_of_rdagent.output(f"source = {str(source(release))!r}\n{MEET}")
    answer = json.loads(found.splitlines()[-1])
    assert answer.pop("asked").startswith(
        "DryRun(keeps_frame=True, start=QlibStart(config_name='conf_sota_factors_model.yaml'"
    )
    assert answer.pop("factors asked").startswith("DryRun(")
    assert set(answer) == {seam.name for seam in seams.SEAMS}
    assert answer["runner"] == ["__init__", "develop"]
    assert answer["merge"] == answer["factor merge"] == ["process_factor_data"]
    assert answer["workspace"] == ["execute"]
    assert answer["loop"] == ["__call__", "__init__", "load", "run"]
    assert answer["options"] == [], "fire takes both spellings"


@pytest.mark.parametrize("release", RELEASES)
def test_the_yaml_is_adapted(release: str) -> None:
    """The YAML files that train on factors take a base set, and none; what they load is read back."""
    templates = source(release) / "rdagent" / "scenarios" / "qlib" / "experiment"
    files = [templates / "model_template" / model_yaml.CONFIG_FILE]
    files += [templates / "factor_template" / name for name in model_yaml.FACTOR_CONFIG_FILES]
    for file in files:
        text = file.read_text(encoding="utf-8")
        assert model_yaml.written_features(text) == base_sets.ALPHA20
        for base in (base_sets.base_set("alpha22"), base_sets.NO_BASE_SET):
            adapted = model_yaml.adapt(text, base, "a note", ("mined",))
            variables = model_yaml.feature_variables(base, ("mined",))
            assert model_yaml.read_task(adapted, variables).market == "csi300"


@pytest.mark.parametrize("release", RELEASES)
def test_the_model_runner_can_be_patched(release: str) -> None:
    """`rdagent-sota patch` finds the file; the block goes to its end."""
    found = source_patch.find(source(release))
    assert found.state == "none"
    assert FACTOR_FILE.encode() in found.bare

"""What is compared is what RD-Agent's YAML would train on: Qlib's own data sets and its own LGBModel."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from examples.demo.market import Market
from rdagent_sota_bridge.qlib_files import model_yaml
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22, BaseSet
from rdagent_sota_bridge.qlib_side import __file__ as qlib_side
from tests import seams

TEMPLATES = Path(str(metadata.distribution("rdagent").locate_file("rdagent/scenarios/qlib/experiment")))
REPLACED = "RESI5 (base set)"


@pytest.mark.e2e
def test_the_data_and_lightgbm_are_qlib_s_own(market_home: tuple[Path, Market], tmp_path: Path) -> None:
    """To the bit, or to float32's; a mined column replaces a base feature, parameters are RD-Agent's."""
    home, market = market_home
    seams.write_set(tmp_path, seams.factor_frame(market, RESI5=1.0, noise=1.0))
    mined = ("overnight_gap", "RESI5", "noise")
    base = BaseSet("alpha22", tuple(ALPHA22.items()))
    loaded = BaseSet(
        "alpha22", tuple((REPLACED if name == "RESI5" else name, text) for name, text in ALPHA22.items())
    )
    text = (TEMPLATES / "model_template" / model_yaml.CONFIG_FILE).read_text(encoding="utf-8")
    for name, features, columns in (
        ("model.yaml", loaded, mined),
        ("mined.yaml", base.without(mined), mined),
    ):
        adapted = model_yaml.adapt(text, features, "a test", columns)
        for variable, value in model_yaml.feature_variables(features, columns).items():
            adapted = adapted.replace(f"{{{{ {variable} }}}}", value)
        (tmp_path / name).write_text(adapted, encoding="utf-8")
    text = (TEMPLATES / "model_template" / "conf_baseline_factors_model.yaml").read_text(encoding="utf-8")
    for variable, value in model_yaml.feature_variables(base).items():
        text = text.replace(f"{{{{ {variable} }}}}", value)
    (tmp_path / "base.yaml").write_text(text, encoding="utf-8")
    shutil.copy(TEMPLATES / "factor_template" / model_yaml.FACTOR_CONFIG_FILES[0], tmp_path / "lightgbm.yaml")
    columns = {
        "base": [REPLACED if name == "RESI5" else name for name in sorted(ALPHA22)],
        "mined": sorted({*ALPHA22, *mined}),
    }
    (tmp_path / "asked.json").write_text(json.dumps({"columns": columns}), encoding="utf-8")
    shutil.copy(Path(qlib_side).with_name("sota_compare.py"), tmp_path)
    shutil.copy(Path(__file__).with_name("compare_trials.py"), tmp_path)
    variables = {**os.environ, "HOME": str(home), "OMP_THREAD_LIMIT": "2", "test_end": "2020-08-01"}
    command = [sys.executable, "compare_trials.py"]
    done = subprocess.run(command, cwd=tmp_path, env=variables, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads((tmp_path / "found.json").read_text(encoding="utf-8"))
    assert found["parameters"]["lambda_l1"] == 205.6999
    # Beside mined columns, which are float64, Qlib scales the base features in float64.
    assert (found["mined"]["apart"], found["base"]["apart"] < 1e-5) == (0, True)
    for which, names in columns.items():
        assert found[which]["predictions"] is True
        assert found[which]["columns"] == [*(name.replace(REPLACED, "RESI5") for name in names), "LABEL0"]
    assert found["mined"]["varies"] > 0

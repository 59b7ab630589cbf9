"""Forks whose YAML gets market, data folder or segments from variables: what Qlib will see is checked.

In the home folder the market that RD-Agent's own YAML names has other codes: a set is refused for it.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from examples.demo.market import Market
from rdagent_sota_bridge.bridge import plan
from rdagent_sota_bridge.qlib_files import docker
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE, read_task
from tests import forks, seams
from tests.bridge import test_backtest, test_forks
from tests.bridge.test_backtest import manifest_of
from tests.bridge.test_forks import Place

qlib = test_backtest.qlib
place = test_forks.place

MARKET = "market: &market csi300"
BY_DEFAULT = 'market: &market {{ market | default("csi300") }}'
HANDED = "market: &market {{ market }}"
DATA = 'provider_uri: "~/.qlib/qlib_data/cn_data"'

WITH_VARIABLES = (
    ('"PYTHONPATH": "./"', '"PYTHONPATH": "./", **HANDED'),
    ("class QlibModelRunner(", "HANDED = YAMLS = {}\n\n\nclass QlibModelRunner("),
    (
        "QlibModelExperiment:\n        if exp.based",
        "QlibModelExperiment:\n        exp.experiment_workspace.inject_files(**YAMLS)\n        if exp.based",
    ),
)
"""A fork that hands more variables to Qlib, and has a YAML of its own."""


NAMES = {"data folder": "provider_uri", "test segment": "test"}


@pytest.fixture
def fork(place: Place, market_home: tuple[Path, Market], tmp_path: Path) -> Place:
    """Return a place in whose home folder csi300 has codes of another vendor; `all` has the set's."""
    home = tmp_path / "home"
    shutil.copytree(market_home[0], home)
    file = home / ".qlib" / "qlib_data" / "cn_data" / "instruments" / "csi300.txt"
    file.write_text(file.read_text().replace("SH", "XX"))
    place.patch.setenv("HOME", str(home))
    place.be(*WITH_VARIABLES)
    with pytest.raises(SystemExit, match="none of the file's instruments is in the market"):
        seams.build_runner()
    return place


@pytest.mark.parametrize(
    ("edit", "handed", "exported", "unknown"),
    [
        ((DATA, "provider_uri: {{ data | default('~/no') }}"), {"data": "GOOD"}, {}, ""),
        ((MARKET, BY_DEFAULT), {"market": "all"}, {}, ""),
        ((MARKET, HANDED), {"market": "all"}, {}, ""),
        ((MARKET, "universe: &market {{ market }}"), {"market": "all"}, {}, ""),
        ((MARKET, "market: &market {market: all, filter_pipe: []}"), {}, {}, ""),
        ((MARKET, HANDED), {}, {"market": "all"}, ""),
        ((MARKET, HANDED), {"market": "all"}, {"market": "csi300"}, ""),
        ((MARKET, HANDED), {}, {}, "market"),
        ((MARKET, "market: &market {{ settings.market }}"), {}, {}, "market"),
        ((DATA, 'provider_uri: "~/{{ region }}_data"'), {}, {}, "data folder"),
        ((MARKET, "market: &market all"), {}, {}, "test segment"),
        ((MARKET, "market: &market all"), {"first": "2017-01-01", "last": "2019-12-31"}, {}, ""),
    ],
    ids=[
        *("data folder", "a default", "a market", "another key", "Qlib's long form", "exported"),
        *(
            "handed over and exported",
            "nothing",
            "nothing of an object",
            "half a folder",
            "no segment",
            "a segment",
        ),
    ],
)
def test_what_qlib_will_see_is_checked(
    edit: forks.Edit,
    handed: dict[str, str],
    exported: dict[str, str],
    unknown: str,
    fork: Place,
    market_home: tuple[Path, Market],
) -> None:
    """A good set is not refused for the template's defaults; what nothing hands over yet is one warning."""
    text = forks.yaml_text(None, edit)
    if "test" in unknown or "last" in handed:
        text = re.sub(r" test: \[.*\]", " test: [{{ first }}, {{ last }}]", text)
    for name, value in exported.items():
        fork.patch.setenv(name, value)
    handed = {name: value.replace("GOOD", str(market_home[1].provider)) for name, value in handed.items()}
    fork.be(*WITH_VARIABLES, HANDED=handed, YAMLS={CONFIG_FILE: text})
    with seams.logged() as lines:
        assert plan.record_of(seams.build_runner()) is not None
    found = [line for line in lines if line.startswith("WARNING")]
    warnings = [line for line in found if "too good for a real market" not in line]
    assert len(warnings) == (unknown != ""), warnings
    assert all(f"nothing hands it to the YAML yet: {unknown}; fix:" in line for line in warnings)
    training = (manifest_of(fork.develop()) or {})["training"]
    expected = {"train", "valid", "test", "provider_uri", "market", "label"}
    assert set(training) == expected - {NAMES.get(unknown, unknown)}
    assert training.get("market", "all") == ("csi300" if edit[0] == DATA else "all")


def test_a_container_inherits_no_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    """RD-Agent hands a container its own variables alone, and a process of this machine all of them."""
    text = forks.yaml_text(None, (MARKET, HANDED))
    monkeypatch.setenv("market", "all")
    assert read_task(text, {}).market == "all"
    assert read_task(text, {"market": "csi500"}).market == "csi500"
    monkeypatch.setattr(docker, "is_qlib_in_docker", lambda: True)
    assert read_task(text, {}).unknown == ("market",)

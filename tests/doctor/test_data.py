"""The lines about the data that a run reads: Qlib's and the factors', each in its wrong states."""

from __future__ import annotations

import shutil
from pathlib import Path

import pandas as pd
import pytest

from examples.demo.market import Market
from rdagent_sota_bridge.bridge.dry_run import DryRun
from rdagent_sota_bridge.check.line import Line, State
from rdagent_sota_bridge.doctor import data
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE, FACTOR_CONFIG_FILES, QlibStart
from tests.frames import factor_frame
from tests.run.test_gate import YAML

FOLDERS = [Path("git_ignore_folder") / f"factor_implementation_source_data{name}" for name in ("", "_debug")]


def start(folder: Path, end: str = "2020-08-01", name: str = CONFIG_FILE) -> QlibStart:
    """Return what Qlib would be started with, on a data folder, with an end of the test segment."""
    return QlibStart(name, YAML.replace("DATA", str(folder)), {"test_end": end})


@pytest.fixture
def market(market_home: tuple[Path, Market], tmp_path: Path) -> Path:
    """Return a copy of the demo's data folder."""
    return Path(shutil.copytree(market_home[1].provider, tmp_path / "q"))


def put_data(last: str, *, level: str = "datetime", **how: str) -> None:
    """Write RD-Agent's two folders of factor data, up to a day."""
    frame = factor_frame(days=pd.bdate_range(end=last, periods=3)).rename_axis([level, "instrument"])
    for folder in FOLDERS:
        folder.mkdir(parents=True)
        frame.to_hdf(folder / "daily_pv.h5", key="data", **how)
        (folder / "README.md").touch()


@pytest.mark.parametrize(
    ("what", "comes", "state", "part", "fix"),
    [
        ("2020-08-01", False, "pass", "2008-01-02 to 2020-09-30, back-tests to 2020-08-01", ""),
        ("2020-09-30", False, "fail", "needs a trading day after its last one", "TEST_END=2020-09-21"),
        ("soon", False, "fail", "QLIB_MODEL_TEST_END is no date: 'soon'", "write it as 2008-01-01"),
        ("gone", False, "fail", "is not there yet: every back-test would fail", "qlib.run.get_data"),
        ("gone", True, "warn", "is not there yet; RD-Agent downloads", "qlib.run.get_data"),
    ],
)
def test_qlib_data(what: str, comes: bool, state: str, part: str, fix: str, market: Path) -> None:
    """The last day stands against the segments' ends; data that nothing brings fails."""
    asked = start(market / "nowhere") if what == "gone" else start(market, what)
    line = data.qlib_line("models", asked, comes)
    assert (line.name, line.state, bool(line.fix)) == ("qlib data, models", state, state != "pass")
    assert (part in line.text, fix in line.fix) == (True, True)


@pytest.mark.parametrize(
    ("last", "how", "state", "part"),
    [
        ("2020-09-30", {}, "pass", "to 2020-09-30"),
        ("2020-07-31", {}, "pass", "to 2020-07-31"),
        ("2019-12-31", {}, "warn", "to 2019-12-31, and the test segment of models has days to 2020-07-"),
        ("2019-12-31", {"format": "table"}, "pass", "no last day is known"),
    ],
)
def test_factor_data(
    last: str, how: dict[str, str], state: str, part: str, market: Path, project: Path
) -> None:
    """Factor data that ends before the models' test segment warns: factors have no value there."""
    put_data(last, **how)
    line = data.factor_line(start(market))
    assert (line.name, line.state, bool(line.fix)) == ("factor data", state, state != "pass")
    assert part in line.text
    assert data.factor_line(None).state == "pass"


def test_factor_data_that_is_none(project: Path) -> None:
    """A folder that is not there warns, for RD-Agent makes it; one that can't be read fails."""
    assert data.factor_line(None).state == "warn"
    for folder in FOLDERS:
        folder.mkdir(parents=True)
    assert (data.factor_line(None).state, "no .h5 file" in data.factor_line(None).text) == ("fail", True)
    (FOLDERS[0] / "daily_pv.h5").write_text("half a download")
    line = data.factor_line(None)
    assert (line.state, "daily_pv.h5 can't be read" in line.text, bool(line.fix)) == ("fail", True, True)


@pytest.mark.parametrize("most", ["pass", "warn", "fail"])
def test_what_is_about_factor_loops_alone(most: State, market: Path, project: Path) -> None:
    """Those lines are no worse than is asked for; the models' line is what it is."""
    late = "2020-09-30"
    asked = [DryRun(True, start(market, late, name)) for name in (CONFIG_FILE, FACTOR_CONFIG_FILES[0])]
    found = data.lines(Seams(True, {}, asked=asked[0], of_factors=asked[1]), most)
    states = {line.name: line.state for line in found}
    worst = "pass" if most == "pass" else "warn"
    assert states == {"qlib data, models": "fail", "qlib data, factors": most, "factor data": worst}
    assert [line.name for line in data.lines(Line("rdagent", "fail", "not looked at"), most)] == [
        "factor data"
    ]

"""What stops a job before its first stage."""

from __future__ import annotations

import dataclasses
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from examples.demo.market import Market
from rdagent_sota_bridge.bridge.dry_run import DryRun
from rdagent_sota_bridge.bridge.stage import NO_CONDA
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.cli import check
from rdagent_sota_bridge.doctor import children, data, qlib, quick, rdagent
from rdagent_sota_bridge.doctor.qlib import QlibSide
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import JobError, SeamError
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE, FACTOR_CONFIG_FILES, QlibStart
from rdagent_sota_bridge.run import gate
from tests.frames import factor_frame, write

VERSIONS = dict.fromkeys(("python", "pyqlib", "torch", "pandas", "pyarrow", "mlflow"), "2.0.0")
YAML = """
qlib_init: {provider_uri: DATA}
task:
    dataset:
        kwargs:
            handler: {kwargs: {instruments: csi300, label: [$close]}}
            segments:
                train: [2008-01-01, 2014-12-31]
                valid: [2015-01-01, 2016-12-31]
                test: [2017-01-01, {{ test_end | default("null", true) }}]
    record:
        - class: PortAnaRecord
          kwargs: {config: {backtest: {end_time: {{ test_end | default("null", true) }}}}}
"""


@pytest.mark.parametrize(
    ("of_models", "of_factors", "mines", "said"),
    [
        ("2020-08-01", "2020-08-01", True, ""),
        ("2020-09-30", "2020-08-01", True, "set QLIB_MODEL_TEST_END=2020-09-21 or earlier"),
        ("2020-08-01", "2020-09-30", True, "set QLIB_FACTOR_TEST_END=2020-09-21 or earlier"),
        ("2020-08-01", "", True, "set QLIB_FACTOR_TEST_END=2020-09-21 or earlier"),
        ("2020-08-01", "soon", True, "write it as 2008-01-01"),
        ("2020-08-01", "2020-09-30", False, ""),
    ],
)
def test_segments_that_end_too_late(
    of_models: str,
    of_factors: str,
    mines: bool,
    said: str,
    market_home: tuple[Path, Market],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job begins no factor loop whose back-test would fail, nor one whose models' would, hours later."""
    shutil.copytree(market_home[1].provider, tmp_path / "q")
    starts = [
        DryRun(True, QlibStart(name, YAML.replace("DATA", str(tmp_path / "q")), {"test_end": end}))
        for name, end in ((CONFIG_FILE, of_models), (FACTOR_CONFIG_FILES[0], of_factors))
    ]
    seams = dataclasses.replace(Seams(True, {}), asked=starts[0], of_factors=starts[1])
    monkeypatch.setattr(rdagent, "look_at_rdagent", lambda: seams)
    monkeypatch.setattr(qlib, "look_at_qlib", lambda: QlibSide("q", VERSIONS))
    monkeypatch.setattr(quick, "lines", lambda _: [])
    monkeypatch.setattr(data, "factor_line", lambda _: Line("factor data", "pass", ""))
    monkeypatch.setenv("CONDA_DEFAULT_ENV", NO_CONDA)
    shown: list[Line] = []

    def show(heading: str, lines: list[Any]) -> None:
        shown.extend(lines)

    if not said:
        gate.check_machine(show, mines)
    else:
        with pytest.raises(JobError, match="no loop was started"):
            gate.check_machine(show, mines)
    assert [(line.state, line.fix) for line in shown] == ([("fail", said)] if said else [])


@pytest.mark.parametrize("command", ["check", "a run's gate"])
def test_rdagent_is_asked_in_one_child(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A check and the gate of a job, its machine and its set, start one child that imports RD-Agent."""
    asked: list[list[str]] = []

    def ask(command: list[str], *_: object) -> str:
        asked.append(command)
        return "no answer"

    monkeypatch.setattr(children.child, "ask", ask)
    monkeypatch.setattr(qlib, "look_at_qlib", lambda: Line("qlib", "warn", "not looked at"))
    write(factor_frame(), tmp_path)
    located = locate.factor_sets((str(tmp_path),), ())
    if command == "check":
        assert check.run(str(tmp_path), False, True) == 1
    else:
        with pytest.raises(JobError):
            gate.check_machine(lambda *_: None, True)
        seams = Line("seams", "fail", "not looked at")
        with pytest.raises(SeamError):
            gate.check_set(gate.job_set(located), located, lambda *_: None, seams)
    assert [command[:2] for command in asked] == [[sys.executable, "-c"]]
    assert "seam_check.write_seams" in asked[0][2]

"""How much was tried on a segment: by all runs of the project, rejected loops too."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.factor_set.names import RESULT_FILE
from rdagent_sota_bridge.report import trials
from tests import logs, reports, trained

TEST = (pd.Timestamp("2017-01-01"), pd.Timestamp("2018-12-31"))


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Return a project of a factor run and a model run, three loops with results, one without."""
    root = tmp_path / "git_ignore_folder" / "RD-Agent_workspace"
    for number, name in enumerate("abcd"):
        workspace = root / (name * 32)
        workspace.mkdir(parents=True)
        if name != "d":
            trained.write_record(workspace, trained.config())
            lines = [f"{metric},{value!r}" for metric, value in reports.metrics(0.02, 0.1 * number).items()]
            (workspace / RESULT_FILE).write_text("\n".join([",0", *lines]) + "\n")
    mined = ("a" * 32, ("gap", "turn"), False)
    models = [(name * 32, (), name == "b") for name in "bcd"]
    logs.write_run(tmp_path / "log" / "mined", root, mined)
    logs.write_run(tmp_path / "log" / "models", root, *models, kind="ModelRDLoop")
    return tmp_path


def test_all_runs_of_the_project_count(project: Path) -> None:
    """Rejected loops and runs that the page does not show count; a loop that gave no training does not."""
    notes: list[str] = []
    found = trials.count([project / "log" / "models"], TEST, notes)
    assert (found.models, found.factors, notes) == (2, 2, [])
    ratios = np.array([0.0, 1.2, 2.4]) / trials.YEAR**0.5
    assert found.variance == pytest.approx(ratios.var(ddof=1))


def test_another_segment_does_not_count(project: Path) -> None:
    """What was tested on other days alone is no trial on these; one shared day is enough."""
    root = project / "git_ignore_folder" / "RD-Agent_workspace" / ("c" * 32)
    trained.write_record(
        root, trained.config(test=("2015-01-01", "2016-12-31")), run="new", ended=1895379663256
    )
    found = trials.count([project / "log" / "models"], TEST, [])
    assert (found.models, found.factors) == (1, 2)
    trained.write_record(
        root, trained.config(test=("2015-01-01", "2017-01-01")), run="on", ended=1995379663256
    )
    assert trials.count([project / "log" / "models"], TEST, []).models == 2


def test_what_is_gone_counts_and_what_can_not_be_read_is_noted(project: Path) -> None:
    """A workspace that was removed was tried all the same; a log without a readable session is named."""
    (project / "git_ignore_folder").rename(project / "elsewhere")
    (session,) = (project / "log" / "mined").glob("__session__/*/*")
    session.write_bytes(b"")
    notes: list[str] = []
    found = trials.count([project / "log" / "models"], TEST, notes)
    assert (found.models, found.factors) == (3, 0)
    assert math.isnan(found.variance)
    assert len(notes) == 1 and "What mined tried" in notes[0]

"""What `rdagent-sota compare` prints, and what it says of input that it can't use; no Qlib is started."""

from __future__ import annotations

import json
import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from examples.demo.market import Market
from rdagent_sota_bridge.bridge.dry_run import DryRun
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.cli import compare as command
from rdagent_sota_bridge.doctor import qlib as environment
from rdagent_sota_bridge.doctor import rdagent
from rdagent_sota_bridge.doctor.qlib import QlibSide
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.models.compare import METRICS
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE, FACTOR_CONFIG_FILES, QlibStart
from rdagent_sota_bridge.report.statistics import Estimate
from tests import seams as sets
from tests.yamls import NEW_FORM

VERSIONS = dict.fromkeys(("python", "pyqlib", "torch", "pandas", "pyarrow"), "2.0.0")
CONDA = Line("qlib", "fail", "not looked at: conda is not on PATH", "install conda")

Compare = Callable[..., Result]


@pytest.fixture
def compare(
    market_home: tuple[Path, Market], project: Path, nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> Compare:
    """Return what runs the command on a good set, RD-Agent's and Qlib's side known; no file may be left.

    `python` is what Qlib's Python does, as a script of the shell.
    """
    home, market = market_home
    monkeypatch.setenv("HOME", str(home))
    sets.write_set(project / "set", sets.factor_frame(market, RESI5=1.0))
    starts = [QlibStart(name, NEW_FORM, {}) for name in (CONFIG_FILE, FACTOR_CONFIG_FILES[0])]
    asked, of_factors = (DryRun(True, start) for start in starts)
    found = Seams(True, {}, asked=asked, of_factors=of_factors)

    def run(*words: str, python: str = "exit 1", qlib: QlibSide | Line | None = None) -> Result:
        program = project / "bin" / "python"
        program.parent.mkdir(exist_ok=True)
        program.write_text(f"#!/bin/sh\n{python}\n", encoding="utf-8")
        program.chmod(0o755)
        side = qlib or QlibSide("rdagent4qlib", VERSIONS, path=f"{program.parent}:/bin:/usr/bin")
        with (
            mock.patch.object(rdagent, "look_at_rdagent", lambda: found),
            mock.patch.object(environment, "look_at_qlib", lambda: side),
        ):
            done = CliRunner().invoke(app, ["compare", *words])
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done

    return run


def answer(days: int, **means: tuple[float, float]) -> dict[str, Any]:
    """Return what Qlib's side answers of models: the mean IC on the base set and with the mined columns."""
    index = [str(day) for day in pd.bdate_range("2017-01-02", periods=days)]
    noise = 0.01 * np.resize([1.0, -1.0], days)  # of one of the two alone: a difference of two varies too

    def of(mean: float, noise: Any) -> dict[str, Any]:
        return {"days": index, **{metric: list(mean + noise) for metric in METRICS}}

    return {name: {"base": of(low, noise), "mined": of(high, -noise)} for name, (low, high) in means.items()}


def answering(document: Any) -> str:
    """Return the script of a Python that says what it does and answers."""
    text = shlex.quote(json.dumps(document))
    return f"echo 'compare: Ridge on 22 columns (base)'; printf %s {text} > sota_answer.json"


def test_the_table(compare: Compare) -> None:
    """In 80 columns, nothing cut: a row a training, their difference, and a sentence a model."""
    found = answer(100, Ridge=(0.01, 0.05), LightGBM=(-0.02, -0.06))
    done = compare("set", python=answering(found))
    assert done.exit_code == 0, done.output
    lines = done.stdout.splitlines()
    assert lines[0].endswith("set/combined_factors_df.parquet")
    assert lines[1] == "2 mined and 22 base features (alpha22)"
    assert not any("…" in line or len(line) > 80 for line in lines[2:-3])
    rows = [line.split() for line in lines if "[" in line and line.startswith(" ")][1:4]
    shown = [["Ridge", "base", "set"], ["base", "+", "mined"], ["difference", "0.0400"]]
    assert [row[: len(part)] for row, part in zip(rows, shown, strict=True)] == shown
    assert lines[-3].startswith("Ridge: the mined columns add 0.0400 [0.03")
    assert lines[-2].startswith("LightGBM: the mined columns take 0.0400 [0.03")
    assert lines[-1] == command.SEEN
    assert "Ridge on 22 columns (base)" in done.stderr


@pytest.mark.parametrize(
    ("estimate", "said"),
    [
        ((0.02, 0.01, 0.03, 870), "the mined columns add 0.0200 [0.0100, 0.0300] to the daily IC"),
        ((-0.02, -0.03, -0.01, 870), "the mined columns take 0.0200 [0.0100, 0.0300] from the daily IC"),
        ((0.002, -0.01, 0.014, 870), "no difference can be told (0.0020 [-0.0100, 0.0140], 870 days)"),
        ((0.7, np.nan, np.nan, 19), "no difference can be told (19 days: too few for an interval)"),
    ],
)
def test_the_verdict(estimate: Any, said: str) -> None:
    """One of three forms; nothing is added or taken without an interval."""
    assert command.verdict(Estimate(*estimate, loops=1)).startswith(said)


def test_few_days_have_no_interval(compare: Compare) -> None:
    """The JSON has null for it, and the verdict says that the days are too few."""
    done = compare("set", "--json", python=answering(answer(19, Ridge=(0.0, 0.7))))
    document = json.loads(done.stdout)
    difference = document["models"]["Ridge"]["difference"]["IC"]
    assert {**difference, "mean": round(difference["mean"], 2)} == {
        **{"mean": 0.7, "low": None, "high": None, "days": 19, "loops": 1}
    }
    assert "19 days: too few" in document["verdicts"]["Ridge"]
    assert (document["columns"], document["base_set"]["name"]) == (["overnight_gap", "RESI5"], "alpha22")
    assert document["training"]["market"] == "csi300"


@pytest.mark.parametrize(
    ("words", "variables", "how", "said"),
    [
        ((), {}, {}, "SOTA_WORKSPACE_PATH"),
        (("nowhere",), {}, {}, "nowhere"),
        (("set",), {"USE_ALPHA_FACTORS": "false"}, {}, "There is no base set to compare with"),
        (("set",), {"ALPHA_FACTORS": "alpha1"}, {}, "ALPHA_FACTORS has an unknown value"),
        (("set",), {"MODEL_CoSTEER_ENV_TYPE": "docker"}, {}, "Qlib runs in Docker"),
        (("set", "--model", "nowhere.py"), {}, {}, "The model can't be read: No such file"),
        (("set", "--model", "set"), {}, {}, "The model can't be read: "),
        (("set", "--model", "set/combined_factors_df.parquet"), {}, {}, "it is not UTF-8 text"),
        (("short",), {}, {}, "too little of the market is filled in a segment"),
        (("set",), {}, {"qlib": CONDA}, "fix:   install conda"),
        (("set",), {}, {"qlib": QlibSide("q", {"python": "3.10"})}, "has no pyqlib and no torch"),
        (("set",), {}, {"python": "echo MemoryError; exit 137"}, "status 137: MemoryError"),
        (
            ("set",),
            {},
            {"python": "printf { > sota_answer.json; echo No space; exit 1"},
            "status 1: No space",
        ),
        (
            ("set", "--model", "net.py"),
            {},
            {"python": answering({"refused": "it has the shape (7,), not (7, 1)"})},
            "The model is not trained: it has the shape (7,), not (7, 1)",
        ),
    ],
)
def test_unusable_input(
    words: Any,
    variables: Any,
    how: Any,
    said: str,
    compare: Compare,
    project: Path,
    market_home: tuple[Path, Market],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One message with place and fix, no traceback, nothing on stdout."""
    # RD-Agent's own object wins, where another test of this process has imported it.
    monkeypatch.delitem(sys.modules, "rdagent.components.coder.model_coder.conf", raising=False)
    (project / "net.py").write_text("model_cls = None\n", encoding="utf-8")
    frame = sets.factor_frame(market_home[1])
    sets.write_set(project / "short", frame[frame.index.get_level_values("datetime") < "2015-06-01"])
    with mock.patch.dict(os.environ, variables):
        done = compare(*words, **how)
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr
    assert "Traceback" not in done.stderr


def test_names_from_outside_command_no_terminal(compare: Compare) -> None:
    """A model's file name is shown as text."""
    (Path.cwd() / "a[b]\x1b.py").write_text("", encoding="utf-8")
    done = compare("set", "--model", "a[b]\x1b.py", python=answering(answer(30, model=(0.0, 0.1))))
    assert "\x1b" not in done.stdout
    assert "a[b]\\x1b.py: the mined columns add" in done.stdout

"""The demo: its market, its table, and the whole of it as a user starts it."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.demo.llm import Script, ScriptedLLM, UnknownPromptError, answer, recognise
from rdagent_sota_bridge.demo.market import gap_factor, write_market

ROW = r"^\s*(baseline|bridge)\s+(\S+)\s+(\S+)\s+\S+\s+\S+\s+\S+\s+(\d+)\s+(\w+)"


def daily_ic(factor: pd.Series, label: pd.Series) -> float:
    """Return the mean daily cross-sectional correlation of a factor with the label."""
    both = pd.DataFrame({"factor": factor, "label": label}).dropna()
    return float(both.groupby(level="datetime").apply(lambda day: day["factor"].corr(day["label"])).mean())


def test_the_market_holds_one_effect_that_closes_do_not_show(tmp_path: Path) -> None:
    """The overnight gap predicts Qlib's label (IC 0.8), the last return does not; one seed, one market."""
    market = write_market(tmp_path / "market")
    close = pd.DataFrame(market.prices["close"], index=market.days, columns=pd.Index(market.instruments))
    label = (close.shift(-2) / close.shift(-1) - 1).stack().rename_axis(["datetime", "instrument"])
    past = (close / close.shift(1) - 1).stack().rename_axis(["datetime", "instrument"])
    assert 0.75 < daily_ic(gap_factor(market)["overnight_gap"], label) < 0.85
    assert abs(daily_ic(past, label)) < 0.05
    again = write_market(tmp_path / "again")
    assert all(np.array_equal(market.prices[name], again.prices[name]) for name in market.prices)
    for file in (tmp_path / "market").rglob("*.bin"):
        assert file.read_bytes() == (tmp_path / "again" / file.relative_to(tmp_path / "market")).read_bytes()


def test_a_folder_that_is_not_empty_is_refused(tmp_path: Path) -> None:
    """The demo writes over nothing: --keep takes a new or empty folder."""
    (tmp_path / "mine.txt").write_text("mine")
    demo = Path(sys.prefix) / "bin" / "rdagent-sota"
    done = subprocess.run([demo, "demo", "--keep", tmp_path], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("The folder for the demo is not empty")
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def test_the_script_knows_its_later_takes() -> None:
    """A model that is proposed again under another name is not taken for its first take."""
    script = Script()
    for loop in range(6):
        target = f"Target hypothesis: {script.model(loop).hypothesis}\nThe former hypothesis ..."
        assert list(json.loads(answer(script, "model_experiment", "", target, 0))) == [
            script.model(loop).name
        ]


@pytest.mark.parametrize("in_turn", [False, True])
def test_a_further_run_on_the_same_server(in_turn: bool) -> None:
    """In turn, a run that tells of no trials begins the script anew; else it may be a parallel loop."""
    llm = ScriptedLLM(in_turn=in_turn)
    system = "You are working on generating new hypotheses for the model tuning in a scenario."
    said = [json.loads(llm.chat(system, prompt))["hypothesis"] for prompt in ("", "# Trial 1: ...", "")]
    models = [llm.script.model(loop) for loop in (0, 1, 0 if in_turn else 2)]
    assert said == [model.hypothesis for model in models]


def test_the_script_knows_every_prompt_of_rdagent_by_its_text() -> None:
    """The prompt that RD-Agent asks only where an output is long is known too: no run shows it at will."""
    from rdagent.utils.agent.tpl import T

    system = T("utils.prompts:filter_redundant_text.system").r()
    assert recognise(system, "The following text contains stdout: ...") == "output_filter"
    assert json.loads(answer(Script(), "output_filter", system, "", 0)) == {
        "needs_sub": False,
        "regex_patterns": [],
    }
    with pytest.raises(UnknownPromptError):
        recognise("You are somebody else.", "Hello")


@pytest.mark.e2e
def test_the_demo_tells_its_story(tmp_path: Path) -> None:
    """Mined factor, two models without it near IC 0, two models with it near 0.79; nothing left running."""
    demo = Path(sys.prefix) / "bin" / "rdagent-sota"
    environment = {**os.environ, "COLUMNS": "80"}
    done = subprocess.run(
        [demo, "demo", "--keep", tmp_path / "kept"],
        capture_output=True,
        text=True,
        env=environment,
        timeout=1500,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    rows = re.findall(ROW, done.stdout, re.MULTILINE)
    assert [(run, model, features) for run, model, _, features, _ in rows] == [
        ("baseline", "SmallMLP", "20"),
        ("baseline", "SmallGRU", "20"),
        ("bridge", "SmallMLP", "23"),
        ("bridge", "SmallGRU", "23"),
    ]
    ic = [float(value) for _, _, value, _, _ in rows]
    assert max(map(abs, ic[:2])) < 0.2
    assert min(ic[2:]) > 0.6
    assert [digest == "none" for *_, digest in rows] == [True, True, False, False]
    running = [
        process.name
        for process in Path("/proc").glob("[0-9]*")
        if str(tmp_path).encode() in _read(process / "cmdline") + _read(process / "environ")
    ]
    assert running == []


def _read(file: Path) -> bytes:
    try:
        return file.read_bytes()
    except OSError:
        return b""  # the process has ended meanwhile

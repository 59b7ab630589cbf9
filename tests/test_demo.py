"""The demo: its market, its script, and the whole of it as a user starts it."""

from __future__ import annotations

import itertools
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import psutil
import pytest

from examples.demo import sandbox, story
from examples.demo.llm import ScriptedLLM, UnknownPromptError, answer, recognise
from examples.demo.market import gap_factor, write_market
from examples.demo.script import Script
from rdagent_sota_bridge.run import job
from rdagent_sota_bridge.run.job import Job
from tests.stand_in import listen_to_signals

SOTA = Path(sys.prefix) / "bin" / "rdagent-sota"
ROOT = Path(__file__).parent.parent
DEMO = [sys.executable, "-m", "examples.demo", "--keep"]

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


@pytest.mark.parametrize("state", ["not empty", "ended"])
def test_a_folder_that_is_refused(state: str, tmp_path: Path) -> None:
    """The demo writes over nothing: KEEP takes a new or empty folder, or one whose demo was stopped."""
    said = "The folder for the demo is not empty"
    if state == "not empty":
        (tmp_path / "mine.txt").write_text("mine")
    else:
        box = sandbox.create(tmp_path)
        (box.project / "log").mkdir()
        file = box.project / "log" / f"{job.stamp()}_run.json"
        done = job.Job(file, "..", job.Options(2, 2, True), (job.Stage(job.MODELS, 2),), end="done")
        job.write(done)
        where = f"{tmp_path}; its report is {job.report_file(done)}"
        said = f"The folder holds a demo that has ended\n  where: {where}"
    before = set(tmp_path.rglob("*"))
    refused = subprocess.run([*DEMO, tmp_path], capture_output=True, text=True, cwd=ROOT)
    assert (refused.returncode, refused.stderr[: len(said)]) == (1, said)
    assert set(tmp_path.rglob("*")) == before


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
    """In turn, a run whose prompt shows no trials begins the script anew; else it may be a parallel loop."""
    llm = ScriptedLLM(in_turn=in_turn)
    system = "You are working on generating new hypotheses for the model tuning in a scenario."
    said = [
        json.loads(llm.chat(system, prompt))["hypothesis"]
        for prompt in ("", "# Trial 1: \n## Hypothesis\nHypothesis: ...", "")
    ]
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


def start(folder: Path) -> subprocess.Popen[str]:
    """Start the demo in a folder, or continue it: the command is the same."""
    return subprocess.Popen(
        [*DEMO, folder],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "80"},
        preexec_fn=listen_to_signals,
    )


def state(folder: Path) -> Job:
    """Return the state of the demo's job."""
    found = story.job_in(folder)
    assert found is not None
    return found


def wait_for(demo: subprocess.Popen[str], folder: Path, stage: str, step: str) -> None:
    """Wait until a stage has left the session of a step."""
    while demo.poll() is None:
        begun = story.job_in(folder)
        log = None if begun is None else begun.log(stage)
        if log is not None and (log / "__session__" / step).is_file():
            return
        time.sleep(0.2)
    raise AssertionError(demo.communicate())


def commands(folder: Path) -> dict[int, list[str]]:
    """Return the commands of the processes that work in a folder, by their process ids."""
    return {
        process.pid: process.info["cmdline"] or []
        for process in psutil.process_iter(["cmdline", "environ"])
        if str(folder) in f"{process.info['cmdline']} {process.info['environ']}"
        and process.pid != os.getpid()
    }


@pytest.mark.e2e
def test_the_demo_ends_well_though_it_is_killed_three_times(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in each stage and continued: one set, two loops each, IC 0 without it, near 0.79 with it."""
    folder = tmp_path / "kept"

    first = start(folder)
    wait_for(first, folder, job.FACTORS, "1/0_direct_exp_gen")
    # The job itself, in the coder's step of its second loop. Its lifeline has the same words, and is not it.
    (run,) = (
        pid
        for pid, words in commands(folder).items()
        if "--factor-loops" in words and not any(word.endswith("system/child.py") for word in words)
    )
    os.kill(run, signal.SIGKILL)
    _, said = first.communicate(timeout=120)
    assert first.returncode == 1
    assert "`rdagent-sota run` ended with status" in said
    assert f"make demo KEEP={folder} continues" in said
    factor_log = state(folder).log(job.FACTORS)

    second = start(folder)
    wait_for(second, folder, job.MODELS, "0/1_coding")
    second.kill()  # all of it, in a back-test
    second.communicate(timeout=120)
    chosen = state(folder).factor_set
    assert chosen is not None

    third = start(folder)
    output = "git_ignore_folder/RD-Agent_workspace/*/sota_output.txt"
    while third.poll() is None and not list(story.sandbox_in(folder).project.glob(output)):
        time.sleep(0.2)
    third.send_signal(signal.SIGINT)
    third.communicate(timeout=120)
    assert third.returncode != 0
    assert state(folder).end == ""

    last = start(folder)
    out, said = last.communicate(timeout=1200)
    assert last.returncode == 0, out + said
    done = state(folder)
    assert (done.end, done.factor_set) == ("done", chosen)
    assert done.log(job.FACTORS) == factor_log, "the factor stage continued where it was"
    assert [stage.state for stage in done.stages] == ["ended"] * 3
    assert commands(folder) == {}

    rows = re.findall(ROW, out, re.MULTILINE)
    assert [(name, model, features) for name, model, _, features, _ in rows] == [
        ("bridge", "SmallMLP", "23"),
        ("bridge", "SmallGRU", "23"),
        ("baseline", "SmallMLP", "22"),
        ("baseline", "SmallGRU", "22"),
    ]
    ic = [float(value) for _, _, value, _, _ in rows]
    assert min(ic[:2]) > 0.6
    assert max(map(abs, ic[2:])) < 0.1
    assert [digest == "none" for *_, digest in rows] == [False, False, True, True]

    key = story.sandbox_in(folder).home / ".rdagent" / "artifact_signing.key"
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY_PATH", str(key))
    logs = [str(done.log(stage.name)) for stage in done.stages[:2]]
    # In a child: RD-Agent reads the key's place when it is imported, as it may be in this process.
    shown = subprocess.run([SOTA, "report", "--json", *logs], capture_output=True, text=True, check=True)
    stages = [run["loops"] for run in json.loads(shown.stdout)["runs"]]
    assert [[loop["number"] for loop in loops] for loops in stages] == [[0, 1]] * 2
    accepted = [[loop["accepted"] for loop in loops] for loops in stages]
    assert accepted == [[False, True], [True, True]]
    for loop in itertools.chain(*stages):
        assert not loop["failure"]
        assert loop["metrics"] == qlibs_metrics(Path(loop["workspace"]))
    manifests = [
        json.loads((Path(loop["workspace"]) / "sota_manifest.json").read_text()) for loop in stages[1]
    ]
    assert [manifest["factor_set"]["digest"] for manifest in manifests] == [chosen.digest] * 2

    texts = [Path(log, "latest.log").read_text() for log in logs]
    # The factor stage was killed and resumed in its folder: all of it is there.
    assert "Start Loop 0, Step 0: direct_exp_gen" in texts[0]
    assert "Start Loop 1, Step 4: record" in texts[0]
    assert "SOTA factors used" in texts[1]
    heads = [text.splitlines()[0].rpartition(" ")[2] for text in texts]
    assert heads == logs
    latest = (done.file.parent / "latest.log").read_text()
    assert latest.splitlines()[0] == texts[1].splitlines()[0], "the model stage's"

    ended = (folder / "run.txt").read_text().partition("The job is finished: ")[2]
    assert "2 model loops: 2 claim factors, 2 shown to have them\n" in ended
    assert ended.count("trained on the base set alone, nothing mined (22 columns)") == 2
    assert len(re.findall(r"^(?:loop|mean) .*\[0\.\d+, 0\.\d+\]$", ended, re.MULTILINE)) == 3
    report = job.report_file(done)
    assert str(report) in out
    assert 4_000_000 < report.stat().st_size < 8_000_000
    verified = subprocess.run([SOTA, "verify", logs[1]], capture_output=True, text=True)
    assert verified.returncode == 0, verified.stdout + verified.stderr


def qlibs_metrics(workspace: Path) -> dict[str, float | None]:
    """Return the metrics of the file that Qlib's back-test left in a workspace."""
    found = pd.read_csv(workspace / "qlib_res.csv", index_col=0, float_precision="round_trip").iloc[:, 0]
    return {str(name): None if math.isnan(value) else value for name, value in found.items()}

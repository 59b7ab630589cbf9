"""The stage of `--baseline`: which models are trained again, and what stops it."""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path

import pytest
from rich.console import Console

from rdagent_sota_bridge.report import ablation, history
from rdagent_sota_bridge.run import baseline
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import MODELS, Options
from tests import reports, stand_in
from tests.processes import is_alive
from tests.stand_in import Project, kill, wait_until

templates, project = stand_in.templates, stand_in.project
LOOPS = ("--factor-loops", "2", "--model-loops", "2")


@pytest.fixture
def ours(project: Project) -> Project:
    """Return a project whose two models have a result and a manifest of the set."""
    for name in ("models0", "models1"):
        project.back_test(name, project.digest)
    return project


def trained(output: str) -> list[str]:
    """Return the workspaces whose models were trained again, in their order."""
    lines = [line for line in output.splitlines() if line.startswith("ablation of ")]
    assert all(line.endswith(" True") for line in lines)
    return [line.split()[2] for line in lines]


def test_each_model_of_the_job(ours: Project) -> None:
    """Each is trained again without its mined columns; one more loop trains that of the new model too."""
    _, output = ours.run(*LOOPS, "--baseline")  # the stand-in's models can't be verified
    assert trained(output) == ["models0", "models1"]
    assert "baseline stage: 2 of 2 models are trained again without the mined columns" in output
    assert "rdagent-sota: baseline stage: model 2 of 2, " in output
    assert ours.state["end"] == "done"
    ours.back_test("models2", ours.digest)
    _, output = ours.run("--resume", "--model-loops", "3")
    assert trained(output) == ["models0", "models1", "models2"], "the first two answer at once"


def test_a_model_that_can_not_be_trained_again(ours: Project) -> None:
    """It is said, and the next one is trained; where none can be, the job can be resumed."""
    _, output = ours.run(*LOOPS, "--baseline", STAND_IN_ABLATION=json.dumps({"models0": "no room"}))
    assert "is not trained again: no room" in output
    assert "baseline stage: 1 of 2 models" in output
    assert "baseline stage: to try again what failed: rdagent-sota run --resume\n" in output
    assert ours.state["end"] == "done"
    _, output = ours.run("--resume")
    assert trained(output) == ["models0", "models1"]
    assert "try again" not in output
    _, output = ours.run("--resume")
    assert trained(output) == [], "nothing is left to do"
    trouble = json.dumps({"models0": "no room", "models1": "no room"})
    output = ours.fails(*LOOPS, "--baseline", STAND_IN_ABLATION=trouble)
    assert "No model could be trained again without the mined columns" in output
    assert "resume: rdagent-sota run --resume" in output
    assert ours.state["end"] == ""


def test_a_model_whose_workspace_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is said; it is none of the models that the stage counts."""
    loops = (reports.model_loop(0, 0.1, workspace=None), reports.model_loop(1, 0.1, metrics={}))
    monkeypatch.setattr(history, "read_run", lambda log: history.Run(log, "fin_model", loops))
    job = jobs.new(Options(1, 2, baseline=True), tmp_path).with_stage(MODELS, log="models")
    said: list[str] = []
    baseline.train(job, said.append, Console(file=io.StringIO()), ())
    assert said[0] == "Loop 0 ResidualGRU_0 is not trained again: its workspace is gone"
    assert said[1:] == ["baseline stage: 0 of 0 models are trained again without the mined columns"]


def test_seeds_of_the_best_model(ours: Project) -> None:
    """After all ablations it is trained with each seed, both ways; what failed is tried again."""
    (ours.folder / stand_in.WORKSPACES / "models1" / "qlib_res.csv").write_text(",0\nIC,0.6\n")
    trouble = json.dumps({"models11": "no room"})
    _, output = ours.run(*LOOPS, "--baseline", "--seeds", "1", STAND_IN_ABLATION=trouble)
    assert "(seed 1, without the mined columns) is not trained again: no room" in output
    assert "baseline stage: 2 of 2 models are trained again" in output
    assert "baseline stage: 0 of 2 trainings of the best model with seeds are done" in output
    _, output = ours.run("--resume", "--seeds", "2")
    begun = [line for line in output.splitlines() if " of models" in line]
    assert begun == [
        *(f"ablation of models{number} True" for number in range(2)),
        *(f"seed {seed} of models1 {no_mined}" for seed in (1, 2) for no_mined in (False, True)),
    ]
    assert "baseline stage: 4 of 4 trainings of the best model with seeds are done" in output
    assert ours.state["stages"][-1]["state"] == "ended"


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_in_a_training(number: signal.Signals, ours: Project) -> None:
    """Nothing of the training is left, and the job goes on in this stage."""
    trouble = json.dumps({"models1": "hangs"})
    process = ours.start(*LOOPS, "--baseline", "--jobs", "2", STAND_IN_ABLATION=trouble)
    pids = ours.hanging()
    kill(process, number)
    process.communicate(timeout=30)
    wait_until(lambda: not any(map(is_alive, pids)))
    assert (ours.state["end"], ours.state["stages"][-1]["state"]) == ("", "begun")
    _, output = ours.run("--resume")
    assert sorted(trained(output)) == ["models0", "models1"], "two at once, in any order"
    assert ours.commands == ["fin_factor", "fin_model"]
    assert ours.state["end"] == "done"


@pytest.mark.parametrize(
    ("cluster", "fact"),
    [("nonsense://x", "No Dask scheduler answers"), ("", "--cluster is empty")],
)
def test_a_cluster_that_is_not_there(cluster: str, fact: str, ours: Project) -> None:
    """One message, before the first loop."""
    status, output = ours.run(*LOOPS, "--baseline", "--cluster", cluster)
    assert (status, ours.commands) == (1, [])
    assert fact in output
    assert "Traceback" not in output


def test_the_models_of_a_log(ours: Project) -> None:
    """With --from-models those of a run that is there, in a job without a loop; it can be resumed."""
    ours.run(*LOOPS)
    log = Path("log") / ours.state["stages"][1]["log"]
    command = ("--from-models", str(log), "--baseline", "--log-dir", "other")
    trouble = json.dumps({"models0": "no room", "models1": "no room"})
    ours.fails(*command, STAND_IN_ABLATION=trouble)
    _, output = ours.run("--resume", "--log-dir", "other")
    assert trained(output) == ["models0", "models1"]
    assert len(ours.calls) == 2
    (report,) = (ours.folder / "other").glob("*_report.html")
    (named,) = json.loads(report.read_text())
    assert Path(named).samefile(ours.folder / log)
    output = ours.fails("--resume", "--log-dir", "other", "--model-loops", "3")
    assert "asks for a model stage, and the job to resume has none" in output


@pytest.mark.parametrize(("days", "told"), [(870, "  [0.0"), (19, "none: 19 days are too few")])
def test_the_table(days: int, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line a model, then their mean, each with its interval; under twenty days there is none, and why."""
    pairs = [reports.pair(number, 0.05, 0.02, days=reports.DAYS[:days]) for number in range(2)]
    run = history.Run(Path("log"), "fin_model", tuple(reports.model_loop(place, 0.05) for place in range(2)))
    monkeypatch.setattr(ablation, "pairs", lambda *_: pairs)
    head, *lines = baseline.table(run).splitlines()
    assert head.split() == ["IC", "of", "a", "model", "with", "without", "difference", "95", "%", "interval"]
    assert [line.split()[0] for line in lines] == ["loop", "loop", "mean"]
    assert all(told in line and "nan" not in line for line in lines)


def test_the_table_of_seeds(monkeypatch: pytest.MonkeyPatch) -> None:
    """Below a model's lines stand mean and standard deviation; the mean over loops counts each loop once."""
    ics = {None: (0.5, 0.2), 1: (0.06, 0.02), 2: (0.08, 0.02)}
    of_seeds = [reports.pair(0, *both, seed=seed) for seed, both in ics.items()]
    pairs = [*of_seeds, reports.pair(1, 0.05, 0.02)]
    run = history.Run(Path("log"), "fin_model", tuple(reports.model_loop(place, 0.05) for place in range(2)))
    monkeypatch.setattr(ablation, "pairs", lambda *_: pairs)
    _, first, *seeds, mean, deviation, _, together = baseline.table(run).splitlines()
    assert [first.split()[2:4], *(line.split()[4:6] for line in seeds)] == [
        ["ResidualGRU_0", "0.5000"],
        ["1", "0.0600"],
        ["2", "0.0800"],
    ]
    assert mean.split() == ["mean", "of", "2", "seeds", "0.0700", "0.0200", "0.0500"]
    assert deviation.split() == ["standard", "deviation", "0.0141", "0.0000", "0.0141"]
    assert together.split()[:3] == ["mean", f"{((0.5 + 0.06 + 0.08) / 3 + 0.05) / 2:.4f}", "0.0500"]
    assert len({line[:50].rindex(".") for line in (first, *seeds, mean, deviation)}) == 1, "one column"

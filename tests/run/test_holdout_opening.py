"""The look at the days that were kept back: which days, by which models, and how it is counted."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from examples.demo.market import Market
from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.errors import HoldoutError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.report import gather, history
from rdagent_sota_bridge.report import holdout as openings
from rdagent_sota_bridge.run import holdout, sequence
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, Holdout, Job, Options, State
from tests import logs, trained
from tests.run.test_sequence import outside

WORSE, BEST, ABLATION, MINING = (name * 32 for name in "abcd")
HELD = Holdout("2020-08-21", "2020-09-10", {MODELS: "2020-07-20"})


@dataclasses.dataclass(frozen=True)
class Project:
    """A project of a factor run and of a model run whose second model is the best and has an ablation."""

    folder: Path
    predicted: list[tuple[str, tuple[str, str]]]

    @property
    def log(self) -> Path:
        """The log of the models."""
        return self.folder / "log" / "models"

    @property
    def root(self) -> Path:
        """The folder of the workspaces."""
        return self.folder / "git_ignore_folder" / "RD-Agent_workspace"

    @property
    def job(self) -> Job:
        """The newest job."""
        found = jobs.newest(self.folder / "log")
        assert found is not None
        return found

    @property
    def lines(self) -> list[dict[str, object]]:
        """What was written down."""
        file = self.folder / openings.LEDGER
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def manifest(self, name: str, **changes: object) -> None:
        """Change a manifest."""
        file = self.root / name / MANIFEST_FILE
        file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))

    def saw(self, name: str, first: str, last: str) -> None:
        """Write a workspace with a training that was tested on other days."""
        trained.write_record(
            self.root / name, trained.config(test=(first, last)), ended=1995379663256, run="x"
        )

    def keep_back(self, held: Holdout = HELD) -> None:
        """Write the job of the models, which has kept days back."""
        job = jobs.new(Options(1, 2, holdout="12M"), self.folder / "log").with_stage(MODELS, log="models")
        jobs.write(dataclasses.replace(job, holdout=held))

    def open(self) -> openings.Opening:
        """Open the holdout, as the command does."""
        return holdout.open_(self.log, print)


@pytest.fixture
def project(
    tmp_path: Path, market_home: tuple[Path, Market], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Project]:
    """Return the project, the current folder, on the demo's market; the models predict known figures."""
    made = Project(tmp_path, [])
    for name, ic in ((WORSE, 0.01), (BEST, 0.05), (ABLATION, 0.02)):
        trained.write_training(made.root / name)
        trained.write_results(made.root / name, {"IC": ic})
        source = {"path": str(made.root / MINING / FACTOR_FILE), "digest": "", "columns": []}
        factor_set = {"path": "", "digest": trained.DIGEST, "sources": [source], "end": "2020-09-30 00:00:00"}
        made.manifest(name, factor_set=factor_set)
    change = {"of": BEST, "recorder": trained.RECORDER, "change": {"columns": []}}
    made.manifest(ABLATION, mined_columns=[], factor_set=None, retrained=change)
    (made.root / MINING).mkdir()
    trained.write_record(made.root / MINING, trained.config())
    logs.write_run(tmp_path / "log" / "mined", made.root, (MINING, ("gap", "turn"), True))
    logs.write_run(made.log, made.root, (WORSE, (), False), (BEST, (), True), kind="ModelRDLoop")

    def predict(of: Path, days: tuple[str, str]) -> pd.DataFrame:
        made.predicted.append((of.name, days))
        within = market_home[1].days[(market_home[1].days >= days[0]) & (market_home[1].days <= days[1])]
        index = pd.MultiIndex.from_product([within, ["a", "b", "c"]], names=["datetime", "instrument"])
        score = np.tile([1.0, 2.0, 3.0] if of.name == BEST else [1.0, 3.0, 2.0], len(within))
        return pd.DataFrame({"score": score, "label": np.tile([1.0, 2.0, 3.0], len(within))}, index)

    monkeypatch.setattr(holdout, "predict_again", predict)
    monkeypatch.setenv("HOME", str(market_home[0]))
    monkeypatch.chdir(tmp_path)
    yield made


@pytest.mark.parametrize("of_job", [False, True])
def test_the_best_model_and_its_ablation(of_job: bool, project: Project) -> None:
    """Each predicts the days once, those of the job, or those behind all that the project has seen."""
    held = dataclasses.replace(HELD, last="2020-09-01") if of_job else HELD
    if of_job:
        project.keep_back(held)
    one = project.open()
    assert project.predicted == [(BEST, (held.first, held.last)), (ABLATION, (held.first, held.last))]
    assert (one.before, one.seen_by, one.model, one.ablation) == (0, 0, BEST, ABLATION)
    assert one.base is not None and one.difference is not None
    assert (one.ic.mean, one.base.mean, one.difference.mean) == pytest.approx((1.0, 0.5, 0.5))
    assert one.ic.days == (2 if of_job else 3)
    assert np.isnan(one.ic.low), "of so few days there is no interval"
    assert len(project.lines) == 1
    assert openings.newest([project.log]) is not None


def test_without_an_ablation_no_difference_is_claimed(project: Project) -> None:
    """The model alone predicts, and the text says that nothing is compared."""
    project.manifest(ABLATION, mined_columns=["gap"])
    opened = project.open()
    assert [name for name, _ in project.predicted] == [BEST]
    assert (opened.ablation, opened.difference) == ("", None)
    assert "so no difference is claimed" in openings.text(opened)


def test_a_second_look_is_counted(project: Project) -> None:
    """By the command, on the terminal and for the page; a look at other days is none at these."""
    outputs = [CliRunner().invoke(app, ["holdout", "log/models"]) for _ in range(3)]
    assert [one.exit_code for one in outputs] == [0, 0, 0], outputs[0].output
    assert "before" not in outputs[0].stdout
    assert "These days were opened 2 times before" in outputs[2].stdout
    assert "rdagent-sota report log/models" in outputs[2].stdout
    found = gather.gather([project.log]).holdout
    assert found is not None and found.before == 2
    project.keep_back(Holdout("2020-07-01", "2020-07-20", {MODELS: "2020-06-01"}))
    assert project.open().before == 0


def test_logs_in_other_folders(project: Project) -> None:
    """All looks of a project are in one file, wherever in it --log-dir is."""
    opening = project.open()
    deeper = project.folder / "log" / "second" / "models"
    assert openings.add(deeper, opening, print).before == 1
    assert len(project.lines) == 2


@pytest.mark.parametrize(
    ("name", "first", "last", "seen"),
    [
        ("e" * 32, "2020-08-03", "2020-08-21", 1),
        (MINING, "2017-01-01", "2020-09-10", 1),
        ("e" * 32, "2020-09-11", "2020-09-30", 0),
        ("e" * 32, "2017-01-01", "2020-08-20", 0),
    ],
)
def test_days_that_a_workspace_has_seen(
    name: str, first: str, last: str, seen: int, project: Project
) -> None:
    """One shared day with any workspace of the project is enough; it is said before the first stage too."""
    project.saw(name, first, last)
    project.keep_back()
    job = project.job
    assert ("will not be called unseen: 1 workspace of" in holdout.begun(job, HELD)) == bool(seen)
    opened = project.open()
    assert opened.seen_by == seen
    assert ("not unseen: 1 workspace of" in openings.text(opened)) == bool(seen)
    assert "were opened 1 time before" in holdout.begun(job, HELD)


@pytest.mark.parametrize("what", ["gone", "no record", "not to be read"])
def test_a_set_that_nobody_knows_the_origin_of(what: str, project: Project, tmp_path: Path) -> None:
    """What mined it may have seen every day: those of a job are not unseen, and none lies behind."""
    elsewhere = tmp_path / "elsewhere" / ("f" * 32)
    source = {"path": str(elsewhere / FACTOR_FILE), "digest": "", "columns": []}
    if what == "not to be read":
        run = trained.write_record(project.root / MINING, trained.config(), ended=1995379663256, run="x")
        (run / "artifacts" / "config").write_bytes(b"")
    else:
        project.manifest(BEST, factor_set={"sources": [source]})
        if what == "no record":
            elsewhere.mkdir(parents=True)
    with pytest.raises(HoldoutError, match="has seen is not known"):
        project.open()
    project.keep_back()
    assert project.open().seen_by == 1


def test_a_project_that_was_moved(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """The workspaces are found by their ids; who mined the set is known all the same."""
    moved = project.folder.rename(project.folder.with_name("moved"))
    monkeypatch.chdir(moved)
    again = dataclasses.replace(project, folder=moved)
    assert again.open().seen_by == 0


@pytest.mark.parametrize("changed", ["2020-09-05", "2020-08-20"])
def test_a_set_that_ends_before_the_data(changed: str, project: Project) -> None:
    """Behind its end Qlib fills in zeros: these days are left out, and where none is left it is refused."""
    known = json.loads((project.root / BEST / MANIFEST_FILE).read_text())["factor_set"]
    project.manifest(BEST, factor_set={**known, "end": f"{changed} 00:00:00"})
    if changed == "2020-08-20":
        with pytest.raises(HoldoutError, match="ends on 2020-08-20, before the holdout"):
            project.open()
        return
    opened = project.open()
    assert (opened.last, opened.ic.days) == (changed, 2)


def test_nothing_is_left(project: Project) -> None:
    """A run up to the data's end, or one without a model, is refused with the reason."""
    project.saw("e" * 32, "2017-01-01", "2020-09-01")
    with pytest.raises(HoldoutError, match=r"No day with a label is left .* to 2020-09-01"):
        project.open()
    with pytest.raises(HoldoutError, match="No model of the run has a result"):
        holdout.open_(project.folder / "log" / "mined", print)


def test_a_damaged_line(project: Project) -> None:
    """It is one message with its number, before a model predicts; the page notes it, and claims nothing."""
    project.open()
    file = project.folder / openings.LEDGER
    whole = file.read_text()
    for damaged in (
        "{",
        "[]",
        whole[:40],
        whole.replace('"before"', '"x"').replace('"log"', '"lag"').strip(),
    ):
        file.write_text(f"{whole}{damaged}\n")
        project.predicted.clear()
        with pytest.raises(HoldoutError, match="line is damaged") as caught:
            project.open()
        assert (caught.value.place, project.predicted) == (f"{file}, line 2", [])
    done = CliRunner().invoke(app, ["report", "log/models"])
    assert (done.exit_code, "the line is damaged" in done.stderr) == (0, True), done.output
    assert gather.gather([project.log]).holdout is None


def test_looks_at_once(project: Project) -> None:
    """Each is a whole line, and no two of them are the first."""
    opening = project.open()
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: openings.add(project.log, opening, print), range(24)))
    assert sorted(one.before for one in found) == list(range(1, 25))
    assert len(project.lines) == 25
    (project.folder / openings.LEDGER).unlink()
    (project.folder / openings.LEDGER).mkdir()
    with pytest.raises(HoldoutError, match="can't be read"):
        openings.add(project.log, opening, print)


def test_a_job_opens_it_once(project: Project) -> None:
    """At its end; what is trained later does not open it again, and what can't be opened is said."""
    project.keep_back()
    said: list[str] = []
    holdout.open_at_end(project.log, said.append)
    holdout.open_at_end(project.log, said.append)
    assert len(project.lines) == 1
    assert said == ["Opening the holdout: the best model and its ablation predict it once ..."]
    text, is_open = holdout.opened(history.read_run(project.log))
    assert is_open and "difference 0.5000" in text
    (project.folder / openings.LEDGER).unlink()
    text, is_open = holdout.opened(history.read_run(project.log))
    assert (text, is_open) == ("The holdout is closed. To open it: rdagent-sota holdout log/models", False)
    for folder in project.root.iterdir():
        folder.rename(project.folder / folder.name)
    holdout.open_at_end(project.log, said.append)
    assert "The holdout is not opened: No model of the run has a result" in said[-1]


@pytest.fixture
def over(project: Project, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Return a job whose stages are over, before its end; without the look at the machine."""
    monkeypatch.setattr(sequence.stages, "find_rdagent", lambda: "rdagent")
    monkeypatch.setattr(sequence.gate, "check_machine", lambda *_: None)
    monkeypatch.setattr(holdout, "moved", lambda seams, held: seams)
    monkeypatch.setattr(sequence.baseline, "train", lambda job, *_: job)
    job = jobs.new(Options(1, 2, holdout="12M", baseline=True), project.folder / "log")
    for name, log in ((FACTORS, "mined"), (MODELS, "models"), (BASELINE, "")):
        job = job.with_stage(name, log=log, state="ended")
    return jobs.write(dataclasses.replace(job, holdout=HELD))


@pytest.mark.parametrize(
    ("where", "lines"), [("predict_again", 0), ("openings.add", 0), ("the job's end", 1)]
)
def test_a_kill_at_the_opening(
    where: str, lines: int, project: Project, over: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is written of a look that was not over, and what is written is not opened again."""
    if (child := os.fork()) == 0:

        def kill(*_: object) -> None:
            os.kill(os.getpid(), signal.SIGKILL)

        place, name = {
            "predict_again": (holdout, "predict_again"),
            "openings.add": (holdout.holdout, "add"),
            "the job's end": (sequence.jobs, "write"),
        }[where]
        monkeypatch.setattr(place, name, kill)
        try:
            sequence.go(over, outside([]))
        finally:
            os._exit(1)
    assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    again = project.job
    assert (again.end, len(project.lines)) == ("", lines)
    for _ in range(2):
        sequence.go(again, outside([]))
    (line,) = project.lines
    assert (line["before"], line["model"], line["ablation"]) == (0, BEST, ABLATION)
    assert len(project.predicted) == 2 - 2 * lines


@pytest.mark.parametrize("state", ["begun", "ended"])
def test_an_ablation_that_failed(state: State, project: Project, over: Job) -> None:
    """While it can be tried again the holdout stays closed: the one look is for both."""
    said: list[str] = []
    status = sequence.go(over.with_stage(BASELINE, state=state), outside(said))
    is_over = state == "ended"
    assert (len(project.lines), status) == (int(is_over), int(not is_over))
    assert ("The holdout is closed. To open it: rdagent-sota holdout log/models" in said) != is_over


def test_a_better_model_since(project: Project, over: Job) -> None:
    """More loops open nothing by themselves: it is said that another is the best, and how it is opened."""
    assert sequence.go(over, outside([])) == 0
    trained.write_results(project.root / WORSE, {"IC": 0.08})
    logs.write_run(project.log, project.root, (WORSE, (), True), (BEST, (), True), kind="ModelRDLoop")
    said: list[str] = []
    assert sequence.go(over, outside(said)) == 0
    assert len(project.lines) == 1
    told = "another model is the best since then; to open it for that one, which counts: rdagent-sota holdout"
    assert any(told in text for text in said)
    opened = project.open()
    assert (opened.model, opened.before) == (WORSE, 1)
    assert told not in holdout.opened(history.read_run(project.log))[0]

"""The state of a job, what may be asked when it is resumed, and the times of its stages."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run import stages
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, Holdout, Job, JobSet, Options
from tests.frames import assert_survives_pickling


@pytest.fixture
def log_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of the logs of a project, which is the current folder."""
    (tmp_path / "project" / "log").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "project")
    return tmp_path / "project" / "log"


def begun(job: Job, name: str, state: str = "begun", **changes: object) -> Job:
    """Return a job with a stage that has begun."""
    return job.with_stage(name, state=state, log="some", **changes)


def test_written_and_read(log_dir: Path) -> None:
    """All of a job comes back from its file, also of a moved project; ten loops are the default."""
    assert jobs.newest(log_dir) is None
    found = jobs.new(Options(), log_dir)
    assert [(stage.name, stage.loops) for stage in found.stages] == [(FACTORS, 10), (MODELS, 10)]
    job = jobs.new(Options(3, 4, True, "12h", "", ("--step-n", "é\udcff")), log_dir)
    held = Holdout("2019-10-01", "2020-09-01", {MODELS: "2019-09-02"})
    job = dataclasses.replace(job, factor_set=JobSet("sha256:1", ("a", "b"), ("c",)), holdout=held)
    job = jobs.write(begun(job, MODELS, seconds=3.5))
    assert jobs.newest(log_dir) == job
    assert jobs.resumed(job, Options()).holdout == held
    moved = log_dir.parent.rename(log_dir.parent.with_name("moved")) / "log"
    elsewhere = jobs.newest(moved)
    assert elsewhere is not None
    assert (elsewhere.log(MODELS), elsewhere.log(BASELINE)) == (moved / "some", None)


def test_the_newest_of_several(log_dir: Path) -> None:
    """The newest is the one of the latest stamp; other files are not looked at."""
    job = jobs.new(Options(), log_dir)
    for name in ("2026-01-05_09-00-00-000000", "2025-12-05_09-00-00-000000"):
        jobs.write(dataclasses.replace(job, file=log_dir / f"{name}_run.json"))
    (log_dir / "my_run.json").write_text("mine")
    found = jobs.newest(log_dir)
    assert found is not None
    assert found.file.name.startswith("2026")


def test_a_state_of_release_0_1_0(log_dir: Path) -> None:
    """The form stays: what an earlier release wrote is read."""
    state: dict[str, Any] = {
        "form": 1,
        "project": "..",
        "options": {"factor_loops": 1, "model_loops": 2, "baseline": False, "all_duration": ""}
        | {"from_logs": "", "passed_on": ["-C"]},
        "stages": [{"name": MODELS, "loops": 2, "log": "some", "state": "begun", "seconds": 3.5}],
        "factor_set": {"digest": "sha256:1", "paths": ["/a"], "logs": []},
        "end": "",
    }
    file = log_dir / "2026-01-05_09-00-00-000000_run.json"
    file.write_text(json.dumps(state))
    found = jobs.newest(log_dir)
    assert found is not None
    assert (found.options, found.stages[0].seconds) == (Options(1, 2, passed_on=("-C",)), 3.5)
    assert found.factor_set == JobSet("sha256:1", ("/a",), ())
    jobs.write(found)
    state["options"] |= {"from_models": "", "jobs": None, "cluster": "", "seeds": 0, "holdout": ""}
    state["holdout"] = None
    assert json.loads(file.read_text()) == state


UNKNOWN_FIELD = {"stages": [{"name": MODELS, "loops": 1, "colour": "red"}], "factor_set": None, "end": ""}


@pytest.mark.parametrize(
    "text",
    [
        *("", "{", "[]", "null", '{"form": 1}', '{"form": 2}', '{"form": 1, "stages": 3}'),
        json.dumps({"form": 1, "project": "..", "options": {}, **UNKNOWN_FIELD}),
    ],
)
def test_damaged_state(log_dir: Path, text: str) -> None:
    """A state that is damaged, or of another form, is one error that names it."""
    file = jobs.new(Options(), log_dir).file
    file.write_text(text)
    with pytest.raises(JobError, match="is damaged, or of another release") as caught:
        jobs.newest(log_dir)
    assert caught.value.place == str(file)
    assert_survives_pickling(caught.value)


def test_state_that_can_not_be_written(log_dir: Path) -> None:
    """A state that can't be written is one error with the reason."""
    job = jobs.new(Options(), log_dir)
    log_dir.rmdir()
    with pytest.raises(JobError, match="can't be written: No such file"):
        jobs.write(job)


@pytest.mark.parametrize(
    ("asked", "fact"),
    [
        (Options(baseline=True), "--baseline says yes, and the job to resume has none"),
        (Options(holdout="6M"), "--holdout says 6M, and the job to resume has 12M"),
        (Options(all_duration="3h"), "--all-duration says 3h, and the job to resume has 12h"),
        (Options(from_logs="log/x"), "--from-log says log/x, and the job to resume has none"),
        (Options(passed_on=("-C",)), "An option for RD-Agent says -C, and the job to resume has --step-n 5"),
        (Options(factor_loops=2), "--factor-loops 2 is less than the 3 that the job was to do"),
        (Options(model_loops=3), "--model-loops 3 is less than the 4 that the job was to do"),
        (Options(jobs=2), "--jobs is for models that are trained again, and without --baseline none is"),
        (Options(seeds=1), "--seeds is for models that are trained again, and without --baseline none is"),
    ],
)
def test_contradictions(log_dir: Path, asked: Options, fact: str) -> None:
    """An option that contradicts the job is one error, in the words of the command line."""
    has = Options(3, 4, all_duration="12h", passed_on=("--step-n", "5"), holdout="12M")
    job = jobs.new(has, log_dir)
    with pytest.raises(JobError) as caught:
        jobs.resumed(job, asked)
    assert caught.value.fact == fact


@pytest.mark.parametrize(
    ("asked", "fact"),
    [
        (Options(baseline=True, jobs=2, cluster="tcp://h:1"), "--jobs trains on this machine, and --cluster"),
        (Options(jobs=2), "--jobs is for models that are trained again, and without --baseline none is"),
        (Options(cluster="tcp://h:1"), "--cluster is for models that are trained again"),
    ],
)
def test_where_models_are_trained(log_dir: Path, asked: Options, fact: str) -> None:
    """In one place, where there is something to train; a resumed job may train elsewhere."""
    with pytest.raises(JobError, match=fact):
        jobs.new(asked, log_dir)
    job = jobs.new(Options(baseline=True, jobs=2), log_dir)
    assert jobs.resumed(job, Options()).options.jobs == 2
    there = jobs.resumed(job, Options(cluster="tcp://h:1")).options
    assert (there.jobs, there.cluster) == (None, "tcp://h:1")


def test_more_seeds(log_dir: Path) -> None:
    """More seeds open the ended baseline again; fewer are refused, and none leaves them as they are."""
    job = jobs.new(Options(1, 2, True, seeds=2), log_dir)
    for name in (FACTORS, MODELS, BASELINE):
        job = begun(job, name, "ended")
    job = dataclasses.replace(job, end="done")
    assert jobs.resumed(job, Options()) == jobs.resumed(job, Options(seeds=2)) == job
    more = jobs.resumed(job, Options(seeds=3))
    assert [stage.state for stage in more.stages] == ["ended", "ended", "begun"]
    assert (more.end, more.options.seeds, more.stage(BASELINE).loops) == ("", 3, 2)
    with pytest.raises(JobError, match="--seeds 1 is less than the 2 that the job was to train with"):
        jobs.resumed(job, Options(seeds=1))


def test_the_log_of_models_of_another_folder(log_dir: Path, tmp_path: Path) -> None:
    """Its path has no detour through the job's own folder, which may be a link to anywhere."""
    (tmp_path / "far" / "away").mkdir(parents=True)
    (tmp_path / "link").symlink_to(tmp_path / "far" / "away")
    job = jobs.new(Options(baseline=True), tmp_path / "link", log_dir / "models")
    assert job.log(MODELS) == log_dir / "models"


def test_more_factor_loops(log_dir: Path) -> None:
    """More factor loops, before a model was trained, forget the set that fewer led to."""
    job = begun(jobs.new(Options(1, 2), log_dir), FACTORS, "ended")
    job = dataclasses.replace(job, end="nothing accepted", factor_set=JobSet("d", ("p",), ()))
    more = jobs.resumed(job, Options(factor_loops=5))
    assert (more.stage(FACTORS).loops, more.stage(FACTORS).state) == (5, "begun")
    assert (more.end, more.factor_set) == ("", None)
    with pytest.raises(JobError, match="has begun with the set of this job's factor stage"):
        jobs.resumed(begun(job, MODELS), Options(factor_loops=5))
    with pytest.raises(JobError, match="asks for a factor stage, and the job to resume has none"):
        jobs.resumed(jobs.new(Options(from_logs="log/x"), log_dir), Options(factor_loops=5))


def test_another_folder(log_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job is resumed in its own project, and the error says where that is; the command names the logs."""
    job = jobs.new(Options(), log_dir)
    assert job.resume_command == "rdagent-sota run --resume"
    elsewhere = jobs.new(Options(), tmp_path / "my logs").resume_command
    assert elsewhere == "rdagent-sota run --resume --log-dir '../my logs'"
    monkeypatch.chdir(tmp_path)
    with pytest.raises(JobError, match="belongs to another folder") as caught:
        jobs.resumed(job, Options())
    assert caught.value.fix.endswith(f"cd {log_dir.parent}")


@pytest.mark.parametrize(
    ("text", "seconds"), [("12h", 43200), ("30m", 1800), ("90s", 90), ("1.5d", 129600), (" .5 h ", 1800)]
)
def test_durations(text: str, seconds: float) -> None:
    """RD-Agent's form is understood."""
    assert stages.seconds_of(text) == seconds


@pytest.mark.parametrize(
    "text", ["", "12", "12 hours", "-1h", "0h", "1h30m", "h", "12H", "nan", "9" * 400 + "d"]
)
def test_no_durations(text: str) -> None:
    """Anything else is an error: RD-Agent would run without a limit, or for seconds."""
    with pytest.raises(JobError, match="--all-duration is no duration"):
        stages.seconds_of(text)


@pytest.mark.parametrize(
    ("name", "ended", "used", "share"),
    [
        (FACTORS, (), {}, 10000 * 12 / 20),
        (FACTORS, (), {FACTORS: 2000.0}, 8000 * 12 / 20),
        (MODELS, (FACTORS,), {FACTORS: 4000.0}, 6000 / 2),
        (BASELINE, (FACTORS, MODELS), {FACTORS: 4000.0, MODELS: 5000.0}, 1000),
        (MODELS, (FACTORS,), {FACTORS: 11000.0}, -1000 / 2),
    ],
)
def test_shares(log_dir: Path, name: str, ended: tuple[str, ...], used: dict[str, Any], share: float) -> None:
    """A stage gets its share of what is left, by loops, three parts for a factor loop, two for a model."""
    assert stages.share(jobs.new(Options(), log_dir), name) is None
    job = jobs.new(Options(4, 2, True, "10000s"), log_dir)
    for stage in job.stages:
        state = "ended" if stage.name in ended else "waiting"
        job = begun(job, stage.name, state, seconds=used.get(stage.name, 0.0))
    assert stages.share(job, name) == pytest.approx(share)


def test_the_share_of_seeds(log_dir: Path) -> None:
    """A seed counts as two models: it is trained with the mined columns and without."""
    job = begun(jobs.new(Options(4, 2, True, "10000s", seeds=3), log_dir), FACTORS, "ended")
    assert stages.share(job, BASELINE) == pytest.approx(10000 * 8 / 10)

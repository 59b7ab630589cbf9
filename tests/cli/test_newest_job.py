"""`rdagent-sota verify` and `report` without an argument: the newest job's logs, else the latest one."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, Job, JobSet, Options
from tests.cli.test_latest import write_run


def taken(command: str) -> tuple[list[str], str]:
    """Return the names of the logs that a command takes without an argument, and what it says on stderr."""
    done = CliRunner().invoke(app, [command, "--json"])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    found: dict[str, Any] = json.loads(done.stdout) if done.stdout else {"runs": []}
    return [Path(run["log"]).name for run in found.get("runs", [found])], done.stderr


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the log folder of a project: a run of each stage, and a later one that was started by hand."""
    monkeypatch.chdir(tmp_path)
    kinds = {
        FACTORS: "FactorRDLoop",
        MODELS: "ModelRDLoop",
        "by hand": "ModelRDLoop",
    }
    for hours, (name, kind) in enumerate(kinds.items()):
        write_run(name, hours, kind)
    return tmp_path / "log"


def write_job(folder: Path, *begun: str, stamp: str = "2026-03-02_12-00-00-000000") -> Job:
    """Write a job whose stages of these names have begun, in logs of the same names."""
    job = dataclasses.replace(jobs.new(Options(1, 1, True), folder), file=folder / f"{stamp}_run.json")
    for name in begun:
        job = job.with_stage(name, state="begun", log=name)
    return jobs.write(job)


def test_without_a_job(folder: Path) -> None:
    """It is `latest`, and the log is named first."""
    for command in ("verify", "report"):
        logs, said = taken(command)
        assert logs == ["by hand"]
        note = "note: no job of `rdagent-sota run` is below ./log: the latest log is taken"
        assert said == f"{note}, {folder / 'by hand'}\n"


def test_the_newest_job(folder: Path) -> None:
    """Of several jobs it is the newest, named first: its models to verify, and both its stages to report."""
    older = write_job(folder, MODELS, stamp="2026-03-01_12-00-00-000000")
    jobs.write(older.with_stage(MODELS, log="by hand"))
    write_job(folder, FACTORS, MODELS)
    note = "note: the newest job is taken: log/2026-03-02_12-00-00-000000_run.json\n"
    assert taken("verify") == ([MODELS], note)
    assert taken("report") == ([FACTORS, MODELS], note)


def test_a_job_on_the_set_of_another_log(folder: Path) -> None:
    """The log that --from-log named is in the report, as in the one that the job wrote."""
    job = write_job(folder, MODELS)
    jobs.write(dataclasses.replace(job, factor_set=JobSet("", (), (str(folder / "by hand"),))))
    assert taken("report")[0] == ["by hand", MODELS]


def test_a_job_that_has_no_models_yet(folder: Path) -> None:
    """That is said, and no other log is taken in its place."""
    write_job(folder, FACTORS)
    assert taken("report")[0] == [FACTORS]
    logs, said = taken("verify")
    assert logs == []
    assert "The newest job has nothing to show yet" in said
    assert "fix:   let it go on, or name a log folder, or `latest`" in said


@pytest.mark.parametrize("state", ["damaged", "with a baseline of plain loops"])
def test_a_job_whose_state_is_damaged(state: str, folder: Path) -> None:
    """It is one message, whose fix is of these commands; so is one of a release whose baseline was a log."""
    job = write_job(folder, FACTORS, MODELS, BASELINE)
    if state == "damaged":
        job.file.write_text("{")
    for command in ("verify", "report"):
        logs, said = taken(command)
        assert logs == []
        assert "is damaged, or of another release" in said
        assert "fix:   name a log folder, or `latest`" in said

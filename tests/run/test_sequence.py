"""What is said at the end of a job."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from rdagent_sota_bridge.report import history
from rdagent_sota_bridge.run import holdout, outcome, sequence
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import FACTORS, MODELS, End, Holdout, Options


def outside(said: list[str]) -> sequence.Outside:
    """Return the world of a job whose stages are over."""
    return sequence.Outside(
        console=Console(file=io.StringIO()),
        say=said.append,
        show=lambda heading, lines: None,
        report=lambda logs, file: None,
        verify=lambda found: True,
        environ={},
    )


@pytest.mark.parametrize(
    ("end", "fix"),
    [
        ("done", "to add models: rdagent-sota run --resume --log-dir '100% %s %(x)d' --model-loops N"),
        ("nothing accepted", "rdagent-sota run --resume --log-dir '100% %s %(x)d' --factor-loops N"),
        ("out of time", "rdagent-sota run --new --from-log '100% %s %(x)d/2026'"),
    ],
)
def test_a_percent_sign_in_a_path(
    end: End, fix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However a job ends, the command that goes on is said with the path as a shell takes it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "100% %s %(x)d"
    (folder / "2026").mkdir(parents=True)
    job = jobs.new(Options(1, 1, all_duration="1h" if end == "out of time" else ""), folder)
    job = job.with_stage(FACTORS, state="ended", log="2026")
    if end == "done":
        job = job.with_stage(MODELS, state="ended", log="2027")
    job = jobs.write(dataclasses.replace(job, end=end))
    said: list[str] = []
    # The folders of the stages' logs hold no session: removed since, which is no error of the job.
    assert sequence.show_end(job, outside(said)) == int(end != "done")
    assert fix in "\n".join(said)


@pytest.mark.parametrize("is_open", [True, False])
def test_a_holdout_that_is_closed(is_open: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A job whose holdout could not be opened is done, says how to open it, and has not ended well."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").mkdir()
    job = jobs.new(Options(1, 1, holdout="12M"), tmp_path / "log").with_stage(MODELS, state="ended", log="m")
    held = Holdout("2020-01-02", "2020-09-10", {MODELS: "2019-12-27"})
    monkeypatch.setattr(sequence.progress, "steps_done", lambda _: ["a step"])
    monkeypatch.setattr(outcome, "without_factors", lambda _: "")
    monkeypatch.setattr(sequence.history, "read_run", lambda log: history.Run(log, "fin_model", ()))
    monkeypatch.setattr(holdout, "opened", lambda run: (f"the holdout of {run.log.name}", is_open))
    said: list[str] = []
    job = jobs.write(dataclasses.replace(job, end="done", holdout=held))
    assert sequence.show_end(job, outside(said)) == int(not is_open)
    assert "the holdout of m" in said

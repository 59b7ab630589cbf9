"""Command lines of `rdagent-sota run` that mean nothing, to it or to the commands of its stages."""

from __future__ import annotations

import json

import pytest

from tests import stand_in
from tests.stand_in import Project

templates, project = stand_in.templates, stand_in.project
LOOPS = ("--factor-loops", "2", "--model-loops", "2")


@pytest.mark.parametrize(
    ("options", "fact"),
    [
        (("--all-duration", "12 hours"), "--all-duration is no duration: '12 hours'"),
        (("--resume",), "There is no job to resume"),
        (("--resume", "--new"), "--resume continues a job, and --new begins one"),
        (("--from-log", "log/x", "--factor-loops", "1"), "--from-log skips the factor stage"),
        (
            ("--from-log", "log/nowhere"),
            "SOTA log path not found: log/nowhere\n  where: --from-log, looked for",
        ),
        (("--from-log", ""), "--from-log is empty"),
        (("--all-duration", " "), "--all-duration is empty"),
        (("--loop_n", "3"), "--loop_n is set by `rdagent-sota run` itself"),
        (("--path=log",), "--path=log is set by `rdagent-sota run` itself"),
        (("--factor-loop", "3"), "takes --factor-loop\n"),
        (("--factor-loop", "3"), "did you mean --factor-loops or --model-loops?"),
        (("--step_n", "2", "--step_m=1", "--new"), "did you mean --step-n?"),
        (("--from-log", "latest", "-factor_loops", "3"), "`rdagent fin_model` takes -factor_loops\n"),
        (("-C", "--colour", "red"), "leave it out; `rdagent-sota run --help` and"),
        (("--step-n", "-1", "10"), "takes 10\n"),
    ],
)
def test_command_lines_that_mean_nothing(project: Project, options: tuple[str, ...], fact: str) -> None:
    """A wrong command line is one message, status 1, and no stage."""
    status, output = project.run(*options)
    assert status == 1
    assert fact in output
    assert "fix:" in output
    assert "Traceback" not in output
    assert project.calls == []
    assert list(project.log_dir.glob("*.json")) == []


@pytest.mark.parametrize("command", ["fin_factor", "fin_model"])
def test_a_usage_error_leaves_no_job(project: Project, command: str) -> None:
    """A job would keep the wrong option: the next command begins anew, and needs no --new."""
    project.trouble(command, 0, "direct_exp_gen", "ends", status=2)
    status, output = project.run(*LOOPS, "--step-n", "three")
    assert status == 1
    assert "out of paper" in output, "what the stage says itself"
    assert f"stage: {command} --loop-n 2 --step-n three" in output.split("out of paper")[1]
    assert list(project.log_dir.glob("*.json")) == []
    mined = min(project.log_dir.glob("*/__session__")).parent
    assert (f"the factors: --from-log log/{mined.name}" in output) == (command == "fin_model")
    assert project.run(*LOOPS)[0] == 0


def test_a_baseline_that_ends_with_that_status(project: Project) -> None:
    """The models are trained: their job is kept."""
    assert project.run("--factor-loops", "2", "--model-loops", "1", "--baseline")[0] == 0
    state = project.state
    state["stages"][-1] |= {"state": "waiting", "log": ""}
    (file,) = project.log_dir.glob("*_run.json")
    file.write_text(json.dumps(state | {"end": ""}))
    project.trouble("fin_model", 0, "direct_exp_gen", "ends", status=2)
    status, output = project.run("--resume")
    assert status == 1
    assert "The baseline stage ended with status 2" in output
    assert file.exists()


def test_a_resumed_stage_that_ends_with_that_status(project: Project) -> None:
    """Loops that are done are not given up for it."""
    project.trouble("fin_factor", 1, "coding", "ends", status=2)
    assert project.run(*LOOPS)[0] == 1
    assert project.run("--resume")[0] == 0

"""Command lines of `rdagent-sota run` that mean nothing, to it or to the commands of its stages."""

from __future__ import annotations

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
        (("--from-models", "", "--baseline"), "--from-models is empty"),
        (("--holdout", ""), "--holdout is empty"),
        (("--holdout", "12 months"), "--holdout is no time: '12 months'"),
        (("--from-models", "log/nowhere", "--baseline"), "log/nowhere"),
        (("--from-models", "latest", "--baseline"), "No log of a run with models"),
        (("--seeds", "2"), "--seeds is for models that are trained again, and without --baseline none is"),
        (("--loop_n", "3"), "--loop_n is set by `rdagent-sota run` itself"),
        (("-C", "--loop-n=3"), "--loop-n=3 is set by `rdagent-sota run` itself"),
        (("--path", "log"), "--path is set by `rdagent-sota run` itself"),
        (("--path=log",), "--path=log is set by `rdagent-sota run` itself"),
        (("--factor-loop", "3"), "`rdagent fin_factor` neither: No such option: --factor-loop\n"),
        (("--factor-loop", "3"), "did you mean --factor-loops or --model-loops?"),
        (("--step_n", "2", "--step_m=1", "--new"), "neither: No such option: --step-m"),
        (("--from-log", "latest", "-factor_loops", "3"), "`rdagent fin_model` neither: No such option: -f\n"),
        (("--basis", "x"), "`rdagent fin_model` neither: No such option: --basis\n"),
        (("-C", "--zigzag", "red"), "No such option: --zigzag\n"),
        (("-C", "--zigzag", "red"), "leave it out; `rdagent-sota run --help` and"),
    ],
)
def test_command_lines_that_mean_nothing(project: Project, options: tuple[str, ...], fact: str) -> None:
    """A wrong command line is one message, status 1, and no stage."""
    output = project.fails(*options)
    assert fact in output
    assert "fix:" in output
    assert project.calls == []
    assert list(project.log_dir.glob("*.json")) == []


@pytest.mark.parametrize("variable", ["GITHUB_ACTIONS", "FORCE_COLOR"])
def test_where_colours_are_asked_for(project: Project, variable: str) -> None:
    """What RD-Agent's command line says is read there, too."""
    output = project.fails("--factor-loop", "3", **{variable: "1"})
    assert "No such option: --factor-loop\n" in output
    assert "did you mean --factor-loops or --model-loops?" in output


@pytest.mark.parametrize("command", ["fin_factor", "fin_model"])
def test_a_usage_error_leaves_no_job(project: Project, command: str) -> None:
    """A job would keep the wrong option: the next command begins anew, and needs no --new."""
    project.trouble(command, 0, "direct_exp_gen", "ends", status=2)
    output = project.fails(*LOOPS, "--step-n", "three")
    assert "out of paper" in output, "what the stage says itself"
    assert f"stage: {command} --loop-n 2 --step-n three" in output.split("out of paper")[1]
    assert list(project.log_dir.glob("*.json")) == []
    mined = min(project.log_dir.glob("*/__session__")).parent
    assert (f"the factors: --from-log log/{mined.name}" in output) == (command == "fin_model")
    project.ends(*LOOPS)


def test_a_resumed_stage_that_ends_with_that_status(project: Project) -> None:
    """Loops that are done are not given up for it."""
    project.trouble("fin_factor", 1, "coding", "ends", status=2)
    project.fails(*LOOPS)
    project.ends("--resume")


@pytest.mark.parametrize(
    ("options", "variables", "fact"),
    [
        ((*LOOPS, "--baseline"), {"USE_ALPHA_FACTORS": "false"}, "USE_ALPHA_FACTORS=false has none"),
        (("--from-models", "LOG"), {}, "and nothing else\n  where: the options beside --from-models"),
        (("--from-models", "LOG", "--baseline", "--model-loops", "2"), {}, "and nothing else"),
        (("--from-models", "LOG", "--baseline", "--step-n", "2"), {}, "and nothing else"),
        (("--from-models", "LOG", "--baseline", "--holdout", "12M"), {}, "and nothing else"),
        (("--from-models", "LOG", "--baseline"), {}, "No model of the log was trained with the factors"),
    ],
)
def test_ablations_that_mean_nothing(
    project: Project, options: tuple[str, ...], variables: dict[str, str], fact: str
) -> None:
    """Nothing to train on, more than an ablation, or no model with the factors: refused before a training."""
    project.ends(*LOOPS)
    calls, log = len(project.calls), f"log/{project.state['stages'][1]['log']}"
    output = project.fails(
        *(log if option == "LOG" else option for option in options), "--log-dir", "other", **variables
    )
    assert fact in output
    assert len(project.calls) == calls
    assert list((project.folder / "other").glob("*.json")) == []

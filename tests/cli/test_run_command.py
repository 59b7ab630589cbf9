"""`rdagent-sota run` as a process: its stages, what stops it, and what it resumes from."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import stand_in
from tests.forking import Forks
from tests.frames import factor_frame, write
from tests.processes import is_alive
from tests.stand_in import Project, kill, wait_until

templates, project = stand_in.templates, stand_in.project
LOOPS = ("--factor-loops", "2", "--model-loops", "2")


def stop(project: Project, number: signal.Signals = signal.SIGKILL) -> tuple[list[int], int, str]:
    """Stop a job whose stage hangs, and return the stage's processes, the job's status and its output."""
    process = project.start(*LOOPS)
    pids = project.hanging()
    kill(process, number)
    output, _ = process.communicate(timeout=30)
    return pids, process.returncode, output


def test_a_whole_job(project: Project) -> None:
    """Both stages, the set between them, options passed on in both spellings, baseline and report."""
    output = project.ends(
        "--factor_loops", "2", "--model-loops=2", "--baseline", "--step_n", "50", SOTA_FACTORS="f*"
    )
    assert project.commands == ["fin_factor", "fin_model"]
    factors, models = project.calls
    assert all(call["options"] == ["--loop-n", "2", "--step_n", "50"] for call in project.calls)
    assert factors["environment"]["LOAD_SOTA_FROM_WORKSPACE"] == "false"
    assert models["environment"]["LOAD_SOTA_FROM_WORKSPACE"] == "true"
    assert models["environment"]["SOTA_WORKSPACE_PATH"] == str(project.workspace)
    assert models["environment"]["SOTA_LOG_PATH"] == ""
    assert models["environment"]["SOTA_FACTORS"] == "f*"
    state = project.state
    assert [stage["state"] for stage in state["stages"]] == ["ended"] * 3
    assert state["end"] == "done"
    logs = [str(project.log_dir / stage["log"]) for stage in state["stages"][:2]]
    assert [call["environment"]["LOG_TRACE_PATH"] for call in project.calls] == logs
    assert "baseline stage: 0 of 0 models are trained again without the mined columns" in output
    (report,) = project.log_dir.glob("*_report.html")
    assert output.splitlines()[-4:] == [
        "Next:",
        "  to add models: rdagent-sota run --resume --model-loops N, N being all of them",
        f"  to score days with the best accepted model: rdagent-sota predict log/{Path(logs[1]).name}",
        f"  read the report: {report.relative_to(project.folder)}",
    ]
    assert json.loads(report.read_text()) == logs
    assert output.index("machine checked") < output.index("Start Loop 0, Step 0") < output.index("checked /")
    assert "rdagent-sota: factor stage: loop 1 of 2, direct_exp_gen" in output
    project.ends("--resume")
    assert len(project.calls) == 2


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_stopped_in_the_factor_stage(project: Project, number: signal.Signals) -> None:
    """Stopped by any signal, nothing of the stage is left; resumed, it continues after the last step done."""
    project.trouble("fin_factor", 1, "running")
    pids, status, output = stop(project, number)
    assert status == (-9 if number == signal.SIGKILL else 128 + number), output
    assert ("rdagent-sota run --resume" in output) == (number != signal.SIGKILL)
    if number != signal.SIGKILL:
        assert not any(map(is_alive, pids))
    resumed = project.ends("--resume")
    assert not any(map(is_alive, pids))
    first, second, models = project.calls
    session = Path(first["environment"]["LOG_TRACE_PATH"]) / "__session__" / "1" / "1_coding"
    assert second["options"] == ["--loop-n", "2", "--path", str(session)]
    assert second["environment"] == first["environment"]
    assert "Start Loop 1, Step 2: running" in resumed
    assert resumed.count("Start Loop 1, Step 1: coding") == 1  # of the models alone
    assert models["command"] == "fin_model"
    assert models["options"] == ["--loop-n", "2"]


def test_killed_in_the_model_stage_keeps_the_set(project: Project) -> None:
    """A killed model stage is resumed in its log with the set that it began with; no factor loop is."""
    project.trouble("fin_model", 0, "feedback")
    pids, _, _ = stop(project)
    project.ends("--resume")
    assert not any(map(is_alive, pids))
    assert project.commands == ["fin_factor", "fin_model", "fin_model"]
    assert project.calls[2]["environment"] == project.calls[1]["environment"]
    assert project.calls[2]["options"][-1].endswith("__session__/0/2_running")


def test_killed_between_the_stages(project: Project) -> None:
    """A factor stage that had taken its last step when all was killed is not started again."""
    process = project.start("--factor-loops", "2", "--model-loops", "1")
    wait_until(lambda: any(project.log_dir.glob(f"*/__session__/1/{stand_in.LAST_SESSION}")))
    kill(process)
    process.communicate(timeout=30)
    project.ends("--resume")
    assert project.commands.count("fin_factor") == 1


def test_killed_before_the_first_step(project: Project) -> None:
    """Without a session the stage begins anew, in a log folder of its own."""
    project.trouble("fin_factor", 0, "direct_exp_gen", cuts_off=True)
    stop(project, signal.SIGTERM)
    output = project.ends("--resume")
    first, second, _ = project.calls
    assert second["options"] == ["--loop-n", "2"]
    assert first["environment"]["LOG_TRACE_PATH"] != second["environment"]["LOG_TRACE_PATH"]
    assert "0_direct_exp_gen): the stage begins anew" in output


def test_newest_session_cut_off(project: Project) -> None:
    """A session that a kill cut off is passed over for the one before, and that is said."""
    project.trouble("fin_factor", 1, "coding", cuts_off=True)
    stop(project)
    output = project.ends("--resume")
    assert project.calls[1]["options"][-1].endswith("__session__/1/0_direct_exp_gen")
    assert "1_coding): 1/0_direct_exp_gen is taken" in output


@pytest.mark.parametrize(("command", "title"), [("fin_factor", "factor"), ("fin_model", "model")])
def test_a_stage_that_ends_badly(project: Project, command: str, title: str) -> None:
    """The stage, its status and the next command are named, its output is shown as it is; --resume works."""
    project.trouble(command, 1, "coding", "ends", status=7)
    output = project.fails(*LOOPS)
    assert f"The {title} stage ended with status 7" in output
    assert "[bold]out of paper" in output
    assert "resume: rdagent-sota run --resume" in output
    assert list(project.log_dir.glob("*_report.html")) == []
    project.ends("--resume")
    assert project.calls[-1]["options"][-1].endswith("0_direct_exp_gen") or command == "fin_factor"


def test_nothing_accepted(project: Project) -> None:
    """No model stage, status 1, a report; more factor loops resume it; a new job is not refused."""
    output = project.fails(*LOOPS, STAND_IN_FACTORS="rejecting")
    assert "accepted no factor loop (finished factor loops: 2): no model stage" in output
    assert "rdagent-sota run --resume --factor-loops N" in output
    assert project.commands == ["fin_factor"]
    assert len(list(project.log_dir.glob("*_report.html"))) == 1
    project.fails("--resume")
    output = project.fails("--resume", "--factor-loops", "3", STAND_IN_FACTORS="rejecting")
    assert project.calls[-1]["options"][:3] == ["--loop-n", "3", "--path"]
    assert project.commands == ["fin_factor"] * 2
    project.ends(*LOOPS)


def test_nothing_accepted_in_the_time(project: Project) -> None:
    """RD-Agent would end a stage whose time was used up after one more step, so a new job is the fix."""
    project.trouble("fin_factor", 1, "coding", "ends", status=0)
    output = project.fails(*LOOPS, "--all-duration", "2h", STAND_IN_FACTORS="rejecting")
    assert "its time was used up after 1 of 2 loops: begin a new job with more time: --new" in output
    assert "--factor-loops N" not in output


def test_more_model_loops(project: Project) -> None:
    """A finished job is resumed for more model loops in all, from its session, with the same set."""
    project.ends("--factor-loops", "2", "--model-loops", "1")
    project.ends("--resume", "--model-loops", "3")
    assert project.commands == ["fin_factor", "fin_model", "fin_model"]
    last = project.calls[-1]
    assert last["options"][:3] == ["--loop-n", "3", "--path"]
    assert last["options"][3].endswith(f"__session__/0/{stand_in.LAST_SESSION}")
    assert last["environment"] == project.calls[1]["environment"]
    output = project.fails("--resume", "--factor-loops", "3")
    assert "The model stage has begun with the set of this job's factor stage" in output


def test_from_log(project: Project) -> None:
    """With --from-log the set is checked before any loop, and the job has no factor stage."""
    project.ends("--factor-loops", "2", "--model-loops", "1")
    log = Path("log") / project.state["stages"][0]["log"]
    output = project.ends("--from-log", str(log), "--model_loops", "1", "--log-dir", "other logs")
    assert project.commands == ["fin_factor", "fin_model", "fin_model"]
    assert output.index("checked /") < output.index("Start Loop 0")
    (report,) = (project.folder / "other logs").glob("*_report.html")
    assert json.loads(report.read_text())[0] == str(project.folder / log)


def test_from_a_log_that_accepted_nothing(project: Project) -> None:
    """The error is shown before anything is started, and no job is left to resume."""
    project.run("--factor-loops", "1", "--model-loops", "1", STAND_IN_FACTORS="rejecting")
    log = next(project.log_dir.glob("*/__session__")).parent
    output = project.fails("--from-log", str(log), "--log-dir", "others")
    assert "accepted no factor loop" in output
    assert list((project.folder / "others").glob("*.json")) == []


def test_the_set_has_changed(project: Project) -> None:
    """A set that was changed before a resume stops it, with both digests."""
    project.trouble("fin_model", 0, "coding", "ends", status=1)
    project.fails(*LOOPS)
    write(factor_frame(seed=8), project.workspace)
    output = project.fails("--resume")
    assert "The factor set is not the one that this job began with" in output
    assert project.state["factor_set"]["digest"] in output
    assert len(project.calls) == 2


def test_the_set_is_gone(project: Project) -> None:
    """A set that can't be found after the factor stage is an error that --resume fixes."""
    shutil.rmtree(project.workspace)
    output = project.fails(*LOOPS)
    assert "SOTA workspace path not found" in output
    assert project.commands == ["fin_factor"]
    project.workspace.mkdir()
    write(factor_frame(), project.workspace)
    project.ends("--resume")


def test_one_job_at_a_time(project: Project) -> None:
    """Beside a job at work a second one, new or resumed, is refused; so is a new one after an unfinished."""
    project.trouble("fin_factor", 0, "coding")
    process = project.start(*LOOPS)
    project.hanging()
    for options in (("--resume",), ("--new",)):
        output = project.fails(*options)
        assert "Another `rdagent-sota run` is at work in this log folder" in output
    kill(process, signal.SIGINT)
    process.communicate(timeout=30)
    output = project.fails(*LOOPS)
    assert "The newest job in this log folder is not finished" in output
    assert "--resume" in output
    assert "--new" in output
    assert len(project.calls) == 1
    project.ends(*LOOPS, "--new")


def test_time_shares(project: Project) -> None:
    """Of two hours the factor stage gets its share by loops, and the models what is then left."""
    project.ends(*LOOPS, "--all_duration", "2h")
    first, second = (
        float(call["options"][call["options"].index("--all-duration") + 1].removesuffix("s"))
        for call in project.calls
    )
    assert first == pytest.approx(7200 * 3 / 5, abs=1)
    assert second == pytest.approx(7200, abs=60)


def test_a_copied_and_moved_project(tmp_path: Path, templates: Path, forks_of_rdagent: Forks) -> None:
    """A job is resumed in a project that was moved: its factor stage's log leads to the set's new place."""
    (tmp_path / "old").mkdir()
    old = stand_in.make_project(tmp_path / "old", templates, forks_of_rdagent)
    old.trouble("fin_model", 1, "coding", "ends", status=1)
    old.fails(*LOOPS)
    digest = old.state["factor_set"]["digest"]
    old.folder.rename(tmp_path / "new")
    stand_in.write_command(tmp_path / "new")
    project = Project(tmp_path / "new", forks_of_rdagent)
    project.ends("--resume")
    assert project.commands == ["fin_factor", "fin_model", "fin_model"]
    assert project.calls[-1]["environment"]["SOTA_WORKSPACE_PATH"] == str(project.workspace)
    assert project.state["factor_set"]["digest"] == digest


def test_the_report_of_fewer_loops(project: Project) -> None:
    """A report that is older than the job's last change is written anew, not named."""
    project.ends("--factor-loops", "2", "--model-loops", "1")
    (report,) = project.log_dir.glob("*_report.html")
    report.write_text("of fewer loops")
    os.utime(report, (1e9, 1e9))
    project.ends("--resume")
    assert report.read_text() != "of fewer loops"


def test_no_time_for_a_model(project: Project) -> None:
    """A model stage that its time ended before its first model is no success."""
    project.trouble("fin_model", 0, "running", "ends", status=0)
    output = project.fails(*LOOPS, "--all-duration", "2h")
    assert "ended after 0 of 2 loops: its time is used up" in output
    assert "nothing is left for the model stage" in output
    assert "rdagent-sota run --new --from-log log/" in output
    project.fails("--resume")
    assert len(project.calls) == 2


def test_letters_that_the_output_has_no_bytes_for(project: Project) -> None:
    """They are question marks, and end no job."""
    process = project.start(*LOOPS, "--log-dir", "\u53e0", PYTHONIOENCODING="ascii", PYTHONUTF8="0")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 0, output
    assert "log ?/" in output


def test_the_script(project: Project) -> None:
    """The script asks for loops only where its variables do: it resumes a job of other numbers."""
    (project.folder / "rdagent-sota").write_text(
        f'#!/bin/sh\nexec {sys.executable} {project.folder / "run.py"} "$@"\n'
    )
    (project.folder / "rdagent-sota").chmod(0o755)
    script = Path(__file__).parents[2] / "run_factor_then_model.sh"
    path = f"{project.folder}{os.pathsep}{os.environ['PATH']}"

    def run(*options: str, **variables: str) -> subprocess.CompletedProcess[str]:
        environ = {**os.environ, "PATH": path, **variables}
        return subprocess.run(
            ["sh", script, *options], cwd=project.folder, env=environ, capture_output=True, text=True
        )

    project.trouble("fin_factor", 1, "coding", "ends", status=1)
    assert run("--model-loops", "1", FACTOR_LOOPS="2").returncode == 1
    done = run("--resume")
    assert done.returncode == 0, done.stdout + done.stderr
    assert [call["options"][1] for call in project.calls] == ["2", "2", "1"]


def test_output_that_nobody_reads(project: Project) -> None:
    """A closed pipe does not end a job."""
    project.trouble("fin_factor", 0, "coding")
    process = project.start(*LOOPS)
    project.hanging()
    assert process.stdout is not None
    process.stdout.close()
    kill(process, signal.SIGINT)
    assert process.wait(30) == 130
    project.ends("--resume")

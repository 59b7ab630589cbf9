"""The command line and the environment of a stage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.run import stages
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, Stage


@pytest.mark.parametrize(
    ("name", "command"), [(FACTORS, "fin_factor"), (MODELS, "fin_model"), (BASELINE, "fin_model")]
)
def test_command(name: str, command: str) -> None:
    """A stage is RD-Agent's own command, with the loops in all; session, time and options where there are."""
    assert stages.command("r", Stage(name, 3), None, None, ()) == ["r", command, "--loop-n", "3"]
    full = stages.command("r", Stage(name, 3), Path("/s/1/0_x"), 90.4, ("-C", "--x y"))
    assert full[4:] == ["--path", "/s/1/0_x", "--all-duration", "90s", "-C", "--x y"]


USERS = {
    "SOTA_LOG_PATH": "log/mine",
    "sota_workspace_path": "mine",
    "LOAD_SOTA_FROM_WORKSPACE": "true",
    "log_trace_path": "mine",
    "USE_ALPHA_FACTORS": "false",
    "HOME": "/home",
}


@pytest.mark.parametrize("name", [FACTORS, BASELINE])
def test_environment_without_factors(name: str) -> None:
    """The switch is off, the log folder is the stage's, in any spelling; all else is the user's."""
    found = stages.environment(USERS, Stage(name, 1), Path("/log/1"), ("/w",))
    assert found["LOAD_SOTA_FROM_WORKSPACE"] == "false"
    assert (found["LOG_TRACE_PATH"], found["log_trace_path"]) == ("/log/1", "/log/1")
    assert (found["USE_ALPHA_FACTORS"], found["HOME"]) == ("false", "/home")


def test_environment_of_the_models() -> None:
    """The models get the set of the job, whatever set the user's variables name."""
    found = stages.environment(USERS, Stage(MODELS, 1), Path("/log/1"), ("/w", "/v"))
    assert found["LOAD_SOTA_FROM_WORKSPACE"] == "true"
    assert found["SOTA_WORKSPACE_PATH"] == f"/w{os.pathsep}/v"
    assert found["SOTA_LOG_PATH"] == ""
    assert found["sota_workspace_path"] == found["SOTA_WORKSPACE_PATH"]  # else `.env` brought its own again
    assert found["USE_ALPHA_FACTORS"] == "false"


def test_rdagent_is_the_one_of_this_environment() -> None:
    """The command beside this Python is taken, which has the package."""
    assert Path(stages.find_rdagent()).name.startswith("rdagent")


def test_no_rdagent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the one on PATH is taken; without that it is an error."""
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="There is no rdagent to run"):
        stages.find_rdagent()
    (tmp_path / "rdagent").write_text("")
    (tmp_path / "rdagent").chmod(0o755)
    assert stages.find_rdagent() == str(tmp_path / "rdagent")

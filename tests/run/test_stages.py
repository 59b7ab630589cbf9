"""The environment of a stage, and the program that it starts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from rdagent_sota_bridge.bridge.stage import NO_CONDA
from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.run import stages
from rdagent_sota_bridge.run.job import FACTORS, MODELS, Stage
from rdagent_sota_bridge.settings import STAGE

USERS = {
    "SOTA_LOG_PATH": "log/mine",
    "sota_workspace_path": "mine",
    "LOAD_SOTA_FROM_WORKSPACE": "true",
    "log_trace_path": "mine",
    "USE_ALPHA_FACTORS": "false",
    "HOME": "/home",
}


@pytest.mark.parametrize("name", [FACTORS, MODELS])
def test_environment(name: str) -> None:
    """The models alone get the job's set, each stage its log, in any spelling; the rest is the user's."""
    found = stages.environment(USERS, Stage(name, 1), Path("/log/1"), ("/w", "/v"), {})
    assert (found["LOG_TRACE_PATH"], found["log_trace_path"]) == ("/log/1", "/log/1")
    assert {name: found[name] for name in USERS if "TRACE" not in name.upper()} == {
        name: value for name, value in USERS.items() if "TRACE" not in name.upper()
    }
    given = json.loads(found[STAGE])
    assert given["variables"] == {"LOG_TRACE_PATH": "/log/1", "CONDA_DEFAULT_ENV": "no-conda-environment"}
    assert {name: value for name, value in given["settings"].items() if value} == {
        "USE_ALPHA_FACTORS": "false",
        "LOAD_SOTA_FROM_WORKSPACE": "true" if name == MODELS else "false",
        **({"SOTA_WORKSPACE_PATH": "/w:/v"} if name == MODELS else {}),
    }


@pytest.mark.parametrize(("active", "given"), [(None, NO_CONDA), ("", NO_CONDA), ("base", "base")])
def test_the_conda_environment(active: str | None, given: str) -> None:
    """An active one is kept; where none is, the stage gets a name that RD-Agent can start with."""
    users = {} if active is None else {"CONDA_DEFAULT_ENV": active}
    found = stages.environment(users, Stage(FACTORS, 1), Path("/log"), (), {})
    assert found["CONDA_DEFAULT_ENV"] == given


def test_rdagent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command beside this Python is taken, else that on PATH; where there is none it is an error."""
    assert Path(stages.find_rdagent()).name.startswith("rdagent")
    monkeypatch.setattr("sys.executable", str(tmp_path / "bin" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(JobError, match="There is no rdagent to run"):
        stages.find_rdagent()
    (tmp_path / "rdagent").write_text("")
    (tmp_path / "rdagent").chmod(0o755)
    assert stages.find_rdagent() == str(tmp_path / "rdagent")

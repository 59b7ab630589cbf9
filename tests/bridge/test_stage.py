"""A stage of `rdagent-sota run` in RD-Agent, and in a fork that loads `.env` over the environment."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sys
from pathlib import Path

import pytest

from rdagent_sota_bridge.bridge.stage import NO_CONDA
from rdagent_sota_bridge.run import stages
from rdagent_sota_bridge.run.job import FACTORS, MODELS, Stage
from tests import logs, seams
from tests.forking import Forks

ROOT = Path(__file__).parents[2]

README = """\
# as the README has it
LOAD_SOTA_FROM_WORKSPACE=true
SOTA_LOG_PATH=latest
SOTA_WORKSPACE_PATH=mine
SOTA_FACTORS=mine
USE_ALPHA_FACTORS=false
"""

TAKEN = """
import os, subprocess, sys
import rdagent.app.cli
look = "from rdagent_sota_bridge.settings import is_enabled, read_settings as read; "
look += "s = read(); print([is_enabled(), s.enabled, s.workspace_paths, s.log_paths, s.factor_patterns])"
exec(look)
subprocess.run([sys.executable, "-c", look], check=True)
print(os.environ["SOTA_LOG_PATH"])
"""


@pytest.fixture(scope="module")
def fork(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a copy of RD-Agent whose command line loads `.env` over the environment."""
    spec = importlib.util.find_spec("rdagent")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    copy = tmp_path_factory.mktemp("fork")
    shutil.copytree(spec.submodule_search_locations[0], copy / "rdagent", copy_function=os.symlink)
    cli = copy / "rdagent" / "app" / "cli.py"
    text = cli.read_text(encoding="utf-8")
    assert 'load_dotenv(".env")' in text
    cli.unlink()
    cli.write_text(
        text.replace('load_dotenv(".env")', 'load_dotenv(".env", override=True)'), encoding="utf-8"
    )
    return copy


def given(name: str, folder: Path, **users: str) -> dict[str, str]:
    """Return the environment of a stage, whose set is `/w`; with what the user exports."""
    users = {"PATH": os.environ["PATH"], **users}
    return stages.environment(users, Stage(name, 1), folder / "log" / "stage", ("/w",), {})


@pytest.mark.parametrize("name", [FACTORS, MODELS])
def test_the_factors_of_a_stage_are_those_of_the_job(
    name: str, forks_of_rdagent: Forks, fork: Path, tmp_path: Path
) -> None:
    """A `.env` that wins changes nothing of them, nor does it in a process that the stage starts."""
    (tmp_path / ".env").write_text(README)
    stage = given(name, tmp_path, SOTA_FACTORS="of the job")
    found = forks_of_rdagent.output(TAKEN, folder=tmp_path, path=(fork, ROOT), **stage)
    here, child, loaded = found.splitlines()
    on = name == MODELS
    assert here == child == str([on, on, ("/w",) if on else (), (), ("of the job",)])
    assert loaded == "latest", "the fork's .env won, but not over the stage"


@pytest.mark.parametrize(
    ("text", "lost"),
    [
        ("A=b\n\nexport LOG_TRACE_PATH=mine\n", "LOG_TRACE_PATH=mine"),
        ("A='b\nc'\nlog_trace_path = mine\n", "log_trace_path=mine"),
        ("A=b\n\nCONDA_DEFAULT_ENV=base\n", "CONDA_DEFAULT_ENV=base"),
    ],
)
@pytest.mark.parametrize("name", [FACTORS, MODELS])
def test_a_variable_that_lost_stops_the_stage(
    name: str, text: str, lost: str, forks_of_rdagent: Forks, fork: Path, tmp_path: Path
) -> None:
    """One message with the line of `.env`, before RD-Agent has written into any log folder."""
    (tmp_path / ".env").write_text(text)
    found = forks_of_rdagent.run(
        "import rdagent.app.cli", folder=tmp_path, path=(fork, ROOT), **given(name, tmp_path)
    )
    asked = lost.partition("=")[0].upper()
    assert found.returncode == 1
    assert found.stderr.startswith(f"The stage was given {asked}=")
    assert f", and RD-Agent has {lost}\n  where: {tmp_path / '.env'}, line 3\n  fix: " in found.stderr
    assert "Traceback" not in found.stderr
    assert not (tmp_path / "mine").exists()
    assert not (tmp_path / "log").exists()


def test_a_variable_that_something_else_sets(forks_of_rdagent: Forks, tmp_path: Path) -> None:
    """Where no line of `.env` is to blame, the message says so; RD-Agent itself keeps what it was given."""
    (tmp_path / ".env").write_text("LOG_TRACE_PATH=mine\n")
    stage = given(MODELS, tmp_path)
    forks_of_rdagent.output("import rdagent.app.cli", folder=tmp_path, path=(ROOT,), **stage)
    (tmp_path / ".env").write_text("")
    code = "import os; os.environ['LOG_TRACE_PATH'] = 'mine'; import rdagent.app.cli"
    found = forks_of_rdagent.run(code, folder=tmp_path, path=(ROOT,), **stage)
    assert found.returncode == 1
    assert "  where: set in the course of RD-Agent's start" in found.stderr


@pytest.mark.parametrize("wins", [False, True])
def test_our_commands_take_what_a_run_takes(
    wins: bool, forks_of_rdagent: Forks, fork: Path, tmp_path: Path
) -> None:
    """`rdagent-sota path` shows the set of `.env` where the installed RD-Agent lets that win, else not."""
    for name in ("exported", "of_env"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "combined_factors_df.parquet").touch()
    (tmp_path / ".env").write_text("SOTA_WORKSPACE_PATH=of_env\n")
    code = "import sys; sys.argv = ['rdagent-sota', 'path']; from rdagent_sota_bridge.cli import app; app()"
    places = (fork, ROOT) if wins else (ROOT,)
    found = forks_of_rdagent.run(code, folder=tmp_path, path=places, SOTA_WORKSPACE_PATH="exported")
    assert found.stdout == f"{tmp_path / ('of_env' if wins else 'exported')}\n", found.stderr


@pytest.mark.parametrize("resumed", [False, True])
def test_a_run_whose_switch_got_lost(resumed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One warning when its model runner is built or its session loaded; none where the switch says off."""
    from rdagent.app.qlib_rd_loop.model import ModelRDLoop

    monkeypatch.setenv("SOTA_LOG_PATH", "latest")
    log = logs.write_run(tmp_path / "log", tmp_path, ("model", (), True), kind="ModelRDLoop")
    with seams.logged() as lines:
        ModelRDLoop.load(log) if resumed else seams.build_runner()
    (warning,) = (line for line in lines if "SOTA" in line)
    assert warning.startswith("WARNING: SOTA_LOG_PATH is set, and LOAD_SOTA_FROM_WORKSPACE is not: the")
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", "false")
    with seams.logged() as lines:
        seams.build_runner()
    assert "SOTA" not in "".join(lines)


CONDA = """
from rdagent.components.coder.factor_coder.config import get_factor_env
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorScenario

print("PATH:", get_factor_env().conf.bin_path)
print("TOLD:", object.__new__(QlibFactorScenario).get_runtime_environment())
"""


def test_without_a_conda_environment(
    forks_of_rdagent: Forks, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RD-Agent alone ends in a traceback; a stage tells the LLM of the Python that factors' code runs in."""
    (tmp_path / "bin").mkdir()
    conda = tmp_path / "bin" / "conda"  # it knows no environment
    conda.write_text("#!/bin/sh\nexit 1\n")
    conda.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path / 'bin'}{os.pathsep}{Path(sys.executable).parent}:/usr/bin:/bin")
    plain = forks_of_rdagent.run(CONDA, folder=tmp_path)
    assert plain.returncode == 1
    assert "Input should be a valid string" in plain.stderr
    stage = given(FACTORS, tmp_path)
    assert stage["CONDA_DEFAULT_ENV"] == NO_CONDA
    found = forks_of_rdagent.output(CONDA, folder=tmp_path, **stage)
    assert f"PATH: {stage['PATH']}\n" in found
    assert sys.version.split()[0] in found.partition("TOLD:")[2]

"""The lines about conda and the environment that runs Qlib: from given facts, and from real processes."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path

import pytest

from rdagent_sota_bridge.bridge.stage import NO_CONDA
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor import children, qlib
from rdagent_sota_bridge.doctor.qlib import QlibSide
from tests.processes import is_alive
from tests.stand_in import wait_until

NAME = "rdagent4qlib"
VERSIONS = {
    "python": "3.10.4",
    "pyqlib": "0.9.7",
    "torch": "2.13.0",
    "pandas": "2.2.0",
    "pyarrow": "17.0.0",
    "mlflow": "3.17.2",
}
UNSEEN = Line("qlib", "warn", "not looked at: the environment is not there yet", "check again")
REFUSAL = "MlflowException: The filesystem … See https://mlflow.org/docs/migrate-from-file-store"


# --- lines from facts ---


@pytest.mark.parametrize(
    ("versions", "state", "part"),
    [
        ({"pandas": "1.5.3"}, "pass", "torch 2.13.0, python 3.10.4, pandas 1.5.3, pyarrow 17.0.0"),
        ({"pandas": "2.0.0"}, "pass", "conda environment rdagent4qlib: pyqlib 0.9.7, torch"),
        ({"pandas": "3.0.0"}, "warn", "can't read the pickle of a newer major version"),
        *(({name: None}, "fail", f"has no {name}: every training") for name in list(VERSIONS)[1:5]),
    ],
    ids=str,
)
def test_qlib(versions: dict[str, str | None], state: str, part: str) -> None:
    """The text shows what trains; a newer pandas there warns, a half made environment fails."""
    there = {name: text for name, text in {**VERSIONS, **versions}.items() if text}
    line = qlib.qlib_line(QlibSide(NAME, there), "2.3.3", "21.0.0")
    assert (line.state, line.figures["versions"], bool(line.fix)) == (state, there, state != "pass")
    assert part in line.text
    assert "here pandas 2.3.3, pyarrow 21.0.0" in line.text or state == "fail"


@pytest.mark.parametrize(
    ("side", "allowed", "docker", "state", "fix"),
    [
        ("", "", False, "pass", ""),
        (REFUSAL, "", False, "fail", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("ModuleNotFoundError: No module named 'mlflow'", "", False, "fail", "pip install --upgrade mlflow"),
        (None, "", False, "warn", "set MLFLOW"),
        (None, "yes", False, "warn", "set MLFLOW"),  # a word that mlflow does not take
        (None, "TRUE", False, "pass", ""),
        (None, "1", False, "pass", ""),
        (None, "true", True, "warn", "QLIB_DOCKER_ENV_DICT"),  # the variable does not reach a container
    ],
)
def test_file_store(
    side: str | None, allowed: str, docker: bool, state: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mlflow's refusal is fixed by the variable; unseen, it passes only where that will reach mlflow."""
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "docker" if docker else "conda")
    found = UNSEEN if side is None else QlibSide(NAME, VERSIONS, side)
    line = qlib.file_store_line(found, allowed)
    assert (line.state, bool(line.fix), fix in line.fix) == (state, bool(fix), True)
    assert ("not looked at" in line.text) is (side is None)
    assert line.figures.get("error") == (side or None)


@pytest.mark.parametrize(
    ("active", "path", "python", "state", "part"),
    [
        ("", "", "/bin/python", "warn", "CONDA_DEFAULT_ENV is not set"),
        ("rd", "/envs/rd/bin", None, "pass", "CONDA_DEFAULT_ENV=rd"),
        (NO_CONDA, "", None, "pass", f"CONDA_DEFAULT_ENV={NO_CONDA}"),
        ("gone", "", None, "fail", "conda runs nothing in gone, which CONDA_DEFAULT_ENV names"),
        ("gone", "", "/bin/python", "warn", "fin_factor and fin_quant describe /bin/python to the LLM"),
    ],
)
def test_conda(
    active: str, path: str, python: str | None, state: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No active environment warns; one that conda does not have ends fin_factor where there is no python."""
    monkeypatch.setattr(shutil, "which", lambda name, path: python)
    line = qlib.conda_line(active, path)
    assert (line.state, bool(line.fix), part in line.text) == (state, state != "pass", True)


# --- facts from processes ---


@pytest.fixture
def put_conda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that puts a conda on PATH, and makes the environment whose python is a script."""
    programs, inside = tmp_path / "programs", tmp_path / "with a space" / "bin"
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "conda")

    def script(file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def make(python: str = "", conda: str = "", qrun: bool = True) -> Path:
        script(programs / "conda", conda or f'[ "$1" = run ] && echo "PATH={inside}" || exit 1')
        script(inside / "python", python or f'exec {sys.executable} "$@"')
        if qrun:
            script(inside / "qrun", "exit 0")
        return inside

    return make


def unseen(state: str, *words: str) -> None:
    """Fail unless Qlib's side was not looked at, for a reason with these words, and a fix."""
    line = qlib.look_at_qlib()
    assert isinstance(line, Line)
    assert (line.name, line.state, line.text[:15], bool(line.fix)) == ("qlib", state, "not looked at: ", True)
    assert [word for word in words if word not in line.text] == []


@pytest.mark.parametrize(
    ("kind", "conda", "state", "words"),
    [
        ("docker", None, "warn", "Docker"),
        ("podman", None, "fail", "does not know MODEL_CoSTEER_ENV_TYPE=podman"),
        ("conda", None, "fail", "conda is not on PATH"),
        ("conda", "exit 1", "warn", f"the conda environment {NAME} is not there yet"),
        ("conda", f'[ "$1" = env ] && echo "{NAME} /envs/q" || exit 1', "fail", "can't run anything in it"),
        ("conda", "exec sleep 300", "warn", "conda does not answer"),
    ],
    ids=["docker", "unknown", "no conda", "not yet", "listed", "hanging conda"],
)
def test_places_without_a_python(
    kind: str,
    conda: str | None,
    state: str,
    words: str,
    put_conda: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Docker and an environment that is still to be made warn; what no run could start fails."""
    monkeypatch.setattr(children, "CONDA_SECONDS", 1.0)
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", kind)
    if conda is not None:
        put_conda(conda=conda)
    unseen(state, words)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("echo 'cannot open shared object file' >&2; exit 127", "cannot open shared object file"),
        ("exit 3", "it ended with status 3"),
        ("exit 0", "it ended with status 0"),
        ("", "has no qrun"),
    ],
)
def test_python_that_does_not_answer(python: str, words: str, put_conda: Callable[..., Path]) -> None:
    """A Python that ends without an answer fails with its last words, an environment without qrun too."""
    put_conda(python, qrun=bool(python))
    unseen("fail", words)


def test_python_that_hangs(
    put_conda: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that hangs is given up after the time limit, and its children are ended with it."""
    monkeypatch.setattr(children, "CONDA_SECONDS", 1.0)
    put_conda(f"sleep 300 & echo $! > {tmp_path}/child; wait")
    unseen("fail", "no answer within 1 seconds")
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_alive(child))


@pytest.mark.parametrize(("allowed", "name"), [(True, None), (False, "mine")])
def test_asking_a_real_environment(
    allowed: bool, name: str | None, put_conda: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This environment, asked as Qlib's, gives its versions; its mlflow refuses without the variable.

    RD-Agent's own settings have the same name of the environment, and the same PATH inside.
    """
    if not allowed:
        monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    if name is not None:
        monkeypatch.setenv("conda_ENV_name", name)
    inside = put_conda()
    theirs = import_module("rdagent.utils.env").QlibCondaConf()
    side = qlib.look_at_qlib()
    assert isinstance(side, QlibSide)
    assert (side.name, theirs.bin_path) == (theirs.conda_env_name, str(inside))
    for package in ("pyqlib", "torch", "pandas", "pyarrow", "mlflow"):
        assert side.versions[package] == metadata.version(package)
    assert qlib.file_store_line(side, "").state == ("pass" if allowed else "fail")


@pytest.mark.parametrize(("active", "there"), [("", False), (NO_CONDA, False), ("rd", True), ("gone", False)])
def test_the_active_environment(
    active: str, there: bool, put_conda: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Conda is asked for the PATH of the environment that is active; RD-Agent has the same."""
    inside = put_conda(conda='[ "$3" = rd ] && echo "PATH=/inside" || exit 1')
    monkeypatch.setenv("CONDA_DEFAULT_ENV", active)
    found = qlib.look_at_conda()
    assert found == ("/inside:/bin/:/usr/bin/" if there else "")
    if active not in ("", NO_CONDA):
        theirs = import_module("rdagent.utils.env").CondaConf(conda_env_name=active)
        assert bool(theirs.bin_path) is there
    monkeypatch.setenv("PATH", str(inside))  # no conda there
    assert qlib.look_at_conda() == ""

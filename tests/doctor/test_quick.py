"""The lines that need no import: Docker, the LLM's variables, time limits; each in its wrong states."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from rdagent_sota_bridge.check.line import State
from rdagent_sota_bridge.doctor import quick

DATA = "git_ignore_folder/factor_implementation_source_data"
SOCKET = "unix:///var/run/docker.sock: Permission denied"


@contextmanager
def answering(place: Path, answer: bytes) -> Iterator[str]:
    """Listen at a socket, answer one request, and yield the address."""
    with socket.socket(socket.AF_UNIX) as server:
        server.settimeout(5)
        server.bind(str(place))
        server.listen()

        def serve() -> None:
            stream, _ = server.accept()
            with stream:
                assert stream.recv(100).startswith(b"GET /_ping ")
                stream.sendall(answer)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"unix://{place}"
        thread.join()


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (b"HTTP/1.0 200 OK\r\n\r\nOK", ""),
        (b"HTTP/1.0 503 Service Unavailable\r\n\r\n", "HTTP/1.0 503 Service Unavailable"),
        (b"", "no answer"),
    ],
)
def test_a_ping(answer: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Docker answers a ping with 200; anything else is the trouble, with the address."""
    with answering(tmp_path / "d", answer) as host:
        monkeypatch.setenv("DOCKER_HOST", host)
        trouble = quick.look_at_docker()
    assert trouble == (f"{host}: {said}" if said else "")


@pytest.mark.parametrize(
    ("host", "said"),
    [("unix:///nowhere/d.sock", "No such file"), ("tcp://127.0.0.1:1", "refused"), ("tcp://[", "Invalid")],
)
def test_no_docker(host: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket that is not there, a closed port and an address that is none are told apart."""
    monkeypatch.setenv("DOCKER_HOST", host)
    assert quick.look_at_docker().startswith(f"{host}: ")
    assert said in quick.look_at_docker()


@pytest.mark.parametrize(
    ("trouble", "kind", "missing", "factors", "state", "part"),
    [
        ("", "docker", [], "fail", "pass", "Docker answers"),
        (SOCKET, "conda", [], "fail", "pass", "not needed: Qlib runs in conda"),
        (SOCKET, "docker", [], "pass", "fail", "Qlib runs in Docker (MODEL_CoSTEER_ENV_TYPE=docker)"),
        (SOCKET, "conda", [Path("a")], "fail", "fail", "fin_factor makes its data in it (a not there)"),
        (SOCKET, "conda", [Path("a")], "warn", "warn", "Permission denied"),
        (SOCKET, "conda", [Path("a")], "pass", "pass", "Permission denied"),
    ],
)
def test_docker(
    trouble: str,
    kind: str,
    missing: list[Path],
    factors: State,
    state: str,
    part: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Docker that does not answer fails where Qlib runs in it, or factor data is to be made for a loop."""
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", kind)
    line = quick.docker_line(trouble, missing, factors)
    assert (line.state, bool(line.fix), part in line.text) == (state, state != "pass", True)
    assert ("usermod" in line.fix) is bool(line.fix)


@pytest.mark.parametrize("made", [(), (DATA,), (DATA, f"{DATA}_debug")])
def test_factor_data_that_is_to_be_made(
    made: tuple[str, ...], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Both folders have to be there, where RD-Agent's own settings have them."""
    for name in made:
        (project / name).mkdir(parents=True)
    theirs = import_module("rdagent.components.coder.factor_coder.config").FactorCoSTEERSettings()
    folders = [project / theirs.data_folder, project / theirs.data_folder_debug]
    assert quick.missing_data() == folders[len(made) :]
    monkeypatch.setenv("FACTOR_CoSTEER_DATA_FOLDER", str(project))
    assert project not in quick.missing_data()


@pytest.mark.parametrize(
    ("names", "state", "part"),
    [
        (["OPENAI_API_KEY", "HOME"], "pass", "set: OPENAI_API_KEY"),
        (["deepseek_api_key", "CHAT_MODEL", "EMBEDDING_MODEL"], "pass", "CHAT_MODEL, EMBEDDING_MODEL, deep"),
        (["OPENAI_API_KEY", "OPENAI_API_BASE", "BACKEND"], "pass", "BACKEND, OPENAI_API_BASE, OPENAI"),
        ([], "warn", "set: nothing; no name of a key is among it"),
        (["CHAT_MODEL", "OPENAI_API_BASE"], "warn", "no name of a key"),
        (["DEEPSEEK_API_KEY", "CHAT_MODEL"], "warn", "EMBEDDING_MODEL not set, and RD-Agent's own needs"),
        (["DEEPSEEK_API_KEY"], "warn", "CHAT_MODEL and EMBEDDING_MODEL not set"),
    ],
)
def test_llm(names: list[str], state: str, part: str) -> None:
    """A key has to be there, and OpenAI's where a model is RD-Agent's own (microsoft/RD-Agent#788)."""
    line = quick.llm_line(names)
    assert (line.state, bool(line.fix), part in line.text) == (state, state != "pass", True)


def test_no_value_of_the_llm_is_shown(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names alone stand in the line; a variable that is empty is not set."""
    monkeypatch.setenv("OPENAI_API_KEY", "sk-secret")
    monkeypatch.setenv("CHAT_MODEL", "")
    line = next(line for line in quick.lines("warn") if line.name == "llm")
    assert "OPENAI_API_KEY" in line.figures["set"] and "CHAT_MODEL" not in line.figures["set"]
    assert "sk-secret" not in f"{line}{line.figures}"


@pytest.mark.parametrize(
    ("kind", "variables", "state", "part"),
    [
        ("conda", {}, "pass", "a back-test 3,600 s (RUNNING_TIMEOUT_PERIOD), a factor's code 3,600 s"),
        ("conda", {"RUNNING_TIMEOUT_PERIOD": "None"}, "pass", "a back-test has none"),
        ("conda", {"RUNNING_TIMEOUT_PERIOD": "60"}, "warn", "a back-test 60 s"),
        ("conda", {"RUNNING_TIMEOUT_PERIOD": "1h"}, "fail", "is no number of seconds: '1h'"),
        ("conda", {"QLIB_DOCKER_RUNNING_TIMEOUT_PERIOD": "60"}, "pass", "a back-test 3,600 s"),
        ("docker", {"QLIB_DOCKER_RUNNING_TIMEOUT_PERIOD": "60"}, "warn", "a back-test 60 s (QLIB_DOCKER_"),
        ("docker", {"RUNNING_TIMEOUT_PERIOD": "7200"}, "pass", "a back-test 7,200 s"),
        ("conda", {"FACTOR_CoSTEER_FILE_BASED_EXECUTION_TIMEOUT": "1h"}, "fail", "unknown value: '1h'"),
    ],
)
def test_time_limits(
    kind: str, variables: dict[str, str], state: str, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """RD-Agent's own settings have the same limit; one below ten minutes warns, one that is none fails."""
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", kind)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    line = quick.limits_line()
    assert (line.state, bool(line.fix), part in line.text) == (state, state != "pass", True)
    env = import_module("rdagent.utils.env")
    if state != "fail":
        theirs = env.QlibDockerConf() if kind == "docker" else env.QlibCondaConf()
        assert theirs.running_timeout_period in line.figures.values()


def test_a_setting_that_means_nothing(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A setting of this package's that means nothing is a failed line, and stops no other."""
    monkeypatch.setenv("SOTA_ON_ERROR", "perhaps")
    first, *others = quick.lines("warn")
    assert (first.name, first.state) == ("settings", "fail")
    assert [line.name for line in others] == ["docker", "llm", "time limits", "disk"]


def test_nothing_heavy_is_loaded_before_the_first_lines() -> None:
    """They load no pandas, pyarrow or RD-Agent."""
    code = "import sys; from rdagent_sota_bridge.cli import doctor; next(doctor._blocks(False)); "
    code += "print([name for name in ('pandas', 'pyarrow', 'numpy', 'rdagent') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], env=os.environ, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr

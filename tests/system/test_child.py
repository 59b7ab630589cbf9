"""A child on a lifeline: it ends with its children when its starter does, or says so."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from rdagent_sota_bridge.system import child
from tests.processes import is_alive
from tests.stand_in import wait_until

# A command that prints its pid and those of two children: one in a process group of its own, as those of
# `timeout` are, and one that ignores what it can.
COMMAND = """\
import json, os, signal, subprocess, sys, time
{first}
stubborn = "import signal, time; [signal.signal(n, signal.SIG_IGN) for n in (1, 2, 15)]; time.sleep(600)"
commands = [["timeout", "600", "sleep", "600"], [sys.executable, "-c", stubborn]]
children = [subprocess.Popen(command) for command in commands]
time.sleep(0.3)
print(json.dumps([os.getpid(), *(one.pid for one in children)]), flush=True)
{then}
"""

SHORT = """\
import sys
sys.path.insert(0, {folder!r})
import child
child.WISH_SECONDS = child.INTERRUPT_SECONDS = 1.5  # a busy machine takes its time
child.TERMINATE_SECONDS = 0.3
sys.exit(child.main(sys.argv[1:]))
"""


@pytest.fixture(autouse=True)
def short_grace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the lifeline wait for moments, so that a stubborn command costs a test less than half a minute."""
    file = tmp_path / "short_lifeline.py"
    file.write_text(SHORT.format(folder=str(Path(child.__file__).parent)))
    monkeypatch.setattr(child, "_PROGRAM", file)


def command(first: str = "", then: str = "time.sleep(600)") -> list[str]:
    """Return the command line of such a command."""
    return [sys.executable, "-c", COMMAND.format(first=first, then=then)]


def pids_of(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the pids that the command prints."""
    assert process.stdout is not None
    pids: list[int] = json.loads(process.stdout.readline())
    assert all(map(is_alive, pids))
    return pids


IGNORES = "[signal.signal(n, signal.SIG_IGN) for n in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)]"


@pytest.mark.parametrize("first", ["", IGNORES, "os.close(0)"], ids=["plain", "ignores", "closes stdin"])
def test_end_takes_all_children_along(tmp_path: Path, first: str) -> None:
    """At the end of the block nothing is alive, whatever the command and its children ignore."""
    with child.started(command(first), os.environ, tmp_path) as process:
        pids = pids_of(process)
    assert not any(map(is_alive, [*pids, process.pid]))
    assert process.returncode > 128


def test_killed_starter(tmp_path: Path) -> None:
    """A starter that is killed without a chance to do anything takes the command and its children along."""
    code = (
        "import os, time; from pathlib import Path\nfrom rdagent_sota_bridge.system import child\n"
        f"child._PROGRAM = {str(child._PROGRAM)!r}\n"
        f"with child.started({command()!r}, os.environ, Path.cwd(), output=1):\n    time.sleep(600)"
    )
    starter = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    pids = pids_of(starter)
    starter.kill()
    starter.communicate(timeout=20)
    wait_until(lambda: not any(map(is_alive, pids)))


def test_the_command_is_asked_first(tmp_path: Path) -> None:
    """The command gets an interrupt while its children still work, and time to clean up."""
    then = (
        "try:\n    open('begun', 'w').close()\n    time.sleep(600)\nexcept KeyboardInterrupt:\n"
        "    alive = [one.poll() is None for one in children]\n"
        "    open('cleaned', 'w').write(json.dumps(alive))\n    sys.exit(5)"
    )
    with child.started(command(then=then), os.environ, tmp_path) as process:
        pids_of(process)
        wait_until((tmp_path / "begun").exists)
    assert json.loads((tmp_path / "cleaned").read_text()) == [True, True]
    assert process.returncode == 5


def test_a_step_of_asyncio_is_interrupted(tmp_path: Path) -> None:
    """A step that blocks asyncio.run, as RD-Agent's do, gets a KeyboardInterrupt."""
    step = (
        "import asyncio\nasync def main():\n    open('begun', 'w').close()\n"
        "    try:\n        time.sleep(600)\n"
        "    except KeyboardInterrupt:\n        open('interrupted', 'w').close()\n        raise\n"
        "asyncio.run(main())"
    )
    with child.started(command(then=step), os.environ, tmp_path):
        wait_until((tmp_path / "begun").exists)
    assert (tmp_path / "interrupted").exists()


@pytest.mark.parametrize(("then", "status"), [("", 0), ("sys.exit(7)", 7), ("os.kill(os.getpid(), 9)", 137)])
def test_status_and_what_a_command_leaves_running(tmp_path: Path, then: str, status: int) -> None:
    """A command that ends by itself hands its status on, and what it left running ends too."""
    with child.started(command(then=then), os.environ, tmp_path) as process:
        output = b"".join(child.output(process))
        assert process.wait(20) == status
        assert not any(map(is_alive, json.loads(output)))


def test_signals_to_the_session(tmp_path: Path) -> None:
    """The lifeline outlives signals to its process group: it has still to end the rest."""
    first = "signal.signal(signal.SIGINT, signal.SIG_IGN)"
    with child.started(command(first), os.environ, tmp_path) as process:
        pids_of(process)
        os.killpg(process.pid, signal.SIGINT)
        os.kill(process.pid, signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.5)


def test_what_the_command_inherits(tmp_path: Path) -> None:
    """The command inherits neither the lifeline's deafness to signals nor its pipe."""
    code = (
        "import os, signal\n"
        "print([signal.getsignal(n) == signal.SIG_DFL for n in (signal.SIGTERM, signal.SIGHUP)])\n"
        "links = {fd: f'/proc/self/fd/{fd}' for fd in os.listdir('/proc/self/fd')}\n"
        "there = {fd: os.readlink(link) for fd, link in links.items() if os.path.exists(link)}\n"
        "print(sorted(fd for fd, link in there.items() if 'pipe' in link))"
    )
    with child.started([sys.executable, "-c", code], os.environ, tmp_path) as process:
        output = b"".join(child.output(process)).decode()
    assert output.splitlines() == ["[True, True]", "['1', '2']"]


def test_kept_descriptors(tmp_path: Path) -> None:
    """A lock whose descriptor is kept is held until the last process is gone, and no longer."""
    import fcntl

    file = tmp_path / "lock"
    descriptor = os.open(file, os.O_RDWR | os.O_CREAT)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    other = os.open(file, os.O_RDWR)
    with child.started(command(IGNORES), os.environ, tmp_path, keep=(descriptor,)) as process:
        pids = pids_of(process)
        os.close(descriptor)
        assert process.stdin is not None
        process.stdin.close()
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(other, fcntl.LOCK_EX)
        assert not any(map(is_alive, pids))
    os.close(other)


def test_no_such_command(tmp_path: Path) -> None:
    """A command that can't be started is one line, and a status as of a shell."""
    with child.started([str(tmp_path / "nothing")], os.environ, tmp_path) as process:
        output = b"".join(child.output(process)).decode()
    assert output == f"{tmp_path / 'nothing'} can't be started: No such file or directory\n"
    assert process.returncode == 127


def test_output_to_a_file(tmp_path: Path) -> None:
    """Both streams go into the file that is named."""
    command = ["sh", "-c", "echo a; echo b >&2"]
    with (
        (tmp_path / "out").open("wb") as file,
        child.started(command, os.environ, tmp_path, output=file) as process,
    ):
        process.wait(20)
    assert (tmp_path / "out").read_bytes() == b"a\nb\n"


def test_quiet_output(tmp_path: Path) -> None:
    """While a command is quiet, empty pieces come, so that the time on a display moves."""
    with child.started(["sh", "-c", "echo a; sleep 1.3; echo b"], os.environ, tmp_path) as process:
        pieces = list(child.output(process))
    assert b"" in pieces
    assert b"".join(pieces) == b"a\nb\n"


def test_output_that_a_daemon_holds_open(tmp_path: Path) -> None:
    """A process that left the session and holds the pipe open does not keep the job waiting."""
    daemon = "import os, time; os.setsid(); print(os.getpid(), flush=True); time.sleep(600)"
    code = (
        f"import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', {daemon!r}]); time.sleep(1)"
    )
    with child.started([sys.executable, "-c", code], os.environ, tmp_path) as process:
        output = b"".join(child.output(process))
    with contextlib.suppress(ProcessLookupError):
        os.kill(int(output), signal.SIGKILL)
    assert process.returncode == 0


# --- groups ---


def test_a_group_is_ended_with_all_in_it(tmp_path: Path) -> None:
    """A child that has ended, and left one of its own running, is ended with that one."""
    pid_file = tmp_path / "pid"
    code = (
        "import pathlib, subprocess, sys\n"
        "left = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        f"pathlib.Path({str(pid_file)!r}).write_text(str(left.pid))"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    process.wait()
    left = int(pid_file.read_text())
    assert is_alive(left)
    child.end_group(process)
    assert not is_alive(left)

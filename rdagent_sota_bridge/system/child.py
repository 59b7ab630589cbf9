"""A command as a child that ends with us, however we end, and with all its own children.

Between us and the command stands this file as a program of its own, `python -I -S child.py COMMAND...`, the
leader of a session; hence the standard library alone. Its standard input is the lifeline: a pipe that we hold
open and never write to. Its end, by a close or by any death of ours, ends the command.

The whole session is ended, not its process group: RD-Agent runs Qlib under `timeout` (`utils/env.py`, 0.8.0
and 1.0.0), which makes a process group of its own.
"""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO

QUIET_SECONDS = 0.5
"""After how many seconds without output `output` yields an empty piece."""

WISH_SECONDS = 2.0
"""How long a command has after a first interrupt, which asyncio may take for a wish."""

INTERRUPT_SECONDS = 15.0
"""How long it has after the next: RD-Agent stops its Docker containers, which takes up to ten."""

TERMINATE_SECONDS = 3.0
"""How long what is left has after SIGTERM."""

KILL_SECONDS = 5.0
"""How long the system has to remove what was killed; a process in the kernel's hands may outlive that."""

_PROGRAM = Path(__file__).resolve()


@contextlib.contextmanager
def started(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    *,
    output: int | IO[bytes] = subprocess.PIPE,
    keep: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command on a lifeline; at the end of the block, or of this process, nothing of it is left.

    Args:
        command: The program and its arguments.
        env: Its whole environment.
        cwd: The folder to start it in.
        output: Where its stdout and stderr go, as one stream: a file, or a pipe (the child's `stdout`).
        keep: File descriptors, such as that of a lock, that are held open until all its processes are gone.

    Yields:
        The process of the lifeline; its status is that of the command, or 128 and the number of the signal
        that ended it. Where its `stdin` is closed, it ends the command.
    """
    process = subprocess.Popen(  # noqa: S603 - a command of the caller's
        # Without site and the environment's PYTHON* variables: they are meant for the command.
        [sys.executable, "-I", "-S", str(_PROGRAM), *command],
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.PIPE,  # its other end is ours alone: Python makes no descriptor inheritable
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=True,
        pass_fds=tuple(keep),
    )
    assert process.stdin is not None  # noqa: S101 - it was started with a pipe
    try:
        yield process
    finally:
        process.stdin.close()
        process.wait()


def output(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield what a child writes, as it comes; an empty piece whenever it is quiet for a while.

    Ends when the child's output does, or when the child has ended and what it left running says nothing more.
    """
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    stream = process.stdout
    pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()

    def read() -> None:
        with stream:
            while piece := os.read(stream.fileno(), 65536):
                pieces.put(piece)
        pieces.put(None)

    # In a thread: a command that is being ended must not wait for a full pipe while it cleans up.
    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            piece = pieces.get(timeout=QUIET_SECONDS)
        except queue.Empty:
            if process.poll() is not None:
                return
            piece = b""
        if piece is None:
            return
        yield piece


def ask(command: Sequence[str], env: Mapping[str, str], folder: Path, seconds: float) -> str:
    """Run a short command in a new folder, where it may leave an answer, and end it with all its children.

    Args:
        command: The program and its arguments.
        env: Its whole environment.
        folder: The folder to make and to start it in.
        seconds: How long it may take.

    Returns:
        Why there is no answer, where there is none: the last line of its output, its status, or the time.
    """
    folder.mkdir()
    # A file, for children of the command may hold a pipe open after it has ended.
    with (folder / "output.txt").open("w+b") as output:
        with started(command, env, folder, output=output) as process:
            try:
                status = process.wait(seconds)
            except subprocess.TimeoutExpired:
                return f"no answer within {seconds:.0f} seconds"
        output.seek(0)
        said = output.read().decode("utf-8", errors="replace").strip()
    return said.splitlines()[-1] if said else f"it ended with status {status}"


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a child that was started with `start_new_session`, and all its own, and wait a second at most."""
    with contextlib.suppress(ProcessLookupError):  # it may have ended
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for _ in range(100):  # a second
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    process.wait()


# --- the program between ---


def main(command: list[str]) -> int:
    """Run a command until it ends or standard input does, and return its status (128 + signal's number)."""
    # It outlives the signals meant for the session. With handlers, which end with this program's image: a
    # signal that is ignored stays ignored in the command.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda number, frame: None)
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - it is what this is for
    except OSError as error:
        sys.stderr.write(f"{command[0]} can't be started: {error.strerror}\n")
        return 127  # as a shell has it
    threading.Thread(target=_end_with_the_pipe, args=(process,), daemon=True).start()
    status = process.wait()
    _sweep()
    return status if status >= 0 else 128 - status


def _end_with_the_pipe(process: subprocess.Popen[bytes]) -> None:
    """Ask the command to end when the pipe does, then make everything of its session end.

    First the command alone: were Qlib interrupted with it, RD-Agent would take the failed back-test for a
    result, and skip the loop. From Python 3.11 on twice: there `asyncio.run` takes the first SIGINT for a
    wish, which a step that runs hears of when it is over, and the second is a KeyboardInterrupt. Before 3.11
    a second would hit the cleaning up that the first began.
    """
    while os.read(0, 1024):
        pass
    wishes = (WISH_SECONDS,) if sys.version_info >= (3, 11) else ()
    for seconds in (*wishes, INTERRUPT_SECONDS):
        if process.poll() is None:
            process.send_signal(signal.SIGINT)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(seconds)
    if process.poll() is None:
        process.terminate()  # before its children, for the same reason
    _sweep(process)


def _sweep(process: subprocess.Popen[bytes] | None = None) -> None:
    """End what is left of the session, but for this process: SIGTERM once each, then SIGKILL."""
    for number, seconds in ((signal.SIGTERM, TERMINATE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        end = time.monotonic() + seconds
        asked: set[int] = set()
        while time.monotonic() < end:
            if process is not None:
                process.poll()  # takes it off the table of processes
            left = set(_others())
            if not left:
                return
            for pid in left if number == signal.SIGKILL else left - asked:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    os.kill(pid, number)
            asked |= left
            time.sleep(0.05)


def _others() -> Iterator[int]:
    """Yield the other processes of this session that are alive, by `/proc`: `psutil` is not here."""
    for entry in os.scandir("/proc"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # gone just now
            if not entry.name.isdecimal() or int(entry.name) == os.getpid():
                continue
            stat = Path(entry.path, "stat").read_text(errors="replace")
            state, _, _, session = stat.rpartition(")")[2].split()[:4]
            if int(session) == os.getsid(0) and state not in ("Z", "X"):
                yield int(entry.name)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))

"""A command as a child that ends with us, however we end, and with all its own children."""

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

from rdagent_sota_bridge import lifeline

QUIET_SECONDS = 0.5
"""After how many seconds without output `output` yields an empty piece."""


def start(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    *,
    output: int | IO[bytes] = subprocess.PIPE,
    keep: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start a command on a lifeline: it ends when this process does, or closes the child's `stdin`.

    Args:
        command: The program and its arguments.
        env: Its whole environment.
        cwd: The folder to start it in.
        output: Where its stdout and stderr go, as one stream: a file, or a pipe (the child's `stdout`).
        keep: File descriptors, such as that of a lock, that are held open until all its processes are gone.
            On Windows none are.

    Returns:
        The process of the lifeline; its status is that of the command, or 128 and the number of the signal
        that ended it. Used in a `with` it ends the command, as `started` does.
    """
    return subprocess.Popen(  # noqa: S603 - a command of the caller's
        # Without site and the environment's PYTHON* variables: they are meant for the command.
        [sys.executable, "-I", "-S", str(Path(lifeline.__file__).resolve()), *command],
        env=dict(env),
        cwd=cwd,
        stdin=subprocess.PIPE,  # its other end is ours alone: Python makes no descriptor inheritable
        stdout=output,
        stderr=subprocess.STDOUT,
        start_new_session=starts_session(),
        pass_fds=tuple(keep) if starts_session() else (),
    )


def starts_session(platform: str = sys.platform) -> bool:
    """Return True where a child can be the leader of a session and group, and keep descriptors open."""
    return platform != "win32"


def end_group(process: subprocess.Popen[bytes], platform: str = sys.platform) -> None:
    """End a child and all its own at once, and wait until they are gone, a second at most.

    Args:
        process: A child that was started with `start_new_session=starts_session()`; it may have ended.
        platform: As `sys.platform` has it. On Windows there are no groups: the tree below a child that has
            ended is not found there.
    """
    if platform == "win32":
        if process.poll() is None:
            subprocess.run(["taskkill", "/T", "/F", "/PID", str(process.pid)], check=False)  # noqa: S603, S607
        process.wait()
        return
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for _ in range(100):  # a second
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    process.wait()


def end(process: subprocess.Popen[bytes]) -> int:
    """End the command and all its children, wait until they are gone, and return the status."""
    if process.stdin is not None:
        process.stdin.close()
    return process.wait()


@contextlib.contextmanager
def started(
    command: Sequence[str],
    env: Mapping[str, str],
    cwd: Path,
    *,
    output: int | IO[bytes] = subprocess.PIPE,
    keep: Sequence[int] = (),
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a command as `start` does; at the end of the block nothing of it is left running."""
    process = start(command, env, cwd, output=output, keep=keep)
    try:
        yield process
    finally:
        end(process)


def output(process: subprocess.Popen[bytes]) -> Iterator[bytes]:
    """Yield what a child writes, as it comes; an empty piece whenever it is quiet for a while.

    A thread reads: a command that is being ended must not wait for a full pipe, in the middle of its cleaning
    up. Ends when the child's output does, or when the child has ended and what it left running says nothing
    more.
    """
    assert process.stdout is not None  # noqa: S101 - it was started with a pipe
    pieces: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
    threading.Thread(target=_read, args=(process.stdout, pieces), daemon=True).start()
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


def _read(stream: IO[bytes], pieces: queue.SimpleQueue[bytes | None]) -> None:
    with stream:
        while piece := os.read(stream.fileno(), 65536):
            pieces.put(piece)
    pieces.put(None)

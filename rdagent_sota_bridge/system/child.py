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

from rdagent_sota_bridge.system import lifeline

QUIET_SECONDS = 0.5
"""After how many seconds without output `output` yields an empty piece."""


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
        [sys.executable, "-I", "-S", str(Path(lifeline.__file__).resolve()), *command],
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


def end_group(process: subprocess.Popen[bytes]) -> None:
    """End a child that was started with `start_new_session`, and all its own, and wait a second at most.

    The child may have ended.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        for _ in range(100):  # a second
            os.killpg(process.pid, 0)
            time.sleep(0.01)
    process.wait()


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
        process = subprocess.Popen(  # noqa: S603 - a command of the caller's
            command,
            cwd=folder,
            env=dict(env),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            status = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return f"no answer within {seconds:.0f} seconds"
        finally:
            end_group(process)
        output.seek(0)
        said = output.read().decode("utf-8", errors="replace").strip()
    return said.splitlines()[-1] if said else f"it ended with status {status}"


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

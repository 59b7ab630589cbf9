"""Processes that a test started, and all that they have started."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import psutil


@contextmanager
def living(code: str) -> Iterator[subprocess.Popen[str]]:
    """Run code, which prints nothing, in a process that then lives for the length of the block."""
    pipe, command = subprocess.PIPE, [sys.executable, "-c", f"{code}\nprint('done', flush=True)\ninput()"]
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "done\n"
        yield process
        process.kill()


def kill_session(leader: int) -> None:
    """Kill a process that began a session, and every other one of that session.

    By session: RD-Agent starts Qlib below `timeout`, which makes a process group of its own.
    """
    for pid in psutil.pids():
        with suppress(ProcessLookupError):
            if os.getsid(pid) == leader:
                os.kill(pid, signal.SIGKILL)


def is_alive(pid: int) -> bool:
    """Return True for a process that is there and is more than an entry in the table."""
    try:
        return psutil.Process(pid).status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return False

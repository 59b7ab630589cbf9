"""Starts a command, and ends it with all its children when the process that asked for it is gone.

Run as a file of its own, `python -I -S lifeline.py COMMAND...`, as the leader of a session; the standard
library alone, so that it starts in a moment. Standard input is the lifeline: a pipe that the asking process
holds open and never writes to. Its end, by a close or by any death of that process, ends the command.

The whole session is ended, not its process group: RD-Agent runs Qlib under `timeout` (`utils/env.py`, 0.8.0
and 1.0.0), which makes a process group of its own.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

WISH_SECONDS = 2.0
"""How long a command has after an interrupt that it may take for a wish."""

INTERRUPT_SECONDS = 15.0
"""How long it has after one that it can't: RD-Agent stops its Docker containers, which takes up to ten."""

TERMINATE_SECONDS = 3.0
"""How long what is left has after SIGTERM."""

KILL_SECONDS = 5.0
"""How long the system has to remove what was killed; a process in the kernel's hands may outlive that."""

_COULD_NOT_START = 127  # as a shell has it


def main(command: list[str]) -> int:
    """Run a command until it ends or the lifeline does, and return its status; 128 and the signal's number
    where a signal ended it.
    """
    _survive()
    try:
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL)  # noqa: S603 - it is what this is for
    except OSError as error:
        sys.stderr.write(f"{command[0]} can't be started: {error.strerror}\n")
        return _COULD_NOT_START
    threading.Thread(target=_end_with_the_pipe, args=(process,), daemon=True).start()
    status = process.wait()
    _sweep()
    return status if status >= 0 else 128 - status


def _survive() -> None:
    """Outlive the signals that are meant for the session.

    With handlers of our own, which end with this program's image: a signal that is ignored stays ignored in
    the command.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
        signal.signal(number, lambda number, frame: None)


def _end_with_the_pipe(process: subprocess.Popen[bytes]) -> None:
    while os.read(0, 1024):
        pass
    _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the command to end, then make everything of its session end.

    First the command alone: were Qlib interrupted with it, RD-Agent would take the failed back-test for a
    result, and skip the loop. From Python 3.11 on twice: there `asyncio.run` takes the first SIGINT for a
    wish, which a step that runs hears of when it is over, and the second is a KeyboardInterrupt. Before 3.11
    a second would hit the cleaning up that the first began.
    """
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
    """End what is left of the session, but for this process."""
    for number, seconds in ((signal.SIGTERM, TERMINATE_SECONDS), (signal.SIGKILL, KILL_SECONDS)):
        end = time.monotonic() + seconds
        told: set[int] = set()
        while time.monotonic() < end:
            if process is not None:
                process.poll()  # takes it off the table of processes
            left = list(_others())
            if not left:
                return
            for pid in left:
                if pid not in told or number == signal.SIGKILL:
                    told.add(pid)
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
            time.sleep(0.05)


def _others() -> Iterator[int]:
    """Yield the other processes of this session that are alive: by `/proc`, for RD-Agent runs on Linux alone.

    A dead one, that nobody has asked for its status yet, is not.
    """
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

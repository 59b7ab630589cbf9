"""One job at a time in a log folder, and its stop by a signal."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.system import in_use

RUN_LOCK = ".run.lock"
"""Held by `rdagent-sota run`; a killed one holds it no more."""

STAGE_LOCK = ".stage.lock"
"""Held by the lifeline of a stage until the last process of the stage is gone."""

END_SECONDS = 40.0
"""How long a job waits for another one, which may be stopping: that takes some seconds."""

WAIT_SECONDS = 60.0
"""How long a job waits for the stage of a killed one; a lifeline takes less to end whatever it started."""


@contextlib.contextmanager
def held(log_dir: Path, say: Callable[[str], None]) -> Iterator[int]:
    """Hold both locks of a log folder for a block, and yield the descriptor that a stage's lifeline keeps.

    Args:
        log_dir: The folder, which is there.
        say: Gets a line where another process is waited for.

    Raises:
        JobError: if another job is at work there, the stage of a killed one does not end, or the folder can't
            be written or locked.
    """
    another = JobError(
        "Another `rdagent-sota run` is at work in this log folder",
        str(log_dir),
        "wait for it or end it (Ctrl-C), or give the new one a --log-dir of its own",
    )
    stage = JobError(
        "The stage of a job that was killed is still running",
        f"{log_dir / STAGE_LOCK}, which its processes hold (fuser or lsof shows which)",
        "end them, then resume the job",
    )
    with contextlib.ExitStack() as stack:
        for name, seconds, what, trouble in (
            (RUN_LOCK, END_SECONDS, "another `rdagent-sota run` that is at work in this log folder", another),
            (STAGE_LOCK, WAIT_SECONDS, "the stage of the job that was killed", stage),
        ):
            try:
                descriptor = os.open(log_dir / name, os.O_RDWR | os.O_CREAT, 0o666)
                stack.callback(os.close, descriptor)  # a child that keeps the descriptor holds the lock too
                end = time.monotonic() + seconds
                while not in_use.take(descriptor):
                    if what:
                        say(f"waiting for {what} to end ...")
                    what = ""
                    if time.monotonic() > end:
                        raise trouble
                    time.sleep(0.2)
            except OSError as error:
                raise JobError(
                    f"The log folder can't be locked: {error}",
                    str(log_dir / name),
                    "name a folder with --log-dir that you may write into, on a file system that has locks",
                ) from None
        yield descriptor


class Stopped(BaseException):
    """A signal, of this number, asked the process to stop.

    No `Exception`: nothing that catches an error to continue may continue after this.
    """

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


@contextlib.contextmanager
def stops() -> Iterator[None]:
    """Raise `Stopped` in the block at the first signal, and ignore further ones: a clean end takes seconds.

    A signal that the process was started to ignore, as `nohup` does with SIGHUP, stays ignored.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    taken = [number for number, handler in before.items() if handler != signal.SIG_IGN]

    def stop(number: int, frame: FrameType | None) -> None:
        for other in taken:
            signal.signal(other, lambda number, frame: None)
        raise Stopped(number)

    for number in taken:
        signal.signal(number, stop)
    try:
        yield
    finally:
        for number in taken:
            signal.signal(number, before[number])

"""Being told to stop: Ctrl-C, SIGTERM and SIGHUP as one exception, once."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType


class Stopped(BaseException):
    """The process was told to stop.

    No `Exception`: nothing that goes on after an error may go on after this.

    Attributes:
        number: The number of the signal.
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

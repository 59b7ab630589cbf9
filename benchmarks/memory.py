"""The memory of a process and of all that it started, looked at while it runs."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator

import psutil

_WAIT, _SHARE = 0.1, 20  # seconds between two looks; looking takes at most one part of so many


@contextlib.contextmanager
def watched(pid: int) -> Iterator[list[int]]:
    """Look at a process's memory all the time, and give the list that gets the bytes of each look."""
    found = [0]
    ended = threading.Event()

    def watch() -> None:
        wait = _WAIT
        while not ended.wait(wait):
            start = time.perf_counter()
            found.append(memory(pid))
            wait = max(_WAIT, _SHARE * (time.perf_counter() - start))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found.append(memory(pid))


def memory(pid: int) -> int:
    """Return the bytes of memory of a process and of all that it started; what they share counts in part."""
    total = 0
    with contextlib.suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        for one in (process, *process.children(recursive=True)):
            with contextlib.suppress(psutil.NoSuchProcess, psutil.ZombieProcess):  # it has ended
                total += one.memory_full_info().pss
    return total

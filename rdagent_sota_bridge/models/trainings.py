"""One job of many trainings that do not need each other: on this machine, several at once."""

from __future__ import annotations

import os
import re
import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_bridge.errors import BridgeError, SettingsError
from rdagent_sota_bridge.models.retrain import Change, Retrained, train_again

_THREADS = "OMP_NUM_THREADS"


@dataclass(frozen=True, eq=False)
class Wanted:
    """A training that is asked for: the arguments of `train_again`. Equal to itself alone, and hashable."""

    of: Path
    change: Change
    root: Path


@dataclass(frozen=True)
class How:
    """Where the trainings of a job go.

    Attributes:
        jobs: How many are trained at once on this machine.
        cluster: The address of a Dask scheduler, whose workers train in place of this machine; empty for
            none.
    """

    jobs: int = 1
    cluster: str = ""


Answer = Retrained | BridgeError


def train_all(
    wanted: Sequence[Wanted],
    how: How,
    say: Callable[[str], object],
    keep: tuple[int, ...] = (),
    begin: Callable[[Wanted], bool] = lambda _: True,
) -> Generator[tuple[Wanted, Answer], None, None]:
    """Train recorded models again, and yield what came of each in the order of completion.

    All get one number of torch's threads, for another gives other bits: OMP_NUM_THREADS where it is set, else
    1 where more than one is asked for, else what torch chooses. Where the iterator is closed, and at any end
    of this process, nothing of the trainings is left on this machine.

    Args:
        wanted: The trainings; what is trained already is answered at once.
        how: Where they go.
        say: Gets a line about a worker that can't train.
        keep: Descriptors that stay open until all their processes are gone.
        begin: Called with each before it is begun; where it returns False, none is begun any more.

    Yields:
        A training with what it left, or why it left nothing.

    Raises:
        SettingsError: if OMP_NUM_THREADS is no number.
    """
    threads = threads_of(len(wanted))
    left, running = deque(wanted), dict[Future[Answer], Wanted]()
    stopped = threading.Event()
    with ThreadPoolExecutor(how.jobs) as pool:
        try:
            while left or running:
                while left and len(running) < how.jobs:
                    if not begin(left[0]):
                        left.clear()
                        break
                    one = left.popleft()
                    running[pool.submit(_train, one, threads, keep, lambda: not stopped.is_set())] = one
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            stopped.set()


def threads_of(count: int) -> int | None:
    """Return the number of torch's threads for each of so many trainings; None for what torch chooses.

    Raises:
        SettingsError: if OMP_NUM_THREADS is no number.
    """
    asked = os.environ.get(_THREADS, "").strip()
    if not asked:
        return 1 if count > 1 else None
    if not re.fullmatch("[1-9][0-9]*", asked):
        fact = f"{_THREADS} is no number of threads: {asked}"
        raise SettingsError(fact, f"environment variable {_THREADS}", "set it to 1 or more, or unset it")
    return int(asked)


def _train(one: Wanted, threads: int | None, keep: tuple[int, ...], is_wanted: Callable[[], bool]) -> Answer:
    try:
        return train_again(one.of, one.change, one.root, keep, threads, is_wanted)
    except BridgeError as error:
        return error

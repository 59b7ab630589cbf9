"""One job of many trainings that do not need each other: on this machine or on a cluster, several at once."""

from __future__ import annotations

import contextlib
import functools
import os
import re
import sys
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.errors import BridgeError, JobError, ResultError, SettingsError
from rdagent_sota_bridge.models.retrain import Change, train_again
from rdagent_sota_bridge.qlib_files import training_record

_THREADS = "OMP_NUM_THREADS"
_LOOK_SECONDS = 1.0  # how often it is asked whether a cluster has got more workers


@dataclass(frozen=True, eq=False)
class Wanted:
    """A training that is asked for, for `train_again`. Equal to itself alone, and hashable."""

    of: Path
    change: Change


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


Answer = Path | BridgeError
IsWanted = Callable[[], bool]


def train_all(
    wanted: Sequence[Wanted],
    how: How,
    say: Callable[[str], object],
    keep: tuple[int, ...] = (),
    begin: Callable[[Wanted], bool] = lambda _: True,
) -> Generator[tuple[Wanted, Answer], None, None]:
    """Train recorded models again, and yield what came of each in the order of completion.

    All get one number of torch's threads, for another gives other bits: OMP_NUM_THREADS where it is set, else
    1 where more than one is asked for or a cluster trains, else what torch chooses. Where the iterator is
    closed, and at any end of this process, the trainings are ended, those on workers too.

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
        JobError: if the cluster, or every worker that can train, is not there.
        StoreError: if the folders for the new workspaces can't be written to.
    """
    threads = _threads(len(wanted), how)
    left, running = deque(wanted), dict[Future[Answer], Wanted]()
    stopped = threading.Event()
    with _place(wanted, how, threads, keep, say) as (room, train), ThreadPoolExecutor(len(left) or 1) as pool:
        try:
            while left or running:
                while left and len(running) < room():
                    if not begin(left[0]):
                        left.clear()
                        break
                    one = left.popleft()
                    running[pool.submit(train, one, lambda: not stopped.is_set())] = one
                for future in wait(running, _LOOK_SECONDS, FIRST_COMPLETED).done:
                    yield running.pop(future), future.result()
        finally:
            stopped.set()


def _threads(count: int, how: How) -> int | None:
    """Return the number of torch's threads for each of so many trainings; None for what torch chooses."""
    asked = os.environ.get(_THREADS, "").strip()
    if not asked:
        return 1 if count > 1 or how.cluster else None
    if not re.fullmatch("[1-9][0-9]*", asked):
        fact = f"{_THREADS} is no number of threads: {asked}"
        raise SettingsError(fact, f"environment variable {_THREADS}", "set it to 1 or more, or unset it")
    return int(asked)


Train = Callable[[Wanted, IsWanted], Answer]


@contextlib.contextmanager
def _place(
    wanted: Sequence[Wanted],
    how: How,
    threads: int | None,
    keep: tuple[int, ...],
    say: Callable[[str], object],
) -> Iterator[tuple[Callable[[], int], Train]]:
    """Yield what says how many may be trained at once, and what trains one."""
    if not how.cluster:
        yield lambda: how.jobs, lambda one, is_wanted: _train(one, threads, keep, is_wanted)
        return
    cluster = dask()
    with (
        cluster.connected(how.cluster) as client,
        cluster.seen({one.of for one in wanted}, _markets(wanted)) as sees,
    ):
        workers = cluster.Workers(client, how.cluster, sees, say)

        def train(one: Wanted, is_wanted: IsWanted) -> Answer:
            work = functools.partial(_train, one, threads, ())
            answer: Answer = workers.train(one.of, work, is_wanted)
            return answer

        yield workers.room, train


def dask() -> Any:
    """Return the module `cluster`.

    Raises:
        JobError: if Dask, an extra, is not installed.
    """
    try:
        from rdagent_sota_bridge.models import cluster  # late: Dask is an extra
    except ModuleNotFoundError as error:
        if error.name not in ("distributed", "dask"):
            raise
        fact, fix = (
            "--cluster needs Dask, which is not installed",
            "pip install 'rdagent-sota-bridge[cluster]'",
        )
        raise JobError(fact, f"the environment of {sys.executable}", fix) from None
    return cluster


def _markets(wanted: Sequence[Wanted]) -> set[str]:
    """Return the folders of market data that trainings read, as Qlib's configuration has them."""
    found = set()
    for of in {one.of for one in wanted}:
        with contextlib.suppress(ResultError):  # the training says it
            named = training_record.read_training(of).config.get("qlib_init", {}).get("provider_uri")
            found |= {named} if isinstance(named, str) else set()
    return found


def _train(one: Wanted, threads: int | None, keep: tuple[int, ...], is_wanted: IsWanted) -> Answer:
    try:
        return train_again(one.of, one.change, keep, threads, is_wanted)
    except BridgeError as error:
        # A worker sends it back, and Dask would send what it came from too, which may be no pickle.
        error.__cause__ = error.__context__ = None
        return error

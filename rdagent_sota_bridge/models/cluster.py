"""The workers of a Dask cluster, which train in place of this machine; they share its file system."""

from __future__ import annotations

import contextlib
import functools
import os
import pickle
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import distributed
from distributed.scheduler import KilledWorker
from dotenv import load_dotenv

from rdagent_sota_bridge.bridge import cli_options
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor import qlib
from rdagent_sota_bridge.errors import JobError, ResultError, shortened
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.qlib_files import docker, market

T = TypeVar("T")
IsWanted = Callable[[], bool]

_CONNECT_SECONDS = 10
_LOOK_SECONDS = 0.5
_NO_WORKER_SECONDS = 30.0  # Dask's nanny starts a killed worker anew in a few
_DEATHS = 3  # of workers in one training, which may be what ends them: out of memory


@dataclass(frozen=True)
class Seen:
    """What a worker has to see as this machine does.

    Attributes:
        project: The folder that the job runs in.
        paths: Files and folders; one of them is of this job alone, so that for another a worker looks again.
        markets: Folders of market data, as Qlib's configuration has them, with their digests here.
    """

    project: Path
    paths: tuple[Path, ...]
    markets: tuple[tuple[str, str], ...]


@contextlib.contextmanager
def seen(models: Iterable[Path], markets: Iterable[str]) -> Iterator[Seen]:
    """Have what workers have to see, for one job.

    Args:
        models: The workspaces; of one that is missing here too each training says so itself. The folder
            that they are in gets a file for the time, which no copy of it has.
        markets: Folders of market data, as Qlib's configuration has them.

    Raises:
        StoreError: if that folder can't be written to.
    """
    fix = "make the folder one that you may write into, with room on the disk"
    with contextlib.ExitStack() as stack:
        paths = [model.absolute() for model in models if model.is_dir()]
        for root in {model.absolute().parent for model in models}:
            with store.failing_at(root, ("The trainings can't be shared", fix)):
                file = tempfile.NamedTemporaryFile(dir=root, prefix=".sota-job-")  # noqa: SIM115
            paths.append(Path(stack.enter_context(file).name))
        digests = tuple((uri, market.content_digest(uri)) for uri in markets)
        yield Seen(Path.cwd(), tuple(paths), digests)


@contextlib.contextmanager
def connected(address: str) -> Iterator[distributed.Client]:
    """Have a client of a scheduler.

    Raises:
        JobError: if none answers.
    """
    try:
        # Before a client is there: one that can't read its address ends in a traceback when it is dropped.
        scheme, location = distributed.comm.parse_address(address)
        distributed.comm.registry.get_backend(scheme)
        distributed.comm.parse_host_port(location)
        client = distributed.Client(address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, TimeoutError, ValueError) as error:
        fact = f"No Dask scheduler answers: {shortened(error)}"
        fix = "start it (dask scheduler), or name the address that it shows, such as tcp://host:8786"
        raise JobError(fact, f"{address}, of --cluster", fix) from None
    with client:
        yield client


class Workers:
    """The workers of a cluster, for one job. The methods may be called in several threads."""

    def __init__(
        self, client: distributed.Client, address: str, sees: Seen, say: Callable[[str], object]
    ) -> None:
        self._client, self._address, self._sees, self._say = client, address, sees, say
        self._lock = threading.Lock()
        self._busy: Counter[str] = Counter()
        self._unfit: dict[str, str] = {}
        self._last_fit = time.monotonic()

    def room(self) -> int:
        """Return how many trainings the workers take at once; 1 where they are about to come back.

        Raises:
            JobError: if there is no worker that can train.
        """
        return sum(self._fit().values()) or 1

    def train(self, of: Path, work: Callable[[IsWanted], T], is_wanted: IsWanted) -> T | ResultError:
        """Let a worker train; another one where it can't, or dies. What is not wanted any more ends there.

        Args:
            of: The model's workspace, for messages.
            work: Trains. It is called in the worker, with what says whether it is wanted still.
            is_wanted: Whether it is wanted still.

        Raises:
            JobError: if there is no worker that can train, or the scheduler is gone.
        """
        deaths = 0
        while deaths < _DEATHS and is_wanted():
            if (address := self._take()) is None:
                time.sleep(_LOOK_SECONDS)
                continue
            try:
                why, answer = self._on(address, work, is_wanted)
            finally:
                with self._lock:
                    self._busy[address] -= 1
            if answer is not None:
                return answer
            with self._lock:
                if why and address not in self._unfit:
                    self._unfit[address] = why
                    self._say(f"Worker {address} trains nothing, and its trainings go to others: {why}")
                elif not why and is_wanted():
                    deaths += 1
                    self._say(f"Worker {address} is gone, and with it a training of {of.name}")
        fact = "The workers that trained the model died, one after the other"
        return ResultError(fact, str(of), "see what they say: they may have too little memory")

    def _on(self, address: str, work: Callable[[IsWanted], T], is_wanted: IsWanted) -> tuple[str, T | None]:
        """Return why a worker can't train, and what it trained; neither where it is gone."""

        # Travels by value. A function of a module that a worker does not have would end the worker.
        def run(content: bytes) -> tuple[str, T | None]:
            try:
                function = pickle.loads(content)  # noqa: S301 - that which is dumped here
            except (ImportError, AttributeError) as error:
                return f"it has not this release of rdagent-sota-bridge ({error})", None
            found: tuple[str, T | None] = function()
            return found

        whole = pickle.dumps(functools.partial(_on_worker, self._sees, work))
        future = self._client.submit(run, whole, workers=[address], pure=False)
        try:
            while not future.done():
                if not is_wanted() or address not in self._alive():
                    future.release()
                    return "", None
                time.sleep(_LOOK_SECONDS)
            found: tuple[str, T | None] = future.result()
            return found
        except (KilledWorker, CancelledError):  # a scheduler that tries nothing again, or was started anew
            return "", None

    def _alive(self) -> dict[str, int]:
        try:
            alive: dict[str, int] = self._client.nthreads()
        except OSError as error:
            fact, fix = f"The Dask scheduler is gone: {shortened(error)}", "start it, and resume the job"
            raise JobError(fact, self._address, fix) from None
        return alive

    def _fit(self) -> dict[str, int]:
        alive, now = self._alive(), time.monotonic()
        fit = {address: number for address, number in alive.items() if address not in self._unfit}
        if fit:
            self._last_fit = now
        elif now - self._last_fit > _NO_WORKER_SECONDS:
            fact = "No worker of the cluster can train" if alive else "The cluster has no worker"
            fix = "start one in an environment with Qlib, on a file system with the project: dask worker"
            raise JobError(fact, self._address, fix)
        return fit

    def _take(self) -> str | None:
        with self._lock:
            free = {address: self._busy[address] / number for address, number in self._fit().items()}
            address = min(free, key=free.__getitem__, default=None)
            if address is None or free[address] >= 1:
                return None
            self._busy[address] += 1
            return address


# --- in a worker ---

_own_environment = dict(os.environ)


def _on_worker(sees: Seen, work: Callable[[IsWanted], T]) -> tuple[str, T | None]:
    # As `rdagent-sota` does in the project, and without what the `.env` of another project has left.
    for name in os.environ.keys() - _own_environment.keys():
        del os.environ[name]
    os.environ.update(_own_environment)
    load_dotenv(sees.project / ".env", override=cli_options.env_file_wins())
    if why := _why_unfit(sees):
        return why, None
    worker = distributed.get_worker()
    key = worker.get_current_task()

    def is_wanted() -> bool:
        # The scheduler takes back what a client asked for that has cancelled it, or is gone.
        task = worker.state.tasks.get(key)
        return task is not None and task.state == "executing"

    return "", work(is_wanted)


@functools.lru_cache
def _why_unfit(sees: Seen) -> str:
    if missing := [path for path in sees.paths if not path.exists()]:
        return f"it does not see {missing[0]}, and needs the project's own file system under the same path"
    if not docker.is_qlib_in_docker():
        side = qlib.usable_qlib()
        if isinstance(side, Line):
            return side.text
    for uri, digest in sees.markets:
        if market.content_digest(uri) != digest:
            return f"its market data in {uri} are not those of the machine that the job runs on"
    return ""

"""A Dask scheduler and workers as processes; but for those of the kind `real` they train by a stand-in.

As a program, `python clusters.py KIND ADDRESS`, it is one of them.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import distributed

TROUBLE = "trouble.json"
"""In the folder of the new workspaces: what goes wrong, by the seed of a training."""


@dataclass
class Cluster:
    """A scheduler, and workers that a test adds."""

    folder: Path
    processes: list[subprocess.Popen[bytes]] = field(default_factory=list)
    address: str = ""

    def start(self, kind: str, **variables: str) -> str:
        """Start a `scheduler` or a worker of a kind, and return its address.

        Kinds: `real`, `worker` (a stand-in), `without Qlib`, `elsewhere` (on another file system), `stranger`
        (without the package).
        """
        told = self.folder / f"address{len(self.processes)}"
        command = [sys.executable, __file__, kind, self.address, str(told)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[1]), **variables}
        self.processes.append(subprocess.Popen(command, env=environment))
        end = time.monotonic() + 60
        while not told.exists():
            assert self.processes[-1].poll() is None, "it has ended"
            assert time.monotonic() < end, "it did not start"
            time.sleep(0.05)
        return told.read_text()

    def start_two(self) -> None:
        """Start two workers of the kind `worker`."""
        self.start("worker")
        self.start("worker")

    def kill(self, position: int) -> None:
        """Kill a process: the scheduler is the first, then the workers as they were started."""
        self.processes[position].kill()
        self.processes[position].wait()


@contextlib.contextmanager
def cluster(folder: Path) -> Iterator[Cluster]:
    """Have a cluster without a worker."""
    found = Cluster(folder)
    try:
        found.address = found.start("scheduler")
        yield found
    finally:
        for process in found.processes:
            process.kill()
            process.wait()


# --- the programs ---


async def _serve(kind: str, address: str, told: Path) -> None:
    if kind == "scheduler":
        served: Any = distributed.Scheduler(host="127.0.0.1", port=0, dashboard=False)
    else:
        served = distributed.Worker(address, nthreads=1, dashboard=False, host="127.0.0.1")
    async with served:
        part = told.with_suffix(".part")
        part.write_text(served.address)
        part.rename(told)
        await served.finished()


def _train_again(of: Path, change: Any, keep: Any, threads: Any, is_wanted: Any) -> Any:
    from rdagent_sota_bridge.errors import ResultError

    root, mine = of.parent, of.parent / str(change.seed)
    trouble = json.loads((root / TROUBLE).read_text()).get(str(change.seed), "")
    with mine.open("a") as begun:
        begun.write(f"{os.getpid()} {threads} {os.environ.get('OF_PROJECT')}\n")
    count = len(mine.read_text().splitlines())
    if trouble == "fails":
        raise ResultError("no room", str(of), "make some")
    if trouble == "always dies" or (trouble == "dies" and count == 1):
        os.kill(os.getpid(), signal.SIGKILL)
    if trouble == "hangs":
        while is_wanted():
            time.sleep(0.05)
        (root / "ended").touch()
    time.sleep(0.2)
    return mine


def _stand_in(kind: str) -> None:
    """Train by a stand-in, and look at no environment of Qlib."""
    from rdagent_sota_bridge.check.line import Line
    from rdagent_sota_bridge.doctor import qlib
    from rdagent_sota_bridge.models import trainings

    trainings.train_again = _train_again
    side: Any = Line("qlib", "fail", "not looked at: conda is not on PATH", "install it")
    if kind != "without Qlib":
        names = ("pyqlib", "torch", "python", "pandas", "pyarrow")
        side = qlib.QlibSide("rdagent4qlib", dict.fromkeys(names, "1"))
    qlib.look_at_qlib = lambda: side
    if kind == "elsewhere":
        exists = Path.exists
        Path.exists = lambda self: ".sota-job-" not in self.name and exists(self)  # type: ignore


def main(kind: str, address: str, told: str) -> None:
    """Be a scheduler, or a worker of a kind."""
    if kind == "stranger":
        sys.modules["rdagent_sota_bridge"] = None  # type: ignore[assignment]
    elif kind not in ("scheduler", "real"):
        _stand_in(kind)
    asyncio.run(_serve(kind, address, Path(told)))


if __name__ == "__main__":
    main(*sys.argv[1:])

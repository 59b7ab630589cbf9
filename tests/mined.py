"""Real factor runs, mined once for all tests that look at what they left."""

from __future__ import annotations

import os
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest
from filelock import FileLock

from examples.demo.market import Market, write_source_data
from examples.demo.sandbox import Sandbox
from examples.demo.script import OVERNIGHT_GAP, Script, momentum
from tests import runs

Version = Literal["newest", "oldest"]

WINDOWS: dict[Version, int] = {"newest": 10, "oldest": 5}
"""Days of the first factor of a version's run: two runs found different things, and one thing alike."""

REJECTED = "momentum_20d"
"""What the rejected set of loop 2 has besides."""

GROUPS = {version: pytest.mark.xdist_group(f"mined-{version}") for version in ("newest", "oldest")}
"""The tests of a version on one worker, so that the two versions are mined side by side."""


@dataclass(frozen=True)
class Mined:
    """A finished `rdagent fin_factor` of `THREE_LOOPS`. Tests read it; one that writes copies it first.

    Attributes:
        box: The sandbox, with the project in it.
        market: What Qlib's data holds there.
        run: The finished command.
        log: The run's log folder.
        accepted: The columns of the accepted set, the one of loop 1.
    """

    box: Sandbox
    market: Market
    run: runs.Run
    log: Path
    accepted: tuple[str, str]

    def in_place(self) -> FileLock:
        """Return the lock of who uses the project, for a test may move it away for a while."""
        return FileLock(f"{self.box.folder}.lock")


def mine(folder: Path, version: Version) -> Mined:
    """Run three loops of `rdagent fin_factor` in a new folder; takes minutes.

    Two factors are accepted and the third is not: the newest set of the run is not the one to take.
    """
    first = momentum(WINDOWS[version], accepted=True)
    script = Script(factors=(first, OVERNIGHT_GAP, momentum(20)))
    python = Path(sys.executable) if version == "newest" else runs.oldest_python()
    box, market = runs.box_with_market(folder, python)
    write_source_data(market, box.project)
    run = runs.rdagent(box, "fin_factor", "--loop_n", "3", script=script)
    assert run.status == 0, run.output[-3000:]
    assert run.log_folder is not None
    return Mined(box, market, run, run.log_folder, (first.name, OVERNIGHT_GAP.name))


def mined(factory: pytest.TempPathFactory, version: Version) -> Mined:
    """Return the run of a version, mined by the worker that asks for it first; the factory is pytest's."""
    base = factory.getbasetemp()
    # The folders of xdist's workers lie side by side in one of the session.
    shared = base.parent if "PYTEST_XDIST_WORKER" in os.environ else base
    record = shared / f"mined-{version}.pickle"
    with FileLock(f"{record}.lock"):
        if not record.is_file():
            found = mine(shared / f"mined-{version}" / "box", version)
            record.write_bytes(pickle.dumps(found))
        done: Mined = pickle.loads(record.read_bytes())
    return done

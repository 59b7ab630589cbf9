"""The stand-in for Docker's engine leaves nothing behind."""

from __future__ import annotations

import os
from pathlib import Path

from tests.engine import Engine
from tests.processes import is_alive
from tests.stand_in import wait_until

# The second sleeper stands for Qlib below `timeout`, in a process group of its own.
SLEEPING = """
import os, subprocess, sys, time
from pathlib import Path
own = subprocess.Popen(["sleep", "300"], preexec_fn=os.setpgrp)
sleeping = Path(sys.argv[1])
sleeping.with_suffix(".new").write_text(f"{os.getpid()} {own.pid}")
sleeping.with_suffix(".new").rename(sleeping)
time.sleep(300)
"""


def ordered(workspace: Path, *command: str) -> dict[str, object]:
    """Return an order for a container that has a workspace alone."""
    binds = [f"{workspace}:/workspace/:rw"]
    return {"Cmd": list(command), "WorkingDir": "/workspace/", "HostConfig": {"Binds": binds}}


def test_an_entry_does_not_outlive_the_block(tmp_path: Path, nothing_left: None) -> None:
    """An entry that sleeps, and what it started, end with the block; so does the folder that it ran in."""
    workspace, sleeping = tmp_path / "workspace", tmp_path / "sleeping"
    workspace.mkdir()
    with Engine({"PATH": os.environ["PATH"]}) as engine:
        order = ordered(workspace, "python3", "-c", SLEEPING, str(sleeping))
        assert engine.start(engine.create(order)) == ""
        wait_until(sleeping.exists)
        processes = [int(word) for word in sleeping.read_text().split()]
        assert all(map(is_alive, processes))
    wait_until(lambda: not any(map(is_alive, processes)))  # one that is killed ends its files first
    (container,) = engine.containers
    assert container.done.is_set()
    assert list(workspace.iterdir()) == []


def test_nothing_is_made_before_the_block(nothing_left: None) -> None:
    """An engine that is never entered leaves no folder."""
    Engine({})

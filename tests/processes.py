"""Processes that a test started, and all that they have started."""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def kill_session(leader: int) -> None:
    """Kill a process that began a session, and every other one of that session.

    By session: RD-Agent starts Qlib below `timeout`, which makes a process group of its own.
    """
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(ProcessLookupError):
            if os.getsid(int(entry.name)) == leader:
                os.kill(int(entry.name), signal.SIGKILL)

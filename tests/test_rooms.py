"""Which rooms of the package know RD-Agent."""

from __future__ import annotations

import subprocess
import sys

import pytest

ROOMS = (
    "settings",
    "locate",
    "factors",
    "alpha",
    "market",
    "qlib_config",
    "manifest",
    "errors",
    "patch",
    "cli",
)


@pytest.mark.parametrize("room", ROOMS)
def test_a_room_that_need_not_know_rdagent_does_not_import_it(room: str) -> None:
    """Rooms that do not know RD-Agent start fast and work without it."""
    code = (
        f"import sys, rdagent_sota_bridge.{room}\n"
        "print(*sorted(name for name in sys.modules if name.split('.')[0] in ('rdagent', 'qlib', 'torch')))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []

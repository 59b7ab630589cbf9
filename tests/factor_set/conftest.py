"""Where the tests of the store have it."""

from __future__ import annotations

from pathlib import Path

import pytest


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder for the store, not made yet."""
    return tmp_path / "cache" / "sota_store"

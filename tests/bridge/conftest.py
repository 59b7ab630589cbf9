"""What most tests of the bridge begin with: a market and a good factor set."""

from __future__ import annotations

from pathlib import Path

import pytest

from examples.demo.market import Market
from tests import seams


@pytest.fixture
def place(market_home: tuple[Path, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> seams.Place:
    """Point HOME at the market, and write a good factor set."""
    folder, market = market_home
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    workspace = seams.write_set(tmp_path / "set", seams.factor_frame(market))
    return seams.Place(market, workspace, monkeypatch)

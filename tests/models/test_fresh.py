"""The values of a model's factors for days that its set does not cover; their code is run for real."""

from __future__ import annotations

from pathlib import Path

from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models.fresh import covering
from tests import trained


def test_its_own_file_covers_the_day(tmp_path: Path) -> None:
    """The last stored day, and an earlier one; nothing is run or written."""
    model = trained.write_training(tmp_path / "model")
    before = sorted(tmp_path.rglob("*"))
    for day in ("2020-01-07", "2020-01-03"):
        assert covering(model, day, None, print) == model / FACTOR_FILE
    assert sorted(tmp_path.rglob("*")) == before

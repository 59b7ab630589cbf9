"""A model on factors that a real run mined, on a market that has grown since."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from examples.demo import sandbox
from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import mined, runs

pytestmark = [pytest.mark.e2e, mined.GROUPS["newest"]]


def test_a_market_that_has_grown(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The command says what to do; the code makes the stored values to the bit, and new ones for new days."""
    found = mined.mined(tmp_path_factory, "newest")
    with found.in_place():
        shutil.copytree(found.box.folder, tmp_path / "box")
    box = sandbox.create(tmp_path / "box")
    on = {"LOAD_SOTA_FROM_WORKSPACE": "true", "SOTA_LOG_PATH": f"log/{found.log.name}"}
    run = runs.rdagent(box, "fin_model", "--loop_n", "1", **on)
    assert run.status == 0, run.output[-3000:]
    model = run.trained[0].workspace
    days = runs.grow(box.provider, 3)
    own = box.project / "git_ignore_folder" / "factor_implementation_source_data" / "daily_pv.h5"
    before = own.read_bytes()

    def predict(*options: str) -> Result:
        return CliRunner().invoke(app, ["predict", str(model), "--json", *options])

    monkeypatch.chdir(box.project)
    with runs.inside(box, **runs.CONDA):
        refused = predict("--date", str(days[-1].date()))
        old = predict()
        new = predict("--factor-data", "fresh")
    assert (refused.exit_code, "--factor-data fresh" in refused.stderr) == (1, True)
    assert (old.exit_code, "--factor-data fresh" in old.stderr) == (0, True)
    assert json.loads(old.stdout)["days"] == ["2020-09-30"]
    record = json.loads(new.stdout)
    assert (new.exit_code, record["days"]) == (0, [str(days[-1].date())]), new.stderr
    assert record["old_scores"]["largest_difference"] == 0.0
    assert own.read_bytes() == before
    stored, values = pd.read_parquet(model / FACTOR_FILE), pd.read_parquet(record["factor_values"])
    pd.testing.assert_frame_equal(values.loc[:"2020-09-30"], stored, check_exact=True)
    behind = values.loc["2020-10-01":]
    assert list(behind.index.unique("datetime")) == list(days)
    for instrument, rows in behind["feature"].groupby(level="instrument"):
        opened, close = (runs.prices(box.provider, str(instrument), field) for field in ("open", "close"))
        gap = opened[-3:] / close[-4:-1] - 1
        momentum = close[-3:] / close[-3 - mined.WINDOWS["newest"] : -mined.WINDOWS["newest"]] - 1
        np.testing.assert_array_equal(rows[list(found.accepted)].to_numpy(), np.column_stack([momentum, gap]))

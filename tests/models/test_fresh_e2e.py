"""Factors that a real run mined, on a market that has grown: Qlib makes the data, and the code runs again."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pytest

from examples.demo import sandbox
from rdagent_sota_bridge.errors import FreshValuesError
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models.fresh import covering
from tests import mined, runs

pytestmark = [pytest.mark.e2e, mined.GROUPS["newest"]]


def test_a_market_that_has_grown(
    tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The data of the run say what to do; those made anew give the stored values to the bit, and new ones."""
    found = mined.mined(tmp_path_factory, "newest")
    with found.in_place():
        shutil.copytree(found.box.folder, tmp_path / "box")
    box = sandbox.create(tmp_path / "box")
    days = runs.grow(box.provider, 3)
    last = str(days[-1].date())
    own = box.project / "git_ignore_folder" / "factor_implementation_source_data" / "daily_pv.h5"
    before = own.read_bytes()
    monkeypatch.chdir(box.project)
    with mock.patch.dict(os.environ, box.environment("http://127.0.0.1:1", **runs.CONDA), clear=True):
        accepted = locate.named(str(box.project / "log" / found.log.name))
        model = box.project / runs.WORKSPACES / "model"
        model.mkdir()
        shutil.copyfile(accepted.path, model / FACTOR_FILE)
        source = {"path": str(accepted.path), "log": str(accepted.log), "loop": accepted.loop}
        text = json.dumps({"factor_set": {"sources": [{**source, "columns": found.accepted}]}})
        (model / "sota_manifest.json").write_text(text)
        with pytest.raises(FreshValuesError, match=r"end on 2020-09-30.*\n.*\n.*--factor-data fresh"):
            covering(model, last, None, print)
        file = covering(model, last, "fresh", print)
    assert own.read_bytes() == before
    stored, values = pd.read_parquet(model / FACTOR_FILE), pd.read_parquet(file)
    pd.testing.assert_frame_equal(values.loc[:"2020-09-30"], stored, check_exact=True)
    new = values.loc["2020-10-01":]
    assert list(new.index.unique("datetime")) == list(days)
    for instrument, rows in new["feature"].groupby(level="instrument"):
        fields = ("open", "close")
        opened, close = (runs.prices(box.provider, str(instrument), field) for field in fields)
        gap = opened[-3:] / close[-4:-1] - 1
        momentum = close[-3:] / close[-3 - mined.WINDOWS["newest"] : -mined.WINDOWS["newest"]] - 1
        np.testing.assert_array_equal(rows[list(found.accepted)].to_numpy(), np.column_stack([momentum, gap]))

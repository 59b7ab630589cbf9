"""A model's IC by day, as Qlib's own code computes and pickles it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.report import daily_ic


@pytest.mark.parametrize("digits", ["float32", "float64"])
def test_what_qlib_pickles_is_read(digits: str, tmp_path: Path) -> None:
    """The series of Qlib's `calc_ic` come back day by day; a day that has none stays without."""
    from qlib.contrib.eva.alpha import calc_ic

    days = pd.bdate_range("2017-01-02", periods=40)
    index = pd.MultiIndex.from_product([days, list("abcdefgh")], names=["datetime", "instrument"])
    random = np.random.default_rng(4)
    label = pd.Series(random.normal(size=len(index)), index).astype(digits)
    score = (label + random.normal(size=len(index))).astype(digits)
    score[days[3]] = 1.0
    ic, ranks = calc_ic(score, label)
    folder = tmp_path / "mlruns" / "1" / "r1" / "artifacts" / "sig_analysis"
    folder.mkdir(parents=True)
    ic.to_pickle(folder / "ic.pkl")
    ranks.to_pickle(folder / "ric.pkl")
    found = daily_ic.read(tmp_path, "r1")
    for ours, qlibs in ((found.ic, ic), (found.rank_ic, ranks)):
        np.testing.assert_array_equal(ours.to_numpy(), qlibs.to_numpy(dtype=float))
        assert list(ours.index) == list(days)
        assert ours.isna().sum() == 1
    assert found.ic.mean() == pytest.approx(float(ic.mean()))

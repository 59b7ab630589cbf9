"""A back-test that ends too late stops a run before its first call: Qlib needs one more trading day."""

from __future__ import annotations

from pathlib import Path

import pytest
from rdagent.scenarios.qlib.developer.factor_runner import QlibFactorRunner

from rdagent_sota_bridge.bridge import dry_run, plan
from tests import seams
from tests.quant import QuantRDLoop
from tests.seams import Place


@pytest.mark.parametrize("on_error", ["fail", "baseline"])
def test_a_back_test_that_ends_too_late_stops_the_run(on_error: str, place: Place, tmp_path: Path) -> None:
    """A calendar that ends before the test segment: without the factors the back-test would fail as well."""
    from rdagent.app.qlib_rd_loop.conf import ModelBasePropSetting

    home = tmp_path / "home"
    calendars = seams.put_market(home).provider / "calendars"
    days = (calendars / "day.txt").read_text().partition("2020-08")[0]
    (calendars / "day.txt").write_text(days)
    place.patch.setenv("HOME", str(home))
    place.switch_on(SOTA_ON_ERROR=on_error)
    last = days.split()[-2]
    fix = f"let the test segment and the back-test of conf_sota_factors_model.yaml end on {last} or earlier"
    if "test_end" in ModelBasePropSetting.model_fields:
        fix = f"set QLIB_MODEL_TEST_END={last} or earlier"
    with pytest.raises(SystemExit, match="test segment ends on 2020-08-01, and Qlib's back-test") as stop:
        seams.build_runner()
    assert str(stop.value).endswith(f"fix:   {fix}")
    (calendars / "day_future.txt").write_text(f"{days}2020-09-01\n")
    assert plan.record_of(seams.build_runner()) is not None


def test_factor_loops_that_end_too_late_stop_fin_quant(place: Place) -> None:
    """RD-Agent 1.0.0 has segments of its own for factor loops; those of QLIB_QUANT_ only stand in prompts."""
    from rdagent.app.qlib_rd_loop.conf import FactorBasePropSetting

    variables = {"QLIB_FACTOR_TEST_END": "2020-09-30", "QLIB_QUANT_TEST_END": "2030-01-01"}
    place.switch_on(SOTA_ON_ERROR="baseline", **variables)
    if "test_end" in FactorBasePropSetting.model_fields:
        with pytest.raises(SystemExit, match="set QLIB_FACTOR_TEST_END=2020-09-21 or earlier"):
            QuantRDLoop(QlibFactorRunner(None))
        place.patch.setenv("QLIB_FACTOR_TEST_END", "2020-09-21")
        dry_run.ask_factor_runner.cache_clear()
    assert plan.record_of(QuantRDLoop(QlibFactorRunner(None)).factor_runner) is not None

"""`rdagent fin_quant` for real: factor, model, factor, model, with a set that an earlier run accepted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from examples.demo.llm import Request
from examples.demo.market import write_source_data
from examples.demo.script import SMALL_MLP, Script, momentum
from rdagent_sota_bridge.models.predict import predict
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22
from tests import runs, seams

pytestmark = pytest.mark.e2e

USED = 0.6
"""The least IC of a back-test that had the planted factor, which is in the loaded set alone."""


def judged_against(request: Request) -> float:
    """Return the IC of the best result so far that the verdict on a factor loop was asked with."""
    told = request.user.partition("Combined Results:")[2]
    return float(
        told.partition("IC of Current Result is ")[2].partition("of SOTA Result is ")[2].split(";")[0]
    )


def test_factor_and_model_loops_have_the_loaded_set_and_the_runs_own(tmp_path: Path) -> None:
    """Each loop trains on the loaded set and what the run accepted, each once; like is compared with like.

    The planted factor is in the loaded set alone, so every back-test's IC tells whether the set was there:
    those of the factor loops, of the models, and of what the factor loops are judged against.
    """
    box, market = runs.box_with_market(tmp_path / "box")
    seams.write_set(box.project / "set", seams.factor_frame(market))
    write_source_data(market, box.project)
    script = Script(
        factors=(momentum(10, accepted=True), momentum(15, accepted=True)),
        models=(SMALL_MLP, replace(SMALL_MLP, name="SecondMLP", hypothesis="A second network sees more.")),
    )
    run = runs.rdagent(
        box,
        "fin_quant",
        "--loop_n",
        "4",
        script=script,
        LOAD_SOTA_FROM_WORKSPACE="true",
        SOTA_WORKSPACE_PATH="set",
        QLIB_QUANT_ACTION_SELECTION="llm",
    )
    assert run.status == 0, run.output[-3000:]

    models = [model for model in run.trained if model.manifest is not None]
    mined = [{"overnight_gap", "momentum_10d"}, {"overnight_gap", "momentum_10d", "momentum_15d"}]
    for model, expected in zip(models, mined, strict=True):
        assert model.metrics["IC"] > USED
        assert model.manifest is not None
        loaded = model.manifest["qlib_loaded"]
        assert loaded["columns"] == sorted({*ALPHA22, *expected}), "each once"
        assert loaded["columns_without_training_values"] == []
        assert loaded["num_features"] == model.width == 22 + len(expected)
        assert set(model.manifest["mined_columns"]) == expected
    with runs.inside(box):
        found = predict(models[-1].workspace, None, None, False, lambda _: None)
    assert found.about["old_scores"]["largest_difference"] == 0.0, "as a model of fin_model"

    verdicts = [request for request in run.requests if request.kind == "factor_feedback"]
    assert len(verdicts) == 2
    assert all(judged_against(verdict) > USED for verdict in verdicts)

    root = box.project / runs.WORKSPACES
    factor_loops = [folder.parent for folder in root.glob("*/conf_combined_factors.yaml")]
    results = {
        folder: float(pd.read_csv(folder / "qlib_res.csv", index_col=0).loc["IC"].iloc[0])
        for folder in factor_loops
        if (folder / "qlib_res.csv").is_file()
    }
    assert len(results) == 3, "the loaded set alone, and two factor loops"
    assert all(ic > USED for ic in results.values())
    for line in (
        "SOTA factors join the factor loop: 1 loaded, beside none of the run's own yet",
        "SOTA factors join the factor loop: 1 loaded, beside 2 experiments that this run accepted",
        "SOTA factors used: LightGBM was trained on 23 columns (1 mined, 22 base)",
        "SOTA factors used: LightGBM was trained on 24 columns (2 mined, 22 base)",
        "SOTA factors used: Qlib loaded 25 columns (3 mined, 22 base), num_features 25",
    ):
        assert line in run.text_log, line

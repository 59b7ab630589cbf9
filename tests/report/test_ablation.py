"""Models beside what they are without the mined columns: which are found, what is read, and what they say."""

from __future__ import annotations

import json
import os
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.factor_set.names import RESULT_FILE
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.report import ablation, daily_ic, gather
from rdagent_sota_bridge.report.ablation import Pair
from rdagent_sota_bridge.report.plain import as_plain
from tests import logs, reports, trained

MODEL = "b" * 32
DAYS = pd.DatetimeIndex(pd.bdate_range("2017-01-03", periods=60), name="datetime")


def train(
    workspace: Path, ic: float, manifest: dict[str, Any] | None, run: str = "r1", seed: int = 0
) -> Path:
    """Write what a training leaves, with daily ICs around a mean; return the folder of Qlib's analysis."""
    workspace.mkdir(parents=True, exist_ok=True)
    folder = trained.write_record(workspace, trained.config(factor_file=manifest is not None), run=run)
    analysis = folder / "artifacts" / "sig_analysis"
    analysis.mkdir()
    random = np.random.default_rng(seed)
    for name in ("ic", "ric"):
        daily = pd.Series(random.normal(ic, 0.01, len(DAYS)), DAYS)
        (analysis / f"{name}.pkl").write_bytes(pickle.dumps(daily))
    metrics = "".join(f"{name},{value!r}\n" for name, value in reports.metrics(ic).items())
    (workspace / RESULT_FILE).write_text(f",0\n{metrics}")
    steps = random.normal(ic / 100, 0.001, (2, len(DAYS)))
    pd.DataFrame({"return": steps[0], "bench": steps[1], "cost": 0.0}, DAYS).to_parquet(
        workspace / "ret.parquet"
    )
    if manifest is not None:
        (workspace / MANIFEST_FILE).write_text(json.dumps(manifest))
    return analysis


def again(change: dict[str, Any], *, of: str = MODEL, **others: Any) -> dict[str, Any]:
    """Return the manifest of a model that was trained again."""
    columns = tuple(change.get("columns", ("gap",)))
    content = {**reports.manifest(columns), "retrained": {"of": of, "change": change, **others}}
    return content if columns else {**content, "factor_set": None}


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of workspaces of a project with one model that was trained with factors."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "git_ignore_folder" / "RD-Agent_workspace"
    train(folder / MODEL, 0.05, reports.manifest(("gap",)))
    logs.write_run(tmp_path / "log" / "models", folder, (MODEL, (), True), kind="ModelRDLoop")
    return folder


def pairs(notes: list[str] | None = None) -> tuple[Pair, ...]:
    """Return the pairs of the project's run."""
    report = gather.gather([Path("log/models")])
    if notes is not None:
        notes += report.notes
    return report.pairs


def test_an_ablation_is_found_beside_its_model(root: Path) -> None:
    """What was trained again without the mined columns is paired with the model; the JSON says so."""
    train(root / "without", 0.02, again({"columns": []}, recorder="r1"), seed=1)
    (one,) = pairs()
    assert (one.place, one.seed, one.base.workspace) == ((0, 0), None, root / "without")
    assert one.ours.daily is not None and one.base.daily is not None
    assert list(one.ours.daily.ic.index) == list(DAYS)
    assert one.base.daily.ic.mean() == pytest.approx(0.02, abs=0.005)
    plain = as_plain(gather.gather([Path("log/models")]))
    assert plain["difference"]["answer"] == "better"
    assert plain["difference"]["ic"]["days"] == 60
    assert plain["errors"][0]["ic"]["mean"] == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize(
    "content",
    [
        again({"columns": []}, of="c" * 32),
        again({"columns": []}, recorder="another"),
        again({"columns": [], "segments": {"test": ["2018-01-01", "2018-12-31"]}}),
        again({"columns": [], "values": "sha256:1"}),
        again({"columns": ["gap"]}),
        again({"seed": 1}),
        reports.manifest(()),
        {"retrained": "x", "mined_columns": []},
        {"retrained": {"of": MODEL}, "mined_columns": []},
        {"retrained": {"of": MODEL, "change": []}, "mined_columns": []},
        again({"columns": ["gap"], "seed": [1]}),
        [],
    ],
    ids=[
        "other model",
        "other training",
        "other days",
        "other values",
        "mined",
        "seed",
        "not again",
        "text",
        "no change",
        "odd change",
        "odd seed",
        "list",
    ],
)
def test_what_is_no_ablation(content: Any, root: Path) -> None:
    """Of another model, training or segment, or with mined columns left: no pair, so nothing is claimed."""
    train(root / "other", 0.02, content)
    assert pairs() == ()


def test_a_seed_is_paired_with_the_same_seed(root: Path) -> None:
    """Of seeds that both sides have, and the loop's own training without one; the loop counts once."""
    train(root / "a", 0.02, again({"columns": []}), seed=9)
    for seed in (3, 1):
        train(root / f"with{seed}", 0.06 + seed / 100, again({"seed": seed}), seed=seed)
        train(root / f"without{seed}", 0.02, again({"columns": [], "seed": seed}), seed=seed)
    train(root / "threads", 0.02, {**again({"columns": [], "seed": 1}), "threads": 2})
    train(root / "alone", 0.02, again({"columns": [], "seed": 2}))
    train(root / "other", 0.02, again({"seed": 4}))
    for folder in ("with3", "without3"):
        train(root / f"older{folder}", 0.5, json.loads((root / folder / MANIFEST_FILE).read_text()))
        os.utime(root / f"older{folder}" / MANIFEST_FILE, (0, 0))
    found = [(one.seed, one.ours.workspace.name, one.base.workspace.name) for one in pairs()]
    assert found == [(None, MODEL, "a"), (1, "with1", "without1"), (3, "with3", "without3")]
    said = ablation.difference(pairs())
    assert said is not None and said.excess is not None
    assert (said.ic.loops, said.seeds, said.excess.days) == (1, 3, 60)
    spread = {"mean": pytest.approx(0.06), "deviation": pytest.approx(0.02 / 2**0.5)}
    report = gather.gather([Path("log/models")])
    (plain,) = as_plain(report)["seeds"]
    assert (plain["run"], plain["loop"], plain["ic"]["seeds"]) == (0, 0, 2)
    assert plain["ic"]["difference"] == spread
    assert plain["ic"]["base"] == {"mean": pytest.approx(0.02), "deviation": pytest.approx(0)}
    assert [len(run.loops) for run in report.runs] == [1], "what is trained again is no loop"
    assert report.trials is not None and report.trials.models == 1


def test_of_one_seed_there_is_no_standard_deviation(root: Path) -> None:
    """One seed is a pair like any other; a metric that one side lacks does not count."""
    for seed in (1, 2):
        train(root / f"with{seed}", 0.06, again({"seed": seed}))
        train(root / f"without{seed}", 0.02, again({"columns": [], "seed": seed}))
    (root / "with2" / RESULT_FILE).write_text(",0\nIC,\n")
    assert len(pairs()) == 2
    assert ablation.over_seeds(pairs(), (0, 0)) is None
    assert as_plain(gather.gather([Path("log/models")]))["seeds"] == []


@pytest.mark.parametrize("damage", ["gone", "a pipe", "cut", "text", "numbers without days"])
def test_an_analysis_that_can_not_be_read(damage: str, root: Path) -> None:
    """Without a readable sig_analysis a model has no error and no pair says anything; a note says why."""
    folder = train(root / "without", 0.02, again({"columns": []}))
    (file,) = folder.glob("ric.pkl")
    content = {
        "cut": file.read_bytes()[:40],
        "text": b"no pickle",
        "numbers without days": pickle.dumps(pd.Series([0.1], ["x"])),
    }
    file.unlink()
    if damage == "a pipe":
        os.mkfifo(file)
    elif damage in content:
        file.write_bytes(content[damage])
    notes: list[str] = []
    (one,) = pairs(notes)
    assert one.base.daily is None
    assert ablation.difference([one]) is None
    assert any("Its IC has no error" in note and "sig_analysis" in note for note in notes)
    with pytest.raises(ResultError, match="sig_analysis"):
        daily_ic.read(root / "without", "r1")


def test_loops_and_days_that_one_side_lacks_are_left_out() -> None:
    """A day without an IC on one side is no day of the pair; loops are averaged day by day."""
    pair = reports.pair(0, 0.05, 0.02)
    assert pair.base.daily is not None
    pair.base.daily.ic.iloc[:100] = np.nan
    other = reports.pair(1, 0.03, 0.01)
    alone, both = ablation.difference([pair]), ablation.difference([pair, other])
    assert alone is not None and both is not None
    assert (alone.ic.days, alone.ic.loops) == (len(reports.DAYS) - 100, 1)
    assert (both.ic.days, both.ic.loops) == (len(reports.DAYS), 2)
    assert ablation.difference([]) is None

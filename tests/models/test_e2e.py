"""Recorded models used again by the programs of RD-Agent and Qlib, on a market with a planted alpha."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
from pathlib import Path
from statistics import fmean, stdev

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.models.predict import predict_again
from rdagent_sota_bridge.models.refresh import refresh
from rdagent_sota_bridge.models.retrain import Change, train_again
from rdagent_sota_bridge.models.trainings import How, Wanted, train_all
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA22
from tests import clusters, runs
from tests.engine import Engine
from tests.models.test_retrain import manifest_of, verified
from tests.models.world import (
    UNUSED,
    USED,
    Project,
    known_days,
    metrics,
    predictions,
    recorder,
    same_bits,
)

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("models")]  # one run for all


def aside(workspace: Path) -> Path:
    """Rename a workspace, so that the same is trained anew."""
    return workspace.rename(workspace.with_name(recorder(workspace)))


@pytest.mark.parametrize("name", ["SmallMLP", "SmallGRU"])
def test_one_seed_gives_the_same_bits(name: str, project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """By batches from memory and by Qlib's own loader; with proof like any other training's."""
    of = project.models[name]
    first = aside(train_again(of, Change(seed=1)))
    monkeypatch.setenv("SOTA_FAST_TRAINING", "false")
    second = train_again(of, Change(seed=1))
    assert same_bits(predictions(first), predictions(second))
    assert metrics(first) == metrics(second)
    assert recorder(first) != recorder(second), "no cache has answered"
    assert not same_bits(predictions(first), predictions(of)), "which had no seed"
    assert (manifest_of(first)["batches"], metrics(first)["IC"] > USED) == ("memory", True)
    assert manifest_of(second)["loader"] == "SOTA_FAST_TRAINING=false"
    assert [verified(found).state for found in (first, second)] == ["factors"] * 2
    trained = recorder(second)
    assert recorder(train_again(of, Change(seed=1))) == trained, "nothing is trained once more"


def test_another_seed_gives_other_bits(project: Project) -> None:
    """A seed is one of many, and no seed is the one of before."""
    one, other = (train_again(project.models["SmallMLP"], Change(seed=seed)) for seed in (1, 2))
    assert not same_bits(predictions(one), predictions(other))
    assert metrics(other)["IC"] == pytest.approx(metrics(one)["IC"], abs=0.02)


def test_the_same_bits_wherever_they_are_trained(
    project: Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One after the other, two at once, and by two workers of a cluster: each time with one thread."""
    monkeypatch.delenv("OMP_NUM_THREADS")  # which the demo sets
    of = project.models["SmallMLP"]
    with clusters.cluster(tmp_path) as dask:
        for _ in range(2):
            dask.start("real")
        found: dict[int, list[Path]] = {5: [], 6: []}
        said: list[str] = []
        for how in (How(), How(jobs=2), How(cluster=dask.address)):
            wanted = [Wanted(of, Change(seed=seed)) for seed in found]
            for one, answer in train_all(wanted, how, said.append):
                assert isinstance(answer, Path), answer
                found[one.change.seed or 0].append(aside(answer))
    assert said == []
    for workspaces in found.values():
        first, *others = map(predictions, workspaces)
        assert [same_bits(first, other) for other in others] == [True, True]
        assert [manifest_of(workspace)["threads"] for workspace in workspaces] == [1, 1, 1]
        assert len({recorder(workspace) for workspace in workspaces}) == 3
    assert not same_bits(*(predictions(workspaces[0]) for workspaces in found.values()))


def test_without_the_mined_columns(project: Project) -> None:
    """The model knows nothing any more; the base feature that a mined column had replaced is back."""
    of = project.models["SmallMLP"]
    found = train_again(of, Change(no_mined=True, seed=1))
    assert abs(metrics(found)["IC"]) < UNUSED
    manifest = manifest_of(found)
    assert manifest["qlib_loaded"]["columns"] == sorted(ALPHA22)
    assert manifest["qlib_loaded"]["num_features"] == runs.model_in(found).width == len(ALPHA22)
    change = {"columns": [], "seed": 1}
    assert manifest["retrained"] == {"of": of.name, "recorder": recorder(of), "change": change}
    assert json.loads((found / "sota_loaded.json").read_text())["columns"] == sorted(ALPHA22)


def test_in_docker_in_other_segments(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container sees the workspace and Qlib's data alone; the processors are fitted in the new days."""
    image = {
        **project.box.environment("http://127.0.0.1:1"),
        "PATH": project.box.path(project.box.qlib_python),
    }
    days = {"train": ("2008-01-01", "2013-12-31"), "test": ("2018-01-01", "2019-12-31")}
    change = Change(segments={**days, "valid": ("2015-01-01", "2016-12-31")})
    with Engine(image) as engine:
        monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "docker")
        monkeypatch.setenv("DOCKER_HOST", engine.url)
        found = train_again(project.models["SmallMLP"], change, threads=2)
        predicted = predict_again(found)
    assert metrics(found)["IC"] > USED
    manifest = manifest_of(found)
    assert manifest["training"]["train"] == ["2008-01-01 00:00:00", "2013-12-31 00:00:00"]
    assert manifest["training"]["test"] == ["2018-01-01 00:00:00", "2019-12-31 00:00:00"]
    (trained,) = engine.started("qrun conf_sota_factors_model.yaml")
    assert (trained.workspace, trained.variables["OMP_NUM_THREADS"]) == (found, "2")
    assert [inside for inside, _ in trained.mounts.values() if "qlib/" in inside][-1] == "/root/.qlib/"
    assert same_bits(predicted["score"], predictions(found))


@pytest.mark.parametrize("name", ["SmallMLP", "SmallGRU"])
def test_the_old_predictions_come_out_to_the_bit(name: str, project: Project) -> None:
    """Of the model that the loop trained, from its `params.pkl`; and the labels, as Qlib recorded them."""
    of = project.models[name]
    found = predict_again(of)
    assert same_bits(found["score"], predictions(of))
    labels = pd.read_pickle(training_record.read_training(of).run / "artifacts" / "label.pkl").iloc[:, 0]
    assert np.array_equal(found["label"].to_numpy(), labels.reindex(found.index).to_numpy(), equal_nan=True)


def test_days_that_no_segment_has(project: Project) -> None:
    """The processors are those of the training."""
    known_days(predict_again(project.models["SmallMLP"], ("2020-08-03", "2020-09-30")))


def test_seeds_of_the_best_model(project: Project) -> None:
    """Of the model with the highest IC; what the page says are the metrics of the trainings of the job."""
    before = {file.parent for file in project.root.glob("*/sota_manifest.json")}
    asked = ["run", "--from-models", str(project.log), "--baseline", "--seeds", "2", "--log-dir", "jobs"]
    command = [str(Path(sys.executable).parent / "rdagent-sota"), *asked]
    done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL, timeout=900)
    assert done.returncode == 0, (done.stdout + done.stderr)[-3000:]
    best = max(project.models.values(), key=lambda of: metrics(of)["IC"])
    ics: dict[tuple[bool, int], float] = {}
    for folder in {file.parent for file in project.root.glob("*/sota_manifest.json")} - before:
        manifest = manifest_of(folder)
        if "seed" in (change := manifest["retrained"]["change"]):
            assert manifest["retrained"]["of"] == best.name
            ics[bool(manifest["mined_columns"]), change["seed"]] = metrics(folder)["IC"]
    ours, base = ([ics[mined, seed] for seed in (1, 2)] for mined in (True, False))
    assert len(ics) == 4
    assert min(ours) > USED
    assert max(map(abs, base)) < UNUSED
    (page,) = (project.box.project / "jobs").glob("*_report.html")
    said = [
        f"{fmean(side):.3f} (standard deviation {stdev(side):.3f})".replace("-", "−") for side in (ours, base)
    ]
    assert f"Trained again with 2 seeds, its IC is {said[0]}, and {said[1]} without" in page.read_text(
        "utf-8"
    )
    assert f"{fmean(ours):.4f} {fmean(base):>8.4f}" in done.stdout
    # Other tests' trainings of these models are shown too.
    assert done.stdout.count("trained again with seed 1: trained on") >= 2
    assert "3 model loops: 3 claim factors, 3 shown to have them" in done.stdout


def fitted(workspace: Path) -> np.ndarray:
    """Return the medians by which the features of a training are scaled."""
    file = training_record.read_training(workspace).run / "artifacts" / "dataset"
    with file.open("rb") as content:
        handler = pickle.load(content).handler
    return np.ravel(handler.infer_processors[0].mean_train)


@pytest.mark.parametrize(("name", "rolling"), [("SmallGRU", None), ("SmallMLP", "2Y")])
def test_on_later_days(name: str, rolling: str | None, project: Project) -> None:
    """Each training knows the alpha of its own days, is scaled by them alone, and is recorded with them."""
    of = project.models[name]
    found = refresh(of, None, rolling, None, How(), print)
    days = pd.read_csv(project.box.provider / "calendars" / "day.txt", header=None)[0]
    assert len(found.pieces) == (1 if rolling is None else 2)
    for piece in found.pieces:
        assert piece.ic.mean() > USED
        recorded = training_record.read_training(piece.workspace).config["task"]["dataset"]["kwargs"]
        segments = {one: tuple(map(str, held)) for one, held in recorded["segments"].items()}
        assert segments == piece.segments
        (norm,) = [
            one["kwargs"]
            for one in recorded["handler"]["kwargs"]["infer_processors"]
            if one["class"] == "RobustZScoreNorm"
        ]
        assert (str(norm["fit_start_time"]), str(norm["fit_end_time"])) == piece.segments["train"]
        # The first training of a walk has the trading days of the recorded one.
        is_first = rolling is not None and piece is found.pieces[0]
        assert np.array_equal(fitted(piece.workspace), fitted(of)) is is_first
        assert list(piece.ic.index.strftime("%Y-%m-%d")) == list(days[days.between(*piece.segments["test"])])
        assert piece.ic.notna().all(), "each day has its label"
        assert verified(piece.workspace).state == "factors"
    assert found.pieces[-1].segments["test"][1] == days.iloc[-3]

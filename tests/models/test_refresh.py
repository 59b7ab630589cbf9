"""Models trained again on later days: what is trained, what is joined, what is in sample, what is printed."""

from __future__ import annotations

import json
import shlex
import shutil
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.cli.refresh import note
from rdagent_sota_bridge.errors import ResultError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import child, fresh, refresh, retrain
from rdagent_sota_bridge.models import trainings as trainings_module
from rdagent_sota_bridge.models.trainings import How
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from tests import trained
from tests.frames import factor_frame, nested, write
from tests.models.test_retrain import BASE, Trainings, manifest_of, verified
from tests.models.test_segments import DAYS, put_calendar, run_here


class DatedTrainings(Trainings):
    """Leaves the daily IC of the test segment too, and lets Qlib plan a walk for real.

    Attributes:
        fails: Which trainings leave nothing.
    """

    fails: Sequence[int] = ()

    def call(self, function: str, folder: Path, note: str, *arguments: str, **options: Any) -> None:
        """Leave what a training does."""
        if function == "run_in_qlib":
            run_here(function, folder, note)
            return
        self.has_result = len(self.folders) not in self.fails
        super().call(function, folder, note, *arguments, **options)
        if not self.has_result:
            return
        first, last = trained_on(folder)["test"]
        days = DAYS[DAYS.slice_indexer(first, last)]
        analysis = next(folder.glob("mlruns/*/*")) / "artifacts" / "sig_analysis"
        analysis.mkdir()
        values = 0.5 + 0.01 * np.random.default_rng(len(self.folders)).standard_normal(len(days))
        for name in ("ic.pkl", "ric.pkl"):
            pd.Series(values, index=days).to_pickle(analysis / name)


def trained_on(folder: Path) -> dict[str, list[str]]:
    """Return the segments in a workspace's YAML, as text."""
    config = yaml.safe_load((folder / CONFIG_FILE).read_text(encoding="utf-8"))
    found = config["task"]["dataset"]["kwargs"]["segments"]
    return {name: [str(day) for day in days] for name, days in found.items()}


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> DatedTrainings:
    """Put the stand-in in place of the child."""
    found = DatedTrainings()
    monkeypatch.setattr(child, "call", found.call)
    return found


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the workspace of a model whose factors were mined on segments that end in 2018."""
    put_calendar(tmp_path, DAYS)
    monkeypatch.setenv("HOME", str(tmp_path))
    workspace = trained.write_training(tmp_path / "a root" / "model", base=BASE)
    mining = trained.write_training(tmp_path / "a root" / "mining")
    shutil.rmtree(mining / "mlruns")
    trained.write_record(mining, trained.config(test=("2017-01-01", "2018-12-31")))
    file = workspace / MANIFEST_FILE
    record = json.loads(file.read_text())
    record["factor_set"]["sources"] = [{"path": "/gone/mining/x.parquet", "workspace_id": "mining"}]
    file.write_text(json.dumps(record))
    return workspace


@dataclass
class Covered:
    """Lets a set cover every day.

    Attributes:
        file: The file that does; None for the model's own.
        asked: What was asked for.
    """

    file: Path | None = None
    asked: list[Any] = field(default_factory=list)

    def covering(self, of: Path, day: str, factor_data: str | None, _: Any) -> tuple[Path, pd.Timestamp]:
        """Stand in for `fresh.covering`."""
        self.asked.append((day, factor_data))
        return self.file or of / FACTOR_FILE, pd.Timestamp("2020-06-01")


@pytest.fixture(autouse=True)
def covered(monkeypatch: pytest.MonkeyPatch) -> Covered:
    """Put the stand-in in its place."""
    found = Covered()
    monkeypatch.setattr(fresh, "covering", found.covering)
    return found


def refreshed(model: Path, rolling: str | None = None) -> Any:
    """Return what becomes of a model."""
    return refresh.refresh(model, None, rolling, None, How(), print)


@pytest.mark.e2e
def test_once(model: Path, trainings: DatedTrainings) -> None:
    """The workspace lies beside the model's, says what it repeats, and is proven like any other."""
    found = refreshed(model)
    (piece,) = found.pieces
    assert piece.workspace.parent == model.parent
    manifest = manifest_of(piece.workspace)
    assert manifest["retrained"]["of"] == "model"
    segments = {name: list(days) for name, days in piece.segments.items()}
    assert manifest["retrained"]["change"]["segments"] == trained_on(piece.workspace) == segments
    assert verified(piece.workspace).state == "factors"
    assert (piece.in_sample, found.mined_on) == (True, ("2008-01-01", "2018-12-31"))
    assert found.joined().mean == pytest.approx(0.5, abs=0.01)
    assert found.joined(unseen=True) is None
    again = refreshed(piece.workspace.rename(model.parent / "newest"), "1Y")
    assert again.pieces[0].segments["train"][0] == piece.segments["train"][0], "what was refreshed is a model"


@pytest.mark.e2e
def test_a_walk_in_which_a_training_fails(model: Path, trainings: DatedTrainings) -> None:
    """It stops no other, and the same once more trains it alone; mined by 2018 is not in sample in 2019."""
    trainings.fails = [1, 3]
    with pytest.raises(ResultError, match="2 of 4 trainings failed") as caught:
        refreshed(model, "1Y")
    assert len(trainings.folders) == 4
    place = caught.value.place
    assert place.startswith("test 2018-01-02 to 2019-01-01: The training gave no result (")
    second, _, where = place.partition("; test ")[2].partition(" to ")
    assert second.startswith("2020-") and f"({trainings.folders[3]}" in where
    first = refreshed(model, "1Y")
    assert len(trainings.folders) == 4 + 2
    second = refreshed(model, "1Y")
    assert len(trainings.folders) == 4 + 2
    assert [[one.workspace for one in found.pieces] for found in (first, second)] == [
        [trainings.folders[number] for number in (0, 1, 2, 3)]
    ] * 2
    assert [one.in_sample for one in first.pieces] == [True, True, False, False]
    days = pd.concat([one.ic for one in first.pieces]).index
    assert days.equals(DAYS[DAYS.slice_indexer("2017-01-02", "2020-12-29")])
    joined, unseen = first.joined(), first.joined(unseen=True)
    assert (joined.days, joined.loops, unseen.days) == (len(days), 1, sum(days > "2019-01-01"))
    assert joined.low < 0.5 < joined.high
    for one in first.pieces:
        assert one.segments["valid"][1] < one.segments["test"][0]
        assert trained_on(one.workspace)["test"] == list(one.segments["test"])


@pytest.mark.e2e
def test_a_file_that_covers_more_days(
    model: Path, trainings: DatedTrainings, covered: Covered, tmp_path: Path
) -> None:
    """Its digest is part of the change; a piece that the set itself covers is trained on that."""
    wider = write(nested(factor_frame(trained.MINED)), tmp_path, "wider.parquet")
    frame = pd.read_parquet(wider)
    (frame * 2).to_parquet(wider)
    covered.file = wider
    found = refreshed(model, "1Y")
    assert covered.asked == [("2020-12-29", None)], "data that are made anew are made once"
    assert len(trainings.folders) == 4
    digests = [parquet.current_digest(one.workspace / FACTOR_FILE) for one in found.pieces]
    own, other = (parquet.current_digest(file) for file in (model / FACTOR_FILE, wider))
    assert digests == [own] * 3 + [other]
    assert own != other
    manifest = manifest_of(found.pieces[-1].workspace)
    assert manifest["retrained"]["change"]["values"] == manifest["factor_set"]["digest"] == other
    assert manifest["factor_set"]["stored"]["digest"] == other
    assert manifest["factor_set"]["sources"] == manifest_of(model)["factor_set"]["sources"]
    assert verified(found.pieces[-1].workspace).state == "factors"
    covered.file = None
    refreshed(model, "1Y")
    assert len(trainings.folders) == 5, "another file is another training"


@pytest.mark.parametrize("spoilt", ["sources", "workspace", "own factors"])
def test_mining_that_is_not_known(spoilt: str, model: Path, trainings: DatedTrainings) -> None:
    """Nothing is claimed of it."""
    file = model / MANIFEST_FILE
    record = json.loads(file.read_text())
    if spoilt == "sources":
        del record["factor_set"]["sources"]
    elif spoilt == "workspace":
        shutil.rmtree(model.parent / "mining")
    else:
        record["factor_set"]["columns"] = ["gap"]
    file.write_text(json.dumps(record))
    found = refreshed(model)
    assert (found.mined_on, found.pieces[0].in_sample) == (None, None)


def test_a_model_without_mined_columns(model: Path, trainings: DatedTrainings, covered: Covered) -> None:
    """Nothing covers it, and nothing of it is in sample."""
    base = retrain.train_again(model, retrain.Change(no_mined=True))
    found = refreshed(base)
    assert (found.mined_on, found.pieces[0].in_sample, covered.asked) == (None, False, [])
    assert found.joined(unseen=True).days == len(found.pieces[0].ic)
    assert note(found).startswith("In sample: no piece")


def command(*arguments: object) -> Result:
    """Run the command."""
    return CliRunner().invoke(app, ["refresh", *map(str, arguments)])


@pytest.mark.e2e
def test_what_is_printed(model: Path, trainings: DatedTrainings, covered: Covered) -> None:
    """A row a piece, the joined IC, what is in sample, and the command to predict with the newest model."""
    done = command(model, "--rolling", "1Y", "--factor-data", "folder")
    assert done.exit_code == 0, done.output
    assert covered.asked[-1] == ("2020-12-29", "folder")
    lines = done.stdout.splitlines()
    *_, predict, path = shlex.split(lines[-1])
    assert (predict, Path(path).resolve()) == ("predict", trainings.folders[-1].resolve())
    assert "the days from 2008-01-01 to 2018-12-31" in lines[-2]
    assert [line[:9] for line in lines if line.startswith("IC of")] == ["IC of all", "IC of day"]
    (row,) = [line for line in lines if " 2017-01-02 to" in line or line.startswith("2017-01-02 to")]
    assert row.split()[-1] == "yes"
    assert max(map(len, lines[:12])) <= 80
    assert "training 4 of 4: train 2008-01-01 to" in done.stderr


def test_json(model: Path, trainings: DatedTrainings) -> None:
    """The same as figures, with the workspaces."""
    done = command(model, "--json", "--jobs", "2")
    found = json.loads(done.stdout)
    (piece,) = found["pieces"]
    assert piece["workspace"] == str(trainings.folders[0])
    assert piece["segments"]["test"][1] == "2020-12-29"
    assert piece["in_sample"] is True
    assert piece["ic"]["mean"] == found["joined"]["mean"]
    assert (found["joined_unseen"], found["mined_on"]) == (None, ["2008-01-01", "2018-12-31"])


def test_one_message(model: Path, trainings: DatedTrainings) -> None:
    """For what is no model, and for what can't be trained."""
    for first, *words in (("gone",), ("model", "--train-end", "2014-01-01"), ("model", "--rolling", "x")):
        done = command(model.parent / first, *words)
        assert (done.exit_code, done.stdout, "fix:" in done.stderr) == (1, "", True)
    assert trainings.folders == []


def test_a_stop(model: Path, trainings: DatedTrainings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C ends it with one line that says how it goes on."""
    monkeypatch.setattr(child, "call", lambda *_, **__: signal.raise_signal(signal.SIGINT))
    monkeypatch.setattr(trainings_module, "train_all", in_this_thread)
    done = command(model)
    assert (done.exit_code, done.stdout) == (130, "")
    assert done.stderr.splitlines()[-1].startswith("Stopped. The same command")
    monkeypatch.setattr(child, "call", trainings.call)
    assert command(model).exit_code == 0


def in_this_thread(wanted: Any, how: How, say: Any, begin: Any) -> Any:
    """Train where a signal arrives."""
    for one in wanted:
        yield one, retrain.train_again(one.of, one.change)

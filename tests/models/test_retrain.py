"""What is trained again, and what its manifest says; a stand-in leaves what RD-Agent and Qlib would."""

from __future__ import annotations

import json
import shutil
import sys
import threading
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

from rdagent_sota_bridge.errors import (
    BridgeError,
    ChoiceError,
    HandOffError,
    ResultError,
    SettingsError,
)
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.models.retrain import Change, train_again
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.qlib_files.manifest import LOADED_FILE, MANIFEST_FILE
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from rdagent_sota_bridge.report import verify
from rdagent_sota_bridge.report.history import Loop
from tests import trained

BASE = BaseSet("mine", (*trained.BASE.features, ("gap", "$open/Ref($close, 1)")))
"""A base set of which a mined column replaces a feature."""


@dataclass
class Trainings:
    """Stands in for RD-Agent and Qlib: trains at once, and counts."""

    folders: list[Path] = field(default_factory=list)
    has_result: bool = True
    extra: tuple[str, ...] = ()
    threads: list[str] = field(default_factory=list)

    def call(self, function: str, folder: Path, note: str, threads: str, **_: Any) -> None:
        """Leave what a training does."""
        assert function == "train"
        self.folders.append(folder)
        self.threads.append(threads)
        text = (folder / CONFIG_FILE).read_text(encoding="utf-8")
        assert note in text.splitlines()[0]
        if not self.has_result:
            return
        config = yaml.safe_load(text)
        handler = config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        loaders = handler["data_loader"]["kwargs"]["dataloader_l"]
        columns = [*loaders[0]["kwargs"]["config"]["feature"][1], *self.extra]
        if len(loaders) > 1:
            columns += parquet.read_footer(folder / FACTOR_FILE).columns
        trained.write_record(folder, config, run="d" * 32)
        trained.write_results(folder)
        loaded = {"columns": sorted(columns), "columns_without_training_values": []}
        loaded |= {"recorder": "d" * 32, "num_features": len(columns), "versions": {"qlib": "0"}}
        (folder / LOADED_FILE).write_text(json.dumps(loaded))
        (folder / "sota_trained.json").write_text('{"batches": "memory"}')


@pytest.fixture
def trainings(monkeypatch: pytest.MonkeyPatch) -> Trainings:
    """Put the stand-in in place of the child."""
    found = Trainings()
    monkeypatch.setattr(child, "call", found.call)
    return found


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """Return the workspace of a model that was trained on two mined columns and two base features."""
    return trained.write_training(tmp_path / "root" / "model", base=BASE)


def manifest_of(workspace: Path) -> dict[str, Any]:
    """Return the manifest in a workspace."""
    found: dict[str, Any] = json.loads((workspace / MANIFEST_FILE).read_text(encoding="utf-8"))
    return found


def verified(workspace: Path) -> verify.Verification:
    """Return what can be shown of a workspace."""
    of = {"workspace": workspace, "manifest": manifest_of(workspace)}
    return verify._verify(Loop(0, "model", "again", record=training_record.read(workspace), **of))


def test_the_same_once_more_with_a_seed(model: Path, trainings: Trainings) -> None:
    """Manifest and proof are like any other's, and the manifest says what it repeats; the file is linked."""
    found = train_again(model, Change(seed=7))
    assert (trainings.folders, found.parent) == ([found], model.parent)
    assert (found / "model.py").read_text() == trained.CODE
    assert "SEED = 7\n" in (found / "sota_seed.py").read_text()
    assert (found / FACTOR_FILE).samefile(model / FACTOR_FILE)
    manifest, before = manifest_of(found), manifest_of(model)
    assert manifest["retrained"] == {"of": "model", "recorder": trained.RECORDER, "change": {"seed": 7}}
    for name in ("model", "factor_set", "mined_columns", "base_set", "training"):
        assert manifest[name] == before[name], name
    assert manifest["batches"] == "memory"
    assert manifest["versions"]["qlib_side"] == {"qlib": "0"}
    assert verified(found).state == "factors"
    config = training_record.read_training(found).config
    assert config["task"]["model"]["kwargs"]["pt_model_uri"] == "model.model_cls", "it needs no file of ours"


def test_without_the_mined_columns(model: Path, trainings: Trainings) -> None:
    """The whole base set, and no factor file; whoever looks at it finds no set that it would claim."""
    found = train_again(model, Change(no_mined=True))
    assert not (found / FACTOR_FILE).exists()
    manifest = manifest_of(found)
    assert (manifest["mined_columns"], manifest["factor_set"]) == ([], None)
    assert manifest["base_set"] == {**manifest_of(model)["base_set"], "replaced_by_mined": []}
    assert manifest["qlib_loaded"]["columns"] == sorted(BASE.names)
    assert manifest["retrained"]["change"] == {"columns": []}
    assert verified(found).digest == ""
    again = train_again(found, Change(seed=1))
    assert manifest_of(again)["qlib_loaded"] == manifest["qlib_loaded"], "it is repeated as well"


def test_what_was_trained_is_not_trained_once_more(model: Path, trainings: Trainings) -> None:
    """The same change of the same training has one workspace; a training that was killed is begun anew."""
    days = dict.fromkeys(("train", "valid", "test"), ("2015-01-01", "2015-12-31"))
    change = Change(no_mined=True, segments=days, seed=3)
    trainings.has_result = False
    with pytest.raises(ResultError, match="The training gave no result"):
        train_again(model, change)
    trainings.has_result = True
    first = train_again(model, change)
    assert train_again(model, change) == first
    assert trainings.folders == [first] * 2
    for other in (Change(no_mined=True, seed=3), Change(segments=days, seed=3), Change(seed=4)):
        train_again(model, other)
    trained.write_record(model, trained.config(BASE.without(trained.MINED)), run="e" * 32, ended=10**15)
    train_again(model, change)
    assert len(set(trainings.folders)) == 5, "another change, or another training in the workspace"


def test_the_number_of_threads(model: Path, trainings: Trainings) -> None:
    """It stands in the manifest; with a seed it names the training, whose bits depend on it."""
    workspaces = {
        (change.seed, number): train_again(model, change, threads=number)
        for change in (Change(), Change(seed=1))
        for number in (None, 1, 2)
    }
    assert trainings.threads == ["", "", "1", "2"]
    assert [manifest_of(workspaces[1, number])["threads"] for number in (None, 1, 2)] == [None, 1, 2]
    assert len({workspaces[None, number] for number in (None, 1, 2)}) == 1, "chance draws in any case"
    assert len(set(workspaces.values())) == 4


def test_two_that_train_the_same(model: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second waits, and takes what the first has trained; one that is not wanted waits no more."""
    answers: list[Path] = []
    second = threading.Thread(target=lambda: answers.append(train_again(model, Change())))

    def call(*arguments: Any, **named: Any) -> None:
        with pytest.raises(ResultError, match="was stopped"):
            train_again(model, Change(), is_wanted=lambda: False)
        second.start()
        second.join(0.5)
        assert second.is_alive()
        trainings.call(*arguments, **named)

    monkeypatch.setattr(child, "call", call)
    found = train_again(model, Change())
    second.join(30)
    assert answers == trainings.folders == [found]


def test_a_file_that_rd_agent_wrote(model: Path, trainings: Trainings) -> None:
    """In fin_quant the file has the run's own factors and is no copy of a stored one; columns prove it."""
    shutil.rmtree(model)
    trained.write_training(model, base=BASE, stored=False)
    found = train_again(model, Change())
    assert manifest_of(found)["factor_set"]["stored"] is None
    assert verified(found).state == "factors"


def test_docker_gets_a_copy(model: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container would change the mode of the stored file through a link."""
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "docker")
    # RD-Agent's own object wins, where another test of this process has imported it.
    monkeypatch.delitem(sys.modules, "rdagent.components.coder.model_coder.conf", raising=False)
    found = train_again(model, Change(seed=1))
    assert not (found / FACTOR_FILE).samefile(model / FACTOR_FILE)
    assert manifest_of(found)["factor_set"]["stored"]["placed_as"] in ("copy", "clone")


def without_base(model: Path) -> None:
    """Make the model one on mined columns alone."""
    shutil.rmtree(model)
    trained.write_training(model, base=BaseSet("none", ()))


@pytest.mark.parametrize(
    ("spoil", "kind", "fact"),
    [
        (trained.lose(MANIFEST_FILE), ResultError, "What the model was trained on is not known"),
        (trained.put(MANIFEST_FILE, "{}"), ResultError, "it names no base set"),
        (without_base, ChoiceError, "nothing to train on"),
    ],
)
def test_refusals(spoil: Any, kind: type[BridgeError], fact: str, model: Path, trainings: Trainings) -> None:
    """Each is one message, before anything is trained."""
    spoil(model)
    with pytest.raises(kind, match=fact) as caught:
        train_again(model, Change(no_mined=True))
    assert str(model) in caught.value.place
    assert trainings.folders == []


def test_a_bad_setting_is_told_here(
    model: Path, trainings: Trainings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not by the child, whose words lie in a file."""
    monkeypatch.setenv("SOTA_FAST_TRAINING", "perhaps")
    with pytest.raises(SettingsError):
        train_again(model, Change())
    assert trainings.folders == []


@pytest.mark.parametrize(
    ("change", "state"),
    [
        ({}, "base set alone"),
        ({"retrained": None}, "broken"),
        ({"mined_columns": ["gap"]}, "broken"),
        ({"factor_set": {}}, "broken"),
    ],
    ids=["as it is", "of no model", "with a mined column", "with a set"],
)
def test_the_claim_of_an_ablation(
    change: dict[str, Any], state: str, model: Path, trainings: Trainings
) -> None:
    """It is shown by YAML, record and what Qlib loaded; what says otherwise breaks it."""
    found = train_again(model, Change(no_mined=True))
    file = found / MANIFEST_FILE
    file.write_text(json.dumps({**manifest_of(found), **change}))
    assert verified(found).state == state
    shutil.copy(model / FACTOR_FILE, found)
    assert verified(found).state == "broken", "there is a factor file"


def test_what_qlib_loaded_beside_is_no_ablation(model: Path, trainings: Trainings) -> None:
    """A training on other columns than the manifest would claim leaves none."""
    trainings.extra = ("gap2",)
    with pytest.raises(HandOffError, match="gap2"):
        train_again(model, Change(no_mined=True))
    assert not (trainings.folders[0] / MANIFEST_FILE).exists()

"""A recorded model trained again with one change: the same `model.py`, hyper-parameters and base set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from pydantic import AliasPath, BaseModel, Field

from rdagent_sota_bridge.bridge import again
from rdagent_sota_bridge.errors import ChoiceError, FactorFileNotFoundError, ResultError, one_line, shortened
from rdagent_sota_bridge.factor_set import panel, parquet, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.models import child, edits
from rdagent_sota_bridge.qlib_files import docker, manifest, model_yaml, seeds, training_record
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.settings import read_settings
from rdagent_sota_bridge.system import files, in_use

MODEL_FILE = "model.py"
"""The network, in a model's workspace."""

_LOCK = ".sota.lock"  # of a workspace; it stays


@dataclass(frozen=True)
class Change:
    """What a training differs in from the one that it repeats.

    Attributes:
        columns: The mined columns that stay, () for none; None for all.
        segments: New first and last days (ISO, both inclusive) by the name of a segment: train, valid, test.
        seed: Fixes the first weights and the order of the batches; None leaves them to chance.
        values: A file in place of the set's: the same columns, in normal form, for more days; None for none.
    """

    columns: tuple[str, ...] | None = None
    segments: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    seed: int | None = None
    values: Path | None = None

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON has it, without what stays as it was; values by their digest."""
        values = self.values and parquet.current_digest(self.values)
        record = {**asdict(self), "values": values}
        return {name: value for name, value in record.items() if value not in (None, {})}


@dataclass(frozen=True)
class Retrained:
    """A model that was trained again.

    Attributes:
        workspace: Its workspace.
        metrics: Qlib's metrics by name.
        is_new: False where an earlier call has trained it.
    """

    workspace: Path
    metrics: dict[str, float]
    is_new: bool


class Before(BaseModel):
    """What a model was trained on, by its manifest."""

    mined: tuple[str, ...] = Field(validation_alias="mined_columns")
    digest: str = Field("", validation_alias=AliasPath("factor_set", "digest"))
    stored: str = Field("", validation_alias=AliasPath("factor_set", "stored", "digest"))
    base_name: str = Field(validation_alias=AliasPath("base_set", "name"))
    features: dict[str, str] = Field(validation_alias=AliasPath("base_set", "features"))


def train_again(
    of: Path,
    change: Change,
    root: Path,
    keep: tuple[int, ...] = (),
    threads: int | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Retrained:
    """Train a recorded model again, in Qlib's environment; what was trained before is not trained once more.

    The new workspace is named after the training and the change, and the threads where there is a seed: its
    bits are those of a number of threads. Its manifest has `retrained`, and `sota_output.txt` is what
    RD-Agent and Qlib said. A process that trains the same waits.

    Args:
        of: The workspace of a model that was trained with the factors.
        change: What is to differ.
        root: The folder for the new workspace, such as that of all of RD-Agent's.
        keep: Descriptors that stay open until all processes of the training are gone.
        threads: The number of torch's threads; None for what the environment, or else torch, chooses.
        is_wanted: Ends the training where it says False.

    Raises:
        ResultError: if there is no training to repeat, it can't be read, or the new one gave no result.
        FactorFileNotFoundError, SetChangedError: if the set's file is gone, or is another one.
        ChoiceError: if a column is not among the mined ones, or nothing is left to train on.
        HandOffError: if Qlib loaded something else than the manifest would claim.
        SeamError: if the recorded configuration has a form that is not known.
        StoreError: if a file can't be read or written.
    """
    read_settings()  # what is wrong there is told here, and not by the child
    of, root = of.absolute(), root.absolute()
    training = training_record.read_training(of)
    record, before = read_manifest(of)
    retrained = {"of": of.name, "recorder": training.run.name, "change": change.as_record()}
    factor_set = record["factor_set"]
    if change.values is not None:
        factor_set = _with_values(factor_set, change.values)
        before = before.model_copy(update={"digest": factor_set["digest"], "stored": factor_set["digest"]})
    seeded = change.seed is not None
    named = {**retrained, **({"threads": threads} if seeded and threads else {})}
    workspace = root / hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:32]
    if (workspace / manifest.MANIFEST_FILE).is_file():  # it is written last
        return _result(workspace, is_new=False)
    mined = _columns(of, before, change)
    whole_base = BaseSet(before.base_name, tuple(before.features.items()))
    base = whole_base.without(mined)
    factors = f"factor set {before.digest}" if mined else "no factor set"
    note = one_line(f"{factors}, base set {base.name} sha256:{base.digest}")
    config = edits.changed_yaml(training.config, note, base, mined, change.segments, seeded=seeded)
    task = model_yaml.read_task(config, {})
    with (
        store.failing_at(of, ("The model can't be trained again", child.MAKE_ROOM)),
        _alone(workspace, is_wanted) as lock,
    ):
        if (workspace / manifest.MANIFEST_FILE).is_file():  # by the process that was waited for
            return _result(workspace, is_new=False)
        source = change.values or of / FACTOR_FILE
        factor_set = _place_set(source, workspace, mined, before, factor_set) if mined else None
        texts = {MODEL_FILE: files.read_text(of / MODEL_FILE), model_yaml.CONFIG_FILE: config}
        if change.seed is not None:
            texts[seeds.FILE] = seeds.text(change.seed)
        for name, text in texts.items():
            files.write_whole(workspace / name, text)
        answer = workspace / again.TRAINED
        for left in (answer, workspace / RESULT_FILE):  # by a call that was killed
            left.unlink(missing_ok=True)
        number = str(threads or "")
        child.call("train", workspace, note, number, keep=(*keep, lock), is_wanted=is_wanted)
        if not answer.is_file():
            fix = "see what RD-Agent and Qlib say there, or leave the model out"
            raise ResultError("The training gave no result", str(workspace / child.OUTPUT), fix)
        loaded = manifest.read_loaded(workspace)
        if loaded is not None:
            manifest.check_loaded(loaded, base.names, mined, workspace)
        claim = {"retrained": retrained, "model": record.get("model"), "factor_set": factor_set}
        trained = manifest.of_training(mined, whole_base, task, loaded, files.read_json(answer))
        manifest.write_manifest(workspace, {**claim, **trained, "threads": threads})
    return _result(workspace, is_new=True)


@contextlib.contextmanager
def _alone(workspace: Path, is_wanted: Callable[[], bool]) -> Iterator[int]:
    """Have a workspace for one training, and yield the descriptor that its processes keep to their end."""
    workspace.mkdir(parents=True, exist_ok=True)
    with (workspace / _LOCK).open("ab") as file:
        while not in_use.take(file.fileno()):
            if not is_wanted():
                raise ResultError("The training was stopped", str(workspace), "begin it again")
            time.sleep(0.2)
        yield file.fileno()


def read_manifest(workspace: Path) -> tuple[dict[str, Any], Before]:
    """Return the manifest in a model's workspace, whole, and what of it a training repeats.

    Raises:
        ResultError: if it is not there, or can't be read.
    """
    file = workspace / manifest.MANIFEST_FILE
    try:
        record = files.read_json(file)
        return record, Before.model_validate(record)
    except (OSError, ValueError) as error:
        fact = f"What the model was trained on is not known: no manifest can be read ({shortened(error)})"
        raise ResultError(fact, str(file), "leave the model out, or train it with the factors") from None


def _columns(of: Path, before: Before, change: Change) -> tuple[str, ...]:
    """Return the mined columns that stay, in the order that they had."""
    asked = before.mined if change.columns is None else change.columns
    place = str(of / manifest.MANIFEST_FILE)
    if unknown := sorted(set(asked) - set(before.mined)):
        fact = f"The model had no mined column {', '.join(unknown)}"
        raise ChoiceError(fact, place, f"choose of {', '.join(before.mined)}")
    if not asked and not before.features:
        fact = "Without mined columns the model has nothing to train on: it had no base set"
        raise ChoiceError(fact, place, "leave the model out; USE_ALPHA_FACTORS=true adds a base set to a run")
    return tuple(name for name in before.mined if name in asked)


def _with_values(factor_set: dict[str, Any], values: Path) -> dict[str, Any]:
    """Return what a manifest says of a set whose values are those of another file."""
    digest, footer = parquet.current_digest(values), parquet.read_footer(values)
    days = {"start": str(footer.start), "end": str(footer.end), "rows": footer.rows}
    place = {"path": str(values), "digest": digest}
    return {**factor_set, **place, **days, "stored": place}


def _place_set(
    source: Path, workspace: Path, mined: tuple[str, ...], before: Before, factor_set: dict[str, Any]
) -> dict[str, Any]:
    """Put the factor file into the new workspace, and return what its manifest says of the set."""
    target = workspace / FACTOR_FILE
    if not source.is_file():
        raise set_is_gone(source)
    if before.stored and (now := parquet.current_digest(source)) != before.stored:
        raise parquet.changed_set(source, before.stored, now)
    if mined == before.mined:
        how = files.place(source, target, link=not docker.is_qlib_in_docker())
        stored = factor_set["stored"] and {**factor_set["stored"], "placed_as": how}
        return {**factor_set, "stored": stored}
    target.unlink(missing_ok=True)
    with panel.opened([source], lambda _: mined) as chosen, target.open("xb") as file:
        panel.write_normal(chosen, file, workspace)
    kept = [name for name in factor_set["columns"] if name in mined]
    return {**factor_set, "columns": kept, "stored": None}


def set_is_gone(file: Path) -> FactorFileNotFoundError:
    """Return the error of a model whose set is not in its workspace any more."""
    fact = f"SOTA factors file not found: {file}, though the model was trained with it"
    return FactorFileNotFoundError(fact, str(file), "put the file back, or leave the model out")


def _result(workspace: Path, *, is_new: bool) -> Retrained:
    try:
        return Retrained(workspace, training_record.metrics_beside(workspace / FACTOR_FILE), is_new)
    except (OSError, ValueError) as error:
        fix = "remove that workspace; the model is trained again then"
        raise ResultError(f"The result can't be read: {shortened(error)}", str(workspace), fix) from None

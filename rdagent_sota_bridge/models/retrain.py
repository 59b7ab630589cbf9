"""A recorded model trained again with one change: the same `model.py`, hyper-parameters and base set."""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.errors import (
    ChoiceError,
    FactorFileNotFoundError,
    ResultError,
    SetChangedError,
    one_line,
)
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.models import again, child, edits
from rdagent_sota_bridge.models.segments import Segments
from rdagent_sota_bridge.qlib_files import docker, manifest, model_yaml, seeds, training_record
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.qlib_files.training_record import MODEL_FILE
from rdagent_sota_bridge.settings import read_settings
from rdagent_sota_bridge.system import files, in_use

_LOCK = ".sota.lock"  # of a workspace; it stays


@dataclass(frozen=True)
class Change:
    """What a training differs in from the one that it repeats.

    Attributes:
        no_mined: Leave the mined columns out: on the base set alone.
        segments: New ones; None for those that it had.
        seed: Fixes the first weights and the order of the batches; None leaves them to chance.
        values: A file in place of the set's: the same columns, in normal form, for more days; None for none.
    """

    no_mined: bool = False
    segments: Segments | None = None
    seed: int | None = None
    values: Path | None = None

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON has it, without what stays as it was; values by their digest."""
        values = self.values and parquet.current_digest(self.values)
        columns: list[str] | None = [] if self.no_mined else None  # those that stay
        record = {"columns": columns, "segments": self.segments, "seed": self.seed, "values": values}
        return {name: value for name, value in record.items() if value is not None}


def train_again(
    of: Path,
    change: Change,
    keep: tuple[int, ...] = (),
    threads: int | None = None,
    is_wanted: Callable[[], bool] = lambda: True,
) -> Path:
    """Train a recorded model again, in Qlib's environment, and return the new workspace, beside the model's.

    What was trained before is not trained once more: the workspace is named after the training and the
    change, and the threads where there is a seed: its bits are those of a number of threads. Its manifest has
    `retrained`, and `sota_output.txt` is what RD-Agent and Qlib said. A process that trains the same waits.

    Args:
        of: The workspace of a model that was trained with the factors.
        change: What is to differ.
        keep: Descriptors that stay open until all processes of the training are gone.
        threads: The number of torch's threads; None for what the environment, or else torch, chooses.
        is_wanted: Ends the training where it says False.

    Raises:
        ResultError: if there is no training to repeat, it can't be read, or the new one gave no result.
        FactorFileNotFoundError, SetChangedError: if the set's file is gone, or is another one.
        ChoiceError: if nothing is left to train on.
        HandOffError: if Qlib loaded something else than the manifest would claim.
        SeamError: if the recorded configuration has a form that is not known.
        StoreError: if a file can't be read or written.
    """
    read_settings()  # what is wrong there is told here, and not by the child
    of = of.absolute()
    training, before = training_record.read_training(of), manifest.read(of, whole=True)
    retrained = {"of": of.name, "recorder": training.run.name, "change": change.as_record()}
    seeded = change.seed is not None
    named = {**retrained, **({"threads": threads} if seeded and threads else {})}
    workspace = of.parent / hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()[:32]
    if (workspace / manifest.MANIFEST_FILE).is_file():  # it is written last
        return workspace
    mined = () if change.no_mined else before.mined
    whole_base = BaseSet(before.base_name, tuple((before.features or {}).items()))
    base = whole_base.without(mined)
    if not mined and not base.features:
        fact = "Without mined columns the model has nothing to train on: it had no base set"
        fix = "leave the model out; USE_ALPHA_FACTORS=true adds a base set to a run"
        raise ChoiceError(fact, str(of / manifest.MANIFEST_FILE), fix)
    factor_set = _factor_set(of, before, change.values) if mined else None
    factors = "no factor set" if factor_set is None else f"factor set {factor_set['digest']}"
    note = one_line(f"{factors}, base set {base.name} sha256:{base.digest}")
    base_alone = base if change.no_mined else None
    config = edits.changed_yaml(training.config, note, base_alone, change.segments, seeded=seeded)
    task = model_yaml.read_task(config, {})
    with (
        store.failing_at(of, ("The model can't be trained again", child.MAKE_ROOM)),
        _alone(workspace, is_wanted) as lock,
    ):
        if (workspace / manifest.MANIFEST_FILE).is_file():  # by the process that was waited for
            return workspace
        if factor_set is not None:
            how = place_set(change.values or of / FACTOR_FILE, workspace)
            factor_set["stored"] = factor_set["stored"] and {**factor_set["stored"], "placed_as": how}
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
        claim = {"retrained": retrained, "model": before.model, "factor_set": factor_set}
        trained = manifest.of_training(mined, whole_base, task, loaded, files.read_json(answer))
        manifest.write_manifest(workspace, {**claim, **trained, "threads": threads})
    return workspace


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


def _factor_set(of: Path, before: manifest.Recorded, values: Path | None) -> dict[str, Any]:
    """Return what the new manifest says of the set; refuse one that is not the one that it was."""
    factor_set = dict(before.factor_set or {})
    if values is None:
        own_set(of, before.stored)
        return factor_set
    footer = parquet.read_footer(values)
    days = {"start": str(footer.start), "end": str(footer.end), "rows": footer.rows}
    place = {"path": str(values), "digest": parquet.current_digest(values)}
    return {**factor_set, **place, **days, "stored": place}


def own_set(of: Path, digest: str | None) -> Path:
    """Return the factor file in a model's workspace.

    Args:
        of: The workspace.
        digest: That of the file that the model was trained on; None for one that is not known.

    Raises:
        FactorFileNotFoundError, SetChangedError: if it is gone, or another one.
    """
    file = of / FACTOR_FILE
    if not file.is_file():
        fact = f"SOTA factors file not found: {file}, though the model was trained with it"
        raise FactorFileNotFoundError(fact, str(file), "put the file back, or leave the model out")
    if digest and (now := parquet.current_digest(file)) != digest:
        fact = f"The factor file is not the one that the model was trained on: that has {digest}, this {now}"
        raise SetChangedError(fact, str(file), "put that file back, or leave the model out")
    return file


def place_set(file: Path, folder: Path) -> files.How:
    """Put a factor file where Qlib is to read it; RD-Agent would change its mode through a link in Docker."""
    return files.place(file, folder / FACTOR_FILE, link=not docker.is_qlib_in_docker())

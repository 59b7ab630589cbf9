"""A recorded model made into a bundle: plain files in place of Qlib's pickles, tried before they are kept."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.check.execute_factor import flat
from rdagent_sota_bridge.errors import OTHER_RELEASE, BundleError, FreshValuesError, SeamError, SessionError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import bundle, child, edits, fresh
from rdagent_sota_bridge.models.predict import predict_again
from rdagent_sota_bridge.models.retrain import own_set, place_set
from rdagent_sota_bridge.qlib_files import manifest, training_record
from rdagent_sota_bridge.qlib_files.training_record import MODEL_FILE
from rdagent_sota_bridge.system import files

_README = resources.files("rdagent_sota_bridge.models") / "bundle.md"


@dataclass(frozen=True)
class Exported:
    """A bundle, ready to be written.

    Attributes:
        content: Its bytes.
        rows: How many scores of the test segment it was compared in.
        difference: The largest difference from those that Qlib recorded; 0.0 for the same bits.
    """

    content: bytes
    rows: int
    difference: float


def make(of: Path) -> Exported:
    """Return the bundle of a recorded model, after its plain files have predicted the test segment.

    Args:
        of: The model's workspace; a folder in it is used, and removed.

    Raises:
        ResultError: if there is no training, or it can't be read.
        FactorFileNotFoundError, SetChangedError: if the file of the set is gone, or is another one.
        SeamError: if the recorded configuration has a form that is not known.
        BundleError: if the plain files do not predict what the model does, or hold a path of this machine.
        StoreError: if a file can't be read or written.
    """
    of = of.absolute()
    training, recorded = training_record.read_training(of), training_record.read(of)
    if recorded is None or recorded.base_names is None:
        place = str(training.run / "artifacts" / "task")
        raise SeamError("What Qlib recorded has a form that is not known", place, OTHER_RELEASE)
    record = manifest.read(of)
    values = pd.DataFrame()
    if training.has_factor_file:
        values = flat(parquet.read_whole(own_set(of, record.stored)))
    mined = tuple(values.columns)
    with child.folder_in(of, "The model can't be exported") as folder:
        if training.has_factor_file:
            place_set(of / FACTOR_FILE, folder)
        for part in ("dataset", "params.pkl", "pred.pkl"):
            shutil.copyfile(training.run / "artifacts" / part, folder / part)
        columns = sorted({*recorded.base_names, *mined})  # as Qlib's `NestedDataLoader` sorts them
        contents = {
            bundle.SCRIPT: child.script_text("sota_bundle.py"),
            bundle.CODE: files.read_text(of / MODEL_FILE),
            bundle.TASK: edits.plain_yaml(_task(training.config)),
        }
        for member, text in contents.items():
            (folder / member).write_text(text, encoding="utf-8")
        fact = "The model can't be exported: as plain files it predicts nothing"
        versions = child.ask_qlib(folder, "sota_export.py", {"columns": columns}, fact)
        scores, before = (
            pd.read_parquet(folder / file)["score"] for file in ("scores.parquet", "recorded.parquet")
        )
        made = {
            member: (folder / member).read_bytes() for member in bundle.MEMBERS if member != bundle.README
        }
    if not _same_bits(scores, before):
        _check_network(scores, of)  # the data may have changed
    runs = []
    for mining, code in _runs(of, record, values):
        for name, text in code.items():
            member = mining["code"][name] = f"{bundle.FACTOR_CODE}{len(made)}.py"
            made[member] = text.encode()
        runs.append(mining)
    about: dict[str, Any] = {"model": record.model or {}, "set_digest": record.digest or "", "mined": mined}
    about |= {"runs": runs, "versions": versions}
    made[bundle.README] = _readme(about).encode()
    _check_private(made, of)
    content = bundle.pack(
        {"made_by": f"rdagent-sota-bridge {__version__}", "form": bundle.FORM, **about}, made
    )
    return Exported(content, len(scores), float((scores - before).abs().max()))


def _task(config: dict[str, Any]) -> dict[str, Any]:
    """Return what the predictions need of a recorded configuration: a folder below HOME is named so."""
    start = dict(config["qlib_init"])
    provider, home = Path(str(start["provider_uri"])), Path.home()
    if provider.is_relative_to(home):
        start["provider_uri"] = str("~" / provider.relative_to(home))
    return {"qlib_init": start, **{name: config["task"][name] for name in ("model", "dataset")}}


def _check_network(scores: pd.Series, of: Path) -> None:
    now = predict_again(of)["score"]
    if not _same_bits(scores, now):
        fact = "The network keeps what its weights (state_dict) do not hold: from its plain files the scores "
        fact += f"differ by up to {(scores - now).abs().max():.3g}"
        fix = "let it keep such values by register_buffer, and train it again"
        raise BundleError(fact, str(of / MODEL_FILE), fix)


def _same_bits(one: pd.Series, other: pd.Series) -> bool:
    return bool(one.index.equals(other.index) and one.to_numpy().tobytes() == other.to_numpy().tobytes())


def _runs(
    of: Path, record: manifest.Recorded, values: pd.DataFrame
) -> Iterator[tuple[dict[str, Any], dict[str, str]]]:
    """Yield of each run that mined columns of a set what the bundle says, and the factors' code by name.

    A run whose log is gone, or not signed, is left out.
    """
    for source in fresh.sources_of(record, tuple(values.columns)):
        columns = list(source.columns)
        with contextlib.suppress(FreshValuesError, SessionError):
            latest: dict[str, str] = {}
            for one in fresh.mined_by(of, source).codes:
                latest.setdefault(one.name, one.code)
            # A code may give its column another name than the factor's.
            names = columns if set(columns) <= set(latest) else list(latest)
            complete = bool(fresh.rows_of(values, columns).notna().all(axis=None))
            yield {"columns": columns, "complete": complete, "code": {}}, {one: latest[one] for one in names}


def _readme(about: dict[str, Any]) -> str:
    texts = {
        "name": about.get("model", {}).get("name", "a model"),
        "mined": ", ".join(about["mined"]) or "none",
        "versions": ", ".join(f"{name} {version}" for name, version in sorted(about["versions"].items())),
        "script": child.script_text("sota_bundle.py").rstrip(),
    }
    return _README.read_text(encoding="utf-8").format(**texts)


def _check_private(made: dict[str, bytes], of: Path) -> None:
    """Refuse a path of this machine: code that an LLM wrote may name one."""
    for place in {Path.home(), Path.cwd(), of}:
        for member, content in made.items():
            if place.parent != place and f"{place}/".encode() in content:
                fact = f"The bundle would show a path of this machine: {place}, in {member}"
                raise BundleError(fact, str(of), "take it out of the code, and train the model again")

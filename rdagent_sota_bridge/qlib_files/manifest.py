"""The provenance record beside each model run, and the lines that let Qlib's environment contribute to it."""

from __future__ import annotations

import contextlib
import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import Any

from pydantic import AliasPath, BaseModel, Field, TypeAdapter, ValidationError

from rdagent_sota_bridge.errors import HandOffError, ResultError, shortened
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.system.files import read_json, write_whole

MANIFEST_FILE = "sota_manifest.json"
LOADED_FILE = "sota_loaded.json"
MANIFEST_VERSION = 1
LEAST_SPREAD = 1e-11
"""Below this median absolute deviation a column is as good as lost: Qlib's RobustZScoreNorm adds 1e-12."""

# It runs in Qlib's environment, which may be Python 3.8 or a container. The first line marks where it begins.
_PROBE = Path(__file__).parents[1] / "qlib_side" / "loaded.py"


def with_probe(script: str, note: str) -> str:
    """Return RD-Agent's `read_exp_res.py` with the lines at its end that write `LOADED_FILE`; once.

    Args:
        script: RD-Agent's script, or one that has the lines already.
        note: A line of comment for its end. It makes the script differ where the set differs: RD-Agent's key
            for a cached qrun (`utils/env.py`, `ENABLE_CACHE`) has the text of Python files, in 0.8.0 of those
            and not of the YAML.
    """
    probe = _PROBE.read_text(encoding="utf-8")
    before, _, _ = script.partition(probe.partition("\n")[0])
    return f"{before.rstrip()}\n\n\n{probe}# {note}\n"


@dataclass(frozen=True)
class Loaded:
    """What Qlib loaded and trained on, from the artifacts of its own run.

    Attributes:
        columns: The features' names as the network got them, in order; None for LightGBM, which keeps none.
        columns_without_training_values: Those without a single value in the training segment.
        num_features: The input width that Qlib recorded for the model, or None if it recorded none; the
            number of features that LightGBM was trained on.
        versions: Versions in Qlib's environment.
        columns_without_spread: Those whose training values have a median absolute deviation under
            `LEAST_SPREAD`; None, not known, where another processor than RobustZScoreNorm scaled them.
    """

    columns: tuple[str, ...] | None
    columns_without_training_values: tuple[str, ...]
    num_features: int | None
    versions: dict[str, str]
    columns_without_spread: tuple[str, ...] | None = None

    def as_record(self) -> dict[str, Any]:
        """Return it as the manifest shows it: without the versions, which stand elsewhere in it."""
        return {name: value for name, value in asdict(self).items() if name != "versions"}


def read_loaded(workspace: Path) -> Loaded | None:
    """Return what the probe wrote into a model workspace; None if it, or something else, wrote none."""
    try:
        return TypeAdapter(Loaded).validate_python(read_json(workspace / LOADED_FILE))
    except (OSError, ValueError):
        return None


def check_loaded(loaded: Loaded, base: tuple[str, ...], mined: tuple[str, ...], workspace: Path) -> None:
    """Check that Qlib loaded exactly the base and mined columns, and that the network is that wide.

    One mined column without values in the training segment may be so in the file; if all are, they got lost.

    Raises:
        HandOffError: if not; then the result in the workspace is not what the run would claim.
    """
    expected = sorted({*base, *mined})
    problems = []
    columns = expected if loaded.columns is None else sorted(loaded.columns)
    if columns != expected:
        missing, extra = sorted(set(expected) - set(columns)), sorted(set(columns) - set(expected))
        problems.append(f"Qlib loaded {len(columns)} columns; missing: {missing}, not asked for: {extra}")
    if loaded.num_features not in (None, len(columns)):
        problems.append(f"the network is {loaded.num_features} wide for {len(columns)} columns")
    if mined and set(mined) <= set(loaded.columns_without_training_values):
        problems.append(f"no value of the {len(mined)} mined columns reached the training segment")
    if problems:
        raise HandOffError(
            "The model was not trained on the factors: " + "; ".join(problems),
            str(workspace),
            "keep this folder and report it; the run stops, for its result is not what it would claim",
        )


class Source(BaseModel):
    """A file that a set was made of; no path where none is known."""

    columns: tuple[str, ...] = ()
    path: str = ""
    log: str | None = None
    loop: int | None = None


class Recorded(BaseModel):
    """What a manifest says of a model and its set; each is empty or None where it does not say.

    Attributes:
        model: Name and type.
        mined: The mined columns, in order.
        factor_set: All that it says of the set.
        digest: Of the set.
        stored: Of the bytes of the set's copy in the workspace.
        sources: What the set was made of.
        own: Columns that a run of fin_quant replaced by its own.
        base_name: Of the base set.
        features: The base set, whole: expressions by name.
    """

    model: dict[str, Any] | None = None
    mined: tuple[str, ...] = Field((), validation_alias="mined_columns")
    factor_set: dict[str, Any] | None = None
    digest: str | None = Field(None, validation_alias=AliasPath("factor_set", "digest"))
    stored: str | None = Field(None, validation_alias=AliasPath("factor_set", "stored", "digest"))
    sources: tuple[Source, ...] = Field((), validation_alias=AliasPath("factor_set", "sources"))
    own: tuple[str, ...] = Field((), validation_alias=AliasPath("factor_set", "replaced_by_own"))
    base_name: str = Field("", validation_alias=AliasPath("base_set", "name"))
    features: dict[str, str] | None = Field(None, validation_alias=AliasPath("base_set", "features"))


def read(workspace: Path, *, whole: bool = False) -> Recorded:
    """Return what the manifest in a model's workspace says; of a model that RD-Agent gave the set has none.

    Args:
        workspace: The workspace.
        whole: It has to be there, and to name the base set: the training is to be repeated.

    Raises:
        ResultError: if it can't be read.
    """
    file = workspace / MANIFEST_FILE
    try:
        found = Recorded.model_validate(read_json(file) if whole or file.exists() else {})
        if whole and found.features is None:
            raise ValueError("it names no base set")
    except (OSError, ValueError) as error:
        why = "it has another form" if isinstance(error, ValidationError) else shortened(error)
        fact = f"What the model was trained on is not known: no manifest can be read ({why})"
        raise ResultError(fact, str(file), "leave the model out, or train it with the factors") from None
    return found


def versions() -> dict[str, str]:
    """Return the versions of Python, and of this package and its neighbours where they are installed."""
    found = {"python": platform.python_version()}
    for name in ("rdagent-sota-bridge", "rdagent", "pandas", "pyarrow"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found


def of_training(
    mined: Sequence[str], base: BaseSet, task: Task | None, loaded: Loaded | None, batches: dict[str, str]
) -> dict[str, Any]:
    """Return what a manifest says of a training, whatever it is of.

    Args:
        mined: The mined columns.
        base: The base set, whole.
        task: What the YAML names.
        loaded: What Qlib loaded; None where that is not known.
        batches: Where the batches came from.
    """
    return {
        "created": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "mined_columns": list(mined),
        "base_set": {
            "name": base.name,
            "digest": f"sha256:{base.digest}",
            "features": dict(base.features),
            "replaced_by_mined": [name for name in base.names if name in set(mined)],
        },
        "training": None if task is None else task.as_record(),
        "qlib_loaded": None if loaded is None else loaded.as_record(),
        **batches,
        "versions": {
            "rd_agent_side": versions(),
            "qlib_side": {} if loaded is None else loaded.versions,
        },
    }


def write_manifest(workspace: Path, record: dict[str, Any]) -> Path:
    """Write the manifest of a model run into its workspace, whole or not at all, and return its path.

    Raises:
        TypeError, ValueError: if the record holds what JSON can't, NaN included; nothing is written then.
    """
    whole = {"manifest_version": MANIFEST_VERSION, **record}
    text = json.dumps(whole, ensure_ascii=False, indent=2, allow_nan=False)
    write_whole(workspace / MANIFEST_FILE, text + "\n")
    return workspace / MANIFEST_FILE

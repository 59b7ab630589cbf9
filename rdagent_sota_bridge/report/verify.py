"""Whether the models of a run were trained on the factors that their manifests claim."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rdagent_sota_bridge.errors import FactorFileError, SessionError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import base_sets, manifest, model_yaml
from rdagent_sota_bridge.qlib_files.manifest import LOADED_FILE, MANIFEST_FILE
from rdagent_sota_bridge.qlib_files.training_record import QlibRecord
from rdagent_sota_bridge.report.history import Loop, Run

State = Literal["factors", "none", "not trained", "not verified", "broken"]

_HANDED_OVER = "# rdagent-sota-bridge: "  # begins the line that a hand-off writes into the YAML
_MINES = ("fin_factor", "fin_factor_report")
_UNKNOWN_FORM = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)

Finding = tuple[bool, str]
"""One look at a claim: whether it agrees, and what was seen."""


@dataclass(frozen=True)
class Verification:
    """What can be shown of one model loop.

    Attributes:
        loop: The number of the loop; None where the session does not say.
        name: The model's name.
        state: `factors`: claims them and has them. `none`: claims none. `not trained`: failed or not
            finished. `not verified`: release 0.1.0 let RD-Agent's cache answer. `broken`: claims what the
            rest contradicts, or what nothing is left to show.
        text: One sentence with the figures.
        digest: The factor set that it claims; empty for none.
        evidence: What agrees with the claim; each is looked up outside of the manifest.
        contradictions: What does not.
        workspace: The workspace folder; None where it is gone or was never made.
    """

    loop: int | None
    name: str
    state: State
    text: str
    digest: str = ""
    evidence: tuple[str, ...] = ()
    contradictions: tuple[str, ...] = ()
    workspace: Path | None = None

    @property
    def holds(self) -> bool:
        """False where the loop claims what can't be shown."""
        return self.state not in ("broken", "not verified")


@dataclass(frozen=True)
class _Claim:
    """What a manifest claims.

    Attributes:
        digest: The factor set.
        stored: The digest of the file in the workspace; None where it names none.
        mined: The mined columns.
        base: The base features beside them.
        loaded: The columns that Qlib is said to have loaded; None where that was not read back.
        from_cache: True where RD-Agent is said to have answered from its cache.
    """

    digest: str
    stored: str | None
    mined: tuple[str, ...]
    base: base_sets.BaseSet
    loaded: tuple[str, ...] | None
    from_cache: bool

    @property
    def columns(self) -> list[str]:
        """All that the network is to see, sorted."""
        return sorted({*self.base.names, *self.mined})

    @property
    def shown(self) -> str:
        """The claim in a few words."""
        parts = f"{len(self.mined)} mined + {len(self.base.names)} base = {len(self.columns)} columns"
        return f"factor set {self.digest[:19]} ({parts})"


def verify(run: Run) -> list[Verification]:
    """Return what can be shown of every model loop of a run, in the order of the loops.

    Raises:
        SessionError: if the run has no model loop.
    """
    models = [] if run.command in _MINES else [loop for loop in run.loops if loop.kind != "factor"]
    if not models:
        mines = run.command in _MINES or any(loop.kind == "factor" for loop in run.loops)
        raise SessionError(
            f"The log is one of {run.command}, which has mined factors and trained no model: "
            "there is nothing to verify"
            if mines
            else f"The run of {run.command} has begun no loop: there is nothing to verify",
            str(run.log),
            "name the log folder of a run that trained models, or `latest`",
        )
    found = [_verify(loop) for loop in models]
    claiming = sum(bool(one.digest) for one in found)
    without = (
        f"; {claiming} other loop(s) of this run claim factors, and this one has none: "
        "SOTA_ON_ERROR=baseline trains without them"
    )
    return [
        replace(one, text=one.text + without) if claiming and one.state == "none" else one for one in found
    ]


def _verify(loop: Loop) -> Verification:
    workspace = loop.workspace
    unknown = Verification(loop.number, loop.name, "broken", "", workspace=workspace)
    if workspace is None or not (workspace / MANIFEST_FILE).is_file():
        state, text = _without_claim(loop)
        return replace(unknown, state=state, text=text, contradictions=(text,) * (state == "broken"))
    try:
        claim = _claim(loop.manifest)
    except _UNKNOWN_FORM as error:
        trouble = f"{MANIFEST_FILE} can't be read, or has a form that is not known: {_one_line(error)}"
        return replace(unknown, text=f"what it claims is not known: {trouble}", contradictions=(trouble,))
    unknown = replace(unknown, digest=claim.digest)
    if claim.from_cache:
        text = "answered from RD-Agent's cache by release 0.1.0: not verified"
        return replace(unknown, state="not verified", text=text, contradictions=(text,))
    findings = tuple(_findings(workspace, claim, loop.record))
    against = tuple(text for agrees, text in findings if not agrees)
    return replace(
        unknown,
        state="broken" if against else "factors",
        text=f"claims {claim.shown}, which is not shown: {'; '.join(against)}"
        if against
        else f"trained on {claim.shown}",
        evidence=tuple(text for agrees, text in findings if agrees),
        contradictions=against,
    )


def _without_claim(loop: Loop) -> tuple[State, str]:
    """Return what is shown of a loop that has no manifest."""
    record = loop.record
    if record is None and not loop.metrics:
        return "not trained", _one_line(loop.failure)
    if loop.workspace is None:
        return "broken", "its workspace is gone, and with it all that could show what it was trained on"
    if record is None:
        return "none", "claims no factors; Qlib recorded no training here: RD-Agent answered from its cache"
    width = record.num_features
    wide = "input width not recorded" if width is None else f"input width {width}"
    if not record.has_factor_file:
        return "none", f"trained without factors, and claims none ({wide})"
    if _HANDED_OVER in _yaml(loop.workspace):
        if not loop.metrics:
            return "not trained", _one_line(loop.failure)
        return "broken", (
            f"{model_yaml.CONFIG_FILE} names a set that was handed over, and no {MANIFEST_FILE} is beside it"
        )
    return "none", f"claims no handed-over set; Qlib read a {FACTOR_FILE} that this run itself made ({wide})"


def _claim(content: Any) -> _Claim:
    """Return what a manifest claims.

    Raises:
        AttributeError, IndexError, KeyError, TypeError, ValueError: if it has another form.
    """
    if content["manifest_version"] != manifest.MANIFEST_VERSION:
        raise ValueError(f"manifest_version is {content['manifest_version']}")
    from_cache = content.get("from_cache", False)  # release 0.1.0 wrote it
    if not isinstance(from_cache, bool):
        raise TypeError("from_cache is neither true nor false")
    factor_set, base, loaded = content["factor_set"], content["base_set"], content["qlib_loaded"]
    whole = base_sets.BaseSet(
        str(base["name"]), tuple((str(name), str(text)) for name, text in base["features"].items())
    )
    if base["digest"] != f"sha256:{whole.digest}":
        raise ValueError("its base set's features are not those of its digest")
    # Manifests of 0.1.0 name no stored file: of them the columns of the file are compared alone.
    stored, mined = factor_set.get("stored"), _names(content["mined_columns"])
    claim = _Claim(
        digest=str(factor_set["digest"]),
        stored=None if stored is None else str(stored["digest"]),
        mined=mined,
        base=whole.without(mined),
        loaded=None if loaded is None else _names(loaded["columns"]),
        from_cache=from_cache,
    )
    if not re.fullmatch("sha256:[0-9a-f]{64}", claim.digest) or not mined:
        raise ValueError("it names no factor set")
    if not set(_names(factor_set["columns"])) <= set(mined):
        raise ValueError("the set has columns that are not among the mined ones")
    if loaded is not None and loaded["num_features"] not in (None, len(claim.columns)):
        raise ValueError(f"num_features is {loaded['num_features']} for {len(claim.columns)} columns")
    return claim


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{value!r} in place of a list of names")
    return tuple(value)


# --- what a training left ---


def _findings(workspace: Path, claim: _Claim, record: QlibRecord | None) -> Iterator[Finding]:
    """Yield every look at a claim, each at something that the manifest's author did not write into it."""
    yield _file(workspace, claim)
    text = _yaml(workspace)
    for kind, name in (
        ("factor", claim.digest),
        ("base", f"{claim.base.name} sha256:{claim.base.digest}"),
    ):
        named = f"{kind} set {name}" in text
        yield (
            named,
            f"{model_yaml.CONFIG_FILE} {'names' if named else 'does not name'} the claimed {kind} set",
        )
    if record is None:
        yield False, "Qlib recorded no finished training in its workspace"
    else:
        yield from _recorded(claim, record)
    yield from _loaded(workspace, claim, record)


def _yaml(workspace: Path) -> str:
    """Return the text of the YAML that the hand-off wrote; empty where none can be read."""
    try:
        return (workspace / model_yaml.CONFIG_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _file(workspace: Path, claim: _Claim) -> Finding:
    file = workspace / FACTOR_FILE
    if not file.is_file():
        return False, f"no {FACTOR_FILE} is in its workspace"
    try:
        columns = parquet.read_footer(file).columns
        digest = None if claim.stored is None else parquet.current_digest(file)
    except FactorFileError as error:
        return False, f"its {FACTOR_FILE} can't be read: {_one_line(error.failures[0])}"
    if sorted(columns) != sorted(claim.mined):
        return False, f"its {FACTOR_FILE} has the columns {_few(columns)}, not {_few(claim.mined)}"
    if digest != claim.stored:
        return False, f"its {FACTOR_FILE} is another file ({digest}, not {claim.stored})"
    by = "columns" if claim.stored is None else "digest and columns"
    return True, f"{FACTOR_FILE} is the claimed one, by {by}"


def _recorded(claim: _Claim, record: QlibRecord) -> Iterator[Finding]:
    """Compare a claim with what Qlib recorded of its training."""
    yield from ((False, doubt) for doubt in record.doubts)
    width, wanted = record.num_features, len(claim.columns)
    yield width == wanted, f"Qlib recorded an input width of {width}" + f", not {wanted}" * (width != wanted)
    read = "read" if record.has_factor_file else "read no"
    yield bool(record.has_factor_file), f"Qlib's data loader {read} {FACTOR_FILE}"
    if record.base_names is not None and sorted(record.base_names) == sorted(claim.base.names):
        yield True, f"Qlib's data loader was given the {len(claim.base.names)} base features"
    else:
        given = "unknown base features" if record.base_names is None else _few(record.base_names) or "none"
        yield False, f"Qlib's data loader was given {given}, not the claimed base set"
    if record.config_file == model_yaml.CONFIG_FILE:
        yield True, f"qrun was started with {record.config_file}"
    else:
        started = record.config_file or "a file that it did not record"
        yield False, f"qrun was started with {started}, not {model_yaml.CONFIG_FILE}"


def _loaded(workspace: Path, claim: _Claim, record: QlibRecord | None) -> Iterator[Finding]:
    """Look at what was read back of the data that Qlib trained on."""
    try:
        loaded = manifest.read_loaded(workspace)
        recorder = loaded and json.loads((workspace / LOADED_FILE).read_text(encoding="utf-8"))["recorder"]
    except (OSError, *_UNKNOWN_FORM) as error:
        yield False, f"{LOADED_FILE} can't be read: {_one_line(error)}"
        return
    if loaded is None:
        if claim.loaded is not None:
            yield False, f"{LOADED_FILE}, which says what Qlib loaded, is gone"
        return
    claimed = claim.columns if claim.loaded is None else sorted(claim.loaded)
    columns = sorted(loaded.columns or ())
    if columns == claimed == claim.columns:
        yield True, f"the data that Qlib trained on has the {len(columns)} claimed columns"
    else:
        others = sorted((set(columns) ^ set(claim.columns)) | (set(claimed) ^ set(claim.columns)))
        yield False, f"the data that Qlib trained on has other columns: {_few(others)}"
    empty = [name for name in claim.mined if name in loaded.columns_without_training_values]
    if empty:
        yield False, f"no value of the mined columns {_few(empty)} was in the training segment"
    if record is not None and recorder != record.recorder:
        yield False, f"{LOADED_FILE} is of another training ({recorder}, not {record.recorder})"


# --- texts ---


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]

"""Whether the models of a run were trained on the factors that their manifests claim."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from rdagent_sota_bridge import alpha, factors, manifest, qlib_config
from rdagent_sota_bridge.errors import FactorFileError, SessionError
from rdagent_sota_bridge.history import Loop, Run
from rdagent_sota_bridge.locate import FACTOR_FILE
from rdagent_sota_bridge.manifest import LOADED_FILE, MANIFEST_FILE
from rdagent_sota_bridge.qlib_record import Record

State = Literal["factors", "cached", "none", "not trained", "broken"]

_NOTE = "# rdagent-sota-bridge:"
_MINES = ("fin_factor", "fin_factor_report")
_UNKNOWN_FORM = (AttributeError, IndexError, KeyError, RecursionError, TypeError, ValueError)


@dataclass(frozen=True)
class Verdict:
    """What can be shown of one model loop.

    Attributes:
        loop: The number of the loop; None where the session does not tell.
        name: The model's name.
        state: `factors`: claims them and has them. `cached`: claims them, and was
            answered from RD-Agent's cache by release 0.1.0. `none`: claims none. `not trained`: failed or not
            finished. `broken`: claims what the rest contradicts, or what nothing is left to show.
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
        return self.state not in ("broken", "cached")


@dataclass(frozen=True)
class _Claim:
    """What a manifest claims.

    Attributes:
        digest: The factor set.
        stored: The digest of the file in the workspace; None where it tells of none.
        mined: The mined columns.
        base: The base features beside them.
        base_digest: The base set, whole.
        loaded: The columns that Qlib is said to have loaded; None where that was not read back.
        from_cache: True where RD-Agent is said to have answered from its cache.
    """

    digest: str
    stored: str | None
    mined: tuple[str, ...]
    base: alpha.BaseSet
    base_digest: str
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


@dataclass(frozen=True)
class _Finding:
    """One look at a claim: whether it agrees, and what was seen."""

    agrees: bool
    text: str


def verify(run: Run) -> list[Verdict]:
    """Return a verdict on every model loop of a run, in the order of the loops.

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
    verdicts = [_verdict(loop) for loop in models]
    claiming = sum(bool(one.digest) for one in verdicts)
    without = (
        f"; {claiming} other loop(s) of this run claim factors, and this one has none: "
        "SOTA_ON_ERROR=baseline goes on without them"
    )
    return [
        replace(one, text=one.text + without) if claiming and one.state == "none" else one for one in verdicts
    ]


def _verdict(loop: Loop) -> Verdict:
    verdict = Verdict(loop.number, loop.name, "broken", "", workspace=loop.workspace)
    has_manifest = loop.workspace is not None and (loop.workspace / MANIFEST_FILE).is_file()
    if loop.workspace is None or not has_manifest:
        return _without_claim(loop, verdict)
    try:
        claim = _claim(loop.manifest)
    except _UNKNOWN_FORM as error:
        trouble = f"{MANIFEST_FILE} can't be read, or has a form that is not known: {_one_line(error)}"
        return replace(verdict, text=f"what it claims can't be told: {trouble}", contradictions=(trouble,))
    verdict = replace(verdict, digest=claim.digest)
    if claim.from_cache:
        text = f"claims {claim.shown}, answered from RD-Agent's cache by release 0.1.0: not verified"
        return replace(verdict, state="cached", text=text, contradictions=("nothing was trained for it",))
    return _of_findings(verdict, claim, tuple(_findings(loop.workspace, claim, loop.record)))


def _of_findings(verdict: Verdict, claim: _Claim, findings: tuple[_Finding, ...]) -> Verdict:
    against = tuple(found.text for found in findings if not found.agrees)
    verdict = replace(
        verdict,
        evidence=tuple(found.text for found in findings if found.agrees),
        contradictions=against,
    )
    if not against:
        return replace(verdict, state="factors", text=f"trained on {claim.shown}")
    return replace(verdict, text=f"claims {claim.shown}, which is not shown: {'; '.join(against)}")


def _without_claim(loop: Loop, verdict: Verdict) -> Verdict:
    """Return the verdict on a loop that has no manifest."""
    if loop.record is None and not loop.metrics:
        return replace(verdict, state="not trained", text=_one_line(loop.failure))
    if loop.workspace is None:
        text = "its workspace is gone, and with it all that could show what it was trained on"
        return replace(verdict, contradictions=(text,), text=text)
    note = _note_in(loop.workspace)
    if note and loop.record is not None and loop.record.has_factor_file:
        if not loop.metrics:
            return replace(verdict, state="not trained", text=_one_line(loop.failure))
        text = f"{qlib_config.CONFIG_FILE} names a {_one_line(note)}, and no {MANIFEST_FILE} is beside it"
        return replace(verdict, contradictions=(text,), text=text)
    if loop.record is None:
        text = "claims no factors; Qlib recorded no training here: RD-Agent answered from its cache"
        return replace(verdict, state="none", text=text)
    width = loop.record.num_features
    wide = "input width not recorded" if width is None else f"input width {width}"
    if loop.record.has_factor_file:
        text = f"claims no handed-over set; Qlib read a {FACTOR_FILE} that this run itself made ({wide})"
    else:
        text = f"trained without factors, and claims none ({wide})"
    return replace(verdict, state="none", text=text)


def _claim(content: Any) -> _Claim:
    """Return what a manifest claims.

    Raises:
        AttributeError, IndexError, KeyError, TypeError, ValueError: if it has another form.
    """
    if content["manifest_version"] != manifest.MANIFEST_VERSION:
        raise ValueError(f"manifest_version is {content['manifest_version']}")
    from_cache = content.get("from_cache", False)  # in manifests of release 0.1.0 alone
    if not isinstance(from_cache, bool):
        raise TypeError("from_cache is neither true nor false")
    told, base = content["factor_set"], content["base_set"]
    whole = alpha.BaseSet(
        str(base["name"]), tuple((str(name), str(text)) for name, text in base["features"].items())
    )
    if base["digest"] != f"sha256:{whole.digest}":
        raise ValueError("its base set's features are not those of its digest")
    # Manifests of 0.1.0 tell of no stored file: of them the columns of the file are compared alone.
    stored, loaded, mined = told.get("stored"), content["qlib_loaded"], _names(content["mined_columns"])
    claim = _Claim(
        digest=str(told["digest"]),
        stored=None if stored is None else str(stored["digest"]),
        mined=mined,
        base=whole.without(mined),
        base_digest=whole.digest,
        loaded=None if loaded is None else _names(loaded["columns"]),
        from_cache=from_cache,
    )
    if not claim.digest.startswith("sha256:") or not mined:
        raise ValueError("it names no factor set")
    if not set(_names(told["columns"])) <= set(mined):
        raise ValueError("the set has columns that are not among the mined ones")
    if loaded is not None and loaded["num_features"] not in (None, len(claim.columns)):
        raise ValueError(f"num_features is {loaded['num_features']} for {len(claim.columns)} columns")
    return claim


def _names(value: Any) -> tuple[str, ...]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise TypeError(f"{value!r} in place of a list of names")
    return tuple(value)


# --- what a training left ---


def _findings(workspace: Path, claim: _Claim, record: Record | None) -> Iterator[_Finding]:
    """Yield every look at a claim, each at something that the manifest's author did not write into it."""
    yield _file(workspace, claim)
    yield _note(workspace, claim)
    if record is None:
        yield _Finding(False, "Qlib recorded no finished training in its workspace")
    else:
        yield from _recorded(claim, record)
    yield from _loaded(workspace, claim, record)


def _file(workspace: Path, claim: _Claim) -> _Finding:
    file = workspace / FACTOR_FILE
    if not file.is_file():
        return _Finding(False, f"no {FACTOR_FILE} is in its workspace")
    try:
        columns = factors.read_footer(file).columns
        digest = None if claim.stored is None else factors.current_digest(file)
    except FactorFileError as error:
        return _Finding(False, f"its {FACTOR_FILE} can't be read: {_one_line(error.failures[0])}")
    if sorted(columns) != sorted(claim.mined):
        return _Finding(False, f"its {FACTOR_FILE} has the columns {_few(columns)}, not {_few(claim.mined)}")
    if digest != claim.stored:
        return _Finding(False, f"its {FACTOR_FILE} is another file ({digest}, not {claim.stored})")
    by = "columns" if claim.stored is None else "digest and columns"
    return _Finding(True, f"{FACTOR_FILE} is the claimed one, by {by}")


def _note_in(workspace: Path) -> str:
    """Return what the hand-off wrote into the YAML; empty where it wrote nothing, or there is none."""
    try:
        text = (workspace / qlib_config.CONFIG_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):  # the look at a claim tells; without one nothing was handed over
        return ""
    notes = (line for line in text.splitlines() if line.startswith(_NOTE))
    return next(notes, "").removeprefix(_NOTE).strip()


def _note(workspace: Path, claim: _Claim) -> _Finding:
    """Look at the sets that the YAML names: the hand-off wrote them there for RD-Agent's own cache."""
    file = workspace / qlib_config.CONFIG_FILE
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        return _Finding(False, f"{file.name} can't be read: {_one_line(error)}")
    note = next((line for line in text.splitlines() if line.startswith(_NOTE)), "")
    told = note.removeprefix(_NOTE).strip().split(", ")
    if f"factor set {claim.digest}" not in told:
        return _Finding(
            False, f"{file.name} does not name the claimed factor set ({note or 'it names none'})"
        )
    if f"base set {claim.base.name} sha256:{claim.base.digest}" not in told:
        return _Finding(False, f"{file.name} does not name the claimed base set ({note})")
    return _Finding(True, f"{file.name} names the claimed factor set and base set")


def _recorded(claim: _Claim, record: Record) -> Iterator[_Finding]:
    yield from (_Finding(False, doubt) for doubt in record.doubts)
    width = len(claim.columns)
    if record.num_features == width:
        yield _Finding(True, f"Qlib recorded an input width of {width}")
    else:
        yield _Finding(False, f"Qlib recorded an input width of {record.num_features}, not {width}")
    if record.has_factor_file:
        yield _Finding(True, f"Qlib's data loader read {FACTOR_FILE}")
    else:
        yield _Finding(False, f"Qlib's data loader read no {FACTOR_FILE}")
    if record.base_names is not None and sorted(record.base_names) == sorted(claim.base.names):
        yield _Finding(True, f"Qlib's data loader was given the {len(claim.base.names)} base features")
    else:
        given = "unknown base features" if record.base_names is None else _few(record.base_names) or "none"
        yield _Finding(False, f"Qlib's data loader was given {given}, not the claimed base set")
    if record.base_expressions is not None and record.base_names is not None:
        given_features = dict(zip(record.base_names, record.base_expressions, strict=False))
        claimed = {name: text for name, text in claim.base.features if name in given_features}
        others = [name for name, text in claimed.items() if not _same_text(given_features[name], text)]
        if others:
            yield _Finding(False, f"Qlib's data loader was given other expressions of {_few(others)}")
    if record.config_file == qlib_config.CONFIG_FILE:
        yield _Finding(True, f"qrun was started with {record.config_file}")
    else:
        started = record.config_file or "a file that it did not record"
        yield _Finding(False, f"qrun was started with {started}, not {qlib_config.CONFIG_FILE}")


def _loaded(workspace: Path, claim: _Claim, record: Record | None) -> Iterator[_Finding]:
    """Look at what was read back of the data that Qlib trained on."""
    try:
        loaded = manifest.read_loaded(workspace)
        recorder = (_json(workspace / LOADED_FILE) or {}).get("recorder")
    except (OSError, *_UNKNOWN_FORM) as error:
        yield _Finding(False, f"{LOADED_FILE} can't be read: {_one_line(error)}")
        return
    if loaded is None:
        if claim.loaded is not None:
            yield _Finding(False, f"{LOADED_FILE}, which tells what Qlib loaded, is gone")
        return
    told = None if claim.loaded is None else sorted(claim.loaded)
    columns = loaded.columns or ()
    if sorted(columns) == claim.columns and told in (None, claim.columns):
        yield _Finding(True, f"the data that Qlib trained on has the {len(claim.columns)} claimed columns")
    else:
        others = sorted(set(columns) ^ set(claim.columns) | set(told or claim.columns) ^ set(claim.columns))
        yield _Finding(False, f"the data that Qlib trained on has other columns: {_few(others)}")
    empty = [name for name in claim.mined if name in loaded.columns_without_training_values]
    if empty:
        yield _Finding(False, f"no value of the mined columns {_few(empty)} was in the training segment")
    if record is not None and recorder != record.recorder:
        yield _Finding(False, f"{LOADED_FILE} is of another training ({recorder}, not {record.recorder})")


def _same_text(one: str, other: str) -> bool:
    """Tell whether two expressions are the same, but for their spaces."""
    return "".join(one.split()) == "".join(other.split())


# --- texts ---


def _json(file: Path) -> Any:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _one_line(text: object) -> str:
    return " ".join(str(text).split())[:200]

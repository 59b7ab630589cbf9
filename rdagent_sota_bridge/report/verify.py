"""Whether the models of a run were trained on the factors that their manifests claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from pydantic import AliasPath, BaseModel, ConfigDict, Field, ValidationError, model_validator

from rdagent_sota_bridge.errors import FactorFileError, SessionError, plural, short_digest, shortened
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.qlib_files.manifest import LOADED_FILE, MANIFEST_FILE, MANIFEST_VERSION
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from rdagent_sota_bridge.qlib_files.training_record import QlibRecord
from rdagent_sota_bridge.report import ablation
from rdagent_sota_bridge.report.history import Loop, Run
from rdagent_sota_bridge.system import files

State = Literal["factors", "base set alone", "none", "not trained", "not verified", "broken"]

_HANDED_OVER = "# rdagent-sota-bridge: "  # begins the line that a hand-off writes into the YAML

Finding = tuple[bool, str]  # one look at a claim: whether it agrees, and what was seen


@dataclass(frozen=True)
class Verification:
    """What can be shown of one model loop.

    Attributes:
        loop: The number of the loop; None where the session does not say.
        name: The model's name.
        state: `factors`: claims them and has them. `base set alone`: a model that was trained again without
            the mined columns, shown to have none. `none`: claims none. `not trained`: failed or not
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


# --- the form of a claim ---


class _Claim(BaseModel):
    """What a manifest claims; `stored` and `loaded` are None where it says nothing of them."""

    model_config = ConfigDict(strict=True)

    version: int = Field(validation_alias="manifest_version")
    digest: str = Field(
        "", validation_alias=AliasPath("factor_set", "digest"), pattern="^sha256:[0-9a-f]{64}$"
    )
    chosen: list[str] | None = Field(None, validation_alias=AliasPath("factor_set", "columns"))
    stored: str | None = Field(None, validation_alias=AliasPath("factor_set", "stored", "digest"))
    mined: list[str] = Field(validation_alias="mined_columns")
    base_name: str = Field(validation_alias=AliasPath("base_set", "name"))
    base_digest: str = Field(validation_alias=AliasPath("base_set", "digest"))
    features: dict[str, str] = Field(validation_alias=AliasPath("base_set", "features"))
    loaded: list[str] | None = Field(None, validation_alias=AliasPath("qlib_loaded", "columns"))
    width: int | None = Field(None, validation_alias=AliasPath("qlib_loaded", "num_features"))
    training: dict[str, Any] | None = None  # release 0.1.0 wrote none
    from_cache: bool = False  # release 0.1.0 wrote it
    factor_set: dict[str, Any] | None
    retrained: dict[str, Any] | None = None
    qlib_loaded: dict[str, Any] | None

    @property
    def whole_base(self) -> BaseSet:
        """The base set that was handed over."""
        return BaseSet(self.base_name, tuple(self.features.items()))

    @property
    def base(self) -> BaseSet:
        """The base features beside the mined columns."""
        return self.whole_base.without(self.mined)

    @property
    def columns(self) -> list[str]:
        """All that the network is to see, sorted."""
        return sorted({*self.base.names, *self.mined})

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> _Claim:
        if self.version != MANIFEST_VERSION:
            raise ValueError(f"manifest_version is {self.version}")
        if self.factor_set is None and (self.mined or not self.retrained or not self.features):
            raise ValueError(
                "it names no factor set, and is not of a model trained again on its base set alone"
            )
        if self.factor_set is not None and not (self.digest and self.mined and self.chosen is not None):
            raise ValueError("its factor set has no digest or no columns")
        if self.stored is None and (self.factor_set or {}).get("stored") is not None:
            raise ValueError("its stored file has no digest")
        if self.loaded is None and self.qlib_loaded is not None:
            raise ValueError("what Qlib loaded has no columns")
        if self.base_digest != f"sha256:{self.whole_base.digest}":
            raise ValueError("its base set's features are not those of its digest")
        if not set(self.chosen or ()) <= set(self.mined):
            raise ValueError("the set has columns that are not among the mined ones")
        if self.width not in (None, len(self.columns)):
            raise ValueError(f"num_features is {self.width} for {len(self.columns)} columns")
        return self


class _ReadBack(BaseModel):
    """What the probe read back of a training."""

    recorder: str
    columns: list[str] | None
    columns_without_training_values: list[str]
    num_features: int | None


# --- the verdicts ---


def verify(run: Run) -> list[Verification]:
    """Return what can be shown of every model loop of a run, in the order of the loops.

    Raises:
        SessionError: if the run has no model loop.
    """
    mines = run.command in ("fin_factor", "fin_factor_report")
    models = [loop for loop in run.loops if loop.kind != "factor" and not mines]
    if not models:
        fact = f"The run of {run.command} has begun no loop"
        if mines or run.loops:
            fact = f"The log is one of {run.command}, which has mined factors and trained no model"
        fix = "name the log folder of a run that trained models, or `latest`"
        raise SessionError(f"{fact}: there is nothing to verify", str(run.log), fix)
    found = [_verify(loop) for loop in models]
    claiming = sum(bool(one.digest) for one in found)
    without = (
        f"; factors are claimed by {plural(claiming, 'other loop')} of this run, and this one has none: "
        "SOTA_ON_ERROR=baseline trains without them"
    )
    return [
        replace(one, text=one.text + without) if claiming and one.state == "none" else one for one in found
    ]


def trained_again(run: Run) -> list[Verification]:
    """Return what can be shown of each model of a run that was trained again, as ablation or with a seed."""
    found = []
    for one in ablation.trained_again([run], []):
        loop = run.loops[one.place[1]]
        name = f"{loop.name}, trained again" + ("" if one.seed is None else f" with seed {one.seed}")
        again = Loop(loop.number, "model", name, workspace=one.workspace, manifest=dict(one.manifest))
        found.append(_verify(replace(again, record=training_record.read(one.workspace))))
    return found


def _verify(loop: Loop) -> Verification:
    workspace = loop.workspace
    unknown = Verification(loop.number, loop.name, "broken", "", workspace=workspace)
    if workspace is None or not (workspace / MANIFEST_FILE).is_file():
        state, text = _without_claim(loop)
        return replace(unknown, state=state, text=text, contradictions=(text,) * (state == "broken"))
    try:
        claim = _Claim.model_validate(loop.manifest)
    except ValidationError as error:
        trouble = f"{MANIFEST_FILE} can't be read, or has a form that is not known: {_in_short(error)}"
        return replace(unknown, text=f"what it claims is not known: {trouble}", contradictions=(trouble,))
    unknown = replace(unknown, digest=claim.digest)
    if claim.from_cache:
        text = "answered from RD-Agent's cache by release 0.1.0: not verified"
        return replace(unknown, state="not verified", text=text, contradictions=(text,))
    findings = tuple(_findings(workspace, claim, loop.record))
    against = tuple(text for agrees, text in findings if not agrees)
    parts = f"{len(claim.mined)} mined + {len(claim.base.names)} base = {len(claim.columns)} columns"
    shown = f"factor set sha256:{short_digest(claim.digest)} ({parts})"
    if not claim.mined:
        shown = f"the base set alone, nothing mined ({len(claim.columns)} columns)"
    unproven = f"claims {shown}, which is not shown: {'; '.join(against)}"
    return replace(
        unknown,
        state="broken" if against else "factors" if claim.mined else "base set alone",
        text=unproven if against else f"trained on {shown}",
        evidence=tuple(text for agrees, text in findings if agrees),
        contradictions=against,
    )


def _without_claim(loop: Loop) -> tuple[State, str]:
    """Return what is shown of a loop that has no manifest."""
    record = loop.record
    if record is None and not loop.metrics:
        return "not trained", _in_short(loop.failure)
    if loop.workspace is None:
        return "broken", "its workspace is gone, and with it all that could show what it was trained on"
    if record is None:
        return "none", "claims no factors; Qlib recorded no training here: RD-Agent answered from its cache"
    width = record.num_features
    wide = "input width not recorded" if width is None else f"input width {width}"
    if not record.has_factor_file:
        return "none", f"trained without factors, and claims none ({wide})"
    if _HANDED_OVER not in _yaml(loop.workspace):
        return "none", f"claims no handed-over set; Qlib read a {FACTOR_FILE} of this run itself ({wide})"
    if not loop.metrics:
        return "not trained", _in_short(loop.failure)
    return "broken", f"{CONFIG_FILE} names a set that was handed over, and no {MANIFEST_FILE} is beside it"


# --- what a training left ---


def _findings(workspace: Path, claim: _Claim, record: QlibRecord | None) -> Iterator[Finding]:
    """Yield every look at a claim, each at something that the manifest's author did not write into it."""
    yield _file(workspace, claim)
    text, base = _yaml(workspace), claim.base
    factors = f"factor set {claim.digest}" if claim.mined else "no factor set"
    for kind, name in (("factor", factors), ("base", f"base set {base.name} sha256:{base.digest}")):
        named = name in text
        yield named, f"{CONFIG_FILE} {'names' if named else 'does not name'} the claimed {kind} set"
    if record is None:
        yield False, "Qlib recorded no finished training in its workspace"
    else:
        yield from _recorded(claim, record)
    yield from _read_back(workspace, claim, record)


def _yaml(workspace: Path) -> str:
    """Return the text of the YAML that the hand-off wrote; empty where none can be read."""
    try:
        return files.read_text(workspace / CONFIG_FILE)
    except (OSError, UnicodeDecodeError):
        return ""


def _file(workspace: Path, claim: _Claim) -> Finding:
    file = workspace / FACTOR_FILE
    if not claim.mined:
        return not file.exists(), f"{'a' if file.exists() else 'no'} {FACTOR_FILE} is in its workspace"
    if not file.is_file():
        return False, f"no {FACTOR_FILE} is in its workspace"
    try:
        columns = parquet.read_footer(file).columns
        digest = None if claim.stored is None else parquet.current_digest(file)
    except FactorFileError as error:
        return False, f"its {FACTOR_FILE} can't be read: {_in_short(error.failures[0])}"
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
    yield bool(record.has_factor_file) == bool(claim.mined), f"Qlib's data loader {read} {FACTOR_FILE}"
    names, given = claim.base.names, record.base_names
    if given is not None and sorted(given) == sorted(names):
        yield True, f"Qlib's data loader was given the {len(names)} base features"
    else:
        others = "unknown base features" if given is None else _few(given) or "none"
        yield False, f"Qlib's data loader was given {others}, not the claimed base set"
    started = record.config_file or "a file that it did not record"
    wrong = record.config_file != CONFIG_FILE
    if claim.training:
        trained = {} if record.task is None else record.task.as_record()
        differ = {name: value for name, value in claim.training.items() if trained.get(name) != value}
        text = "; ".join(f"{name} {trained.get(name)}, not {value}" for name, value in differ.items())
        yield not differ, f"Qlib recorded {text or 'the claimed ' + ', '.join(claim.training)}"
    yield not wrong, f"qrun was started with {started}" + f", not {CONFIG_FILE}" * wrong


def _read_back(workspace: Path, claim: _Claim, record: QlibRecord | None) -> Iterator[Finding]:
    """Look at what was read back of the data that Qlib trained on."""
    file = workspace / LOADED_FILE
    if not file.is_file():
        if claim.loaded is not None:
            yield False, f"{LOADED_FILE}, which says what Qlib loaded, is gone"
        return
    try:
        found = _ReadBack.model_validate(files.read_json(file))
    except (OSError, ValueError) as error:
        yield False, f"{LOADED_FILE} can't be read: {_in_short(error)}"
        return
    columns = sorted(found.columns or ())
    claimed = claim.columns if claim.loaded is None else sorted(claim.loaded)
    if columns == claimed == claim.columns:
        yield True, f"the data that Qlib trained on has the {len(columns)} claimed columns"
    else:
        others = sorted((set(columns) ^ set(claim.columns)) | (set(claimed) ^ set(claim.columns)))
        yield False, f"the data that Qlib trained on has other columns: {_few(others)}"
    empty = [name for name in claim.mined if name in found.columns_without_training_values]
    if empty:
        yield False, f"no value of the mined columns {_few(empty)} was in the training segment"
    if record is not None and found.recorder != record.recorder:
        yield False, f"{LOADED_FILE} is of another training ({found.recorder}, not {record.recorder})"


# --- texts ---


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _in_short(text: object) -> str:
    if isinstance(text, ValidationError):  # the first thing that is wrong with a form
        first = text.errors()[0]
        entry, fact = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        text = f"{entry}: {fact}" if entry else fact
    return shortened(text)

"""Whether the models of a run were trained on the factors that their manifests claim."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from rdagent_sota_bridge.errors import FactorFileError, SessionError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.qlib_files.manifest import LOADED_FILE, MANIFEST_FILE, MANIFEST_VERSION
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from rdagent_sota_bridge.qlib_files.training_record import QlibRecord
from rdagent_sota_bridge.report.history import Loop, Run

State = Literal["factors", "none", "not trained", "not verified", "broken"]

_HANDED_OVER = "# rdagent-sota-bridge: "  # begins the line that a hand-off writes into the YAML
_MINES = ("fin_factor", "fin_factor_report")

Finding = tuple[bool, str]  # one look at a claim: whether it agrees, and what was seen


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


# --- the form of a claim ---


class _Form(BaseModel):
    model_config = ConfigDict(strict=True)


class _ClaimedSet(_Form):
    digest: Annotated[str, Field(pattern="^sha256:[0-9a-f]{64}$")]
    columns: list[str]
    stored: dict[str, Any] | None = None  # the file in the workspace; release 0.1.0 did not name it


class _ClaimedBase(_Form):
    name: str
    digest: str
    features: dict[str, str]


class _Loaded(_Form):
    columns: list[str] | None
    num_features: int | None


class _ReadBack(_Loaded):
    recorder: str
    columns_without_training_values: list[str]


class _Claim(_Form):
    """What a manifest claims."""

    manifest_version: int
    factor_set: _ClaimedSet
    mined_columns: Annotated[list[str], Field(min_length=1)]
    base_set: _ClaimedBase
    qlib_loaded: _Loaded | None
    from_cache: bool = False  # release 0.1.0 wrote it

    @property
    def base(self) -> BaseSet:
        """The base features beside the mined columns."""
        features = tuple(self.base_set.features.items())
        return BaseSet(self.base_set.name, features).without(self.mined_columns)

    @property
    def columns(self) -> list[str]:
        """All that the network is to see, sorted."""
        return sorted({*self.base.names, *self.mined_columns})

    @model_validator(mode="after")
    def _agrees_with_itself(self) -> _Claim:
        loaded, width = self.qlib_loaded, len(self.columns)
        whole = BaseSet(self.base_set.name, tuple(self.base_set.features.items()))
        if self.manifest_version != MANIFEST_VERSION:
            raise ValueError(f"manifest_version is {self.manifest_version}")
        if self.base_set.digest != f"sha256:{whole.digest}":
            raise ValueError("its base set's features are not those of its digest")
        if not set(self.factor_set.columns) <= set(self.mined_columns):
            raise ValueError("the set has columns that are not among the mined ones")
        if loaded is not None and loaded.num_features not in (None, width):
            raise ValueError(f"num_features is {loaded.num_features} for {width} columns")
        return self


# --- the verdicts ---


def verify(run: Run) -> list[Verification]:
    """Return what can be shown of every model loop of a run, in the order of the loops.

    Raises:
        SessionError: if the run has no model loop.
    """
    models = [] if run.command in _MINES else [loop for loop in run.loops if loop.kind != "factor"]
    if not models:
        mines = run.command in _MINES or any(loop.kind == "factor" for loop in run.loops)
        what = (
            f"The log is one of {run.command}, which has mined factors and trained no model"
            if mines
            else f"The run of {run.command} has begun no loop"
        )
        fix = "name the log folder of a run that trained models, or `latest`"
        raise SessionError(f"{what}: there is nothing to verify", str(run.log), fix)
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
        claim = _Claim.model_validate(loop.manifest)
    except ValidationError as error:
        trouble = f"{MANIFEST_FILE} can't be read, or has a form that is not known: {_one_line(error)}"
        return replace(unknown, text=f"what it claims is not known: {trouble}", contradictions=(trouble,))
    digest = claim.factor_set.digest
    if claim.from_cache:
        text = "answered from RD-Agent's cache by release 0.1.0: not verified"
        return replace(unknown, state="not verified", text=text, digest=digest, contradictions=(text,))
    findings = tuple(_findings(workspace, claim, loop.record))
    against = tuple(text for agrees, text in findings if not agrees)
    parts = f"{len(claim.mined_columns)} mined + {len(claim.base.names)} base = {len(claim.columns)} columns"
    shown = f"factor set {digest[:19]} ({parts})"
    return replace(
        unknown,
        state="broken" if against else "factors",
        text=f"claims {shown}, which is not shown: {'; '.join(against)}"
        if against
        else f"trained on {shown}",
        digest=digest,
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
    if _HANDED_OVER not in _yaml(loop.workspace):
        return (
            "none",
            f"claims no handed-over set; Qlib read a {FACTOR_FILE} that this run itself made ({wide})",
        )
    if not loop.metrics:
        return "not trained", _one_line(loop.failure)
    return "broken", f"{CONFIG_FILE} names a set that was handed over, and no {MANIFEST_FILE} is beside it"


# --- what a training left ---


def _findings(workspace: Path, claim: _Claim, record: QlibRecord | None) -> Iterator[Finding]:
    """Yield every look at a claim, each at something that the manifest's author did not write into it."""
    yield _file(workspace, claim)
    text, base = _yaml(workspace), claim.base
    for kind, name in (("factor", claim.factor_set.digest), ("base", f"{base.name} sha256:{base.digest}")):
        named = f"{kind} set {name}" in text
        yield named, f"{CONFIG_FILE} {'names' if named else 'does not name'} the claimed {kind} set"
    if record is None:
        yield False, "Qlib recorded no finished training in its workspace"
    else:
        yield from _recorded(claim, record)
    yield from _read_back(workspace, claim, record)


def _yaml(workspace: Path) -> str:
    """Return the text of the YAML that the hand-off wrote; empty where none can be read."""
    try:
        return (workspace / CONFIG_FILE).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""


def _file(workspace: Path, claim: _Claim) -> Finding:
    file = workspace / FACTOR_FILE
    if not file.is_file():
        return False, f"no {FACTOR_FILE} is in its workspace"
    stored = None if claim.factor_set.stored is None else claim.factor_set.stored.get("digest")
    try:
        columns = parquet.read_footer(file).columns
        digest = None if claim.factor_set.stored is None else parquet.current_digest(file)
    except FactorFileError as error:
        return False, f"its {FACTOR_FILE} can't be read: {_one_line(error.failures[0])}"
    if sorted(columns) != sorted(claim.mined_columns):
        return False, f"its {FACTOR_FILE} has the columns {_few(columns)}, not {_few(claim.mined_columns)}"
    if digest != stored:
        return False, f"its {FACTOR_FILE} is another file ({digest}, not {stored})"
    return (
        True,
        f"{FACTOR_FILE} is the claimed one, by {'columns' if stored is None else 'digest and columns'}",
    )


def _recorded(claim: _Claim, record: QlibRecord) -> Iterator[Finding]:
    """Compare a claim with what Qlib recorded of its training."""
    yield from ((False, doubt) for doubt in record.doubts)
    width, wanted = record.num_features, len(claim.columns)
    yield width == wanted, f"Qlib recorded an input width of {width}" + f", not {wanted}" * (width != wanted)
    read = "read" if record.has_factor_file else "read no"
    yield bool(record.has_factor_file), f"Qlib's data loader {read} {FACTOR_FILE}"
    names, given = claim.base.names, record.base_names
    if given is not None and sorted(given) == sorted(names):
        yield True, f"Qlib's data loader was given the {len(names)} base features"
    else:
        others = "unknown base features" if given is None else _few(given) or "none"
        yield False, f"Qlib's data loader was given {others}, not the claimed base set"
    started = record.config_file or "a file that it did not record"
    wrong = record.config_file != CONFIG_FILE
    yield not wrong, f"qrun was started with {started}" + f", not {CONFIG_FILE}" * wrong


def _read_back(workspace: Path, claim: _Claim, record: QlibRecord | None) -> Iterator[Finding]:
    """Look at what was read back of the data that Qlib trained on."""
    file = workspace / LOADED_FILE
    if not file.is_file():
        if claim.qlib_loaded is not None:
            yield False, f"{LOADED_FILE}, which says what Qlib loaded, is gone"
        return
    try:
        found = _ReadBack.model_validate_json(file.read_bytes())
    except (OSError, ValidationError) as error:
        yield False, f"{LOADED_FILE} can't be read: {_one_line(error)}"
        return
    columns = sorted(found.columns or ())
    claimed = claim.columns if claim.qlib_loaded is None else sorted(claim.qlib_loaded.columns or ())
    if columns == claimed == claim.columns:
        yield True, f"the data that Qlib trained on has the {len(columns)} claimed columns"
    else:
        others = sorted((set(columns) ^ set(claim.columns)) | (set(claimed) ^ set(claim.columns)))
        yield False, f"the data that Qlib trained on has other columns: {_few(others)}"
    empty = [name for name in claim.mined_columns if name in found.columns_without_training_values]
    if empty:
        yield False, f"no value of the mined columns {_few(empty)} was in the training segment"
    if record is not None and found.recorder != record.recorder:
        yield False, f"{LOADED_FILE} is of another training ({found.recorder}, not {record.recorder})"


# --- texts ---


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def _one_line(text: object) -> str:
    if isinstance(text, ValidationError):  # the first thing that is wrong with a form
        first = text.errors()[0]
        text = ".".join(map(str, first["loc"])) + f" {first['msg']}"
    return " ".join(str(text).split())[:200]

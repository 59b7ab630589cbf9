"""The hand-off of one `develop`: what is known of it, its base set, and what ended it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.bridge import plan as plans
from rdagent_sota_bridge.bridge.plan import Record
from rdagent_sota_bridge.bridge.stop import logger
from rdagent_sota_bridge.errors import BridgeError, one_line
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import base_sets, manifest, model_yaml


@dataclass
class HandOff:
    """The hand-off of one `develop`: what is known so far.

    Attributes:
        record: The set, as the runner remembers it.
        base: The base set of this model, whole.
        experiment: RD-Agent's experiment: a model's, or that of a factor loop of fin_quant.
        mined: The mined columns; with fin_quant's own factors, once RD-Agent has merged.
        configs: The YAML files that train on factors; RD-Agent has to take one of them.
        whole: True where `develop` has to get the whole set, for it changes what it gets.
        replaced: Loaded factors that are replaced by fin_quant's own of the same name.
        to_place: The set that is to be placed over the nine rows that `develop` got, if it got those.
        stored: The stored file in the model's workspace, once it is placed there.
        placed: Size, time and inode of that file.
        task: What the YAML of the training names.
        trained: True once qrun has run.
        loaded: What Qlib loaded, once it has.
        batches: Where the training's batches come from, as the manifest says it.
        failed: What ended the merge or the training. A `develop` that catches it must not continue.
        uses_cache: RD-Agent's setting `cache_with_pickle`, as it is outside of this `develop`.
    """

    record: Record
    base: base_sets.BaseSet
    experiment: Any
    mined: tuple[str, ...]
    configs: tuple[str, ...] = (model_yaml.CONFIG_FILE,)
    whole: bool = False
    replaced: tuple[str, ...] = ()
    to_place: store.Stored | None = None
    stored: dict[str, str] | None = None
    placed: store.Identity | None = None
    task: model_yaml.Task | None = None
    trained: bool = False
    loaded: manifest.Loaded | None = None
    batches: dict[str, str] = field(default_factory=dict)
    failed: BridgeError | None = None
    uses_cache: bool = True

    @property
    def is_of_model(self) -> bool:
        """True for a model's experiment, False for one on factors (in fin_quant)."""
        return model_yaml.CONFIG_FILE in self.configs

    @property
    def file(self) -> Path:
        """The factor file in the experiment's workspace."""
        return Path(self.experiment.experiment_workspace.workspace_path) / FACTOR_FILE

    @property
    def aside(self) -> Path:
        """Where that file lies between trainings, so that none but ours is written through a link."""
        # What a kill leaves, `files.place` removes.
        return self.file.with_name(f".{FACTOR_FILE}.{0:032x}.tmp")

    @property
    def base_beside_mined(self) -> base_sets.BaseSet:
        """The base features that the model gets: without those whose names a mined column has."""
        return self.base.without(self.mined)

    @property
    def note(self) -> str:
        """The sets that are handed over, in one line."""
        base = self.base_beside_mined
        return one_line(f"factor set {self.record['digest']}, base set {base.name} sha256:{base.digest}")


_active: ContextVar[HandOff | None] = ContextVar("rdagent_sota_bridge_hand_off", default=None)


def current() -> HandOff | None:
    """Return the hand-off inside of whose `develop` this is called; None outside of any."""
    return _active.get()


@contextmanager
def activate(hand_off: HandOff | None) -> Iterator[None]:
    """Let a hand-off be the current one; None for what has to be outside of any."""
    token = _active.set(hand_off)
    try:
        yield
    finally:
        _active.reset(token)


def fail_once(hand_off: HandOff, work: Callable[[], Any]) -> Any:
    """Do the work of a seam inside `develop`; after one that failed there is none.

    A fork may retry, or continue without the factors, at whatever exception comes.
    """
    if hand_off.failed is not None:
        raise hand_off.failed
    try:
        return work()
    except BridgeError as error:
        hand_off.failed = error
        raise


@contextmanager
def cache_switched(on: bool) -> Iterator[None]:
    """Turn RD-Agent's cache of results on or off; `cache_with_pickle` reads the setting at each call."""
    settings = import_module("rdagent.core.conf").RD_AGENT_SETTINGS
    before = settings.cache_with_pickle
    settings.cache_with_pickle = on
    try:
        yield
    finally:
        settings.cache_with_pickle = before


def loop_is_empty(reason: str) -> Exception:
    """Return RD-Agent's error for factors without values: it skips the loop, and the LLM reads the reason."""
    error: Exception = import_module("rdagent.core.exception").FactorEmptyError(one_line(reason))
    return error


# --- the base set ---


def base_of_run(record: Record, exp: Any) -> base_sets.BaseSet:
    """Return the base set of the run: the one asked for, or features that the user chose in RD-Agent.

    The record remembers which, from the first model on: later ones must have the same.
    """
    asked = record["base_set"]
    features = tuple((name, expression) for name, expression in asked["features"])
    base = base_sets.BaseSet(asked["name"], features)
    given = _chosen_in_rdagent(record, exp)
    if given and not asked["explicit"]:
        base = base_sets.given_set(given)
    began_name, began_digest = record.setdefault("base_of_run", [base.name, base.digest])
    if began_digest != base.digest:
        raise plans.changed_base_set(
            f"{began_name} (sha256:{began_digest})", f"{base.name} (sha256:{base.digest})"
        )
    return base


def _chosen_in_rdagent(record: Record, exp: Any) -> dict[str, str]:
    """Return the base features that the user chose in RD-Agent, or wrote into its YAML; empty for ALPHA20."""
    given = getattr(exp, "base_features", None)
    if given and not base_sets.same_features(given, base_sets.ALPHA20):
        return dict(given)
    # A factor loop's workspace has other YAML files; its base features have to be the models'.
    text = exp.experiment_workspace.file_dict.get(model_yaml.CONFIG_FILE)
    if text is None:
        text = dry_run.of_models(tuple(record["columns"])).start.config
    written = model_yaml.written_features(text)
    return {} if written == base_sets.ALPHA20 else written


def log_base_set(hand_off: HandOff) -> None:
    """Log what a model gets beside the mined columns, and which base features they replace."""
    log = logger()
    base, beside = hand_off.base, hand_off.base_beside_mined
    given = _chosen_in_rdagent(hand_off.record, hand_off.experiment)
    if base.name == base_sets.GIVEN:
        shown = ", ".join(base.names[:5]) + (", …" if len(base.names) > 5 else "")
        log.info(f"Base features chosen in RD-Agent are kept, for ALPHA_FACTORS is not set: {shown}")
    elif given:
        log.info(f"The base set {base.name} takes the place of {len(given)} base features chosen in RD-Agent")
    if not base.features:
        log.info("USE_ALPHA_FACTORS is off: the model trains on the mined factors alone")
        return
    log.info(f"叠加Alpha因子: {len(beside.features)}个")
    replaced = [name for name in base.names if name not in beside.names]
    if replaced:
        log.info(
            f"{len(replaced)} of the {len(base.features)} features of {base.name} give way to mined columns "
            f"of the same name: {', '.join(replaced)}"
        )


def give_base_features(hand_off: HandOff) -> None:
    """Give RD-Agent 1.0.0 the base features that it counts into num_features; 0.8.0 knows none."""
    if hasattr(hand_off.experiment, "base_features"):
        hand_off.experiment.base_features = dict(hand_off.base_beside_mined.features)

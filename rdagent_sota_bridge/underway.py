"""The hand-off that is under way in this process: what is known of it, and what ended it."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any

from rdagent_sota_bridge import alpha, manifest, qlib_config, store
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.plan import Record


@dataclass
class HandOff:
    """The hand-off of one `develop`: what is known so far.

    Attributes:
        record: The set, as the runner remembers it.
        base: The base set of this model, whole.
        experiment: RD-Agent's experiment: a model's, or that of a factor loop of fin_quant.
        mined: The mined columns; with fin_quant's own factors, once RD-Agent has merged.
        configs: The YAML files that train on factors; RD-Agent has to take one of them.
        own_codes: Digest of the code of fin_quant's own factors; empty without any.
        new_codes: Digest of the code of a factor loop's new factors; empty for a model, and without any.
        replaced: Loaded factors that give way to fin_quant's own of the same name.
        merged: True once the merge path has asked for the factors.
        trained: True once qrun has run.
        loaded: What Qlib loaded, once it has.
        whole: True where `develop` has to get the whole set, for it changes what it gets.
        to_place: The set that is to be placed over the sample that `develop` got, if it got that.
        stored: The stored file in the model's workspace, once it is placed there.
        prepared: What came of prepared data, where they are asked for.
        training: What tells this training's files from those that RD-Agent's ENABLE_CACHE puts there.
        failed: What ended the merge or the training. A `develop` that catches it must not go on.
        result_caches: RD-Agent's setting `cache_with_pickle`, as it is outside of this `develop`.
    """

    record: Record
    base: alpha.BaseSet
    experiment: Any
    mined: tuple[str, ...]
    configs: tuple[str, ...] = (qlib_config.CONFIG_FILE,)
    own_codes: str = ""
    new_codes: str = ""
    replaced: tuple[str, ...] = ()
    merged: bool = False
    trained: bool = False
    loaded: manifest.Loaded | None = None
    whole: bool = False
    to_place: store.Stored | None = None
    stored: dict[str, str] | None = None
    prepared: str | None = None
    training: str = field(default_factory=lambda: uuid.uuid4().hex)
    failed: BridgeError | None = None
    result_caches: bool = True

    @property
    def is_of_model(self) -> bool:
        """True for a model's experiment, False for one on factors (in fin_quant)."""
        return qlib_config.CONFIG_FILE in self.configs

    @property
    def base_beside_mined(self) -> alpha.BaseSet:
        """The base features that the model gets: without those whose names a mined column has."""
        return self.base.without(self.mined)

    @property
    def note(self) -> str:
        """What tells this hand-off from others, in one line."""
        own = f", own factors sha256:{self.own_codes}" if self.own_codes else ""
        own += f", new factors sha256:{self.new_codes}" if self.new_codes else ""
        base = self.base_beside_mined
        return f"factor set {self.record['digest']}{own}, base set {base.name} sha256:{base.digest}"


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

    A fork may retry, or go on without the factors, at whatever exception comes.
    """
    if hand_off.failed is not None:
        raise hand_off.failed
    try:
        return work()
    except BridgeError as error:
        hand_off.failed = error
        raise


def loop_is_empty(reason: str) -> Exception:
    """Return RD-Agent's error for factors without values, on which it skips the loop and tells the LLM."""
    error: Exception = import_module("rdagent.core.exception").FactorEmptyError(reason)
    return error

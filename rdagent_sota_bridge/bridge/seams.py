"""Every place where RD-Agent is changed, in one table, with `apply`, `revert` and `status`."""

from __future__ import annotations

import importlib
import os
import sys
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import rdagent_sota_bridge as startup
from rdagent_sota_bridge.bridge import stop
from rdagent_sota_bridge.errors import BridgeError, SeamError, SettingsError
from rdagent_sota_bridge.settings import FALSE_WORDS, TRUE_WORDS


@dataclass(frozen=True)
class Seam:
    """One place where RD-Agent is changed.

    Attributes:
        name: Short name.
        module: The module of RD-Agent, as imported.
        patches: `module:function` of ours that takes that module and returns (owner, attribute, replacement)
            triples, or raises SeamError where RD-Agent has another shape.
        purpose: What it is for.
        essential: True where a run that asked for the factors can't be without it.
    """

    name: str
    module: str
    patches: str
    purpose: str
    essential: bool = False

    @property
    def carries_factors(self) -> bool:
        """True where no model would be trained on the factors without it."""
        return self.essential or self.name == "workspace"


SEAMS = (
    Seam(
        "options",
        "rdagent.app.cli",
        "rdagent_sota_bridge.bridge.cli_options:patches",
        "fin_* commands accept --loop_n and --loop-n alike",
    ),
    Seam(
        "text log",
        "rdagent.log.logger",
        "rdagent_sota_bridge.bridge.text_log:patches",
        "log/latest.log as plain text",
    ),
    Seam(
        "loop",
        "rdagent.utils.workflow.loop",
        "rdagent_sota_bridge.bridge.loop:patches",
        "LoopBase.load, __init__ and run: a session is checked before RD-Agent touches it",
    ),
    Seam(
        "docker",
        "rdagent.utils.env",
        "rdagent_sota_bridge.qlib_files.docker:patches",
        "QTDockerEnv keeps its mounts and time limit, which RD-Agent's own get_model_env takes from it",
    ),
    Seam(
        "workspace",
        "rdagent.scenarios.qlib.experiment.workspace",
        "rdagent_sota_bridge.bridge.backtest:workspace_patches",
        "QlibFBWorkspace.execute: YAML and num_features say what Qlib loads; a lost qrun is repeated",
    ),
    Seam(
        "merge",
        "rdagent.scenarios.qlib.developer.model_runner",
        "rdagent_sota_bridge.bridge.model_runner:merge_patches",
        "process_factor_data, where develop looks it up: the set, in place of running factor code again",
        essential=True,
    ),
    Seam(
        "runner",
        "rdagent.scenarios.qlib.developer.model_runner",
        "rdagent_sota_bridge.bridge.model_runner:runner_patches",
        "QlibModelRunner: the set is checked when it is built, and handed over in develop",
        essential=True,
    ),
    Seam(
        "factor merge",
        "rdagent.scenarios.qlib.developer.factor_runner",
        "rdagent_sota_bridge.bridge.model_runner:merge_patches",
        "process_factor_data, where the factor runner's develop looks it up: the set in fin_quant",
    ),
    Seam(
        "factor runner",
        "rdagent.scenarios.qlib.developer.factor_runner",
        "rdagent_sota_bridge.bridge.factor_runner:runner_patches",
        "QlibFactorRunner.develop: factor loops of fin_quant have the set that its models have",
    ),
    Seam(
        "verdict",
        "rdagent.scenarios.qlib.developer.feedback",
        "rdagent_sota_bridge.bridge.verdict:patches",
        "the verdict on a model in fin_model is asked for in the form that RD-Agent reads",
    ),
    Seam(
        "best model",
        "rdagent.scenarios.qlib.proposal.model_proposal",
        "rdagent_sota_bridge.bridge.verdict:proposal_patches",
        "the best model so far stands in fin_model's proposals, under the name that RD-Agent looks up",
    ),
)

_ABSENT = object()


@dataclass(frozen=True, eq=False)
class _Replaced:
    owner: Any
    attribute: str
    original: Any
    replacement: Any


@dataclass
class _State:
    applied: dict[str, list[_Replaced]] = field(default_factory=dict)
    misfits: dict[str, SeamError] = field(default_factory=dict)
    # All that was ever replaced: a module may have taken a replacement over from another.
    ever: list[_Replaced] = field(default_factory=list)


_state = _State()


@dataclass(frozen=True)
class SeamStatus:
    """How a seam stands in this process: `waiting` for its module, `applied`, or `misfit` with the reason."""

    seam: Seam
    state: str
    reason: str = ""


def apply() -> None:
    """Apply every seam: now where its module is imported already, else when it is imported. Idempotent.

    Raises:
        SeamError: if an imported module has a shape that is not known.
    """
    startup.register()
    for seam in SEAMS:
        module = sys.modules.get(seam.module)
        if module is not None:
            _apply_seam(seam, module)


def apply_module(module: ModuleType) -> None:
    """Apply the seams of a module that has just run; the import hook calls this, or a patched source.

    Nobody called for the package by name here, so a shape that is not known is said once, on stderr, and the
    module is left alone; but a run that asked for the factors is stopped (or warned, by `SOTA_ON_ERROR`).
    """
    _check_own_switch()
    for seam in SEAMS:
        if seam.module != module.__name__:
            continue
        # The module has just run, perhaps once more (importlib.reload): what was replaced in it is gone.
        _state.applied.pop(seam.name, None)
        _apply_or_say(seam, module)


def apply_waiting(seam: Seam, module: ModuleType) -> None:
    """Apply a seam of an imported module as `apply_module` does, but once; idle after a misfit too."""
    if _status(seam).state == "waiting":
        _apply_or_say(seam, module)


def revert() -> None:
    """Put back, by identity, everything that was replaced, and stop waiting for modules. Idempotent.

    What somebody else has replaced after us is left as it is.
    """
    startup.unregister()
    for seam in reversed(SEAMS):
        for replaced in reversed(_state.applied.pop(seam.name, [])):
            if vars(replaced.owner).get(replaced.attribute) is not replaced.replacement:
                continue
            if replaced.original is _ABSENT:
                delattr(replaced.owner, replaced.attribute)
            else:
                setattr(replaced.owner, replaced.attribute, replaced.original)
    originals = {id(replaced.replacement): replaced.original for replaced in _state.ever}
    for module in [found for name, found in list(sys.modules.items()) if name.split(".")[0] == "rdagent"]:
        for name, value in list(vars(module).items()):
            if id(value) in originals:  # taken over from another module by an import
                while id(value) in originals:
                    value = originals[id(value)]
                setattr(module, name, value)
    _state.misfits.clear()


def status() -> tuple[SeamStatus, ...]:
    """Return how every seam stands in this process, in the order of the table."""
    return tuple(_status(seam) for seam in SEAMS)


def is_applied(name: str) -> bool:
    """Return True if the seam of that name is applied in this process."""
    return name in _state.applied


def is_ours(owner: Any, attribute: str) -> bool:
    """Return True if an owner's own attribute is a replacement of ours."""
    current = vars(owner).get(attribute, _ABSENT)
    return any(replaced.replacement is current for seam in _state.applied.values() for replaced in seam)


def apply_seam(name: str) -> None:
    """Import one seam's module and apply that seam alone; for the runner class that works without the hook.

    Raises:
        SeamError: if the module has a shape that is not known.
    """
    seam = next(seam for seam in SEAMS if seam.name == name)
    _apply_seam(seam, importlib.import_module(seam.module))


def function_of(named: str) -> Any:
    """Return the function that a seam names as `module:function`."""
    module_name, function_name = named.split(":")
    return getattr(importlib.import_module(module_name), function_name)


def _status(seam: Seam) -> SeamStatus:
    if seam.name in _state.misfits:
        return SeamStatus(seam, "misfit", _state.misfits[seam.name].fact)
    return SeamStatus(seam, "applied" if seam.name in _state.applied else "waiting")


def _apply_seam(seam: Seam, module: ModuleType) -> None:
    if seam.name in _state.applied:
        return
    try:
        patches = function_of(seam.patches)(module)
    except SeamError as error:
        _state.misfits[seam.name] = error
        raise
    _state.misfits.pop(seam.name, None)
    replaced = []
    for owner, attribute, replacement in patches:
        # The raw attribute, not getattr's: a classmethod has to come back as the same object.
        original = vars(owner).get(attribute, _ABSENT)
        replaced.append(_Replaced(owner, attribute, original, replacement))
        setattr(owner, attribute, replacement)
    _state.applied[seam.name] = replaced
    _state.ever += replaced


def _apply_or_say(seam: Seam, module: ModuleType) -> None:
    try:
        _apply_seam(seam, module)
    except SeamError as error:
        if seam.essential:
            stop.refuse(error)
        else:
            sys.stderr.write(f"rdagent-sota-bridge: {error.fact} ({error.place})\n")


def _check_own_switch() -> None:
    """Refuse a value of RDAGENT_SOTA_BRIDGE that means nothing. Here: a .pth must not fail."""
    value = os.environ.get("RDAGENT_SOTA_BRIDGE", "").strip()
    if value and value.lower() not in TRUE_WORDS + FALSE_WORDS:
        error: BridgeError = SettingsError(
            f"RDAGENT_SOTA_BRIDGE has an unknown value: {value!r}",
            "environment variable or .env entry RDAGENT_SOTA_BRIDGE",
            f"use one of {', '.join(FALSE_WORDS)} to turn the package off, or leave it out",
        )
        raise SystemExit(str(error))

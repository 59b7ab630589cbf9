"""Every place where RD-Agent is changed, in one table; how it is changed, and how that is taken back."""

from __future__ import annotations

import importlib
import os
import pkgutil
import sys
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rdagent_sota_bridge.bridge import stage, stop
from rdagent_sota_bridge.errors import JobError, SeamError, SettingsError
from rdagent_sota_bridge.settings import FALSE_WORDS, hook_trouble


@dataclass(frozen=True)
class Seam:
    """One place where RD-Agent is changed; docs/how-it-works.md says what each is for.

    Attributes:
        name: Short name.
        module: The module of RD-Agent, as imported.
        patches: `module:function` of ours that takes that module and returns (owner, attribute, replacement)
            triples, or raises SeamError where RD-Agent has another shape.
    """

    name: str
    module: str
    patches: str

    def replacements(self, module: ModuleType) -> list[tuple[Any, str, Any]]:
        """Return the triples for that module; nothing is changed yet."""
        found: list[tuple[Any, str, Any]] = pkgutil.resolve_name(f"rdagent_sota_bridge.{self.patches}")(
            module
        )
        return found

    @property
    def carries_factors(self) -> bool:
        """True where no model would be trained on the factors without it."""
        return self.name in ("workspace", "merge", "runner")


SEAMS = (
    Seam("options", "rdagent.app.cli", "bridge.cli_options:patches"),
    Seam("text log", "rdagent.log.logger", "bridge.text_log:patches"),
    Seam("loop", "rdagent.utils.workflow.loop", "bridge.loop:patches"),
    Seam("docker", "rdagent.utils.env", "qlib_files.docker:patches"),
    Seam("conda", "rdagent.utils.env", "bridge.stage:patches"),
    Seam("workspace", "rdagent.scenarios.qlib.experiment.workspace", "bridge.backtest:workspace_patches"),
    Seam("merge", "rdagent.scenarios.qlib.developer.model_runner", "bridge.model_runner:merge_patches"),
    Seam("runner", "rdagent.scenarios.qlib.developer.model_runner", "bridge.model_runner:runner_patches"),
    Seam(
        "factor merge", "rdagent.scenarios.qlib.developer.factor_runner", "bridge.model_runner:merge_patches"
    ),
    Seam(
        "factor runner",
        "rdagent.scenarios.qlib.developer.factor_runner",
        "bridge.factor_runner:runner_patches",
    ),
    Seam("verdict", "rdagent.scenarios.qlib.developer.feedback", "bridge.verdict:patches"),
    Seam("best model", "rdagent.scenarios.qlib.proposal.model_proposal", "bridge.verdict:proposal_patches"),
)


DISABLED = "RDAGENT_SOTA_BRIDGE_DISABLED"
"""The variable that turns off single seams: their names, commas between."""


def disabled() -> tuple[str, ...]:
    """Return the names of the seams that are turned off, in the order of the table.

    Raises:
        SettingsError: for a name of no seam, and for a seam that a hand-off needs.
    """
    asked = {" ".join(name.lower().split()) for name in os.environ.get(DISABLED, "").split(",")} - {""}
    may = [seam.name for seam in SEAMS if not seam.carries_factors]
    if "factor merge" in asked and "factor runner" not in asked:  # whose loops would merge what has no code
        may.remove("factor merge")
    if wrong := sorted(asked - set(may)):
        needed = [name for name in wrong if name in {seam.name for seam in SEAMS}]
        fact = f"has no seam to turn off by the name {wrong[0]!r}"
        fact = f"can't turn off {needed[0]!r}: a hand-off needs that seam" if needed else fact
        raise SettingsError(
            f"{DISABLED} {fact}",
            f"environment variable or .env entry {DISABLED}",
            f"name some of {', '.join(may)}; RDAGENT_SOTA_BRIDGE={FALSE_WORDS[0]} turns off all",
        )
    return tuple(name for name in may if name in asked)


@dataclass(frozen=True)
class SeamStatus:
    """How a seam stands in this process.

    `waiting` for its module, `applied`, `disabled` by the user, or `misfit` with the reason.
    """

    seam: Seam
    state: str
    reason: str = ""


_ABSENT = object()
_applied: dict[str, list[tuple[Any, str, Any, Any]]] = {}  # owner, attribute, what was there, what is there
_misfits: dict[str, SeamError] = {}
# Each replacement that ever was, by its id, and what it replaced: a module may have taken it over.
_ever: dict[int, tuple[Any, Any]] = {}


def apply_imported() -> None:
    """Apply the seams of the modules that are imported already. Idempotent.

    Raises:
        SeamError: if a module has a shape that is not known.
    """
    for seam in SEAMS:
        if seam.module in sys.modules:
            _apply(seam, sys.modules[seam.module])


def apply_module(module: ModuleType) -> None:
    """Apply the seams of a module that has just run; the import hook calls this, or a patched source.

    Nobody called for the package by name here, so a shape that is not known is one line on stderr, and the
    module is left alone; but a run that asked for the factors is stopped (or warned, by `SOTA_ON_ERROR`).
    """
    if trouble := hook_trouble(os.environ.get("RDAGENT_SOTA_BRIDGE", "")):  # said here: a .pth must not fail
        raise SystemExit(str(trouble))
    try:
        stage.check_variables()
        disabled()
    except (JobError, SettingsError) as error:
        raise SystemExit(str(error)) from None
    for seam in SEAMS:
        if seam.module == module.__name__:
            # The module has just run, perhaps once more (importlib.reload): what was replaced in it is gone.
            _applied.pop(seam.name, None)
            _apply_or_say(seam, module)


def apply_waiting(seam: Seam, module: ModuleType) -> None:
    """Apply a seam of an imported module as `apply_module` does, but once; idle after a misfit too."""
    if seam.name not in _applied and seam.name not in _misfits:
        _apply_or_say(seam, module)


def apply_seam(name: str) -> None:
    """Import one seam's module and apply that seam alone; for the runner class that works without the hook.

    Raises:
        SeamError: if the module has a shape that is not known.
    """
    seam = next(seam for seam in SEAMS if seam.name == name)
    _apply(seam, importlib.import_module(seam.module))


def revert() -> None:
    """Put back, by identity, everything that was replaced, but for what others replaced after us."""
    for seam in reversed(SEAMS):
        for owner, attribute, original, replacement in reversed(_applied.pop(seam.name, [])):
            if vars(owner).get(attribute) is not replacement:
                continue
            if original is _ABSENT:
                delattr(owner, attribute)
            else:
                setattr(owner, attribute, original)
    for module in [
        found for name, found in list(sys.modules.items()) if found and name.split(".")[0] == "rdagent"
    ]:
        for name, value in list(vars(module).items()):
            while id(value) in _ever:  # taken over from another module by an import
                value = _ever[id(value)][1]
                setattr(module, name, value)
    _misfits.clear()


def status() -> tuple[SeamStatus, ...]:
    """Return how every seam stands in this process, in the order of the table."""
    off, found = disabled(), []
    for seam in SEAMS:
        misfit = _misfits.get(seam.name)
        state = "disabled" if seam.name in off else "applied" if is_applied(seam.name) else "waiting"
        found.append(SeamStatus(seam, "misfit" if misfit else state, misfit.fact if misfit else ""))
    return tuple(found)


def shown() -> str:
    """Return in one line which seams are applied in this process, which will be, and which are turned off."""
    names: dict[str, list[str]] = {}
    for at in status():
        names.setdefault(at.state, []).append(at.seam.name)
    words = {"applied": "patched", "waiting": "patched when imported", "disabled": "turned off"}
    return "; ".join(f"{words.get(state, state)}: {', '.join(found)}" for state, found in names.items())


def is_applied(name: str) -> bool:
    """Return True if the seam of that name is applied in this process."""
    return name in _applied


def _apply(seam: Seam, module: ModuleType) -> None:
    if seam.name in _applied or seam.name in disabled():
        return
    try:
        patches = seam.replacements(module)
    except SeamError as error:
        _misfits[seam.name] = error
        raise
    _misfits.pop(seam.name, None)
    _applied[seam.name] = []
    for owner, attribute, replacement in patches:
        # The raw attribute, not getattr's: a classmethod has to come back as the same object.
        original = vars(owner).get(attribute, _ABSENT)
        _applied[seam.name].append((owner, attribute, original, replacement))
        _ever[id(replacement)] = replacement, original
        setattr(owner, attribute, replacement)


def _apply_or_say(seam: Seam, module: ModuleType) -> None:
    try:
        _apply(seam, module)
    except SeamError as error:
        if seam.carries_factors:
            stop.refuse(error)
        else:
            stop.say(error)

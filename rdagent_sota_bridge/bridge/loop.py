"""A resumed run is checked before RD-Agent's `load` deletes anything, a new one once it is built.

A patched source (see `source`) is imported when `load` is unpickling the session already: such a run is
checked when RD-Agent calls `run`.
"""

from __future__ import annotations

import functools
import pickle
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

from rdagent_sota_bridge.bridge import factor_runner, stop
from rdagent_sota_bridge.bridge import plan as plans
from rdagent_sota_bridge.errors import OTHER_RELEASE, BridgeError, HandOffError, SeamError, SessionError
from rdagent_sota_bridge.factor_set import safe_pickle
from rdagent_sota_bridge.factor_set.names import MODEL_LOOPS
from rdagent_sota_bridge.factor_set.sessions import log_folder, read_session, session_file
from rdagent_sota_bridge.settings import is_enabled

_seen: weakref.WeakSet[Any] = weakref.WeakSet()  # loops that were built or loaded with the seam in place


def patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/utils/workflow/loop.py` (0.8.0, 1.0.0).

    `load` unpickles a session, deletes the session files after it and cuts the log, so the check has to come
    before. `__init__` runs last in a loop's own constructor, when its runner is there. `run` comes after.
    """
    loop_class: Any = getattr(module, "LoopBase", None)
    original_load = vars(loop_class).get("load") if isinstance(loop_class, type) else None
    if not isinstance(original_load, classmethod) or not hasattr(loop_class, "run"):
        raise SeamError(
            "RD-Agent's loop has a form that is not known; a resumed run is checked in its first loop only",
            "rdagent.utils.workflow.loop: LoopBase.load, LoopBase.run",
            OTHER_RELEASE,
        )
    load_before, init_before, run_before = original_load.__func__, loop_class.__init__, loop_class.run

    @functools.wraps(load_before)
    def load(cls: type, path: str | Path, *args: Any, **kwargs: Any) -> Any:
        with _one_message(Path(path)):
            if not _trains_models(cls):
                return load_before(cls, path, *args, **kwargs)
            with _stopped_before_loop(log_folder(Path(path))):
                plan = plans.checked_plan()
                file = session_file(Path(path))
                if plan is not None and plan.record is not None and file is not None:
                    _check_session(module, file, plan.record)
            session = load_before(cls, path, *args, **kwargs)
        _seen.add(session)
        _resume_with(session, plan)
        return session

    @functools.wraps(init_before)
    def __init__(self: Any, *args: Any, **kwargs: Any) -> None:  # noqa: N807 - it replaces one
        init_before(self, *args, **kwargs)
        _seen.add(self)
        if _trains_models(type(self)):
            _check_new_loop(self)

    @functools.wraps(run_before)
    def run(self: Any, *args: Any, **kwargs: Any) -> Any:
        # No coroutine function, as RD-Agent's is: this is checked before `asyncio.run` is called.
        if _trains_models(type(self)) and self not in _seen:
            _seen.add(self)
            with _stopped_before_loop():
                plan = plans.checked_plan()
                if plan is not None and plan.record is not None:
                    plans.check_runner(_runner(self))
                _resume_with(self, plan)
        _warn_of_total(self, kwargs.get("loop_n"))
        return run_before(self, *args, **kwargs)

    return [
        (loop_class, "load", classmethod(load)),
        (loop_class, "__init__", __init__),
        (loop_class, "run", run),
        *_meta_patches(getattr(module, "LoopMeta", None)),
    ]


def _meta_patches(meta: Any) -> list[tuple[Any, str, Any]]:
    """Return what tells a wrong path before a loop is built.

    Its constructor looks at Qlib's environment first, which RD-Agent may have to make: minutes. A session
    that is loaded does not come here.
    """
    if meta is None:
        return []
    call_before = meta.__call__

    @functools.wraps(call_before)
    def __call__(cls: type, *args: Any, **kwargs: Any) -> Any:  # noqa: N807 - it replaces one
        if _trains_models(cls):
            with _stopped_before_loop():
                plans.check_named()
        return call_before(cls, *args, **kwargs)

    return [(meta, "__call__", __call__)]


def _warn_of_total(loop: Any, loop_n: int | None) -> None:
    """Warn a resumed run whose count of loops is reached: RD-Agent counts all, and would end in silence."""
    finished = {number for number, step in loop.step_idx.items() if step >= len(loop.steps)}
    if loop_n and set(range(loop_n)) <= finished:
        done = f"{len(finished)} {'is' if len(finished) == 1 else 'are'} finished"
        stop.logger().warning(
            f"--loop_n {loop_n} is the total of this session's loops, of which {done}: none is run. "
            f"For {loop_n} more give --loop_n {len(finished) + loop_n}"
        )


def _trains_models(loop_class: type) -> bool:
    """Return True for the loops of `fin_model` and `fin_quant`, and their subclasses."""
    return any(base.__name__ in MODEL_LOOPS for base in loop_class.__mro__)


@contextmanager
def _stopped_before_loop(run_folder: Path | None = None) -> Iterator[None]:
    try:
        yield
    except BridgeError as error:
        stop.stop_before_loop(error, run_folder)


@contextmanager
def _one_message(path: Path) -> Iterator[None]:
    """End with one message, not a traceback, where the session to resume from is refused or damaged."""
    try:
        yield
    except (OSError, *safe_pickle.DAMAGE):
        with _stopped_before_loop(log_folder(path)):
            try:
                if is_enabled():
                    read_session(session_file(path) or path)
            except SessionError as error:
                fix = error.fix.replace(safe_pickle.WORKSPACE_ITSELF, "begin a new run")
                raise HandOffError(error.fact, error.place, fix) from None
        raise  # the session is whole, or the switch is off


def _check_session(module: ModuleType, file: Path, record: plans.Record) -> None:
    # The same loader as RD-Agent's: a signature that it refuses is refused here too.
    with file.open("rb") as content:
        session = getattr(module, "secure_pickle_load", pickle.load)(content)
    if not _trains_models(type(session)):
        raise HandOffError(
            f"The session is one of {type(session).__name__}, not of a loop that trains models",
            str(file),
            "resume a log folder of fin_model, or switch LOAD_SOTA_FROM_WORKSPACE off",
        )
    plans.check_runner(_runner(session))
    began = plans.record_of(_runner(session))
    if began is not None:
        plans.check_same_set(began, record)


def _check_new_loop(loop: Any) -> None:
    """Stop a run that asked for the factors and has a runner that can't hand them over."""
    with _stopped_before_loop():
        if not is_enabled():
            return
        try:
            plans.check_runner(_runner(loop))
            factor_runner.copy_to_factor_runner(loop, _runner(loop))
        except HandOffError as error:
            stop.refuse(error)
            plans.remember(_runner(loop), plans.Plan(None, str(error)))  # by SOTA_ON_ERROR=baseline


def _resume_with(loop: Any, plan: plans.Plan | None) -> None:
    runner = _runner(loop)
    if runner is not None:
        plans.resume_with(runner, plan)
        factor_runner.copy_to_factor_runner(loop, runner)


def _runner(loop: Any) -> Any:
    # fin_quant has a factor runner and a model runner, fin_model only `runner`.
    return getattr(loop, "model_runner", None) or getattr(loop, "runner", None)

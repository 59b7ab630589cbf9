"""What a model runner's `develop` is: that of a known release, an unknown one that fits, or a misfit.

RD-Agent is known here by the module object that is handed in, and by the names and texts in its code.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import inspect
import io
import sys
import textwrap
import tokenize
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import CodeType, FunctionType, ModuleType
from typing import Any, Literal

from rdagent_sota_bridge.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_config import CONFIG_FILE

MERGE = "process_factor_data"
"""The function that `develop` asks for the factors (RD-Agent's `scenarios/qlib/developer/utils.py`)."""

RELEASES: dict[str, tuple[str, ...]] = {
    "b4cf6fc8c6bcbac4": ("0.5.0", "0.6.0", "0.6.1", "0.7.0"),
    "ea7c418279b17b53": ("0.8.0",),
    "0ab761b6316ca1bc": ("1.0.0",),
}
"""From a fingerprint of `develop` to the releases that have it."""

# What `develop` must do for the hand-off to reach it: this is its merge path in 0.5.0 to 1.0.0.
_NAMES = frozenset({"based_experiments", "experiment_workspace", "to_parquet", "execute", "sub_tasks"})
_TEXTS = frozenset({FACTOR_FILE, CONFIG_FILE})

_DEVELOP = "develop"
_KEY_VARIABLE, _FORCE_VARIABLE = "hash_func", "force"


@dataclass(frozen=True)
class Found:
    """How RD-Agent's code was recognised at a seam.

    Attributes:
        kind: `fits`: it has what the seam needs. `known`: so it has, and it is that of a release.
            `unknown`: so it has, and it is that of no release. `misfit`: it can't be bridged.
        releases: The releases whose code it is, where it is known.
        missing: What it lacks, where it is a misfit.
    """

    kind: Literal["fits", "known", "unknown", "misfit"]
    releases: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()

    def __str__(self) -> str:
        return {
            "fits": "fits",
            "known": f"fits, known as release {' and '.join(self.releases)}",
            "unknown": "unknown but fitting",
            "misfit": f"misfit: it lacks {', '.join(self.missing)}",
        }[self.kind]


@dataclass(frozen=True, eq=False)
class ResultCache:
    """RD-Agent's cache of results around a function (`cache_with_pickle` in `core/utils.py`, 0.5.0 to 1.0.0).

    Attributes:
        key: The function that it takes its key from, called with the function's own arguments.
        forced: True where the setting `cache_with_pickle` does not turn it off.
    """

    key: Callable[..., str | None]
    forced: bool


def recognise(module: ModuleType) -> Found:
    """Return how the `develop` of a module's QlibModelRunner is recognised.

    It is recognised by what it does, through decorators, nested functions, and what it calls in its own
    file: methods of the runner, functions and classes of the module.
    """
    reached = _reach(module)
    if reached is None:
        return Found("misfit", missing=("QlibModelRunner.develop in Python code",))
    missing = [*sorted(_NAMES - reached.names), *sorted(_TEXTS - reached.texts)]
    if MERGE not in reached.names:
        missing.append(MERGE)
    elif not reached.places:
        missing.append(f"a {MERGE} that is looked up in a module when it is called")
    if missing:
        return Found("misfit", missing=tuple(missing))
    releases = _release_of(getattr(module.QlibModelRunner, _DEVELOP))
    return Found("known", releases) if releases else Found("unknown")


def merge_places(module: ModuleType) -> list[tuple[ModuleType, str]]:
    """Return the modules, and the names in them, where `develop` looks up the merge; none if it does not."""
    reached = _reach(module)
    return [] if reached is None else reached.places


def result_cache(develop: Any) -> ResultCache | None:
    """Return the result cache around a `develop`, or None for one without.

    The key function was bound when the class was made: it stands in the closure of the decorator alone, and
    `get_cache_key` of the runner need not be it.
    """
    for layer in _layers(develop):
        variables = _closure(layer)
        if callable(variables.get(_KEY_VARIABLE)):
            return ResultCache(variables[_KEY_VARIABLE], bool(variables.get(_FORCE_VARIABLE)))
    return None


def names_in(function: Any) -> set[str]:
    """Return the names in a function's code, and in that of the functions inside; none without code."""
    code = getattr(function, "__code__", None)
    return set() if code is None else {name for one in _codes(code) for name in one.co_names}


def fingerprint(function: Any) -> str | None:
    """Return a digest of a function's source with its decorators, without comments and blank lines.

    It is the same under every Python. None where the source can't be read.
    """
    try:
        text = textwrap.dedent("".join(inspect.getsourcelines(function)[0]))
        comments = [
            token.start
            for token in tokenize.generate_tokens(io.StringIO(text).readline)
            if token.type == tokenize.COMMENT
        ]
    except (OSError, TypeError, SyntaxError, tokenize.TokenError):
        return None
    lines = text.splitlines()
    for row, column in comments:
        lines[row - 1] = lines[row - 1][:column]
    code = "\n".join(line.rstrip() for line in lines if line.strip())
    return hashlib.sha256(code.encode()).hexdigest()[:16]


def _release_of(develop: Any) -> tuple[str, ...]:
    """Return the releases whose `develop` it is; none where anything lies around it that is not theirs."""
    *around, inner = _layers(develop)
    if any(not _is_of_release(layer) for layer in around):
        return ()
    return RELEASES.get(fingerprint(inner) or "", ())


def _is_of_release(layer: Any) -> bool:
    """Return True for a wrapper that is ours, or RD-Agent's cache, whose line is in the fingerprint."""
    home = str(layer.__globals__.get("__name__", ""))
    return home.split(".")[0] == __package__ or _KEY_VARIABLE in _closure(layer)


# --- what the code reaches ---


@dataclass
class _Reached:
    names: set[str] = field(default_factory=set)
    texts: set[str] = field(default_factory=set)
    places: list[tuple[ModuleType, str]] = field(default_factory=list)


def _reach(module: ModuleType) -> _Reached | None:
    """Return the names and texts in the code that `develop` reaches; None for a `develop` without code."""
    runner = getattr(module, "QlibModelRunner", None)
    layers = list(_layers(getattr(runner, _DEVELOP, None)))
    if not isinstance(runner, type) or not layers:
        return None
    homes = [module]
    own = sys.modules.get(str(layers[-1].__globals__.get("__name__")))
    if own is not None and vars(own) is layers[-1].__globals__ is not vars(module):
        homes.append(own)  # `develop` is inherited from another file
    reached, seen = _Reached(), set()
    waiting = list(layers)
    while waiting:
        function = waiting.pop()
        home = _home(function, homes)
        if home is None or function.__code__ in seen:
            continue
        seen.add(function.__code__)
        names: set[str] = set()
        for code in _codes(function.__code__):
            names.update(code.co_names)
            reached.texts.update(_texts(code.co_consts))
        reached.texts.update(_texts((function.__defaults__ or (), *(function.__kwdefaults__ or {}).values())))
        reached.names |= names
        for name in names:
            values = _named(name, home, runner)
            reached.texts.update(value for value in values if isinstance(value, str))
            waiting += [layer for value in values for layer in _functions(value, home) if _home(layer, homes)]
        places = _places(names, home)
        reached.names |= {MERGE} if places else set()
        reached.places += [place for place in places if place not in reached.places]
    return reached


def _home(function: FunctionType, homes: list[ModuleType]) -> ModuleType | None:
    return next((home for home in homes if vars(home) is function.__globals__), None)


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _texts(constants: tuple[Any, ...]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, tuple):
            yield from _texts(constant)


def _named(name: str, home: ModuleType, runner: type) -> list[Any]:
    """Return what a name in the code may mean: a global of the file, an attribute of the runner's classes."""
    found = [vars(home)[name]] if name in vars(home) else []
    return found + [vars(kind)[name] for kind in runner.__mro__[:-1] if name in vars(kind)][:1]


def _functions(value: Any, home: ModuleType) -> Iterator[FunctionType]:
    """Yield a function with what it wraps; of a class of the file, all of its functions."""
    if isinstance(value, type):
        if value.__module__ == home.__name__:
            for attribute in vars(value).values():
                yield from _layers(attribute)
    else:
        yield from _layers(value)


def _layers(function: Any) -> Iterator[FunctionType]:
    """Yield a function and what it wraps, the outermost first.

    A decorator without `functools.wraps` hides what it wraps in its closure, by a name of its choice: it is
    the function there that has the name `develop`.
    """
    seen: set[int] = set()
    while function is not None and id(function) not in seen:
        seen.add(id(function))
        if isinstance(function, functools.partial):
            function = function.func
        elif isinstance(function, property):
            function = function.fget
        elif hasattr(function, "__func__"):  # a bound, static or class method
            function = function.__func__
        else:
            if isinstance(function, FunctionType):
                yield function
            hidden = (
                value
                for value in _closure(function).values()
                if isinstance(value, FunctionType) and value.__name__ == _DEVELOP
            )
            function = getattr(function, "__wrapped__", None) or next(hidden, None)


def _closure(function: Any) -> dict[str, Any]:
    found = {}
    if isinstance(function, FunctionType):
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            try:
                found[name] = cell.cell_contents
            except ValueError:  # not filled in yet
                continue
    return found


# --- where the merge is looked up ---


def _places(names: set[str], home: ModuleType) -> list[tuple[ModuleType, str]]:
    """Return where code of a file with these names looks up the merge.

    That is a global of the file, whatever its name; or an attribute of a module, which the code names or
    imports itself.
    """
    found = [(home, name) for name in sorted(names) if _is_merge(name, vars(home).get(name))]
    if not found and MERGE in names:
        modules = _modules(names, home)
        found = [(module, MERGE) for module in modules if _is_merge(MERGE, vars(module).get(MERGE))]
    return found


def _is_merge(name: str, value: Any) -> bool:
    return callable(value) and MERGE in (name, getattr(value, "__name__", None))


def _modules(names: set[str], home: ModuleType) -> list[ModuleType]:
    """Return the modules that code with these names can reach, by globals, attributes and its own imports."""
    found = [value for name in sorted(names) if isinstance(value := vars(home).get(name), ModuleType)]
    package = str(vars(home).get("__package__") or home.__name__.rpartition(".")[0])
    for name in sorted(names):
        if name.startswith(f"{home.__name__.partition('.')[0]}."):
            found.append(importlib.import_module(name))  # a dotted name stands in an import statement alone
        elif f"{package}.{name}" in sys.modules:
            found.append(sys.modules[f"{package}.{name}"])
    for module in found:  # which grows
        children = (vars(module).get(name) for name in sorted(names))
        found += [child for child in children if isinstance(child, ModuleType) and child not in found]
    return list(dict.fromkeys(found))

"""Pickles read without foreign code: plain data, and inert stand-ins for everything else.

Nothing that a pickle names is imported or called. What pandas and numpy wrote is kept as the bytes that it
is, and becomes numbers through code of ours alone (`metrics`, `table`), where they are asked for: numpy
itself takes whatever type a file gives to bytes, and so lets 136 of them crash the process. What RD-Agent
signs is read through its own check of the signature (`load_logged`).
"""

from __future__ import annotations

import collections
import datetime
import hashlib
import io
import os
import pathlib
import pickle
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from types import ModuleType
from typing import Any, BinaryIO

from rdagent_sota_bridge.errors import SessionError, UntrustedSessionError, shortened
from rdagent_sota_bridge.factor_set.names import SESSION_FOLDER
from rdagent_sota_bridge.system.files import open_file

DAMAGE = (
    pickle.UnpicklingError,
    EOFError,
    AttributeError,
    ImportError,
    LookupError,
    TypeError,
    ValueError,
    OverflowError,
    MemoryError,
    RecursionError,
)
"""What reading raises on damaged or foreign bytes (the documentation of `pickle` names most of them)."""


def load(content: BinaryIO) -> Any:
    """Return what a pickle holds; raise one of `DAMAGE` where it is damaged, or no pickle."""
    return _Unpickler(content).load()


# --- what stands for foreign objects ---


class _StandIn:
    """What stands for an object of a class that is not imported: its attributes, and nothing it can do."""

    def __new__(cls, *args: Any, **kwargs: Any) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        # Two dictionaries where the class has slots; other forms belong to foreign data such as arrays.
        for part in state if isinstance(state, tuple) else (state,):
            if isinstance(part, dict):
                self.__dict__.update(part)

    def _ignore(self, *args: Any) -> None:
        """Take what a list, a set or a dictionary would hold."""

    __setitem__ = append = extend = add = _ignore


class _Kept(_StandIn):
    """A call that a pickle asks for and that is not made: its name, its arguments, and the state given."""

    name = ""
    arguments: tuple[Any, ...]
    state: Any

    def __new__(cls, *args: Any, **kwargs: Any) -> _Kept:
        made = object.__new__(cls)
        made.arguments, made.state = args, None
        return made

    def __setstate__(self, state: Any) -> None:
        self.state = state


class _Mapping(dict[Any, Any]):
    """A dictionary without what makes its missing values."""

    def __init__(self, *args: Any) -> None:
        super().__init__()


def _moment(*state: Any) -> Any:
    """Return a moment; of one in a foreign zone (pytz, in what RD-Agent logs of an LLM) a stand-in."""
    return _StandIn() if isinstance(state[-1], _StandIn) else datetime.datetime(*state)


# Harmless: they hold what they are given, and call nothing. Paths lose their tie to this machine's files.
_PLAIN: dict[tuple[str, str], Callable[..., Any]] = {
    ("builtins", "set"): set,
    ("builtins", "frozenset"): frozenset,
    ("collections", "defaultdict"): _Mapping,
    ("collections", "OrderedDict"): collections.OrderedDict,
    ("collections", "deque"): collections.deque,
    ("datetime", "datetime"): _moment,
    **{("datetime", name): getattr(datetime, name) for name in ("date", "timedelta", "timezone")},
    **{
        (module, f"{pure}{kind}"): getattr(pathlib, f"Pure{kind}")
        for module in ("pathlib", "pathlib._local")  # the second in Python 3.13
        for kind in ("PosixPath", "WindowsPath")
        for pure in ("", "Pure")
    },
}
# The names of which series and frames are made (pandas 1.5 to 3.0, numpy 1.24 to 2.5). None of them is
# called: what they would be given is kept.
_KEPT = {
    "_reconstruct",  # numpy: an array, of which the state follows
    "_frombuffer",  # numpy: an array of a buffer (pickle's protocol 5)
    "dtype",
    "_new_Index",
    "_new_DatetimeIndex",
    "__pyx_unpickle_NDArrayBacked",  # pandas: the days of an index
    "_unpickle_block",  # pandas: some columns of one type
    "BlockManager",  # pandas: the blocks of a frame
    "slice",
}


class _Unpickler(pickle.Unpickler):
    """Unpickles plain data, and stand-ins for everything else."""

    def find_class(self, module: str, name: str) -> Any:
        """Return the class for a name in the pickle, never by importing it."""
        if plain := _PLAIN.get((module, name)):
            return plain
        if name in _KEPT and module.split(".")[0] in ("numpy", "pandas", "builtins"):
            return type(name, (_Kept,), {"__module__": module, "name": name})
        return type(name.rpartition(".")[2], (_StandIn,), {"__module__": module})


# --- numbers of series and frames ---


def metrics(series: Any) -> dict[str, float]:
    """Return the numbers of a pickled series by their names; raise one of `DAMAGE` where it is none."""
    axes, blocks = _parts(series._mgr)
    ((values, _),) = blocks
    names, numbers = _index(axes[0]), _numbers(_array(values))
    return {str(name): float(number) for name, number in zip(names, numbers, strict=True)}


def table(frame: Any) -> Any:
    """Return the DataFrame of numbers that a pickled one is; raise one of `DAMAGE` where it is none."""
    import pandas as pd  # late, as numpy below: a listing of sessions starts fast without them

    axes, blocks = _parts(frame._mgr)
    names, index = _index(axes[0]), _index(axes[1])
    columns = {}
    for values, places in blocks:
        positions = range(len(names))[slice(*map(int, places.arguments))]
        for row, position in zip(_array(values), positions, strict=True):
            columns[str(names[position])] = _numbers(row)
    if len(columns) != len(names):
        raise ValueError("the frame's columns are not whole")
    return pd.DataFrame(columns, index=index)


def _numbers(values: Any) -> Any:
    if values.dtype == object and any(isinstance(value, str) for value in values):
        raise TypeError("texts in place of numbers")
    return values.astype(float)


def _parts(manager: Any) -> tuple[list[Any], list[tuple[Any, Any]]]:
    """Return axes and blocks (values, and the columns that they are of) of what manages a frame's data."""
    if isinstance(manager, _Kept):  # of a frame
        blocks, axes = manager.arguments
        return list(axes), [tuple(block.arguments[:2]) for block in blocks]
    state = getattr(manager, "0.14.1")  # pandas' own name of the form that series have until today
    return list(state["axes"]), [(block["values"], block["mgr_locs"]) for block in state["blocks"]]


def _index(kept: Any) -> Any:
    data = kept.arguments[1]["data"]
    if data.name == "__pyx_unpickle_NDArrayBacked":
        (data,) = (part for part in data.state if isinstance(part, _Kept) and part.name != "dtype")
    return _array(data)


def _array(kept: Any) -> Any:
    """Return an array of numbers, days or texts, from the bytes that it was pickled as."""
    import numpy as np

    shape: Any
    if kept.name == "_frombuffer":
        content, dtype, shape, order = kept.arguments
    else:
        _, shape, dtype, is_fortran, content = kept.state
        order = "F" if is_fortran else "C"
    shape = tuple(int(length) for length in shape)
    if isinstance(content, list):
        found = np.empty(len(content), dtype=object)
        found[:] = [_plain(item) for item in content]
    else:
        found = np.frombuffer(bytes(content), dtype=_dtype(dtype))
    return found.reshape(shape, order="F" if order == "F" else "C")


def _plain(item: Any) -> Any:
    if item is None or isinstance(item, (str, int, float)):
        return item
    raise TypeError(f"a {type(item).__name__} in place of a text or number")


def _dtype(kept: Any) -> str:
    """Return the name of a type of numbers or days; of any other there is no array."""
    kind, byte_order = str(kept.arguments[0]), kept.state[1]
    if kind == "M8":
        unit, count = kept.state[-1][1][:2]
        unit = unit.decode("ascii") if isinstance(unit, bytes) else str(unit)
        kind = f"M8[{unit}]" if unit in ("s", "ms", "us", "ns") and count == 1 else ""
    if kind[:2] in ("f4", "f8", "i4", "i8", "M8") and byte_order in ("<", ">"):
        return f"{byte_order}{kind}"
    raise ValueError(f"an array of type {kept.arguments[0]}")


# --- what RD-Agent pickles into its log ---

_SIGNED = b"RDAGENT_SIGNED_PICKLE_V"  # rdagent/core/serialization.py, 1.0.0
_PICKLE = b"\x80"  # every pickle of protocol 2 and above begins so
WORKSPACE_ITSELF = "name the workspace itself in SOTA_WORKSPACE_PATH"
_NAME_KEY = (
    "set ARTIFACT_SIGNING_KEY, or ARTIFACT_SIGNING_KEY_PATH (~/.rdagent/artifact_signing.key if not set), to "
    f"the key of that run; or {WORKSPACE_ITSELF}"
)


class _Serializer:
    """The form of `pickle` that `rdagent.core.serialization.load` takes (1.0.0)."""

    def dumps(self, obj: object, protocol: int | None = None) -> bytes:
        """Refuse: sessions are read here, never written."""
        raise NotImplementedError

    def loads(self, data: bytes) -> Any:
        """Unpickle with stand-ins."""
        return load(io.BytesIO(data))


def load_logged(file: Path) -> Any:
    """Return what a file in a log holds, with stand-ins, through RD-Agent's own loader where it has one.

    Args:
        file: A session (then it is the run's loop), or another pickle that RD-Agent wrote into its log.

    Raises:
        UntrustedSessionError: if RD-Agent's loader refuses the signature.
        SessionError: if it can't be read.
    """
    try:
        with open_file(file) as content:
            head = content.read(len(_SIGNED))
            if not head.startswith(_PICKLE) and not _SIGNED.startswith(head):
                # Before the look at the signature: of such a file it would advise to trust what is unsigned.
                fix = "name the log folder of a run, such as log/2026-01-31_09-00-00-000000"
                raise SessionError("The file is no session of RD-Agent, nor any pickle", str(file), fix)
            # A run that is killed as it dumps leaves it empty.
            if head != _SIGNED and _SIGNED.startswith(head):
                raise EOFError("the file is empty, or cut off")
            content.seek(0)
            return _verified(file, content, head == _SIGNED)
    except OSError as error:
        raise unreadable(file, error) from None
    except DAMAGE as error:
        raise SessionError(
            f"The session can't be read: {type(error).__name__}: {shortened(error)}",
            str(file),
            f"if the file is cut off, name an earlier session file of that log, or {WORKSPACE_ITSELF}",
        ) from None


def _verified(file: Path, content: BinaryIO, signed: bool) -> Any:
    serialization = _serialization()
    if serialization is None:
        if not signed:
            return load(content)
        raise UntrustedSessionError(
            "The session is signed, and the installed RD-Agent can't verify signatures",
            str(file),
            f"use the RD-Agent of that run (1.0.0 or later), or {WORKSPACE_ITSELF}",
        )
    key_file = Path(serialization.RD_AGENT_SETTINGS.artifact_signing_key_path).expanduser()
    has_key = bool(serialization.RD_AGENT_SETTINGS.artifact_signing_key)
    try:
        if not has_key:
            open_file(key_file).close()  # RD-Agent's loader would wait for a pipe, and read a device for ever
            has_key = True
    except FileNotFoundError:
        pass
    except PermissionError:  # RD-Agent's loader says so
        has_key = True
    if signed and not has_key:
        # RD-Agent's loader would make one first, which can't be the right one.
        raise UntrustedSessionError(
            "The session is signed, and there is no signing key to verify it with",
            f"{file}, with the key looked for at {key_file}",
            _NAME_KEY,
        )
    try:
        return serialization.load(content, serializer=_Serializer())
    except serialization.UntrustedArtifactError as error:
        fact = f"RD-Agent refuses the session: {error}. It was signed with another key, or changed since"
        fix = _NAME_KEY
        if not signed:
            fact = "RD-Agent refuses the session: it is not signed, as those of RD-Agent 0.8.0 are not"
            fix = (
                f"{WORKSPACE_ITSELF}; or, if you trust where the file comes from, set "
                "RD-Agent's own ALLOW_UNSAFE_LEGACY_PICKLE=true"
            )
        raise UntrustedSessionError(fact, str(file), fix) from None


def _serialization() -> ModuleType | None:
    """Return RD-Agent's loader of signed pickles, or None for an RD-Agent that signs nothing (0.8.0)."""
    try:
        return import_module("rdagent.core.serialization")
    except ModuleNotFoundError as error:
        if error.name == "rdagent.core.serialization":
            return None
        raise


def unreadable(file: Path, error: OSError) -> SessionError:
    """Return the error of a file that the system does not let this user read."""
    return SessionError(
        f"The session can't be read: {error.strerror or error}",
        str(file),
        "make it, and RD-Agent's signing key, files that you may read (ls -l shows the rights)",
    )


def unknown_form(file: Path, error: Exception) -> SessionError:
    """Return the error of a file that could be unpickled, and is no session."""
    return SessionError(
        f"The file is no session of RD-Agent's, or of a form that is not known: {shortened(error)}",
        str(file),
        f"name the log folder of a run, the one that holds {SESSION_FOLDER}",
    )


def trust() -> list[Any]:
    """Return all that RD-Agent's verdict on a signature depends on, without importing it.

    Its release, and the settings of `core/conf.py` and `core/serialization.py` (1.0.0): the key or its file,
    and whether unsigned sessions are allowed. Names of settings count in any case, as pydantic has it.
    """
    settings = {name.upper(): value for name, value in os.environ.items()}
    key_file = Path(
        settings.get("ARTIFACT_SIGNING_KEY_PATH") or "~/.rdagent/artifact_signing.key"
    ).expanduser()
    try:
        release = metadata.version("rdagent")
    except metadata.PackageNotFoundError:  # run from a checkout that was never installed
        release = ""
    try:
        status = key_file.stat()
        # Without the time of a change of the file's own record: RD-Agent sets its mode whenever it reads it.
        identity = [status.st_size, status.st_mtime_ns, status.st_ino]
    except OSError:  # no key yet, or one that may not be read: RD-Agent's loader says so
        identity = []
    return [
        release,
        hashlib.sha256(settings.get("ARTIFACT_SIGNING_KEY", "").encode()).hexdigest(),
        str(key_file),
        identity,
        settings.get("ALLOW_UNSAFE_LEGACY_PICKLE", ""),
    ]

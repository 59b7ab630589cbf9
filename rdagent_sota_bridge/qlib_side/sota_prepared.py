"""Builds the data handler of a model's training once, and loads it in later loops.

`rdagent_sota_bridge.prepared` puts this file into a model's workspace, and names `prepared_handler` in its
YAML in place of Qlib's `DataHandlerLP`. It runs in Qlib's environment: Python 3.8 or later, Qlib, nothing of
ours.

A prepared file is named by the digest of all that its content depends on. It holds a pickle, a JSON text that
tells of it and of its digest, then that text's length and digest, and a mark. Nothing is unpickled before
both digests are checked.
"""

from __future__ import annotations

import contextlib
import datetime
import hashlib
import json
import os
import pickle
import platform
import re
import shutil
import stat
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

try:
    import fcntl
except ImportError:  # not a POSIX system: an unfinished file is told by its age alone
    fcntl = None  # type: ignore[assignment]

GIVEN: dict[str, str] = {}  # `folder` and `identity`: filled in by `rdagent_sota_bridge.prepared.script`

FORM = 1
"""The number of the form of a prepared file."""

KEPT = 3
"""How many prepared files a folder keeps: those used last."""

SUFFIX = ".prepared"
UNFINISHED = ".unfinished"
OUTCOME_FILE = "sota_prepared.json"
"""Tells our side what happened; in the model's workspace."""

TRAINING = "SOTA_TRAINING"
"""The variable that names the training; it comes back in `OUTCOME_FILE`."""

SPARE = 1 << 30
"""Bytes of the disk that are left free: a full disk would stop the training, and what runs beside it."""

_MARK = b"SOTAprep"
_END = struct.Struct("<Q32s8s")  # length and digest of the text, the mark
_LONGEST_ABOUT = 1 << 20
_BLOCK = 1 << 22
_SECONDS_OF_UNFINISHED = 60.0
_PROCESSORS = ("infer_processors", "learn_processors", "shared_processors")
_CLASSES = ("data_loader", "dataloader_l", "filter_pipe", *_PROCESSORS)
# What unpickling raises where the classes have another form than when the bytes were written.
_NOT_LOADED = (
    pickle.UnpicklingError,
    AttributeError,
    ImportError,
    EOFError,
    LookupError,
    TypeError,
    ValueError,
)


class NotPreparedError(Exception):
    """Why the data can't be prepared, or a prepared file not be used; the loop builds its own."""


def prepared_handler(**arguments: Any) -> Any:
    """Return Qlib's `DataHandlerLP(**arguments)`: from a prepared file, or built and left for later loops.

    Whatever is wrong with the prepared data, the loop gets the handler that Qlib builds, and one line says
    why.
    """
    from qlib.contrib.data.handler import DataHandlerLP

    folder, identity = Path(GIVEN["folder"]), GIVEN["identity"]
    start = time.perf_counter()
    try:
        ingredients = ingredients_of(arguments, identity)
    except NotPreparedError as reason:
        _tell("not used", warning=str(reason))
        return DataHandlerLP(**arguments)
    key = key_of(ingredients)
    file = folder / f"{key}{SUFFIX}"
    warnings = []
    try:
        content, size = load(file, key)
    except FileNotFoundError:
        pass
    except NotPreparedError as reason:
        warnings.append(f"{file} is not used: {reason}")
    else:
        handler = _with_content(DataHandlerLP(**{**arguments, "init_data": False}), content)
        _tell("loaded", key=key, size=size, seconds=time.perf_counter() - start)
        return handler

    start = time.perf_counter()
    handler = DataHandlerLP(**arguments)
    found = {"key": key, "seconds": time.perf_counter() - start}
    start = time.perf_counter()
    try:
        if ingredients_of(arguments, identity) != ingredients:
            raise NotPreparedError("Qlib's data or the factor file changed meanwhile")
        found["size"] = leave(folder, key, _content_of(handler), _about(handler, arguments))
        found["seconds_kept"] = time.perf_counter() - start
    except (NotPreparedError, OSError) as error:
        warnings.append(f"not kept for later loops in {folder}: {_reason(error)}")
    _tell("built", **found, warning="; ".join(warnings))
    return handler


def _reason(error: Exception) -> str:
    return (error.strerror if isinstance(error, OSError) else None) or str(error)


def _tell(state: str, **found: Any) -> None:
    """Say what happened, in one line of qrun's output and in a file for our side."""
    line = f"SOTA prepared data: {state}"
    if "seconds" in found:
        line += f" in {found['seconds']:.1f} s"
    if "seconds_kept" in found:
        line += f", kept in {found['seconds_kept']:.1f} s"
    if "size" in found:
        line += f", {found['size'] / 1e6:.0f} MB"
    if found.get("warning"):
        line += f"; WARNING: {found['warning']}"
    encoding = sys.stdout.encoding or "ascii"
    print(line.encode(encoding, "backslashreplace").decode(encoding), flush=True)  # noqa: T201 - for qrun's output
    temporary = Path(f"{OUTCOME_FILE}.tmp")
    with contextlib.suppress(OSError):  # a full disk; the line was printed, and the training may end yet
        temporary.write_text(
            json.dumps({**found, "state": state, "line": line, "training": os.environ.get(TRAINING, "")}),
            encoding="utf-8",
        )
        temporary.replace(OUTCOME_FILE)


# --- the key ---


def key_of(ingredients: dict[str, Any]) -> str:
    """Return the digest that names a prepared file."""
    return hashlib.sha256(json.dumps(ingredients, sort_keys=True).encode()).hexdigest()


def ingredients_of(arguments: dict[str, Any], identity: str) -> dict[str, Any]:
    """Return all that a handler's content depends on, as JSON can hold it.

    Raises:
        NotPreparedError: if it depends on something whose change could not be seen.
    """
    return {
        "form": FORM,
        "identity": identity,
        "arguments": plain(arguments),
        "files": named_files(arguments),
        "versions": _versions(),
        "market": _market(arguments),
    }


def plain(value: Any) -> Any:
    """Return an argument as JSON can hold it, different for every different argument.

    Raises:
        NotPreparedError: if it is an object, of which nothing is known.
    """
    if value is None or isinstance(value, (str, int, float)):
        return value
    if isinstance(value, (datetime.date, datetime.datetime)):
        return {"type": type(value).__name__, "value": value.isoformat()}
    if isinstance(value, dict) and all(isinstance(name, str) for name in value):
        return {"type": "dict", "value": {name: plain(item) for name, item in value.items()}}
    if isinstance(value, (list, tuple)):
        return {"type": type(value).__name__, "value": [plain(item) for item in value]}
    raise NotPreparedError(f"an argument of the handler is a {type(value).__name__}")


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _texts(item)


def named_files(arguments: dict[str, Any]) -> dict[str, str]:
    """Return the files that the arguments name, the factor file above all, each with its content's digest.

    Raises:
        NotPreparedError: if one can't be read.
    """
    found = {}
    for text in _texts(arguments):
        if text not in found and os.path.isfile(text):  # noqa: PTH113 - pathlib fails on a text too long for a path
            try:
                with Path(text).open("rb") as file:
                    found[text] = _digest(file, None)
            except OSError as error:
                raise NotPreparedError(f"{text} can't be read: {error.strerror}") from None
        elif text.endswith((".parquet", ".pkl")) and Path(text).is_dir():
            raise NotPreparedError(f"{text} is a folder")
    return found


def check_classes(arguments: dict[str, Any]) -> None:
    """Check that all loaders and processors are Qlib's own: of others, no version tells the code.

    Raises:
        NotPreparedError: if not.
    """
    for name in _named_classes(arguments):
        if name.split(".")[0] != "qlib":
            raise NotPreparedError(f"{name} is not Qlib's own, and nothing tells when its code changes")


def _named_classes(value: Any, names_class: bool = False) -> Iterator[str]:
    """Yield what a configuration names outside of Qlib's defaults: classes, modules and pickles."""
    if isinstance(value, str):
        if names_class and "." in value:
            yield value
    elif isinstance(value, dict):
        name = value.get("class", value.get("func"))
        if isinstance(name, str):
            module = name if "." in name else value.get("module_path")
            if module is not None:
                yield str(module)
        for key, item in value.items():
            yield from _named_classes(item, key in _CLASSES)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from _named_classes(item, names_class)


def _versions() -> dict[str, str]:
    import numpy
    import pandas
    import pyarrow
    import qlib

    modules = (numpy, pandas, pyarrow, qlib)
    versions = {module.__name__: str(module.__version__) for module in modules}
    return {**versions, "python": platform.python_version()}


def _market(arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what tells Qlib's data of the handler's instruments from an earlier state of it."""
    from qlib.config import C
    from qlib.utils import code_to_fname

    check_classes(arguments)
    if C["custom_ops"]:
        raise NotPreparedError(
            "Qlib has operators of the user's own, and nothing tells when their code changes"
        )
    for name in ("calendar_provider", "instrument_provider", "feature_provider"):
        if not isinstance(C[name], str) or not C[name].startswith("Local"):
            raise NotPreparedError(f"Qlib's {name} is not the one that reads local files")
    folders = sorted({str(C.dpm.get_data_uri(freq)) for freq in C.dpm.provider_uri})
    return {
        "region": str(C["region"]),
        "folders": {folder: market_state(Path(folder), arguments, code_to_fname) for folder in folders},
    }


def market_state(folder: Path, arguments: dict[str, Any], file_name: Callable[[str], str]) -> str:
    """Return a digest of names, sizes and times of the files in a Qlib data folder that the handler can read.

    Those are calendars, the market's list, and the features of its instruments and of those that an
    expression names (`ChangeInstrument` in `qlib/data/ops.py`, pyqlib 0.9.7). Of the list the content counts.

    Args:
        folder: Qlib's data folder.
        arguments: The handler's.
        file_name: Qlib's `code_to_fname`.

    Raises:
        NotPreparedError: if the folder can't be read.
    """
    digest = hashlib.sha256()
    try:
        codes = set(_other_instruments(arguments))
        instruments = arguments.get("instruments")
        if isinstance(instruments, dict):
            instruments = instruments.get("market", "all")
        if instruments is None or isinstance(instruments, str):
            market = folder / "instruments" / f"{(instruments or 'all').lower()}.txt"
            content = market.read_bytes()
            digest.update(hashlib.sha256(content).digest())
            codes.update(line.split("\t")[0] for line in content.decode().splitlines() if line)
        else:
            codes.update(str(code) for code in instruments)
        _add_folder(digest, folder / "calendars")
        for name in sorted({file_name(code).lower() for code in codes}):
            _add_folder(digest, folder / "features" / name)
    except (OSError, UnicodeDecodeError) as error:
        raise NotPreparedError(f"Qlib's data folder {folder} can't be read: {_reason(error)}") from None
    return digest.hexdigest()


def _other_instruments(arguments: dict[str, Any]) -> Iterator[str]:
    for text in _texts(arguments):
        if "$$" in text:
            raise NotPreparedError(f"{text} reads financial reports, whose changes are not looked at")
        found = re.findall(r"ChangeInstrument\(\s*['\"]([^'\",\s]+)['\"]\s*,", text)
        if len(found) != text.count("ChangeInstrument"):
            raise NotPreparedError(f"nothing tells which instrument {text} names")
        yield from found


def _add_folder(digest: Any, folder: Path) -> None:
    digest.update(os.fsencode(f"{folder.name}\n"))
    try:
        with os.scandir(str(folder)) as entries:
            states = [(entry.name, entry.stat()) for entry in entries]
    except FileNotFoundError:  # an instrument without prices; Qlib loads no row of it
        return
    for name, state in sorted(states, key=lambda found: found[0]):
        digest.update(os.fsencode(f"{name} {state.st_size} {state.st_mtime_ns}\n"))


# --- a handler and its content ---


def _content_of(handler: Any) -> dict[str, Any]:
    """Return a handler's data and what its processors learnt, in objects of pandas and numpy alone.

    Qlib's own pickling leaves out what begins with an underscore: the data, and a static loader's file name
    (`qlib/utils/serial.py`, `StaticDataLoader.__getstate__`, pyqlib 0.9.7).
    """
    lists = [name for name in _PROCESSORS if hasattr(handler, name)]
    left_out = {"data_loader", *lists}
    return {
        "handler": {name: value for name, value in vars(handler).items() if name not in left_out},
        "processors": {name: [vars(processor) for processor in getattr(handler, name)] for name in lists},
    }


def _with_content(handler: Any, content: dict[str, Any]) -> Any:
    """Return a handler that was made without data, from the same arguments, with its content put in."""
    vars(handler).update(content["handler"])
    for name, learnt in content["processors"].items():
        for position, processor in enumerate(getattr(handler, name)):
            vars(processor).update(learnt[position])
    return handler


def _about(handler: Any, arguments: dict[str, Any]) -> dict[str, Any]:
    """Return what a user reads of a prepared file."""
    rows, columns = handler._infer.shape
    return {
        "identity": GIVEN["identity"],
        "market": arguments["instruments"] if isinstance(arguments.get("instruments"), str) else None,
        "rows": int(rows),
        "columns": int(columns),
    }


# --- prepared files ---


def load(file: Path, key: str) -> tuple[Any, int]:
    """Return the content of a prepared file, and the file's size in bytes.

    Raises:
        FileNotFoundError: if there is none.
        NotPreparedError: if it is not whole, not the user's own, or about something else; nothing of it was
            unpickled then.
    """
    try:
        opened = file.open("rb")
    except FileNotFoundError:
        raise
    except OSError as error:
        raise NotPreparedError(f"it can't be read: {error.strerror}") from None
    with opened:
        _check_owner(opened)
        try:
            about, size = read_about(opened)
            if about["key"] != key:
                raise NotPreparedError("it was prepared for something else")
            opened.seek(0)
            if _digest(opened, size) != about["sha256"]:
                raise NotPreparedError("it is damaged")
            opened.seek(0)
            content = pickle.load(opened)  # noqa: S301 - our own bytes: the digest is checked
            whole = opened.seek(0, os.SEEK_END)
        except OSError as error:
            raise NotPreparedError(f"it can't be read: {error.strerror}") from None
        except _NOT_LOADED as error:
            raise NotPreparedError(f"it can't be loaded: {type(error).__name__}: {error}") from None
    with contextlib.suppress(OSError):  # a folder that is read-only; it is not pruned then either
        os.utime(str(file))
    return content, whole


def _check_owner(file: BinaryIO) -> None:
    """Check that nobody but the user can have written a file: a pickle is a program."""
    status = os.fstat(file.fileno())
    if hasattr(os, "geteuid") and (
        status.st_uid != os.geteuid() or status.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    ):
        raise NotPreparedError("it belongs to another user, or others can write it")


def read_about(file: BinaryIO) -> tuple[dict[str, Any], int]:
    """Return what a prepared file tells of itself, and the size of its pickle.

    Raises:
        NotPreparedError: if it is not a whole prepared file.
    """
    whole = file.seek(0, os.SEEK_END)
    if whole < _END.size:
        raise NotPreparedError("it is cut off")
    file.seek(whole - _END.size)
    length, digest, mark = _END.unpack(file.read(_END.size))
    size = whole - _END.size - length
    if mark != _MARK or size < 0 or length > _LONGEST_ABOUT:
        raise NotPreparedError("it is cut off, or is no prepared file")
    file.seek(size)
    text = file.read(length)
    if hashlib.sha256(text).digest() != digest:
        raise NotPreparedError("it is damaged")
    about = json.loads(text)
    if about["form"] != FORM or about["size"] != size:
        raise NotPreparedError("it is of another form")
    return about, size


def _digest(file: BinaryIO, size: int | None) -> str:
    """Return the digest of a file's next bytes; of all that follow if no size is given."""
    digest = hashlib.sha256()
    block = memoryview(bytearray(_BLOCK))
    left = size
    while left is None or left > 0:
        read = file.readinto(block if left is None else block[: min(left, _BLOCK)])  # type: ignore[attr-defined]
        if not read:
            break
        digest.update(block[:read])
        left = None if left is None else left - read
    return digest.hexdigest()


class _Digesting:
    """A file that is written, and its digest."""

    def __init__(self, file: BinaryIO) -> None:
        self.file = file
        self.digest = hashlib.sha256()
        self.size = 0

    def write(self, data: Any) -> int:
        """Write bytes."""
        self.digest.update(data)
        self.size += memoryview(data).nbytes
        return self.file.write(data)


def leave(folder: Path, key: str, content: Any, about: dict[str, Any]) -> int:
    """Write a prepared file whole or not at all, delete those not used for longest, and return its size.

    Raises:
        NotPreparedError: if the disk has too little space left.
        OSError: if it can't be written; nothing half-written stays.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    _check_space(folder, content)
    descriptor, temporary = tempfile.mkstemp(dir=str(folder), prefix=f".{key[:16]}.", suffix=UNFINISHED)
    target = folder / (key + SUFFIX)
    try:
        with os.fdopen(descriptor, "wb") as file:
            _lock(file)
            pickled = _Digesting(file)
            pickle.dump(content, pickled, protocol=5)
            created = datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds")
            told = {**about, "created": created, "form": FORM, "key": key, "size": pickled.size}
            told["sha256"] = pickled.digest.hexdigest()
            text = json.dumps(told).encode()
            file.write(text + _END.pack(len(text), hashlib.sha256(text).digest(), _MARK))
            file.flush()
            os.fsync(file.fileno())
            size = file.tell()
        Path(temporary).replace(target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            Path(temporary).unlink()
        raise
    prune(folder, KEPT, target)
    return size


def _check_space(folder: Path, content: Any) -> None:
    values = content.get("handler", {}).values() if isinstance(content, dict) else ()
    needed = sum(int(value.memory_usage().sum()) for value in values if hasattr(value, "memory_usage"))
    free = shutil.disk_usage(str(folder)).free
    if free < needed + SPARE:
        raise NotPreparedError(
            f"its disk has {free / 1e9:.1f} GB free, of which {SPARE / 1e9:.0f} GB stay free; "
            f"{needed / 1e9:.1f} GB are needed"
        )


def _lock(file: BinaryIO) -> None:
    """Mark a file as being written; the mark ends with the process."""
    if fcntl is not None:
        with contextlib.suppress(
            OSError
        ):  # a file system without locks: then nothing unfinished is deleted there
            fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def prepared_files(folder: Path) -> list[Path]:
    """Return the prepared files of a folder, those used last first."""
    found = []
    for file in folder.glob("*" + SUFFIX):
        with contextlib.suppress(FileNotFoundError):  # another process prunes
            found.append((file.stat().st_mtime_ns, file))
    return [file for _, file in sorted(found, reverse=True)]


def prune(folder: Path, kept: int, target: Path | None = None) -> list[Path]:
    """Delete all but the prepared files used last, and what killed processes left; return what was deleted.

    A file in use stays readable to who reads it.

    Args:
        folder: The folder of prepared files.
        kept: How many are kept.
        target: One that is kept in any case.
    """
    files = [file for file in prepared_files(folder) if file != target]
    old = files[max(0, kept - (target is not None)) :]
    deleted = []
    for file in old + [file for file in folder.glob(".*" + UNFINISHED) if is_abandoned(file)]:
        with contextlib.suppress(
            FileNotFoundError, PermissionError
        ):  # pruned by another, or in use on Windows
            file.unlink()
            deleted.append(file)
    return deleted


def is_abandoned(file: Path) -> bool:
    """Return whether nobody writes an unfinished file any more."""
    try:
        if time.time() - file.stat().st_mtime < _SECONDS_OF_UNFINISHED:
            return False
        if fcntl is None:
            return time.time() - file.stat().st_mtime > 24 * 3600
        with file.open("rb") as opened:
            fcntl.flock(opened.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:  # locked by who writes it, gone, or a file system without locks
        return False
    return True

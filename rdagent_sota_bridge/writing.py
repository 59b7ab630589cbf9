"""Writing a file whole or not at all, and what goes into one as JSON."""

from __future__ import annotations

import dataclasses
import datetime
import math
import os
import stat
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rdagent_sota_bridge import filesystem


def write_whole(target: Path, text: str) -> None:
    """Write a text file, as `write_bytes_whole` does."""
    write_bytes_whole(target, text.encode("utf-8"))


def write_bytes_whole(target: Path, content: bytes, like: os.stat_result | None = None) -> None:
    """Write a file under a temporary name beside the target, flush it, and rename it.

    A kill at any moment leaves the old file or the new one.

    Args:
        target: The file.
        content: What it is to hold.
        like: Of whose mode it is to be, and (where root writes) whose; None for one that all may read.

    Raises:
        OSError: if it can't be written; the target is as it was.
    """
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            filesystem.flush(file)
        if like is not None and hasattr(os, "geteuid") and os.geteuid() == 0:
            os.chown(temporary, like.st_uid, like.st_gid)
        Path(temporary).chmod(0o644 if like is None else stat.S_IMODE(like.st_mode))
        filesystem.replace(Path(temporary), target)
    except BaseException:
        filesystem.remove(Path(temporary))
        raise


def as_json(value: Any) -> Any:
    """Return a value as JSON can hold it: dataclasses by their fields, times and paths as text.

    NaN, infinity and no time become null, arrays lists, and days of pandas texts such as 2026-01-31.

    Raises:
        TypeError: if it holds something else.
    """
    if value is None or isinstance(value, (bool, int)):
        return value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()  # half of a surrogate pair is no character
    if isinstance(value, datetime.datetime):
        return value.isoformat() if value == value else None  # pandas' NaT is a time that equals nothing
    if isinstance(value, os.PathLike):
        return as_json(os.fspath(value))
    if isinstance(value, Mapping):
        return {as_json(str(name)): as_json(one) for name, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_json(one) for one in value]
    if dataclasses.is_dataclass(value):
        return {one.name: as_json(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if type(value).__name__ == "DatetimeIndex":
        return [day.date().isoformat() for day in value]
    if hasattr(value, "tolist"):  # numpy's numbers and arrays; numpy is not imported for this
        return as_json(value.tolist())
    raise TypeError(f"JSON can't hold a {type(value).__name__}")

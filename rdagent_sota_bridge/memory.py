"""What was found out once and need not be found out again: small JSON files in the user's cache folder.

Nothing here is needed for a right answer: deleted, it is found out anew. A key holds all that an answer
depends on (a digest, or a file's identity), so nothing here grows stale.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from pathlib import Path
from typing import Any

import platformdirs

from rdagent_sota_bridge.writing import write_whole

_KEPT = 1000
"""How many entries of a kind are kept; the ones written longest ago go first."""

_COARSE_CLOCK = 2_000_000_000  # nanoseconds; FAT keeps two seconds

_log = logging.getLogger(__name__)


def folder() -> Path:
    """Return the folder of the memory; `XDG_CACHE_HOME` moves it where the platform knows that variable."""
    return Path(platformdirs.user_cache_path("rdagent-sota-bridge", appauthor=False))


def identity(status: os.stat_result) -> list[int] | None:
    """Return what tells a file's content from an earlier one without reading it.

    None for a file that was written just now: it can change again without a new time, where the file system's
    clock is coarse.
    """
    if time.time_ns() - status.st_mtime_ns < _COARSE_CLOCK:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]


def recall(kind: str, key: list[Any]) -> Any:
    """Return what was remembered under a key, or None.

    Args:
        kind: What it is about, with the number of its form, such as `sessions-1`.
        key: All that the answer depends on, as JSON can hold it.
    """
    file = _file(kind, key)
    try:
        entry = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never written, or not readable any more: it is found out anew
        return None
    if not isinstance(entry, dict) or entry.get("key") != json.loads(json.dumps(key)):
        return None
    return entry.get("content")


def remember(kind: str, key: list[Any], content: Any) -> None:
    """Remember something under a key, whole or not at all. A cache that can't be written is one warning."""
    file = _file(kind, key)
    text = json.dumps({"key": key, "content": content})  # in ASCII: a path may hold what is no UTF-8
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, text)
        _forget_oldest(file.parent)
    except OSError as error:
        _log.warning("What was found out can't be remembered, and will be found out anew: %s", error)


def _file(kind: str, key: list[Any]) -> Path:
    name = hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]
    return folder() / kind / f"{name}.json"


def _forget_oldest(place: Path) -> None:
    files = list(place.glob("*.json"))
    if len(files) <= _KEPT:
        return
    for file in sorted(files, key=_written)[:-_KEPT]:
        file.unlink(missing_ok=True)


def _written(file: Path) -> float:
    try:
        return file.stat().st_mtime
    except FileNotFoundError:  # another process forgets too
        return 0.0

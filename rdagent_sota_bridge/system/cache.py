"""A cache of what was found out once: small JSON files in the user's cache folder.

It is safe to delete. A key holds all that an answer depends on (a digest, or a file's identity), so that a
change asks anew.
"""

from __future__ import annotations

import functools
import hashlib
import json
import logging
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import platformdirs

from rdagent_sota_bridge.errors import one_line
from rdagent_sota_bridge.system.files import read_json, write_whole

_SECONDS_KEPT = 90 * 24 * 3600
_COARSE_CLOCK = 2_000_000_000  # nanoseconds; FAT keeps two seconds
_log = logging.getLogger(__name__)


def folder() -> Path:
    """Return the folder of the cache; `XDG_CACHE_HOME` moves it where the platform knows that variable."""
    return Path(platformdirs.user_cache_path("rdagent-sota-bridge", appauthor=False))


def identity(status: os.stat_result) -> list[int] | None:
    """Return what distinguishes a file's content from an earlier one without reading it.

    None for a file that was written just now: it can change again without a new time, where the file system's
    clock is coarse.
    """
    if time.time_ns() - status.st_mtime_ns < _COARSE_CLOCK:
        return None
    return [status.st_size, status.st_mtime_ns, status.st_ino, status.st_ctime_ns]


def find_once(kind: str, key: list[Any], find: Callable[[], Any]) -> Any:
    """Return what is kept under a key; if nothing is, what `find` returns, which is kept then.

    Args:
        kind: What it is about, with the number of its form, such as `sessions-1`.
        key: All that the answer depends on, as JSON can hold it. With a None in it, the `identity` of a file
            that was written just now, nothing is kept.
        find: Returns the answer, as JSON can hold it.
    """
    if None in key:
        return find()
    content = get(kind, key)
    if content is None:
        content = find()
        put(kind, key, content)
    return content


def get(kind: str, key: list[Any]) -> Any:
    """Return what is kept under a key, or None; kind and key as in `find_once`."""
    try:
        entry = read_json(_file(kind, key))
        content = entry.get("content") if isinstance(entry, dict) else None
        return content if entry == _entry(key, content) else None
    except (OSError, ValueError):  # never written, or damaged: it is found out anew
        return None


def put(kind: str, key: list[Any], content: Any) -> None:
    """Keep something under a key, whole or not at all. A folder that can't be written is one warning."""
    file = _file(kind, key)
    try:
        folder().mkdir(mode=0o700, parents=True, exist_ok=True)
        file.parent.mkdir(exist_ok=True)
        # In ASCII: a path may hold what is no UTF-8.
        write_whole(file, json.dumps(_entry(key, content)))
        _remove_old(file.parent)
    except OSError as error:
        _warn(f"Nothing can be kept in {folder()}, so it is found out anew each time: {error.strerror}")


def _entry(key: list[Any], content: Any) -> dict[str, Any]:
    # With a digest: what something else wrote, or changed, is no entry.
    digest = hashlib.sha256(json.dumps(content).encode()).hexdigest()
    return {"key": json.loads(json.dumps(key)), "content": content, "sha256": digest}


def _file(kind: str, key: list[Any]) -> Path:
    return folder() / kind / f"{hashlib.sha256(json.dumps(key).encode()).hexdigest()[:32]}.json"


@functools.cache  # once a process
def _warn(text: str) -> None:
    _log.warning(one_line(text))


@functools.cache  # once a process
def _remove_old(place: Path) -> None:
    for file in place.glob("*.json"):
        try:
            if file.stat().st_mtime < time.time() - _SECONDS_KEPT:
                file.unlink()
        except FileNotFoundError:  # another process removes them too
            continue

"""Sets for the tests of the store, and what is in one."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from rdagent_sota_bridge.errors import StoreError
from rdagent_sota_bridge.factor_set import store
from tests.frames import assert_survives_pickling, factor_frame, nested, write

LOCKS = (".lock", ".used")
DAYS = pd.bdate_range("2020-01-01", periods=40)


def digest_of(path: Path) -> str:
    """Return what names a file's content, worked out here and not by the package."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def wanted_of(*sources: Path, columns: tuple[str, ...] = ("momentum", "turnover")) -> store.Wanted:
    """Return what asks for files as they are now; a file taken whole has the digest of its bytes."""
    sums = tuple((source, digest_of(source)) for source in sources)
    if len(sources) == 1 and columns == ("momentum", "turnover"):
        return store.Wanted(sums[0][1], columns, sums)
    name = hashlib.sha256(repr((sums, columns)).encode()).hexdigest()
    return store.Wanted(f"sha256:{name}", columns, sums)


def normal_source(folder: Path, seed: int = 7, columns: tuple[str, ...] = ("momentum", "turnover")) -> Path:
    """Write a set as RD-Agent writes it, which is in normal form, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    return write(nested(factor_frame(columns, days=DAYS, seed=seed)), folder)


def unsorted_source(folder: Path) -> Path:
    """Write a set that has to be put into normal form, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    return write(factor_frame(days=DAYS).sample(frac=1, random_state=1), folder)


def stored_names(place: Path) -> list[str]:
    """Return the names in the store, without those of locks."""
    return sorted(file.name for file in place.iterdir() if file.suffix not in LOCKS)


def names_of(wanted: store.Wanted) -> list[str]:
    """Return the names that the files of a set have."""
    stem = wanted.digest.removeprefix("sha256:")
    return [f"{stem}.sota.json", f"{stem}.sota.parquet"]


def assert_lock_is_free(place: Path) -> None:
    """Fail where a lock of the store is held."""
    locks = [file for file in place.iterdir() if file.name.endswith(".lock")]
    assert len(locks) == 1
    with filelock.FileLock(locks[0], timeout=0):
        pass


def message_of(error: StoreError) -> str:
    """Return the fact of an error that a user reads; fail unless it is one whole message with a fix."""
    assert_survives_pickling(error)
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert error.fact.startswith(
        (
            "The factor set can't be copied into the store: ",
            "The factor set can't be placed in the model's workspace: ",
        )
    )
    assert error.fix
    return error.fact


def same(*kept: store.Stored) -> list[store.Stored]:
    """Return sets as they were written: without the time of use, which every run changes, links and note."""
    return [dataclasses.replace(stored, used=stored.written, links=0, note="") for stored in kept]


def used_at(stored: store.Stored, days: float) -> None:
    """Let a set have been used so many days ago."""
    at = time.time() - days * 24 * 3600
    os.utime(stored.path.with_suffix(".json"), (at, at))


def days_ago(days: float) -> datetime:
    """Return a time."""
    return datetime.now(timezone.utc) - timedelta(days=days)


def pair(stored: store.Stored) -> list[Path]:
    """Return the two files of a set."""
    return [stored.path, stored.path.with_suffix(".json")]


def listing(place: Path) -> dict[str, Any]:
    """Return all that is below a folder, with contents, but for locks."""
    return {
        str(file.relative_to(place)): file.read_bytes() if file.is_file() else None
        for file in place.rglob("*")
        if file.suffix not in LOCKS
    }


def longer(path: Path) -> None:
    """Let a copy have bytes too many."""
    stored_over(path, path.read_bytes() + b"more")


def stored_over(path: Path, content: bytes) -> None:
    """Write over a copy that may only be read."""
    path.chmod(0o644)
    path.write_bytes(content)

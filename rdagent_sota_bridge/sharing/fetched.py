"""The sets that were fetched into the store: their records, the list of them, and which may go."""

from __future__ import annotations

import contextlib
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

import filelock

from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.sharing.fetch import FetchRecord, read_record
from rdagent_sota_bridge.system import in_use
from rdagent_sota_bridge.system.files import is_own, open_file, own_files

_KEEP = ("The fetched sets can't be read or pruned", "make it a folder that you may read and write")
_FOLDER = re.compile("[0-9a-f]{64}")
_RECORD = re.compile(r"[0-9a-f]{64}\.json")
# What may mean nothing: a record, and what a fetch that was killed left; release 0.1.0 left two files a part.
_BROKEN = re.compile(r"([0-9a-f]{64})\.json|\.([0-9a-f]{64})\.(?:part(?:\.json)?|json\.[a-z0-9_]{8})")


@dataclass(frozen=True)
class Copy:
    """A set that was fetched.

    `urls` are without secrets; `used` is when a run last asked for it, or trained a model on it; `stored` is
    True if the store's set is the same file, and takes no room of its own; and `files` are those of it that
    there may be: its records, itself, and its metrics.
    """

    path: Path
    digest: str
    size: int
    urls: tuple[str, ...]
    fetched: datetime
    used: datetime
    stored: bool
    files: tuple[Path, ...]


def entries(place: Path) -> list[Copy]:
    """Return the sets that were fetched into a store, the least recently used first; links are none.

    Raises:
        StoreError: if the store can't be read.
    """
    folder = place / store.FETCHED
    with store.failing_at(folder, _KEEP):
        records = _records(folder)
        folders = sorted(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []
        found = (at / FACTOR_FILE for at in folders if _FOLDER.fullmatch(at.name) and not at.is_symlink())
        copies = [_copy(path, place, records) for path in found if is_own(path)]
    return sorted(copies, key=lambda copy: copy.used)


def _records(folder: Path) -> dict[Path, FetchRecord | None]:
    """Return the records, by their files; None for one that means nothing to this release."""
    return {file: read_record(file) for file in own_files(folder) if _RECORD.fullmatch(file.name)}


def _copy(path: Path, place: Path, records: dict[Path, FetchRecord | None]) -> Copy:
    digest, status = f"sha256:{path.parent.name}", path.stat()
    known = {file: record for file, record in records.items() if record and record.digest == digest}
    written = datetime.fromtimestamp(status.st_mtime, timezone.utc)
    used = max(file.stat().st_mtime for file in (path.parent, *known))
    twin = store.file_of(digest, place)
    return Copy(
        path=path,
        digest=digest,
        size=status.st_size,
        urls=tuple(sorted(record.url for record in known.values())),
        fetched=min((record.fetched for record in known.values()), default=written),
        used=datetime.fromtimestamp(used, timezone.utc),
        stored=twin.exists() and twin.samefile(path),
        files=(*known, path, path.with_name(RESULT_FILE)),
    )


def changed(copy: Copy) -> str:
    """Return what is wrong with a fetched set, read whole; empty if nothing is."""
    try:
        with open_file(copy.path) as file:
            found = parquet.content_digest(file)
    except OSError as error:
        return f"{copy.path} can't be read: {error.strerror}"
    return "" if found == copy.digest else f"{copy.path} was changed: {found} in place of {copy.digest}"


def prune(place: Path, before: datetime, *, dry_run: bool) -> tuple[list[Copy], list[Path], list[Copy]]:
    """Remove what was fetched and no run has asked for since a time, and what broken fetches left by then.

    Of a set's folder go the files that a fetch wrote; nothing goes of a link, and nothing behind one.

    Returns:
        The sets; the other files: parts, and records that mean nothing to this release; and the old sets that
        stay, for a living run uses them.

    Raises:
        StoreError: if something can't be removed.
    """
    folder = place / store.FETCHED
    old, used, broken = list[Copy](), list[Copy](), list[Path]()
    with store.failing_at(folder, _KEEP):
        for copy in (copy for copy in entries(place) if copy.used < before):
            use_lock = store.use_lock_of(store.file_of(copy.digest, place))
            with in_use.free(use_lock, dry_run=dry_run) as is_free:
                (old if is_free else used).append(copy)
                if is_free and not dry_run:
                    _remove(copy)
        records = _records(folder)
        for file in own_files(folder):
            key = _BROKEN.fullmatch(file.name)
            if key is None or records.get(file):
                continue
            of_url = filelock.FileLock(folder / f".{key[1] or key[2]}.lock", blocking=False)
            busy = contextlib.suppress(filelock.Timeout, FileNotFoundError)  # a process fetches from there
            with busy, contextlib.nullcontext() if dry_run else of_url:
                if file.stat().st_mtime < before.timestamp():
                    broken.append(file)
                    if not dry_run:
                        file.unlink()
    return old, broken, used


def _remove(copy: Copy) -> None:
    """Remove what a fetch wrote, and a set's folder unless a user's files are in it."""
    for file in filter(is_own, copy.files):
        file.unlink()
    if not any(copy.path.parent.iterdir()):
        copy.path.parent.rmdir()

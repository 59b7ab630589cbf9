"""What lies in the store of the sets behind URLs: the copies, and for each URL a record of what was there."""

from __future__ import annotations

import functools
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.system import files

Digest = Annotated[str, Field(pattern=r"^sha256:[0-9a-f]{64}$")]
_CONTENT = re.compile(r"[0-9a-f]{64}")
_RECORD = re.compile(r"[0-9a-f]{64}\.json")
_PART = re.compile(r"\.[0-9a-f]{64}\.part(?:\.json)?")  # release 0.1.0 left two files a part
# What fails where the folder can't be read or written, and the fix.
_READ = ("The fetched sets can't be read", "make the folder readable (ls -l tells)")
_PRUNE = ("The fetched sets can't be pruned", "make the folder one that you may write")


class Record(BaseModel):
    """What was fetched from a URL, and when; and what its manifest said of where it comes from."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    form: Literal[1]
    url: str
    identity: str
    digest: Digest
    size: int
    fetched: str
    run: str | None
    loop: int | None
    workspace_id: str
    accepted: bool | None


@dataclass(frozen=True)
class Copy:
    """A set that was fetched.

    Attributes:
        path: Its file.
        digest: `sha256:` and the digest of its bytes.
        size: Bytes.
        urls: Where it was fetched from, without secrets.
        fetched: When first.
        used: When a run last asked for it, or trained a model on it.
        stored: True if the store's set is the same file, and takes no room of its own.
    """

    path: Path
    digest: str
    size: int
    urls: tuple[str, ...]
    fetched: datetime
    used: datetime
    stored: bool


def current_digest(path: Path) -> str:
    """Return the digest of a fetched file; read once in a process, as long as size, time and inode stay.

    Every model's workspace that links the file changes its ctime, by which others are told from changed ones.
    Every loop asks for it, and so its folder gets the time of that, by which `prune` knows a set in use.

    Raises:
        FactorFileError: if it can't be read.
    """
    store.mark_used(path.parent)
    status = path.stat()
    return _digest_of(path, status.st_size, status.st_mtime_ns, status.st_ino)


@functools.cache
def _digest_of(path: Path, *_: int) -> str:
    return parquet.current_digest(path)


def entries(place: Path) -> list[Copy]:
    """Return the sets that were fetched, the least recently used first.

    Raises:
        StoreError: if the store can't be read.
    """
    folder = place / store.FETCHED
    with store.failing_at(folder, _READ):
        held = [at for at in folder.iterdir() if _CONTENT.fullmatch(at.name)] if folder.is_dir() else []
        copies = [_copy(at, place) for at in held if (at / FACTOR_FILE).exists()]
    return sorted(copies, key=lambda copy: copy.used)


def _copy(held: Path, place: Path) -> Copy:
    path, digest = held / FACTOR_FILE, f"sha256:{held.name}"
    known = _records(held.parent, digest)
    times = [file.stat().st_mtime for file in (held, *known)]
    twin = store.file_of(digest, place)
    return Copy(
        path=path,
        digest=digest,
        size=path.stat().st_size,
        urls=tuple(sorted(record.url for record in known.values())),
        fetched=min(
            (datetime.fromisoformat(record.fetched) for record in known.values()),
            default=datetime.fromtimestamp(path.stat().st_mtime, timezone.utc),
        ),
        used=datetime.fromtimestamp(max(times), timezone.utc),
        stored=twin.exists() and twin.samefile(path),
    )


def _records(folder: Path, digest: str) -> dict[Path, Record]:
    """Return the records that name a content, by their files."""
    files = (file for file in folder.iterdir() if _RECORD.fullmatch(file.name))
    read = ((file, read_record(file)) for file in files)
    return {file: record for file, record in read if record is not None and record.digest == digest}


def changed(copy: Copy) -> str:
    """Return what is wrong with a fetched set, read whole; empty if nothing is."""
    try:
        with copy.path.open("rb") as file:
            found = parquet.content_digest(file)
    except OSError as error:
        return f"{copy.path} can't be read: {error.strerror}"
    return "" if found == copy.digest else f"{copy.path} was changed: {found} in place of {copy.digest}"


def prune(place: Path, before: datetime, *, dry_run: bool) -> tuple[list[Copy], list[Path]]:
    """Remove what was fetched and no run has asked for since a time, and what broken fetches left by then.

    Returns:
        The sets, and the other files: parts, and records that mean nothing to this release.

    Raises:
        StoreError: if something can't be removed.
    """
    folder = place / store.FETCHED
    old = [copy for copy in entries(place) if copy.used < before]
    with store.failing_at(folder, _PRUNE):
        there = sorted(folder.iterdir()) if folder.is_dir() else []
        others = [file for file in there if _is_left(file) and file.stat().st_mtime < before.timestamp()]
        if dry_run:
            return old, others
        for copy in old:
            for file in [*_records(folder, copy.digest), *copy.path.parent.iterdir()]:
                file.unlink(missing_ok=True)
            copy.path.parent.rmdir()
        for file in others:
            with files.held(lock_of(folder, file.name.lstrip(".")[:64]), lambda _: None, "fetches it"):
                file.unlink(missing_ok=True)
        return old, others


def _is_left(file: Path) -> bool:
    if _RECORD.fullmatch(file.name):
        return read_record(file) is None
    return _PART.fullmatch(file.name) is not None


def lock_of(folder: Path, key: str) -> Path:
    """Return the file that is locked while what a URL names is fetched."""
    return folder / f".{key}.lock"


def read_record(file: Path) -> Record | None:
    """Return a record; None for one that is not there or means nothing: it is only a memory of the server."""
    try:
        record = Record.model_validate_json(file.read_bytes())
        datetime.fromisoformat(record.fetched)
    except (OSError, ValueError):
        return None
    return record

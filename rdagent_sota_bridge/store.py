"""One copy of each factor set in normal form, named by the set's digest, for all models that train on it.

A folder with two files a set: `<digest>.sota.parquet`, read-only, and `<digest>.sota.json`, which says what
it is and what tells it from a file that was changed. Both are written under a lock, to temporary names first.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import BinaryIO

import filelock

from rdagent_sota_bridge import factors, filesystem, locking, normal, placing
from rdagent_sota_bridge import panel as panels
from rdagent_sota_bridge.errors import FactorFileNotFoundError, StoreError
from rdagent_sota_bridge.names import FACTOR_FILE, workspace_root
from rdagent_sota_bridge.writing import write_whole

FOLDER = "sota_store"
"""The folder of the store, beside RD-Agent's folder of workspaces."""

FETCHED = "fetched"
"""The folder in the store of what was fetched from URLs (`fetched.py`)."""

_FORM = 1  # of the normal form and of the entries
# What fails where something can't be read or written, and the fix.
_COPY = (
    "The factor set can't be copied into the store",
    "set SOTA_STORE_PATH to a folder that can be written and has the room",
)
_PLACE = (
    "The factor set can't be placed in the model's workspace",
    "make room there, or let it be written, and resume the run",
)
_READ = (
    "The store can't be read",
    "make it readable (ls -l tells), or set SOTA_STORE_PATH to another folder",
)
_PRUNE = ("The store can't be pruned", "make it a folder that you may write (ls -l tells)")
_NAME = re.compile(r"\.?([0-9a-f]{64}\.sota)\..+")
# It is not there yet; or the store may only be read, and nobody here prunes it.
_NO_TIME_OF_USE = {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS}


@dataclass(frozen=True)
class Wanted:
    """A factor set that is to be in the store.

    Attributes:
        digest: What names the set: `sha256:` and 64 hexadecimal digits.
        columns: Its factors, in order.
        sources: Path and digest of each file.
        is_normal: True if the one file is known to be in normal form; else it is looked at.
    """

    digest: str
    columns: tuple[str, ...]
    sources: tuple[tuple[Path, str], ...]
    is_normal: bool = False


@dataclass(frozen=True)
class Stored:
    """A factor set in the store.

    Attributes:
        path: Its file.
        digest: What names the set.
        columns: Its factors, in order.
        rows: Number of (datetime, instrument) rows.
        size: Bytes.
        content: `sha256:` and the digest of the file's bytes.
        sources: Path and digest of each file that it was made of.
        written: When.
        identity: Size, time and inode of the file as it was written.
        used: When a run last asked for it.
        links: How many model workspaces hold it as a hard link.
        note: What was wrong with an earlier copy that had to be written anew; empty if nothing was.
    """

    path: Path
    digest: str
    columns: tuple[str, ...]
    rows: int
    size: int
    content: str
    sources: tuple[tuple[str, str], ...]
    written: datetime
    identity: tuple[int, int, int]
    used: datetime
    links: int
    note: str = ""


def _silent(_: str) -> None:
    pass


def folder(named: str | None) -> Path:
    """Return the folder of the store.

    Args:
        named: `SOTA_STORE_PATH`; None for the folder beside RD-Agent's workspaces.
    """
    return workspace_root().parent / FOLDER if named is None else Path(named).expanduser().absolute()


def keep(wanted: Wanted, place: Path, tell: Callable[[str], object] = _silent) -> Stored:
    """Return the set's copy in the store; written first where it is not there, or is not what it was.

    An existing copy is compared by size, time and inode, and once a process by the digest of its bytes.

    Args:
        wanted: The set.
        place: The folder of the store.
        tell: Is told what takes time: a set that is written, or another run that writes it.

    Raises:
        SetChangedError: if a file has another content than the set was checked with.
        FactorFileError, UnequalFactorError: if a file can't be read or joined any more.
        StoreError: if the copy can't be written.
    """
    path = file_of(wanted.digest, place)
    with failing_at(place, _COPY):
        mark_used(_record_of(path))  # first, so that whoever prunes meanwhile leaves it
        stored, _ = _known(path)
        if stored is not None:
            return stored
        check_folder(place)
        place.mkdir(parents=True, exist_ok=True)
        with locking.held(_lock_of(path), tell, "writes the set"):
            stored, spoilt = _known(path)  # another run may have written it meanwhile
            if stored is None:
                tell(f"one copy of the set is written into {place}")
                stored = _write(wanted, path, spoilt)
            return stored


def mark_used(record: Path) -> None:
    """Give an entry the time of its last use; one in a store that may only be read keeps its time.

    Raises:
        OSError: if something else is in the way.
    """
    try:
        os.utime(record)
    except OSError as error:
        if error.errno not in _NO_TIME_OF_USE:
            raise


def file_of(digest: str, place: Path) -> Path:
    """Return where the store's copy of a set lies, by what names the set."""
    return place / f"{digest.removeprefix('sha256:')}.sota.parquet"


def fetched_file(digest: str, place: Path) -> Path:
    """Return where a file that was fetched lies in the store, by the digest of its bytes."""
    return place / FETCHED / digest.removeprefix("sha256:") / FACTOR_FILE


def find(digest: str, place: Path) -> Stored | None:
    """Return the copy of a set if it is there, and as it was written by its size, time and inode.

    Raises:
        StoreError: if the store can't be read.
    """
    with failing_at(place, _READ):
        stored, _ = _read(file_of(digest, place))
        return None if stored is None or _spoilt(stored, by_digest=False) else stored


def hand_out(stored: Stored, target: Path, *, link: bool) -> placing.How:
    """Place a set into a model's workspace.

    Args:
        stored: The set.
        target: The file in the workspace; what is there is replaced.
        link: True if a hard link will do. In a container it will not: RD-Agent changes the modes of all files
            there (`_get_chmod_cmd` in `utils/env.py`, 1.0.0), and through a link those of the stored file.

    Raises:
        StoreError: if it can't be placed; the target is as it was.
    """
    with failing_at(target, _PLACE):
        return placing.place(stored.path, target, link=link)


def entries(place: Path) -> tuple[list[Stored], list[str]]:
    """Return the sets in the store, the least recently used first, and what is wrong with them or others.

    Raises:
        StoreError: if the store can't be read.
    """
    found, troubles = [], []
    with failing_at(place, _READ):
        for name in _names(place):
            stored, trouble = _read(place / f"{name}.parquet")
            if stored is not None:
                found.append(stored)
                trouble = _spoilt(stored, by_digest=False)
            if trouble:
                troubles.append(trouble)
    return sorted(found, key=lambda stored: stored.used), troubles


def spoilt(stored: Stored) -> str:
    """Return what is wrong with a stored set, read whole; empty if nothing is."""
    return _spoilt(stored, by_digest=True)


def prune(place: Path, before: datetime, *, dry_run: bool) -> tuple[list[Stored], list[Path]]:
    """Remove what no run has asked for since a time; a model's workspace keeps its link, clone or copy.

    Args:
        place: The folder of the store.
        before: The time.
        dry_run: Remove nothing.

    Returns:
        The sets; and what else of the store's is of no use: halves of an entry, and what killed runs left.

    Raises:
        StoreError: if something can't be removed.
    """
    sets, others = [], []
    with failing_at(place, _PRUNE):
        for name in _names(place):
            path = place / f"{name}.parquet"
            with contextlib.nullcontext() if dry_run else filelock.FileLock(_lock_of(path)):
                stored, _ = _read(path)
                # What is hidden belongs to a run that writes now, unless the lock says that there is none.
                lefts = [] if dry_run else _leftovers(path)
                if stored is not None and stored.used >= before:
                    files = lefts
                elif stored is not None:
                    sets.append(stored)
                    files = [path, _record_of(path), *lefts]
                else:
                    halves = [half for half in (path, _record_of(path)) if half.exists()]
                    old = all(half.stat().st_mtime < before.timestamp() for half in halves)
                    files = (halves if old else []) + lefts
                others += [file for file in files if stored is None or file.name.startswith(".")]
                for file in files if not dry_run else ():
                    filesystem.remove(file)
    return sets, others


# --- the files ---


def _record_of(path: Path) -> Path:
    return path.with_suffix(".json")


def _lock_of(path: Path) -> Path:
    return path.with_name(f".{path.stem}.lock")


def _identity(status: os.stat_result) -> tuple[int, int, int]:
    # Without the time of a change of the file's own record: every new link changes that.
    return status.st_size, status.st_mtime_ns, status.st_ino


_verified: set[tuple[str, tuple[int, int, int]]] = set()  # read whole in this process, and found as written


def _known(path: Path) -> tuple[Stored | None, str]:
    """Return the set if its copy is there and as it was written, else None and what is wrong with it."""
    stored, trouble = _read(path)
    if stored is None:
        return None, trouble
    known = (str(path), stored.identity)
    trouble = _spoilt(stored, by_digest=known not in _verified)
    if trouble:
        return None, trouble
    _verified.add(known)
    return stored, ""


def _read(path: Path) -> tuple[Stored | None, str]:
    """Return what the entry says, or None and what is wrong; nothing is where there is neither."""
    if not path.exists():
        return None, f"{path} is missing, and its entry is there" if _record_of(path).exists() else ""
    if not _record_of(path).exists():
        return None, f"{path} is there, and its entry {_record_of(path).name} is missing"
    try:
        entry = json.loads(_record_of(path).read_text(encoding="utf-8"))
        if entry["form"] != _FORM:
            return None, f"{path} was written in form {entry['form']}, by another release"
        if entry.pop("seal") != _seal(entry) or entry["digest"] != f"sha256:{path.name.partition('.')[0]}":
            raise ValueError("it was changed")
        return (
            Stored(
                path=path,
                digest=str(entry["digest"]),
                columns=tuple(entry["columns"]),
                rows=int(entry["rows"]),
                size=int(entry["identity"][0]),
                content=str(entry["content"]),
                sources=tuple((str(source), str(digest)) for source, digest in entry["sources"]),
                written=datetime.fromisoformat(entry["written"]),
                identity=tuple(entry["identity"]),
                used=datetime.fromtimestamp(_record_of(path).stat().st_mtime, timezone.utc),
                links=_links(path, entry["digest"]),
            ),
            "",
        )
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        return None, f"{_record_of(path)} does not say what {path.name} is ({type(error).__name__}: {error})"


def _links(path: Path, digest: str) -> int:
    """Return how many other names a file has, but for that of the fetched file which it may be."""
    fetched = fetched_file(digest, path.parent)
    shared = fetched.exists() and fetched.samefile(path)
    return path.stat().st_nlink - 1 - shared


def _seal(entry: dict[str, object]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


def _spoilt(stored: Stored, *, by_digest: bool) -> str:
    try:
        with stored.path.open("rb") as file:
            found = _identity(os.fstat(file.fileno()))
            if found != stored.identity:
                return f"{stored.path} was changed: size, time, inode {found} in place of {stored.identity}"
            if by_digest and (content := factors.content_digest(file)) != stored.content:
                return f"{stored.path} was changed: {content} in place of {stored.content}"
    except OSError as error:
        return f"{stored.path} can't be read: {error.strerror}"
    return ""


# --- writing ---


def _write(wanted: Wanted, path: Path, spoilt: str) -> Stored:
    """Write a set's copy and its entry; the lock is held."""
    for left in _leftovers(path):
        filesystem.remove(left)
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    try:
        same_as = _write_copy(wanted, temporary)
        filesystem.protect(temporary)
        with temporary.open("rb") as file:
            content, identity = factors.content_digest(file), _identity(os.fstat(file.fileno()))
        if same_as not in (None, content):
            raise factors.changed_set(wanted.sources[0][0], str(same_as), content)
        rows = factors.read_footer(temporary).rows
        sources = tuple((str(source), digest) for source, digest in wanted.sources)
        written = datetime.now(timezone.utc)
        entry = {
            "form": _FORM,
            "digest": wanted.digest,
            "columns": wanted.columns,
            "rows": rows,
            "content": content,
            "identity": identity,
            "sources": sources,
            "written": written.isoformat(),
        }
        entry["seal"] = _seal(entry)
        # The entry first: until the copy has its name the two don't fit, and the next run writes both anew.
        write_whole(_record_of(path), json.dumps(entry, indent=1) + "\n")
        filesystem.replace(temporary, path)
    finally:
        filesystem.remove(temporary)
    _verified.add((str(path), identity))
    return Stored(
        path=path,
        digest=wanted.digest,
        columns=wanted.columns,
        rows=rows,
        size=identity[0],
        content=content,
        sources=sources,
        written=written,
        identity=identity,
        used=written,
        links=0,
        note=spoilt,
    )


def _write_copy(wanted: Wanted, target: Path) -> str | None:
    """Write a set in normal form and flush it; return the digest that it must have, being a mere copy."""
    digests = dict(wanted.sources)
    if wanted.is_normal:
        ((source, expected),) = digests.items()
        _take_whole(source, expected, target)
        return expected
    with panels.opened(list(digests), lambda _: wanted.columns) as panel:
        for found in panel.files:
            if found.digest != digests[found.path]:
                raise factors.changed_set(found.path, digests[found.path], found.digest)
        if normal.is_normal(panel):
            _take_whole(panel.files[0].path, panel.files[0].digest, target)
            return panel.files[0].digest
        with target.open("xb") as file:
            normal.write(panel, file, target.parent)
            filesystem.flush(file)
        return None


def _take_whole(source: Path, digest: str, target: Path) -> None:
    """Copy a file; one that was fetched is the store's own, and becomes a link, for one copy is enough."""
    if source == fetched_file(digest, target.parent).resolve():
        placing.place(source, target, link=True)
        return
    with target.open("xb") as file:
        _copy_bytes(source, file)


def _copy_bytes(source: Path, file: BinaryIO) -> None:
    try:
        original = source.open("rb")
    except OSError as error:
        raise FactorFileNotFoundError(
            f"SOTA factors file can't be read any more: {source} ({error.strerror})",
            str(source),
            "put the file back, and start again",
        ) from None
    with original:
        if filesystem.clone(original, file):
            filesystem.flush(file)
        else:
            filesystem.copy(original, file)


def _leftovers(path: Path) -> list[Path]:
    """Return what a process that was killed while it wrote a set left: all hidden names but the lock's."""
    return [left for left in path.parent.glob(f".{path.stem}.*") if left != _lock_of(path)]


def check_folder(place: Path) -> None:
    """Raise an OSError where something else than a folder has the store's name."""
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))


def _names(place: Path) -> list[str]:
    """Return the names of what is the store's in a folder; there may be a user's files beside."""
    check_folder(place)
    found = (_NAME.fullmatch(file.name) for file in place.iterdir()) if place.is_dir() else ()
    return sorted({name[1] for name in found if name})


@contextlib.contextmanager
def failing_at(place: Path, doing: tuple[str, str]) -> Iterator[None]:
    """Make one message of what a file system says: the fact and the fix of `doing`, and the place."""
    try:
        yield
    except OSError as error:
        told = error.strerror or " ".join(str(error).split())
        fact, fix = doing
        raise StoreError(f"{fact}: {told}", str(error.filename2 or error.filename or place), fix) from None

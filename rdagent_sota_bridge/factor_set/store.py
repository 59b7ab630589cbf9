"""One copy of each factor set in normal form, named by the set's digest, for all models that train on it.

A folder with two files a set: `<digest>.sota.parquet`, read-only, and `<digest>.sota.json`, its entry. Both
are written under a lock, to temporary names first.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import re
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from pydantic import TypeAdapter

from rdagent_sota_bridge.errors import FactorFileNotFoundError, StoreError
from rdagent_sota_bridge.factor_set import panel, parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, workspace_root
from rdagent_sota_bridge.system import files, in_use

FETCHED = "fetched"
"""The folder in the store of what was fetched from URLs."""

_FORM = 1  # of the normal form and of the entries
# What fails where something can't be read or written, and the fix.
_COPY = (
    "The factor set can't be copied into the store",
    "set SOTA_STORE_PATH to a writable folder with room",
)
_PLACE = (
    "The factor set can't be placed in the model's workspace",
    "make room, or make it writable, and resume",
)
GONE = ("The stored factor set can't be read any more", "resume the run; it writes the set's copy anew")
"""For `failing_at`, where a run reads its set: what was removed by hand, or whose disk is gone."""

_READ = ("The store can't be read", "make it readable, or set SOTA_STORE_PATH to another folder")
_NAME = re.compile(r"\.?([0-9a-f]{64}\.sota)\..+")
# What is written under a temporary name: a copy, what is laid aside for it, and an entry.
_TEMPORARY = re.compile(r"\.[0-9a-f]{64}\.sota\.(?:[0-9a-f]{32}\.tmp(?:\..+)?|json\.[a-z0-9_]{8})")

Identity = tuple[int, int, int]  # size, time and inode; not the change time, which every new link moves


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
class Entry:
    """What the store writes beside a set's copy.

    Attributes:
        form: The number of this form.
        digest: What names the set.
        columns: Its factors, in order.
        rows: Number of (datetime, instrument) rows.
        content: `sha256:` and the digest of the file's bytes.
        identity: Size, time and inode of the file as it was written.
        sources: Path and digest of each file that it was made of.
        written: When.
    """

    form: int
    digest: str
    columns: tuple[str, ...]
    rows: int
    content: str
    identity: Identity
    sources: tuple[tuple[str, str], ...]
    written: datetime


@dataclass(frozen=True)
class Stored(Entry):
    """A factor set in the store: its entry, and what the file system says of it now.

    Attributes:
        path: Its file.
        used: When a run last asked for it.
        links: How many model workspaces hold it as a hard link.
        note: What was wrong with an earlier copy that had to be written anew; empty if nothing was.
    """

    path: Path
    used: datetime
    links: int
    note: str = ""

    @property
    def size(self) -> int:
        """Bytes."""
        return self.identity[0]


_ENTRY = TypeAdapter(Entry)
_verified: set[tuple[str, Identity, str]] = set()  # read whole in this process, and found as written


def folder(named: str | None) -> Path:
    """Return the folder of the store: `SOTA_STORE_PATH`, or for None the one beside RD-Agent's workspaces."""
    return workspace_root().parent / "sota_store" if named is None else Path(named).expanduser().absolute()


def file_of(digest: str, place: Path) -> Path:
    """Return where the store's copy of a set lies, by what names the set."""
    return place / f"{digest.removeprefix('sha256:')}.sota.parquet"


def fetched_file(digest: str, place: Path) -> Path:
    """Return where a file that was fetched lies in the store, by the digest of its bytes."""
    return place / FETCHED / digest.removeprefix("sha256:") / FACTOR_FILE


def keep(wanted: Wanted, place: Path, say: Callable[[str], object] = lambda _: None) -> Stored:
    """Return the set's copy in the store; written first where it is not there, or is not what it was.

    An existing copy is compared by size, time and inode, and once a process by the digest of its bytes.

    Args:
        wanted: The set.
        place: The folder of the store.
        say: Gets a text of what takes time: a set that is written, or another run that writes it.

    Raises:
        SetChangedError: if a file has another content than the set was checked with.
        FactorFileError, UnequalFactorError: if a file can't be read or joined any more.
        StoreError: if the copy can't be written.
    """
    path = file_of(wanted.digest, place)
    with failing_at(place, _COPY):
        check_folder(place)
        place.mkdir(parents=True, exist_ok=True)
        _use(path, wanted)  # first, so that whoever prunes meanwhile leaves it
        stored, _ = _known(path, wanted)
        if stored is not None:
            return stored
        with files.held(lock_of(path), say, "writes the set"):
            stored, trouble = _known(path, wanted)  # another run may have written it meanwhile
            if stored is None:
                say(f"one copy of the set is written into {place}")
                stored = _write(wanted, path, trouble)
            return stored


def _use(path: Path, wanted: Wanted) -> None:
    """Keep a set, and what it is made of where that was fetched, for this process and some days."""
    in_use.hold(use_lock_of(path))
    mark_used(entry_of(path))
    for source, digest in wanted.sources:
        if source == fetched_file(digest, path.parent).resolve():
            in_use.hold(use_lock_of(file_of(digest, path.parent)))
            mark_used(source.parent)


def mark_used(entry: Path) -> None:
    """Give an entry the time of its last use; one that is not there, or may only be read, stays as it is."""
    try:
        os.utime(entry)
    except OSError as error:
        if error.errno not in {errno.ENOENT, errno.ENOTDIR, errno.EACCES, errno.EPERM, errno.EROFS}:
            raise


def find(digest: str, place: Path) -> Stored | None:
    """Return the copy of a set if it is there, and as it was written by its size, time and inode."""
    with failing_at(place, _READ):
        stored, _ = _read(file_of(digest, place))
        return None if stored is None or trouble_of(stored, whole=False) else stored


def hand_out(stored: Stored, target: Path, *, link: bool) -> files.How:
    """Place a set into a model's workspace, for what is there; with `link` a hard link will do.

    In a container it will not: RD-Agent changes the modes of all files there (`_get_chmod_cmd` in
    `utils/env.py`, 1.0.0), and through a link those of the stored file.

    Raises:
        StoreError: if it can't be placed; the target is as it was.
    """
    with failing_at(target, _PLACE):
        return files.place(stored.path, target, link=link)


def entries(place: Path) -> tuple[list[Stored], list[str]]:
    """Return the sets in the store, the least recently used first, and what is wrong with them or others.

    Raises:
        StoreError: if the store can't be read.
    """
    found, troubles = [], []
    with failing_at(place, _READ):
        for name in names_in(place):
            stored, trouble = _read(place / f"{name}.parquet")
            if stored is not None:
                found.append(stored)
                trouble = trouble_of(stored, whole=False)
            troubles.append(trouble)
    return sorted(found, key=lambda stored: stored.used), list(filter(None, troubles))


def trouble_of(stored: Stored, *, whole: bool = True) -> str:
    """Return what is wrong with a set, read whole or by its size, time and inode; empty for nothing."""
    try:
        with files.open_file(stored.path) as file:
            found = _identity(os.fstat(file.fileno()))
            if found != stored.identity:
                return f"{stored.path} was changed: size, time, inode {found} in place of {stored.identity}"
            if whole and (content := parquet.content_digest(file)) != stored.content:
                return f"{stored.path} was changed: {content} in place of {stored.content}"
    except OSError as error:
        return f"{stored.path} can't be read: {error.strerror}"
    return ""


# --- the files ---


def entry_of(path: Path) -> Path:
    """Return the entry of a set's copy."""
    return path.with_suffix(".json")


def lock_of(path: Path) -> Path:
    """Return the lock of who writes or removes a set's copy."""
    return path.with_name(f".{path.stem}.lock")


def use_lock_of(path: Path) -> Path:
    """Return the lock that runs share which use a set's copy, or the fetched file of the same digest."""
    return path.with_name(f".{path.stem}.used")


def leftovers(path: Path) -> list[Path]:
    """Return what a process that was killed while it wrote a set left."""
    found = path.parent.glob(f".{path.stem}.*")
    return [left for left in found if _TEMPORARY.fullmatch(left.name) and left.is_file()]


def check_folder(place: Path) -> None:
    """Raise an OSError where something else than a folder has the store's name."""
    if place.exists() and not place.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(place))


def names_in(place: Path) -> list[str]:
    """Return the names, `<digest>.sota`, of what is the store's in a folder; a user's files may be beside."""
    check_folder(place)
    found = (_NAME.fullmatch(file.name) for file in place.iterdir()) if place.is_dir() else ()
    return sorted({name[1] for name in found if name})


def identity_of(path: Path) -> Identity | None:
    """Return size, time and inode of a file; None where there is none."""
    return _identity(path.stat()) if path.exists() else None


def _identity(status: os.stat_result) -> Identity:
    return status.st_size, status.st_mtime_ns, status.st_ino


def _known(path: Path, wanted: Wanted) -> tuple[Stored | None, str]:
    """Return the set if its copy is there and as it was written, else None and what is wrong with it."""
    stored, trouble = _read(path)
    if stored is None:
        return None, trouble
    known = (str(path), stored.identity, stored.content)
    if stored.columns != wanted.columns:
        trouble = f"{entry_of(path)} was changed: it names other factors"
    elif not (trouble := trouble_of(stored, whole=known not in _verified)):
        _verified.add(known)
        return stored, ""
    return None, trouble


def _read(path: Path) -> tuple[Stored | None, str]:
    """Return what the entry says, or None and what is wrong; nothing is where there is neither."""
    record = entry_of(path)
    if not path.exists():
        return None, f"{path} is missing, and its entry is there" if record.exists() else ""
    try:
        entry = _ENTRY.validate_python(files.read_json(record))
        if entry.form != _FORM:
            return None, f"{path} was written in form {entry.form}, by another release"
        if entry.digest != f"sha256:{path.name.partition('.')[0]}":
            return None, f"{record} is the entry of another set, {entry.digest}"
        used = datetime.fromtimestamp(record.stat().st_mtime, timezone.utc)
        fetched = fetched_file(entry.digest, path.parent)  # which is another name of it, perhaps
        links = path.stat().st_nlink - 1 - (fetched.exists() and fetched.samefile(path))
        return Stored(**vars(entry), path=path, used=used, links=links), ""
    except FileNotFoundError:
        return None, f"{path} is there, and its entry {record.name} is missing"
    except (OSError, ValueError) as error:
        return None, f"{record} does not say what {path.name} is ({type(error).__name__})"


def _write(wanted: Wanted, path: Path, trouble: str) -> Stored:
    """Write a set's copy and its entry; the lock is held."""
    for left in leftovers(path):
        left.unlink()
    temporary = path.with_name(f".{path.stem}.{uuid.uuid4().hex}.tmp")
    try:
        same_as = _write_copy(wanted, temporary)
        temporary.chmod(temporary.stat().st_mode & 0o444)  # what the user's umask leaves of it
        with temporary.open("rb") as file:
            content, identity = parquet.content_digest(file), _identity(os.fstat(file.fileno()))
        if same_as not in (None, content):
            raise parquet.changed_set(wanted.sources[0][0], str(same_as), content)
        entry = Entry(
            form=_FORM,
            digest=wanted.digest,
            columns=wanted.columns,
            rows=parquet.read_footer(temporary).rows,
            content=content,
            identity=identity,
            sources=tuple((str(source), digest) for source, digest in wanted.sources),
            written=datetime.now(timezone.utc),
        )
        # The entry first: until the copy has its name the two don't fit, and the next run writes both anew.
        files.write_whole(entry_of(path), f"{json.dumps(_ENTRY.dump_python(entry, mode='json'), indent=1)}\n")
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
    _verified.add((str(path), identity, content))
    return Stored(**vars(entry), path=path, used=entry.written, links=0, note=trouble)


def _write_copy(wanted: Wanted, target: Path) -> str | None:
    """Write a set in normal form and flush it; return the digest that it must have, being a mere copy."""
    digests = dict(wanted.sources)
    if wanted.is_normal:
        ((source, expected),) = digests.items()
        _copy_whole(source, expected, target)
        return expected
    with panel.opened(list(digests), lambda _: wanted.columns) as joined:
        for found in joined.files:
            if found.digest != digests[found.path]:
                raise parquet.changed_set(found.path, digests[found.path], found.digest)
        if panel.is_normal(joined):
            _copy_whole(joined.files[0].path, joined.files[0].digest, target)
            return joined.files[0].digest
        with target.open("xb") as file:
            panel.write_normal(joined, file, target.parent)
            files.flush(file)
        return None


def _copy_whole(source: Path, digest: str, target: Path) -> None:
    """Copy a file; one that was fetched is the store's own, and becomes a link, for one copy is enough."""
    try:
        files.put(source, target, link=source == fetched_file(digest, target.parent).resolve())
    except OSError as error:
        if error.filename != str(source) or error.filename2 is not None:
            raise
        raise FactorFileNotFoundError(
            f"SOTA factors file can't be read any more: {source} ({error.strerror})",
            str(source),
            "put the file back, and start again",
        ) from None


@contextlib.contextmanager
def failing_at(place: Path, doing: tuple[str, str]) -> Iterator[None]:
    """Make one message of what a file system says: the fact and the fix of `doing`, and the place."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or " ".join(str(error).split())
        fact, fix = doing
        where = str(error.filename2 or error.filename or place)
        raise StoreError(f"{fact}: {reason}", where, fix) from None

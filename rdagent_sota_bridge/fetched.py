"""Sets behind URLs, fetched once into the store and used from there.

`fetched/` in the store holds a folder for each content, named by its SHA-256, like a factor workspace; for
each URL a small record of what was there (`<key>.json`, whose time is that of the last use); and while one is
being fetched its bytes so far (`.<key>.part`) and what they are of (`.<key>.part.json`). The key is that of
the URL without its secrets.
"""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_bridge import factors, filesystem, locking, placing, published, remote, store, urls
from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
    StoreError,
)
from rdagent_sota_bridge.locate import Located, Origin
from rdagent_sota_bridge.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.published import Published
from rdagent_sota_bridge.remote import NoRangesError, Remote, RemoteChangedError, Seen
from rdagent_sota_bridge.writing import write_whole

WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before a broken fetch is tried again; after the last it ends. What goes on begins anew."""

_FORM = 1
_CHANGES = 3  # how often an object may change while it is fetched
_SPARE = 1 << 26  # bytes that stay free on the disk
_LINE_SECONDS = 10.0
_COPY = (
    "What the URL names can't be copied into the store",
    "set SOTA_STORE_PATH to a folder that can be written and has the room",
)
_RECORD = re.compile(r"([0-9a-f]{64})\.json")
_CONTENT = re.compile(r"[0-9a-f]{64}")
_PART = re.compile(r"\.([0-9a-f]{64})\.part(?:\.json)?")

Progress = Callable[[str, int, "int | None"], object]
"""Is told a URL without secrets, how many bytes are there, and of how many."""


@dataclass(frozen=True)
class Watch:
    """Who is told of a fetch.

    Attributes:
        tell: Is told what takes time, in lines.
        progress: Is told of the bytes, often; None for a line every ten seconds.
    """

    tell: Callable[[str], object]
    progress: Progress | None = None


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


@dataclass(frozen=True)
class _Record:
    """What was fetched from a URL, and when; and what its manifest said of where it comes from."""

    url: str
    identity: str
    digest: str
    size: int
    fetched: str
    run: str | None = None
    loop: int | None = None
    workspace_id: str = ""
    accepted: bool | None = None

    @property
    def origin(self) -> Origin:
        """The run and the loop that left the set."""
        return Origin(self.run, self.loop, self.workspace_id, self.accepted)


# --- fetching ---


def fetch(url: str, place: Path, watch: Watch) -> Located:
    """Return the local copy of what a URL names; fetched first where the object is not the one fetched then.

    Where the server can't be reached and a copy is there, the copy is returned with a note that says so.

    Args:
        url: A folder that holds a factor file, or a file that ends in `.parquet`.
        place: The folder of the store.
        watch: Who is told.

    Raises:
        FactorFileNotFoundError: if nothing is there.
        RemoteUnavailableError: if the server can't be reached, and no copy is there.
        RemoteError: if the server refuses, or what it gives is not what the set's manifest says.
        StoreError: if the copy can't be written.
    """
    is_file = urls.last_name(url).lower().endswith(".parquet")
    thing = remote.reach(url if is_file else urls.inside(url, FACTOR_FILE))
    job = _Job(thing, None if is_file and urls.last_name(url) != FACTOR_FILE else _manifest_of(url, is_file))
    folder, key = place / store.FETCHED, urls.key_of(thing.url)
    with store.failing_at(place, _COPY):
        record, notes = _usable(folder, key)
    try:
        seen = thing.look()
    except RemoteUnavailableError as error:
        if record is None:
            raise
        return _located(job, folder, key, record, (*notes, _away(thing, record, error)))
    except (RemoteError, FactorFileNotFoundError) as error:
        raise _with_copy(error, record, folder) from None
    if record is not None and seen.identity and record.identity == seen.identity:
        return _located(job, folder, key, record, notes)
    with store.failing_at(place, _COPY):
        store.check_folder(place)
        folder.mkdir(parents=True, exist_ok=True)
        with locking.held(_lock(folder, key), watch.tell, f"fetches {thing.shown}"):
            record, _ = _usable(folder, key)  # another process may have fetched it meanwhile
            if record is None or not seen.identity or record.identity != seen.identity:
                record, more = _fetch(job, seen, folder, key, watch)
                notes += more
    return _located(job, folder, key, record, notes)


@dataclass(frozen=True)
class _Job:
    """What is fetched: the file, and its manifest where there can be one."""

    thing: Remote
    manifest: Remote | None


def _manifest_of(url: str, is_file: bool) -> Remote | None:
    # What is signed names one object, and none beside it.
    if urls.has_query(url):
        return None
    return remote.reach(urls.inside(urls.folder_of(url) if is_file else url, published.FILE))


def _usable(folder: Path, key: str) -> tuple[_Record | None, tuple[str, ...]]:
    """Return the record of a URL whose copy is as it was fetched; else None, and a note if it was changed."""
    record = _read_record(folder / f"{key}.json")
    if record is None:
        return None, ()
    path = _file(folder, record.digest)
    if not path.exists():
        return None, ()
    if path.stat().st_size == record.size and current_digest(path) == record.digest:
        return record, ()
    return None, (f"{path} was changed after it was fetched from {record.url}; it is fetched anew",)


def _located(job: _Job, folder: Path, key: str, record: _Record, notes: tuple[str, ...]) -> Located:
    with store.failing_at(folder, _COPY):
        store.mark_used(folder / f"{key}.json")
    path = _file(folder, record.digest).resolve()
    if record.accepted is False:
        loop = "a loop" if record.loop is None else f"loop {record.loop} of {record.run}"
        notes += (f"{job.thing.shown} is the set of {loop}, which its run rejected, as its manifest says",)
    return Located(path, url=job.thing.shown, fetched=record.fetched, notes=notes, origin=record.origin)


def _away(thing: Remote, record: _Record, error: RemoteError) -> str:
    return (
        f"{error.fact} ({thing.shown}): the copy that was fetched at {record.fetched} is used, "
        f"{record.digest}; what is there now may be another set"
    )


def _with_copy(
    error: RemoteError | FactorFileNotFoundError, record: _Record | None, folder: Path
) -> Exception:
    """Return the error with the way to the copy: a set that is gone or closed is not used unasked."""
    if record is None:
        return error
    copy = _file(folder, record.digest).parent
    fix = f"{error.fix}; or name the copy that was fetched at {record.fetched}: SOTA_WORKSPACE_PATH={copy}"
    return type(error)(error.fact, error.place, fix)


def _fetch(job: _Job, seen: Seen, folder: Path, key: str, watch: Watch) -> tuple[_Record, tuple[str, ...]]:
    """Fetch what was seen, or what took its place meanwhile; the lock is held."""
    for _ in range(_CHANGES):
        manifest, notes = _manifest(job, seen)
        try:
            if manifest is not None and manifest.identity == seen.identity != "":
                with _content_held(folder, manifest.digest, watch.tell):
                    if _is_here(manifest, folder):
                        watch.tell(f"{job.thing.shown} is the set {manifest.digest}, which is here already")
                        _drop_part(folder, key)
                        here = _file(folder, manifest.digest)
                        return _recorded(job, seen, manifest, manifest.digest, here, folder, key), notes
            part = _fetched_part(job.thing, seen, folder, key, watch)
            return _taken(job, seen, manifest, part, folder, key, watch), notes
        except RemoteChangedError:
            watch.tell(f"{job.thing.shown} has changed while it was fetched, and is fetched anew")
            _drop_part(folder, key)
            seen = job.thing.look()
    raise RemoteError(
        f"The set has changed {_CHANGES} times while it was fetched",
        job.thing.shown,
        "wait until whatever writes it has ended, and start again",
    )


def _manifest(job: _Job, seen: Seen) -> tuple[Published | None, tuple[str, ...]]:
    """Return the manifest, or None and a note where it can't be read."""
    if job.manifest is None:
        return None, ()
    try:
        manifest = published.read(job.manifest)
    except RemoteRefusedError as error:
        # S3 says the same of what is not there to one who may not list.
        return None, (f"{job.manifest.shown} can't be read ({error.fact}): the set is not compared with it",)
    if manifest is None:
        return None, ()
    if not manifest.complete:
        raise RemoteError(
            "The set at the URL is not whole: it is being pushed now, or a push broke off",
            f"{job.manifest.shown} says so",
            "wait for the push, or repeat it: `rdagent-sota push SET URL`",
        )
    if seen.size is not None and seen.size != manifest.size:
        raise _not_as_pushed(job, manifest, f"{seen.size:,} bytes", f"{manifest.size:,}")
    return manifest, ()


def _not_as_pushed(job: _Job, manifest: Published, found: str, expected: str) -> RemoteError:
    where = "" if job.manifest is None else job.manifest.shown
    return RemoteError(
        f"What the URL names is not the set that its manifest names: it has {found} in place of {expected}",
        f"{job.thing.shown}, {where} ({manifest.digest})",
        "push the set again: `rdagent-sota push SET URL --replace`",
    )


def _is_here(manifest: Published, folder: Path) -> bool:
    """Tell whether the set that a manifest names is here: fetched from another URL, or stored as mined."""
    path = _file(folder, manifest.digest)
    if path.exists():
        return path.stat().st_size == manifest.size and current_digest(path) == manifest.digest
    stored = store.find(manifest.digest, folder.parent)
    if stored is None or stored.content != manifest.digest or store.spoilt(stored):
        return False
    path.parent.mkdir(exist_ok=True)
    placing.place(stored.path, path, link=True)
    filesystem.protect(path)  # a clone or a copy is not, as a link is
    return True


# --- the bytes ---


def _fetched_part(thing: Remote, seen: Seen, folder: Path, key: str, watch: Watch) -> Path:
    """Return a file with all bytes of the object; those of an earlier attempt are gone on with.

    Raises:
        RemoteChangedError: if the object is another one by now.
        RemoteUnavailableError: if the server has failed as often as `WAITS` has it; the bytes so far stay.
    """
    part = _part(folder, key)
    if _read_text(_about(folder, key)) != seen.identity or not seen.identity or not seen.ranges:
        _drop_part(folder, key)
    done = part.stat().st_size if part.exists() else 0
    if seen.size is not None and done > seen.size:
        _drop_part(folder, key)
        done = 0
    _check_room(folder, (seen.size or 0) - done)
    write_whole(_about(folder, key), json.dumps(seen.identity))
    progress = watch.progress or _Lines(watch.tell)
    size = "" if seen.size is None else f" ({_shown(seen.size)})"
    watch.tell(f"{thing.shown}{size} is fetched into {folder}" + (f", from byte {done:,} on" if done else ""))
    failures = 0
    while True:
        before = done
        try:
            with part.open("ab") as file:
                for block in thing.blocks(seen, done):
                    file.write(block)
                    file.flush()
                    os.fsync(file.fileno())  # so that what a crash leaves is what was fetched
                    done += len(block)
                    progress(thing.shown, done, seen.size)
            trouble = _incomplete(thing, done, seen)
        except NoRangesError:
            seen, done = Seen(seen.size, seen.identity, ranges=False), 0
            _begin_part(folder, key, seen)
            continue
        except RemoteUnavailableError as error:
            trouble = error
        if trouble is None:
            break
        failures = 0 if done > before else failures + 1
        if failures > len(WAITS):
            raise trouble
        wait = WAITS[max(failures - 1, 0)]
        watch.tell(f"{trouble.fact} ({thing.shown}): again in {wait:g} s, from byte {done:,} on")
        time.sleep(wait)
        if not seen.ranges:
            _begin_part(folder, key, seen)
            done = 0
    # Not every server compares the ETag of what it gives.
    if (now := thing.look()).identity != seen.identity:
        raise RemoteChangedError(now.identity)
    return part


def _incomplete(thing: Remote, done: int, seen: Seen) -> RemoteUnavailableError | None:
    if seen.size is None or done == seen.size:
        return None
    if done > seen.size:
        raise RemoteChangedError(f"{done} bytes")
    return RemoteUnavailableError(
        f"The server gave {done:,} of {seen.size:,} bytes",
        thing.shown,
        "start again: what was fetched is kept",
    )


class _Lines:
    """Tells of a fetch in a line every ten seconds."""

    def __init__(self, tell: Callable[[str], object]) -> None:
        self._tell, self._told, self._begun = tell, time.monotonic(), 0

    def __call__(self, url: str, done: int, total: int | None) -> None:
        now = time.monotonic()
        if now - self._told < _LINE_SECONDS:
            return
        speed = (done - self._begun) / (now - self._told)
        of = "" if not total else f" of {_shown(total)} ({done / total:.0%})"
        self._tell(f"{url}: {_shown(done)}{of}, {_shown(int(speed))}/s")
        self._told, self._begun = now, done


def _shown(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _check_room(folder: Path, needed: int) -> None:
    free = shutil.disk_usage(folder).free
    if needed + _SPARE > free:
        fact, fix = _COPY
        raise StoreError(f"{fact}: it needs {_shown(needed)}, and {_shown(free)} are free", str(folder), fix)


# --- taking it ---


def _taken(
    job: _Job, seen: Seen, manifest: Published | None, part: Path, folder: Path, key: str, watch: Watch
) -> _Record:
    """Give the fetched bytes their place, and return the record of it.

    The record first: killed before the bytes have their name, the next run finds them whole in the part; and
    read-only last, for that run opens the part to go on with it.
    """
    try:
        with part.open("rb") as file:
            pq.read_metadata(file)  # the last bytes, without which it is half of a file
    except (pa.ArrowException, OSError) as error:
        _drop_part(folder, key)
        raise RemoteError(
            f"What the URL gives is no whole parquet file ({' '.join(str(error).split())[:200]})",
            job.thing.shown,
            "correct the URL, or look at what the server gives for it: a page, or half of the file?",
        ) from None
    with part.open("rb") as file:
        digest = factors.content_digest(file)
    if manifest is not None and digest != manifest.digest:
        _drop_part(folder, key)
        raise _not_as_pushed(job, manifest, digest, manifest.digest)
    with _content_held(folder, digest, watch.tell):
        record = _recorded(job, seen, manifest, digest, part, folder, key)
        path = _file(folder, digest)
        filesystem.replace(part, path)
        filesystem.protect(path)
    _drop_part(folder, key)
    return record


def _recorded(
    job: _Job, seen: Seen, manifest: Published | None, digest: str, bytes_in: Path, folder: Path, key: str
) -> _Record:
    """Write down what the URL names, and the metrics beside its file; the content's lock is held."""
    record = _Record(
        url=job.thing.shown,
        identity=seen.identity,
        digest=digest,
        size=bytes_in.stat().st_size,
        fetched=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        **({} if manifest is None else asdict(manifest.origin)),
    )
    write_whole(folder / f"{key}.json", json.dumps({"form": _FORM, **asdict(record)}, indent=1) + "\n")
    held = _file(folder, digest).parent
    held.mkdir(exist_ok=True)
    if manifest is not None and manifest.metrics:
        write_whole(held / RESULT_FILE, _as_results(manifest.metrics))
    return record


@contextmanager
def _content_held(folder: Path, digest: str, tell: Callable[[str], object]) -> Iterator[None]:
    """Hold the lock of a content, so that nobody prunes it meanwhile."""
    with locking.held(_lock(folder, digest.removeprefix("sha256:")), tell, "prunes or takes this set"):
        yield


def _as_results(metrics: dict[str, float]) -> str:
    """Return metrics as RD-Agent's `read_exp_res.py` leaves them beside a factor file."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([["", "0"], *metrics.items()])
    return text.getvalue()


_known: dict[tuple[str, tuple[int, int, int]], str] = {}  # files that were read whole in this process


def current_digest(path: Path) -> str:
    """Return the digest of a fetched file; read once in a process, as long as size, time and inode stay.

    Every model's workspace that links the file changes its ctime, by which others are told from changed ones.
    Every loop asks for it, and so its folder gets the time of that, by which `prune` knows a set in use.

    Raises:
        FactorFileError: if it can't be read.
    """
    store.mark_used(path.parent)
    status = path.stat()
    key = (str(path), (status.st_size, status.st_mtime_ns, status.st_ino))
    if key not in _known:
        _known[key] = factors.current_digest(path)
    return _known[key]


# --- what is there ---


def entries(place: Path) -> list[Copy]:
    """Return the sets that were fetched, the least recently used first.

    Raises:
        StoreError: if the store can't be read.
    """
    folder = place / store.FETCHED
    with store.failing_at(
        folder, ("The fetched sets can't be read", "make the folder readable (ls -l tells)")
    ):
        return sorted(_entries(folder), key=lambda copy: copy.used)


def _entries(folder: Path) -> list[Copy]:
    if not folder.is_dir():
        return []
    records: dict[str, list[_Record]] = {}
    used: dict[str, float] = {}
    for file in folder.iterdir():
        if _RECORD.fullmatch(file.name) and (record := _read_record(file)) is not None:
            records.setdefault(record.digest, []).append(record)
            used[record.digest] = max(used.get(record.digest, 0.0), file.stat().st_mtime)
    found = []
    for held in folder.iterdir():
        path = held / FACTOR_FILE
        if not _CONTENT.fullmatch(held.name) or not path.exists():
            continue
        digest, status = f"sha256:{held.name}", path.stat()
        known = records.get(digest, [])
        twin = store.file_of(digest, folder.parent)
        # The file's own time is that of the stored set where it is a link to that.
        first = min((datetime.fromisoformat(record.fetched) for record in known), default=None)
        found.append(
            Copy(
                path=path,
                digest=digest,
                size=status.st_size,
                urls=tuple(sorted(record.url for record in known)),
                fetched=first or datetime.fromtimestamp(status.st_mtime, timezone.utc),
                used=datetime.fromtimestamp(max(used.get(digest, 0.0), held.stat().st_mtime), timezone.utc),
                stored=twin.exists() and twin.samefile(path),
            )
        )
    return found


def spoilt(copy: Copy) -> str:
    """Return what is wrong with a fetched set, read whole; empty if nothing is."""
    try:
        with copy.path.open("rb") as file:
            found = factors.content_digest(file)
    except OSError as error:
        return f"{copy.path} can't be read: {error.strerror}"
    return "" if found == copy.digest else f"{copy.path} was changed: {found} in place of {copy.digest}"


def prune(place: Path, before: datetime, *, dry_run: bool) -> tuple[list[Copy], list[Path]]:
    """Remove what was fetched and no run has asked for since a time, and what broken fetches left by then.

    Returns:
        The sets, and the other files.

    Raises:
        StoreError: if something can't be removed.
    """
    folder = place / store.FETCHED
    with store.failing_at(
        folder, ("The fetched sets can't be pruned", "make the folder one that you may write")
    ):
        old = [copy for copy in _entries(folder) if copy.used < before]
        if not dry_run:
            old = [copy for copy in old if _removed(copy, folder, before)]
        others = []
        for file in sorted(folder.iterdir()) if folder.is_dir() else ():
            match = _PART.fullmatch(file.name)
            if match is None or file.stat().st_mtime >= before.timestamp():
                continue
            others.append(file)
            if not dry_run:
                with locking.held(_lock(folder, match[1]), lambda _: None, "fetches it"):
                    filesystem.remove(file)
        return old, others


def _removed(copy: Copy, folder: Path, before: datetime) -> bool:
    """Remove a copy and its records, unless somebody has asked for it by now; return True if it is gone."""
    with _content_held(folder, copy.digest, lambda _: None):
        now = {found.digest: found for found in _entries(folder)}.get(copy.digest)
        if now is None or now.used >= before:
            return False
        for file in folder.iterdir():
            record = _read_record(file) if _RECORD.fullmatch(file.name) else None
            if record is not None and record.digest == copy.digest:
                filesystem.remove(file)
        for file in copy.path.parent.iterdir():
            filesystem.remove(file)
        copy.path.parent.rmdir()
        return True


# --- the files ---


def _file(folder: Path, digest: str) -> Path:
    return store.fetched_file(digest, folder.parent)


def _part(folder: Path, key: str) -> Path:
    return folder / f".{key}.part"


def _about(folder: Path, key: str) -> Path:
    return folder / f".{key}.part.json"


def _lock(folder: Path, key: str) -> Path:
    return folder / f".{key}.lock"


def _drop_part(folder: Path, key: str) -> None:
    # The part first: what it is of must not outlive a name that says so.
    filesystem.remove(_part(folder, key))
    filesystem.remove(_about(folder, key))


def _begin_part(folder: Path, key: str, seen: Seen) -> None:
    """Take away the bytes so far, and write down what the next ones are of."""
    _drop_part(folder, key)
    write_whole(_about(folder, key), json.dumps(seen.identity))


def _read_text(file: Path) -> Any:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):  # never written, or not whole: the part is dropped
        return None


def _read_record(file: Path) -> _Record | None:
    """Return a record; None for one that is not there or means nothing: it is only a memory of the server."""
    told = _read_text(file)
    try:
        if told.pop("form") != _FORM:
            return None
        record = _Record(**told)
        datetime.fromisoformat(record.fetched)
    except (AttributeError, KeyError, TypeError, ValueError):
        return None
    return record if _CONTENT.fullmatch(record.digest.removeprefix("sha256:")) else None

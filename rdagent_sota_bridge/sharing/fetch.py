"""Sets behind URLs, fetched once into the store and used from there.

`fetched/` in the store holds a folder for each content, named by its SHA-256, like a factor workspace; for
each URL a record of what was there (`<key>.json`, whose time is that of the last use); and while one is being
fetched its bytes so far (`.<key>.part`).
"""

from __future__ import annotations

import functools
import hashlib
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import AwareDatetime, BaseModel, ConfigDict
from rich.filesize import decimal

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
)
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.locate import Fetch, Located, Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.sharing import remote
from rdagent_sota_bridge.sharing.remote import MANIFEST, Digest, Progress, Remote, SetManifest
from rdagent_sota_bridge.system import files

_LINE_SECONDS = 10.0
_RECORD = re.compile(r"[0-9a-f]{64}\.json")
_PART = re.compile(r"\.[0-9a-f]{64}\.part(?:\.json)?")  # release 0.1.0 left two files a part
# What fails where the file system does, and the fix.
_COPY = (
    "What the URL names can't be copied into the store",
    "set SOTA_STORE_PATH to a folder that can be written and has the room",
)
_KEEP = ("The fetched sets can't be read or pruned", "make it a folder that you may read and write")
# The names in a query that make a signature, and those that belong to one: of S3, Google, CloudFront, Azure.
_SIGNATURES = {"x-amz-signature", "x-goog-signature", "signature", "sig"}
_SIGNING = re.compile(
    r"x-(?:amz|goog)-.*|awsaccesskeyid|googleaccessid|key-pair-id|signature|expires|policy|hash-algorithm"
    r"|s[eprvt]|spr|sig|sip|ss|srt|sk(?:oid|tid|t|e|s|v)"
)


class _FetchRecord(BaseModel):
    """What was fetched from a URL, and when; and what its manifest said of where it comes from."""

    model_config = ConfigDict(strict=True, frozen=True, extra="forbid")

    form: Literal[1]
    url: str
    identity: str
    digest: Digest
    size: int
    fetched: AwareDatetime
    run: str | None
    loop: int | None
    workspace_id: str
    accepted: bool | None


def into_store(
    store_path: str | None, say: Callable[[str], object], progress: Progress | None = None
) -> Fetch:
    """Return what fetches a URL's set into the store of `SOTA_STORE_PATH`; the rest as `fetch` takes it."""
    return lambda url: fetch(url, store.folder(store_path), say, progress)


def fetch(url: str, place: Path, say: Callable[[str], object], progress: Progress | None = None) -> Located:
    """Return the local copy of what a URL names; fetched first where the object is not the one fetched then.

    Where the server can't be reached and a copy is there, the copy is returned with a note that says so.

    Args:
        url: A folder that holds a factor file, or a file that ends in `.parquet`.
        place: The folder of the store.
        say: Gets a line of what takes time.
        progress: Gets a URL without secrets, how many bytes are there, and of how many; None for a line every
            ten seconds.

    Raises:
        FactorFileNotFoundError: if nothing is there.
        RemoteUnavailableError: if the server can't be reached, and no copy is there.
        RemoteError: if the server refuses, or what it gives is not what the set's manifest says.
        StoreError: if the copy can't be written.
    """
    thing, manifest = _things(url, say)
    file = place / store.FETCHED / f"{key_of(thing.url)}.json"
    notes: tuple[str, ...] = ()
    with store.failing_at(place, _COPY):
        record = _usable(file, say)
        copy = "" if record is None else f"the copy that was fetched at {record.fetched.isoformat()}"
        try:
            try:
                _, identity = thing.look()
                is_current = record is not None and identity == record.identity != ""
            except RemoteUnavailableError as error:
                if record is None:
                    raise
                what = f"{record.digest}; what is there now may be another set"
                notes, is_current = (f"{error.fact} ({thing.shown}): {copy} is used, {what}",), True
            if record is None or not is_current:
                record = _up_to_date(thing, manifest, file, progress or _lines(say))
        except (RemoteError, FactorFileNotFoundError) as error:
            if record is None:
                raise
            # A set that is gone, closed or changed is not used unasked.
            path = store.fetched_file(record.digest, place).parent
            fix = f"{error.fix}; or name {copy}: SOTA_WORKSPACE_PATH={path}"
            raise type(error)(error.fact, error.place, fix) from None
        store.mark_used(file)
    if record.accepted is False:
        loop = "a loop" if record.loop is None else f"loop {record.loop} of {record.run}"
        notes += (f"{thing.shown} is the set of {loop}, which its run rejected, as its manifest says",)
    return Located(
        store.fetched_file(record.digest, place).resolve(),
        url=thing.shown,
        fetched=record.fetched.isoformat(),
        notes=notes,
        origin=Origin(record.run, record.loop, record.workspace_id, record.accepted),
    )


def _things(url: str, say: Callable[[str], object]) -> tuple[Remote, Remote | None]:
    """Return the file that a URL names, and the manifest beside it where there can be one."""
    address, query = urls.parts(url)
    address = address.rstrip("/")
    if not address.lower().endswith(".parquet"):
        address = f"{address}/{FACTOR_FILE}"
    folder, _, name = address.rpartition("/")
    thing = remote.reach(f"{address}?{query}" if query else address, say)
    # What is signed names one object, and none beside it.
    return thing, None if query or name != FACTOR_FILE else remote.reach(f"{folder}/{MANIFEST}", say)


def key_of(url: str) -> str:
    """Return 64 hexadecimal digits for what a URL names, with whatever signature."""
    address, query = urls.parts(url)
    scheme, _, rest = address.partition("://")
    pairs = parse_qsl(query, keep_blank_values=True)
    if _SIGNATURES & {name.lower() for name, _ in pairs}:
        pairs = [pair for pair in pairs if not _SIGNING.fullmatch(pair[0].lower())]
    text = f"{scheme.lower()}://{rest.rstrip('/')}?{urlencode(sorted(pairs))}"
    return hashlib.sha256(text.encode()).hexdigest()


def _usable(file: Path, say: Callable[[str], object]) -> _FetchRecord | None:
    """Return the record of a URL whose copy is there as it was fetched; say so where it was changed."""
    record = _read_record(file)
    path = None if record is None else store.fetched_file(record.digest, file.parent.parent)
    if record is None or path is None or not path.exists():
        return None
    if path.stat().st_size == record.size and current_digest(path) == record.digest:
        return record
    say(f"{path} was changed after it was fetched from {record.url}; it is fetched anew")
    return None


def _read_record(file: Path) -> _FetchRecord | None:
    """Return a record; None for one that is not there or means nothing: its set is fetched anew."""
    try:
        return _FetchRecord.model_validate_json(files.read_text(file))
    except (OSError, ValueError):
        return None


def _up_to_date(thing: Remote, manifest: Remote | None, file: Path, progress: Progress) -> _FetchRecord:
    """Return the record of what is at the URL now, fetched unless another process has."""
    store.check_folder(file.parent.parent)
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f".{file.stem}.part")
    with files.held(file.with_name(f".{file.stem}.lock"), thing.say, f"fetches {thing.shown}"):
        seen = size, identity = thing.look()
        record = _usable(file, lambda _: None)
        if record is not None and record.identity == identity != "":
            return record
        expected = None if manifest is None else _expected(manifest)
        shown = "" if size is None else f" ({decimal(size)})"
        thing.say(f"{thing.shown}{shown} is fetched into {file.parent}")
        try:
            part.unlink(missing_ok=True)  # of a fetch that broke off; it may be read-only already
            thing.get(part, progress)
            if thing.look() != seen:  # no driver compares the ETags of all the pieces
                raise RemoteError(
                    "The set was changed while it was fetched",
                    thing.shown,
                    "wait until whatever writes it has ended, and start again",
                )
            return _taken(thing, identity, expected, part, file)
        finally:
            part.unlink(missing_ok=True)


def _expected(thing: Remote) -> SetManifest | None:
    """Return the manifest of a whole set; None where there is none, or none that may be read."""
    try:
        found = thing.manifest()
    except RemoteRefusedError as error:  # S3 says the same of what is not there to one who may not list
        thing.say(f"{thing.shown} can't be read ({error.fact}): the set is not compared with it")
        return None
    if found is not None and found.state != "complete":
        raise RemoteError(
            "The set at the URL is not whole: it is being pushed now, or a push broke off",
            f"{thing.shown} says so",
            "wait for the push, or repeat it: `rdagent-sota push SET URL`",
        )
    return found


def _taken(
    thing: Remote, identity: str, manifest: SetManifest | None, part: Path, file: Path
) -> _FetchRecord:
    """Give the fetched bytes their place, the factor run's metrics beside them, and return the record."""
    try:
        with part.open("r+b") as content:
            pq.read_metadata(content)  # the last bytes, without which it is half of a file
            digest = parquet.content_digest(content)
            files.flush(content)
    except pa.ArrowException as error:
        raise RemoteError(
            f"What the URL gives is no whole parquet file ({' '.join(str(error).split())[:200]})",
            thing.shown,
            "correct the URL, or look at what the server gives for it: a page, or half of the file?",
        ) from None
    if manifest is not None and digest != manifest.digest:
        raise RemoteError(
            f"What the URL names is not the set that its manifest names, {manifest.digest}: it is {digest}",
            f"{thing.shown}, {MANIFEST} beside it",
            "push the set again: `rdagent-sota push SET URL --replace`",
        )
    path = store.fetched_file(digest, file.parent.parent)
    path.parent.mkdir(exist_ok=True)
    part.chmod(part.stat().st_mode & 0o444)  # what the umask leaves of it
    part.replace(path)
    if manifest is not None and manifest.metrics:
        metrics = {name: value for name, value in manifest.metrics.items() if value is not None}
        files.write_whole(path.parent / RESULT_FILE, pd.Series(metrics, dtype=float).to_csv(header=["0"]))
    record = _FetchRecord(
        form=1,
        url=thing.shown,
        identity=identity,
        digest=digest,
        size=path.stat().st_size,
        fetched=datetime.now(timezone.utc).replace(microsecond=0),
        **asdict(Origin() if manifest is None else manifest.origin),
    )
    files.write_whole(file, record.model_dump_json(indent=1) + "\n")
    return record


def _lines(say: Callable[[str], object]) -> Progress:
    """Return what makes a line of the bytes that move, every ten seconds."""
    last = time.monotonic()

    def progress(url: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            say(f"{url}: {decimal(done)}" + (f" of {decimal(total)} ({done / total:.0%})" if total else ""))

    return progress


# --- what was fetched ---


@dataclass(frozen=True)
class Copy:
    """A set that was fetched.

    `urls` are without secrets; `used` is when a run last asked for it, or trained a model on it; and `stored`
    is True if the store's set is the same file, and takes no room of its own.
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

    Not by its ctime, which each link from a model's workspace changes. Every loop asks for it, and so its
    folder gets the time of that, by which `prune` knows a set in use.

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
    """Return the sets that were fetched into a store, the least recently used first.

    Raises:
        StoreError: if the store can't be read.
    """
    folder = place / store.FETCHED
    with store.failing_at(folder, _KEEP):
        records = _records(folder)
        paths = (at / FACTOR_FILE for at in _inside(folder) if re.fullmatch("[0-9a-f]{64}", at.name))
        copies = [_copy(path, place, records) for path in paths if path.exists()]
    return sorted(copies, key=lambda copy: copy.used)


def _copy(path: Path, place: Path, records: dict[Path, _FetchRecord | None]) -> Copy:
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
    )


def changed(copy: Copy) -> str:
    """Return what is wrong with a fetched set, read whole; empty if nothing is."""
    try:
        with files.open_file(copy.path) as file:
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
    with store.failing_at(folder, _KEEP):
        records = _records(folder)
        broken = [file for file in _inside(folder) if _PART.fullmatch(file.name)]
        broken += [file for file, record in records.items() if record is None]
        broken = [file for file in broken if file.stat().st_mtime < before.timestamp()]
        if not dry_run:
            digests = {copy.digest for copy in old}
            gone = [file for file, record in records.items() if record and record.digest in digests]
            for file in [*gone, *broken]:
                file.unlink(missing_ok=True)
            for copy in old:
                shutil.rmtree(copy.path.parent)
    return old, broken


def _inside(folder: Path) -> list[Path]:
    return sorted(folder.iterdir()) if folder.is_dir() else []


def _records(folder: Path) -> dict[Path, _FetchRecord | None]:
    """Return the records, by their files; None for one that means nothing to this release."""
    return {file: _read_record(file) for file in _inside(folder) if _RECORD.fullmatch(file.name)}

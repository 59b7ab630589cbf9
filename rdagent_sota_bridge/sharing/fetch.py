"""Sets behind URLs, fetched once into the store and used from there.

`fetched/` in the store holds a folder for each content, named by its SHA-256, like a factor workspace; for
each URL a record of what was there (`<key>.json`, whose time is that of the last use); and while one is being
fetched its bytes so far (`.<key>.part`).
"""

from __future__ import annotations

import errno
import functools
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable
from dataclasses import asdict
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
    one_line,
    shortened,
)
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.locate import Fetch, Located, Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.sharing import remote
from rdagent_sota_bridge.sharing.remote import MANIFEST, Digest, Progress, Remote, SetManifest
from rdagent_sota_bridge.system import files, in_use

_LINE_SECONDS = 10.0
_RESERVE = 10**9  # bytes
# What fails where the file system does, and the fix.
_COPY = (
    "What the URL names can't be copied into the store",
    "set SOTA_STORE_PATH to a folder that can be written and has the room",
)
# The names in a query that make a signature, and those that belong to one: of S3, Google, CloudFront, Azure.
_SIGNATURES = {"x-amz-signature", "x-goog-signature", "signature", "sig"}
_SIGNING = re.compile(
    r"x-(?:amz|goog)-.*|awsaccesskeyid|googleaccessid|key-pair-id|signature|expires|policy|hash-algorithm"
    r"|s[eprvt]|spr|sig|sip|ss|srt|sk(?:oid|tid|t|e|s|v)"
)


class FetchRecord(BaseModel):
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


def read_record(file: Path) -> FetchRecord | None:
    """Return a record; None for one that is not there or means nothing: its set is fetched anew."""
    try:
        return FetchRecord.model_validate_json(files.read_text(file))
    except (OSError, ValueError):
        return None


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
                record = _up_to_date(thing, manifest, file, progress or lines(say))
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
    text = f"{scheme.lower()}://{rest.rstrip('/')}?{urlencode(sorted(pairs), errors='surrogateescape')}"
    return hashlib.sha256(os.fsencode(text)).hexdigest()


def _usable(file: Path, say: Callable[[str], object]) -> FetchRecord | None:
    """Return the record of a URL whose copy is there as it was fetched; say so where it was changed."""
    record, place = read_record(file), file.parent.parent
    if record is None:
        return None
    # First, so that whoever prunes leaves it.
    in_use.hold(store.use_lock_of(store.file_of(record.digest, place)))
    path = store.fetched_file(record.digest, place)
    if not path.exists():
        return None
    if path.stat().st_size == record.size and current_digest(path) == record.digest:
        return record
    say(f"{path} was changed after it was fetched from {record.url}; it is fetched anew")
    return None


def _up_to_date(thing: Remote, manifest: Remote | None, file: Path, progress: Progress) -> FetchRecord:
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
            _check_room(file.parent, size or 0)
            thing.get(part, _leaving_room(file.parent, progress))
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


def _taken(thing: Remote, identity: str, manifest: SetManifest | None, part: Path, file: Path) -> FetchRecord:
    """Give the fetched bytes their place, the factor run's metrics beside them, and return the record."""
    try:
        with part.open("r+b") as content:
            pq.read_metadata(content)  # the last bytes, without which it is half of a file
            digest = parquet.content_digest(content)
            files.flush(content)
    except pa.ArrowException as error:
        raise RemoteError(
            f"What the URL gives is no whole parquet file ({shortened(error)})",
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
    in_use.hold(store.use_lock_of(store.file_of(digest, file.parent.parent)))
    path.parent.mkdir(exist_ok=True)
    part.chmod(part.stat().st_mode & 0o444)  # what the umask leaves of it
    part.replace(path)
    given = {} if manifest is None else manifest.metrics
    if metrics := {name: value for name, value in given.items() if value is not None}:
        files.write_whole(path.parent / RESULT_FILE, pd.Series(metrics, dtype=float).to_csv(header=["0"]))
    record = FetchRecord(
        form=1,
        url=one_line(thing.shown),  # a path may hold what is no UTF-8
        identity=identity,
        digest=digest,
        size=path.stat().st_size,
        fetched=datetime.now(timezone.utc).replace(microsecond=0),
        **asdict(Origin() if manifest is None else manifest.origin),
    )
    files.write_whole(file, record.model_dump_json(indent=1) + "\n")
    return record


def _check_room(folder: Path, needed: int) -> None:
    """Raise an OSError if so many more bytes would fill the disk: 1 GB stays free, or 5 % of a small disk."""
    disk = shutil.disk_usage(folder)
    reserve = min(_RESERVE, disk.total // 20)
    if disk.free - needed < reserve:
        coming = f" for {decimal(needed)}" if needed else ""
        text = f"no room{coming}: {decimal(disk.free)} of the disk are free, and {decimal(reserve)} stay free"
        raise OSError(errno.ENOSPC, text, str(folder))


def _leaving_room(folder: Path, progress: Progress) -> Progress:
    """Return what stops a response without a length, or of a wrong one, before the disk is full."""

    def move(url: str, done: int, total: int | None) -> None:
        _check_room(folder, 0)
        progress(url, done, total)

    return move


def lines(say: Callable[[str], object]) -> Progress:
    """Return what makes a line of the bytes that move, every ten seconds."""
    last = time.monotonic()

    def progress(url: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            say(f"{url}: {decimal(done)}" + (f" of {decimal(total)} ({done / total:.0%})" if total else ""))

    return progress


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

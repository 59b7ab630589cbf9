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
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, urlencode

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError
from rich.filesize import decimal

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
    StoreError,
)
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.locate import Fetch, Located, Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.sharing import fetched, remote
from rdagent_sota_bridge.sharing.remote import Progress, Remote, Seen
from rdagent_sota_bridge.system import files
from rdagent_sota_bridge.system.files import write_whole

MANIFEST = "sota_set.json"
"""The file on shared storage that says what the set beside it is."""

_CHANGES = 3  # how often an object may change while it is fetched
_SPARE = 1 << 26  # bytes that stay free on the disk
_LINE_SECONDS = 10.0
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


class SetManifest(BaseModel):
    """What `sota_set.json` says of the set beside it.

    Attributes:
        set_manifest_version: The form.
        state: `uploading` while the file is being written, or after a push that broke off.
        digest: `sha256:` and the digest of the file's bytes.
        size: Bytes of the file.
        metrics: The factor run's own; None for one that is no number.
        origin: The run and the loop that left the set.
        identity: What the server said of the file once it was written, which tells one that was written over
            afterwards; empty where it says nothing.
    """

    model_config = ConfigDict(strict=True, frozen=True)

    set_manifest_version: Literal[1]
    state: Literal["uploading", "complete"]
    digest: fetched.Digest
    size: int
    metrics: dict[str, float | None]
    origin: Origin
    identity: str = ""


@dataclass(frozen=True)
class _Job:
    """What is fetched: the file, its manifest where there can be one, and where the record of it lies."""

    thing: Remote
    manifest: Remote | None
    folder: Path
    key: str
    tell: Callable[[str], object]
    progress: Progress


# --- fetching ---


def into_store(
    store_path: str | None, tell: Callable[[str], object], progress: Progress | None = None
) -> Fetch:
    """Return what fetches a URL's set into the store, once.

    Args:
        store_path: `SOTA_STORE_PATH`.
        tell: Gets what takes time, in lines.
        progress: Gets a URL without secrets, how many bytes are there, and of how many; None for a line every
            ten seconds.
    """
    return lambda url: fetch(url, store.folder(store_path), tell, progress)


def fetch(url: str, place: Path, tell: Callable[[str], object], progress: Progress | None = None) -> Located:
    """Return the local copy of what a URL names; fetched first where the object is not the one fetched then.

    Where the server can't be reached and a copy is there, the copy is returned with a note that says so.

    Args:
        url: A folder that holds a factor file, or a file that ends in `.parquet`.
        place: The folder of the store.
        tell, progress: As `into_store` takes them.

    Raises:
        FactorFileNotFoundError: if nothing is there.
        RemoteUnavailableError: if the server can't be reached, and no copy is there.
        RemoteError: if the server refuses, or what it gives is not what the set's manifest says.
        StoreError: if the copy can't be written.
    """
    job = _job(url, place / store.FETCHED, tell, progress or _lines(tell))
    with store.failing_at(place, _COPY):
        copy, notes = _usable(job)
    try:
        try:
            seen = job.thing.look() if copy is not None else remote.tried(job.thing.look, job.thing, tell)
        except RemoteUnavailableError as error:
            if copy is None:
                raise
            note = (
                f"{error.fact} ({job.thing.shown}): the copy that was fetched at {copy.fetched} is used, "
                f"{copy.digest}; what is there now may be another set"
            )
            return _located(job, copy, (*notes, note))
        record, more = _up_to_date(job, seen, copy)
    except (RemoteError, FactorFileNotFoundError) as error:
        if copy is None:
            raise
        # A set that is gone, closed or changed is not used unasked.
        folder = store.fetched_file(copy.digest, place).parent
        fix = (
            f"{error.fix}; or name the copy that was fetched at {copy.fetched}: SOTA_WORKSPACE_PATH={folder}"
        )
        raise type(error)(error.fact, error.place, fix) from None
    return _located(job, record, notes + more)


def _up_to_date(job: _Job, seen: Seen, copy: fetched.Record | None) -> tuple[fetched.Record, tuple[str, ...]]:
    """Return the record of what was seen, fetched where the copy is of something else, and notes."""
    if copy is not None and copy.identity == seen.identity != "":
        return copy, ()
    place = job.folder.parent
    with store.failing_at(place, _COPY):
        store.check_folder(place)
        job.folder.mkdir(parents=True, exist_ok=True)
        with files.held(fetched.lock_of(job.folder, job.key), job.tell, f"fetches {job.thing.shown}"):
            copy, _ = _usable(job)  # another process may have fetched it meanwhile
            if copy is not None and copy.identity == seen.identity != "":
                return copy, ()
            return _fetched(job, seen)


def _job(url: str, folder: Path, tell: Callable[[str], object], progress: Progress) -> _Job:
    address, query = urls.parts(url)
    address = address.rstrip("/")
    parent, _, name = address.rpartition("/")
    is_file = name.lower().endswith(".parquet")
    thing = address if is_file else f"{address}/{FACTOR_FILE}"
    manifest = None
    # What is signed names one object, and none beside it.
    if not query and (not is_file or name == FACTOR_FILE):
        manifest = remote.reach(f"{parent if is_file else address}/{MANIFEST}")
    thing = f"{thing}?{query}" if query else thing
    return _Job(remote.reach(thing), manifest, folder, key_of(thing), tell, progress)


def key_of(url: str) -> str:
    """Return 64 hexadecimal digits for what a URL names, with whatever signature."""
    address, query = urls.parts(url)
    scheme, _, rest = address.partition("://")
    pairs = parse_qsl(query, keep_blank_values=True)
    if _SIGNATURES & {name.lower() for name, _ in pairs}:
        pairs = [pair for pair in pairs if not _SIGNING.fullmatch(pair[0].lower())]
    text = f"{scheme.lower()}://{rest.rstrip('/')}?{urlencode(sorted(pairs))}"
    return hashlib.sha256(text.encode()).hexdigest()


def _usable(job: _Job) -> tuple[fetched.Record | None, tuple[str, ...]]:
    """Return the record of a URL whose copy is as it was fetched; else None, and a note if it was changed."""
    record = fetched.read_record(job.folder / f"{job.key}.json")
    path = None if record is None else store.fetched_file(record.digest, job.folder.parent)
    if record is None or path is None or not path.exists():
        return None, ()
    if path.stat().st_size == record.size and fetched.current_digest(path) == record.digest:
        return record, ()
    return None, (f"{path} was changed after it was fetched from {record.url}; it is fetched anew",)


def _located(job: _Job, record: fetched.Record, notes: tuple[str, ...]) -> Located:
    with store.failing_at(job.folder, _COPY):
        store.mark_used(job.folder / f"{job.key}.json")
    path = store.fetched_file(record.digest, job.folder.parent).resolve()
    if record.accepted is False:
        loop = "a loop" if record.loop is None else f"loop {record.loop} of {record.run}"
        notes += (f"{job.thing.shown} is the set of {loop}, which its run rejected, as its manifest says",)
    origin = Origin(record.run, record.loop, record.workspace_id, record.accepted)
    return Located(path, url=job.thing.shown, fetched=record.fetched, notes=notes, origin=origin)


def _fetched(job: _Job, seen: Seen) -> tuple[fetched.Record, tuple[str, ...]]:
    """Fetch what was seen, or what took its place meanwhile; the lock is held."""
    part = job.folder / f".{job.key}.part"
    for _ in range(_CHANGES):
        manifest, notes = _compared(job, seen)
        if manifest is not None and manifest.identity == seen.identity != "":
            here = store.fetched_file(manifest.digest, job.folder.parent)
            if here.exists() and fetched.current_digest(here) == manifest.digest:
                job.tell(f"{job.thing.shown} is the set {manifest.digest}, which is here already")
                return _recorded(job, seen, manifest, here, manifest.digest), notes
        free = shutil.disk_usage(job.folder).free
        if (seen.size or 0) + _SPARE > free:
            room = f"it needs {decimal(seen.size or 0)}, and {decimal(free)} are free"
            raise StoreError(f"{_COPY[0]}: {room}", str(job.folder), _COPY[1])
        size = "" if seen.size is None else f" ({decimal(seen.size)})"
        job.tell(f"{job.thing.shown}{size} is fetched into {job.folder}")
        try:
            part.unlink(missing_ok=True)  # a fetch that broke off begins anew
            now = remote.tried(functools.partial(_got, job, part, seen), job.thing, job.tell)
            if now.identity == seen.identity:
                return _taken(job, seen, manifest, part), notes
        finally:
            part.unlink(missing_ok=True)
        job.tell(f"{job.thing.shown} has changed while it was fetched, and is fetched anew")
        seen = now
    raise RemoteError(
        f"The set has changed {_CHANGES} times while it was fetched",
        job.thing.shown,
        "wait until whatever writes it has ended, and start again",
    )


def _got(job: _Job, part: Path, seen: Seen) -> Seen:
    """Fetch the bytes, and return what the server says of the object afterwards."""
    try:
        job.thing.get(part, job.progress)
    except RemoteUnavailableError:
        raise
    except RemoteError:  # a driver that fetches in pieces says so of a smaller object
        if (now := job.thing.look()).identity == seen.identity:
            raise
        return now
    return job.thing.look()  # no driver compares the ETags of all the pieces


def _compared(job: _Job, seen: Seen) -> tuple[SetManifest | None, tuple[str, ...]]:
    """Return the manifest where its size is that of the object, or None and a note where it can't be read."""
    if job.manifest is None:
        return None, ()
    try:
        manifest = read_manifest(job.manifest)
    except RemoteRefusedError as error:
        # S3 says the same of what is not there to one who may not list.
        return None, (f"{job.manifest.shown} can't be read ({error.fact}): the set is not compared with it",)
    if manifest is None:
        return None, ()
    if manifest.state != "complete":
        raise RemoteError(
            "The set at the URL is not whole: it is being pushed now, or a push broke off",
            f"{job.manifest.shown} says so",
            "wait for the push, or repeat it: `rdagent-sota push SET URL`",
        )
    if seen.size is not None and seen.size != manifest.size:
        raise _not_as_pushed(job, manifest, f"{seen.size:,} bytes", f"{manifest.size:,}")
    return manifest, ()


def read_manifest(thing: Remote) -> SetManifest | None:
    """Return what a manifest says; None where there is none.

    Raises:
        RemoteError: if it can't be read, or says nothing that is known.
    """
    content = thing.read()
    try:
        return None if content is None else SetManifest.model_validate_json(content)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(map(str, first["loc"]))
        raise RemoteError(
            f"The manifest of the set says nothing that is known ({where}: {first['msg']})",
            thing.shown,
            "push the set again (`rdagent-sota push SET URL --replace`), or with the release that wrote it",
        ) from None


def _not_as_pushed(job: _Job, manifest: SetManifest, found: str, expected: str) -> RemoteError:
    return RemoteError(
        f"What the URL names is not the set that its manifest names: it has {found} in place of {expected}",
        f"{job.thing.shown}, {MANIFEST} beside it ({manifest.digest})",
        "push the set again: `rdagent-sota push SET URL --replace`",
    )


def _taken(job: _Job, seen: Seen, manifest: SetManifest | None, part: Path) -> fetched.Record:
    """Give the fetched bytes their place, and return the record of it."""
    try:
        with part.open("rb") as file:
            pq.read_metadata(file)  # the last bytes, without which it is half of a file
            digest = parquet.content_digest(file)
    except pa.ArrowException as error:
        raise RemoteError(
            f"What the URL gives is no whole parquet file ({' '.join(str(error).split())[:200]})",
            job.thing.shown,
            "correct the URL, or look at what the server gives for it: a page, or half of the file?",
        ) from None
    if manifest is not None and digest != manifest.digest:
        raise _not_as_pushed(job, manifest, digest, manifest.digest)
    path = store.fetched_file(digest, job.folder.parent)
    path.parent.mkdir(exist_ok=True)
    with part.open("r+b") as file:
        files.flush(file)
    part.chmod(part.stat().st_mode & 0o444)  # what the umask leaves of it
    part.replace(path)
    return _recorded(job, seen, manifest, path, digest)


def _recorded(job: _Job, seen: Seen, manifest: SetManifest | None, path: Path, digest: str) -> fetched.Record:
    """Write down what the URL names, and the factor run's metrics beside its file."""
    if manifest is not None and manifest.metrics:
        metrics = {name: value for name, value in manifest.metrics.items() if value is not None}
        write_whole(path.parent / RESULT_FILE, pd.Series(metrics, dtype=float).to_csv(header=["0"]))
    origin = Origin() if manifest is None else manifest.origin
    record = fetched.Record(
        form=1,
        url=job.thing.shown,
        identity=seen.identity,
        digest=digest,
        size=path.stat().st_size,
        fetched=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        run=origin.run,
        loop=origin.loop,
        workspace_id=origin.workspace_id,
        accepted=origin.accepted,
    )
    write_whole(job.folder / f"{job.key}.json", record.model_dump_json(indent=1) + "\n")
    return record


def _lines(tell: Callable[[str], object]) -> Progress:
    """Return what makes a line of the bytes that move, every ten seconds."""
    last = time.monotonic()

    def progress(url: str, done: int, total: int | None) -> None:
        nonlocal last
        if time.monotonic() - last >= _LINE_SECONDS:
            last = time.monotonic()
            tell(f"{url}: {decimal(done)}" + (f" of {decimal(total)} ({done / total:.0%})" if total else ""))

    return progress

"""Putting a factor set on shared storage: its file, and a manifest that names it, complete at the end."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, dataclass, replace
from datetime import datetime, timezone
from typing import Any

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import FactorFileNotFoundError, RemoteError, SetChangedError
from rdagent_sota_bridge.factor_set import panel, parquet
from rdagent_sota_bridge.factor_set.locate import Located, Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import manifest
from rdagent_sota_bridge.sharing import remote
from rdagent_sota_bridge.sharing.fetch import MANIFEST, read_manifest
from rdagent_sota_bridge.sharing.remote import Progress, Remote

_NAME_A_FOLDER = "name a folder such as s3://bucket/run, which is to hold the set"


@dataclass(frozen=True)
class Pushed:
    """What came of a push.

    Attributes:
        url: The folder's URL, without secrets.
        digest: `sha256:` and the digest of the file's bytes.
        rows: Number of rows.
        columns: The factors.
        size: Bytes.
        moved: False if all of it was there already.
    """

    url: str
    digest: str
    rows: int
    columns: tuple[str, ...]
    size: int
    moved: bool


def push(located: Located, url: str, *, overwrite: bool, progress: Progress) -> Pushed:
    """Put a set into the folder that a URL names, unless it is there.

    A manifest that says `uploading` is written before the file, and one that says `complete` after it: who
    reads meanwhile, or after a push that broke off, sees that, and the same push can be repeated.

    Args:
        located: The set's file, and what led to it.
        url: The folder.
        overwrite: Put it there whatever is there: another set, a damaged one, a file that no manifest names.
        progress: Gets the URL without secrets, how many bytes are there, and of how many.

    Raises:
        FactorFileError: if no run could use the set; it lists every reason.
        RemoteUnavailableError, RemoteError: if something else is there, another push writes there, or nothing
            can be written.
        SetChangedError: if the file was changed while it was pushed.
    """
    _check_name(url)
    folder = url.rstrip("/")
    thing, beside = remote.reach(f"{folder}/{FACTOR_FILE}"), remote.reach(f"{folder}/{MANIFEST}")
    held = panel.examine((located.path,))
    size = located.path.stat().st_size
    done = Pushed(urls.without_secrets(url), held.digest, held.rows, held.columns, size, moved=True)
    if not overwrite and _is_there(thing, beside, done):
        return replace(done, moved=False)
    content = _content(held, size, located)
    mine = _text({**content, "state": "uploading"})
    beside.write(mine)
    thing.put(located.path, progress)
    if (now := parquet.current_digest(located.path)) != held.digest:
        raise SetChangedError(
            f"The factor file was changed while it was pushed: {now} in place of {held.digest}",
            str(located.path),
            "wait until whatever writes it has ended, and push it again",
        )
    seen = thing.look()
    if seen.size not in (None, size):
        fact = f"The server has {seen.size:,} bytes of the set's {size:,}"
        raise RemoteError(fact, thing.shown, "push the set again")
    if beside.read() != mine:
        raise RemoteError(
            "Another push has begun to write into the folder meanwhile, and which file is there is not known",
            beside.shown,
            f"wait until it has ended, and push {held.digest} again: to another folder, or with --replace",
        )
    beside.write(_text({**content, "state": "complete", "identity": seen.identity}))
    return done


def _check_name(url: str) -> None:
    shown = urls.without_secrets(url)
    scheme, (address, query) = urls.scheme_of(url), urls.parts(url)
    name = address.partition("://")[2].rstrip("/")
    if not urls.is_url(url):
        raise RemoteError("A set is pushed to a URL", url, _NAME_A_FOLDER)
    if scheme == "memory":
        raise RemoteError("What is put into memory:// is gone when this process ends", shown, _NAME_A_FOLDER)
    if scheme in remote.WEB:
        fix = "push to where the server's files lie"
        raise RemoteError(f"Nothing can be written to {scheme}://", shown, fix)
    if name.lower().endswith(".parquet") or query or "/" not in name:
        raise RemoteError("The URL names no folder that a set could be put into", shown, _NAME_A_FOLDER)


def _is_there(thing: Remote, beside: Remote, mine: Pushed) -> bool:
    """Return True if the set is at the URL already, by its manifest, of the very object that was pushed.

    Raises:
        RemoteError: if something else is.
    """
    try:
        seen = thing.look()
    except FactorFileNotFoundError:
        seen = None
    existing = read_manifest(beside)
    if existing is None and seen is None:
        return False
    if existing is None:
        what = f"a {FACTOR_FILE} without a manifest"
    elif existing.digest != mine.digest:
        what = f"the set {existing.digest}"
    elif existing.state != "complete" or seen is None:
        return False  # a push that broke off, or a file that was removed: it is done again
    elif seen.size in (None, mine.size) and existing.identity == seen.identity != "":
        return True
    else:
        what = f"a {FACTOR_FILE} that is not the one of the manifest beside it, and was written over it"
    raise RemoteError(
        f"Something else is there: {what}",
        thing.shown,
        f"name another folder, or put {mine.digest} in its place with --replace",
    )


def _text(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def _content(held: parquet.FactorSet, size: int, located: Located) -> dict[str, Any]:
    try:
        metrics = parquet.metrics_beside(located.path)
    except (OSError, ValueError) as error:
        raise RemoteError(
            f"The factor run's own metrics can't be read: {error}",
            str(located.path.parent),
            "fix or remove them, and push again",
        ) from None
    run = None if located.log is None else located.log.name
    origin = located.origin or Origin(run, located.loop, located.workspace_id, located.accepted)
    return {
        "set_manifest_version": 1,
        "file": FACTOR_FILE,
        "digest": held.digest,
        "size": size,
        "rows": held.rows,
        "columns": list(held.columns),
        "instruments": len(held.instruments),
        "start": str(held.dates[0]),
        "end": str(held.dates[-1]),
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "origin": asdict(origin),  # names, and no paths: those are of this machine
        "pushed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": manifest.versions(),
    }

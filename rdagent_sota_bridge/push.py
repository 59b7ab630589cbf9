"""Putting a factor set on shared storage: its file, and a manifest that names it, complete at the end."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import datetime, timezone
from typing import Any

from rdagent_sota_bridge import factors, manifest, panel, published, remote, urls
from rdagent_sota_bridge.errors import FactorFileNotFoundError, RemoteError, SetChangedError
from rdagent_sota_bridge.locate import Located, Origin
from rdagent_sota_bridge.names import FACTOR_FILE
from rdagent_sota_bridge.remote import Remote, RemoteChangedError, Seen

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


def push(
    located: Located, url: str, *, replace: bool, progress: Callable[[str, int, int | None], object]
) -> Pushed:
    """Put a set into the folder that a URL names, unless it is there.

    A manifest that says `uploading` is written before the file, and one that says `complete` after it: who
    reads meanwhile, or after a push that broke off, is told so, and the same push can be repeated.

    Args:
        located: The set's file, and what led to it.
        url: The folder.
        replace: Put it there whatever is there: another set, a damaged one, a file that no manifest names.
        progress: Is told the URL without secrets, how many bytes are there, and of how many.

    Raises:
        FactorFileError: if no run could use the set; it lists every reason.
        RemoteUnavailableError, RemoteError: if something else is there, another push writes there, or nothing
            can be written.
        SetChangedError: if the file was changed while it was pushed.
    """
    _check_name(url)
    thing = remote.reach(urls.inside(url, FACTOR_FILE))
    told = remote.reach(urls.inside(url, published.FILE))
    held = panel.examine((located.path,))
    size = located.path.stat().st_size
    done = Pushed(urls.without_secrets(url), held.digest, held.rows, held.columns, size, moved=True)
    if not replace and _is_there(thing, told, done):
        return Pushed(**{**done.__dict__, "moved": False})
    content = _content(held, size, located)
    mine = published.text(content, published.UPLOADING)
    told.write_small(mine)
    thing.put(located.path, lambda count, total: progress(done.url, count, total or size))
    if (now := factors.current_digest(located.path)) != held.digest:
        raise SetChangedError(
            f"The factor file was changed while it was pushed: {now} in place of {held.digest}",
            str(located.path),
            "wait until whatever writes it has ended, and push it again",
        )
    seen = thing.look()
    if seen.size not in (None, size):
        raise RemoteError(
            f"The server has {seen.size:,} bytes of the set's {size:,}", thing.shown, "push the set again"
        )
    if told.read_small() != mine:
        raise RemoteError(
            "Another push has begun to write into the folder meanwhile, and which file is there is not known",
            told.shown,
            f"wait until it has ended, and push {held.digest} again: to another folder, or with --replace",
        )
    told.write_small(published.text({**content, "identity": seen.identity}, published.COMPLETE))
    return done


def _check_name(url: str) -> None:
    shown = urls.without_secrets(url)
    if not urls.is_url(url):
        raise RemoteError("A set is pushed to a URL", url, _NAME_A_FOLDER)
    if urls.scheme_of(url) == "memory":
        raise RemoteError("What is put into memory:// is gone when this process ends", shown, _NAME_A_FOLDER)
    if remote.is_read_only(url):
        raise RemoteError(
            f"Nothing can be written to {urls.scheme_of(url)}://",
            shown,
            "push to where the server's files lie",
        )
    if urls.last_name(url).lower().endswith(".parquet") or urls.has_query(url) or not urls.last_name(url):
        raise RemoteError("The URL names no folder that a set could be put into", shown, _NAME_A_FOLDER)


def _is_there(thing: Remote, told: Remote, mine: Pushed) -> bool:
    """Tell whether the set is at the URL already: by its manifest, of the very object or of all its bytes.

    Raises:
        RemoteError: if something else is.
    """
    seen: Seen | None
    try:
        seen = thing.look()
    except FactorFileNotFoundError:
        seen = None
    existing = published.read(told)
    if existing is None and seen is None:
        return False
    if existing is None:
        what = f"a {FACTOR_FILE} that no manifest tells of"
    elif existing.digest != mine.digest:
        what = f"the set {existing.digest}"
    elif not existing.complete or seen is None:
        return False  # a push that broke off, or a file that was removed: it is done again
    elif seen.size in (None, mine.size) and (
        existing.identity == seen.identity != "" or _digest_there(thing, seen) == mine.digest
    ):
        return True
    else:
        what = f"a {FACTOR_FILE} that is not the one of the manifest beside it, and was written over it"
    raise RemoteError(
        f"Something else is there: {what}",
        thing.shown,
        f"name another folder, or put {mine.digest} in its place with --replace",
    )


def _digest_there(thing: Remote, seen: Seen) -> str:
    digest = hashlib.sha256()
    try:
        for block in thing.blocks(seen, 0):
            digest.update(block)
    except RemoteChangedError:
        return "another one by now"
    return f"sha256:{digest.hexdigest()}"


def _content(held: factors.FactorSet, size: int, located: Located) -> dict[str, Any]:
    try:
        metrics = factors.metrics_beside(located.path)
    except (OSError, ValueError) as error:
        raise RemoteError(
            f"The factor run's own metrics can't be read: {error}",
            str(located.path.parent),
            "fix or remove them, and push again",
        ) from None
    return {
        "file": FACTOR_FILE,
        "digest": held.digest,
        "size": size,
        "rows": held.rows,
        "columns": list(held.columns),
        "instruments": len(held.instruments),
        "start": str(held.dates[0]),
        "end": str(held.dates[-1]),
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        # Names, and no paths: those are of this machine.
        "origin": asdict(located.origin or _origin(located)),
        "pushed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": manifest.versions(),
    }


def _origin(located: Located) -> Origin:
    return Origin(
        run=None if located.log is None else located.log.name,
        loop=located.loop,
        workspace_id=located.workspace_id,
        accepted=located.accepted,
    )

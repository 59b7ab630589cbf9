"""Putting a factor set on shared storage: its file, and a manifest that names it, complete at the end."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from rdagent_sota_bridge import factors, manifest, panel, published, remote, urls
from rdagent_sota_bridge.errors import FactorFileNotFoundError, RemoteError, SetChangedError
from rdagent_sota_bridge.locate import FACTOR_FILE, Located
from rdagent_sota_bridge.remote import Remote

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
        RemoteUnavailableError, RemoteError: if something else is there, or nothing can be written.
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
    told.write_small(published.text(content, published.UPLOADING))
    thing.put(located.path, lambda count, total: progress(done.url, count, total or size))
    if (now := factors.current_digest(located.path)) != held.digest:
        raise SetChangedError(
            f"The factor file was changed while it was pushed: {now} in place of {held.digest}",
            str(located.path),
            "wait until whatever writes it has ended, and push it again",
        )
    if (there := thing.look().size) not in (None, size):
        raise RemoteError(
            f"The server has {there:,} bytes of the set's {size:,}", thing.shown, "push the set again"
        )
    told.write_small(published.text(content, published.COMPLETE))
    return done


def _check_name(url: str) -> None:
    shown = urls.without_secrets(url)
    if not urls.is_url(url):
        raise RemoteError("A set is pushed to a URL", url, _NAME_A_FOLDER)
    if remote.is_read_only(url):
        raise RemoteError(
            f"Nothing can be written to {urls.scheme_of(url)}://",
            shown,
            "push to where the server's files lie",
        )
    if urls.last_name(url).lower().endswith(".parquet") or urls.has_query(url) or not urls.last_name(url):
        raise RemoteError("The URL names no folder that a set could be put into", shown, _NAME_A_FOLDER)


def _is_there(thing: Remote, told: Remote, mine: Pushed) -> bool:
    """Tell whether the set is at the URL already, by its manifest and its size.

    Raises:
        RemoteError: if something else is.
    """
    try:
        there, size = True, thing.look().size
    except FactorFileNotFoundError:
        there, size = False, None
    existing = published.read(told)
    if existing is not None and existing.digest == mine.digest:
        if existing.complete and there and size in (None, mine.size):
            return True
        if not existing.complete or not there:
            return False  # a push that broke off, or a file that was removed: it is done again
    if existing is None and not there:
        return False
    what = (
        f"the set {existing.digest}" if existing is not None else f"a {FACTOR_FILE} that no manifest tells of"
    )
    raise RemoteError(
        f"Something else is there: {what}",
        thing.shown,
        f"name another folder, or put {mine.digest} in its place with --replace",
    )


def _content(held: factors.FactorSet, size: int, located: Located) -> dict[str, Any]:
    try:
        metrics = factors.metrics_beside(located.path)
    except (OSError, ValueError) as error:
        raise RemoteError(
            f"The factor run's own metrics can't be read: {error}",
            str(located.path.parent),
            "mend or remove them, and push again",
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
        "origin": {
            "run": None if located.log is None else located.log.name,
            "loop": located.loop,
            "workspace_id": located.workspace_id,
            "accepted": located.accepted,
        },
        "pushed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": manifest.versions(),
    }

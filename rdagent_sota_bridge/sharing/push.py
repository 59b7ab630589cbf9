"""Putting a factor set on shared storage: its file, and a manifest that names it, complete at the end."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from datetime import datetime, timezone
from typing import Any

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import FactorFileNotFoundError, RemoteError, SetChangedError
from rdagent_sota_bridge.factor_set import panel, parquet, parts
from rdagent_sota_bridge.factor_set.locate import Located, Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.factor_set.parquet import FactorSet
from rdagent_sota_bridge.qlib_files import manifest, training_record
from rdagent_sota_bridge.sharing import remote
from rdagent_sota_bridge.sharing.remote import MANIFEST, Progress, Remote


def push(located: Located, url: str, *, overwrite: bool, progress: Progress) -> tuple[FactorSet, bool]:
    """Put a set into the folder that a URL names, unless it is there.

    A manifest that says `uploading` is written before the file, and one that says `complete` after it: who
    reads meanwhile, or after a push that broke off, sees that, and the same push can be repeated.

    Args:
        located: The set's file, and what led to it.
        url: The folder.
        overwrite: Put it there whatever is there: another set, a damaged one, a file that no manifest names.
        progress: Gets the URL without secrets, how many bytes are there, and of how many.

    Returns:
        The set, and False if all of it was there already.

    Raises:
        FactorFileError: if no run could use the set; it lists every reason.
        RemoteUnavailableError, RemoteError: if something else is there, another push writes there, or nothing
            can be written.
        SetChangedError: if the file was changed while it was pushed.
    """
    _check_name(url)
    if located.path.is_dir():
        fix = parts.one_file(located.path)
        raise RemoteError("A set is pushed as one file, and this one is a folder", str(located.path), fix)
    folder = url.rstrip("/")
    thing, beside = remote.reach(f"{folder}/{FACTOR_FILE}"), remote.reach(f"{folder}/{MANIFEST}")
    held = panel.examine((located.path,))
    if not overwrite and _is_there(thing, beside, held.digest):
        return held, False
    content = _content(held, located)
    uploading = _text({**content, "state": "uploading"})
    beside.write(uploading)
    thing.put(located.path, progress)
    if (now := parquet.current_digest(located.path)) != held.digest:
        raise SetChangedError(
            f"The factor file was changed while it was pushed: {now} in place of {held.digest}",
            str(located.path),
            "wait until whatever writes it has ended, and push it again",
        )
    size, identity = thing.look()
    if size not in (None, sent := located.path.stat().st_size):
        raise RemoteError(
            f"The server holds {size:,} bytes of the {sent:,} that were pushed",
            thing.shown,
            "push it again, and look at the server's disk",
        )
    if beside.read() != uploading:
        raise RemoteError(
            "Another push has begun to write into the folder meanwhile, and which file is there is not known",
            beside.shown,
            f"wait until it has ended, and push {held.digest} again: to another folder, or with --replace",
        )
    beside.write(_text({**content, "state": "complete", "identity": identity}))
    return held, True


def _check_name(url: str) -> None:
    scheme, (address, query) = urls.scheme_of(url), urls.parts(url)
    name = address.partition("://")[2].rstrip("/")
    fix = "name a folder such as s3://bucket/run, which is to hold the set"
    if not urls.is_url(url):
        fact = "A set is pushed to a URL"
    elif scheme == "memory":
        fact = "What is put into memory:// is gone when this process ends"
    elif scheme in remote.WEB:
        fact, fix = f"Nothing can be written to {scheme}://", "push to where the server's files lie"
    elif name.lower().endswith(".parquet") or query or "/" not in name:
        fact = "The URL names no folder that a set could be put into"
    else:
        return
    raise RemoteError(fact, urls.without_secrets(url), fix)


def _is_there(thing: Remote, beside: Remote, digest: str) -> bool:
    """Return True if the set is at the URL already, by its manifest, of the very object that was pushed.

    Raises:
        RemoteError: if something else is.
    """
    try:
        identity = thing.look()[1]
    except FactorFileNotFoundError:
        identity = None
    existing = beside.manifest()
    if existing is None and identity is None:
        return False
    if existing is None:
        what = f"a {FACTOR_FILE} without a manifest"
    elif existing.digest != digest:
        what = f"the set {existing.digest}"
    elif existing.state != "complete" or identity is None:
        return False  # a push that broke off, or a file that was removed: it is done again
    elif existing.identity == identity != "":
        return True
    else:
        what = f"a {FACTOR_FILE} that is not the one of the manifest beside it, and was written over it"
    fix = f"name another folder, or put {digest} in its place with --replace"
    raise RemoteError(f"Something else is there: {what}", thing.shown, fix)


def _text(content: dict[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False, indent=2, allow_nan=False) + "\n").encode()


def _content(held: FactorSet, located: Located) -> dict[str, Any]:
    try:
        metrics = training_record.metrics_beside(located.path)
    except (OSError, ValueError) as error:
        fact = f"The factor run's own metrics can't be read: {error}"
        raise RemoteError(fact, str(located.path.parent), "fix or remove them, and push again") from None
    run = None if located.log is None else located.log.name
    origin = located.origin or Origin(run, located.loop, located.workspace_id, located.accepted)
    return {
        "set_manifest_version": 1,
        "file": FACTOR_FILE,
        "size": located.path.stat().st_size,
        **panel.described(held),
        "metrics": {name: value if math.isfinite(value) else None for name, value in metrics.items()},
        "origin": asdict(origin),  # names, and no paths: those are of this machine
        "pushed": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "versions": manifest.versions(),
    }

"""What may go of the store: sets that no run has asked for in some days, and that no living one uses."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime
from pathlib import Path

import filelock

from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.system import files, in_use

_PRUNE = ("The store can't be pruned", "make it a folder that you may write (ls -l shows the rights)")
_PREPARED = re.compile(r"[0-9a-f]{64}\.prepared")


def prune(place: Path, before: datetime, *, dry_run: bool) -> tuple[list[Path], list[Path]]:
    """Remove what no run has asked for since a time; a workspace keeps its link or copy.

    That is the two files of a set, or what there is of them, and what killed runs left of it. Only files go
    that have the store's names; no link, and nothing behind one.

    Args:
        place: The folder of the store.
        before: The time.
        dry_run: Remove nothing.

    Returns:
        What was removed, and the sets that stay although they are old: a living run uses them.

    Raises:
        StoreError: if something can't be removed.
    """
    removed, used = list[Path](), list[Path]()
    with store.failing_at(place, _PRUNE):
        for name in store.names_in(place):
            path = place / f"{name}.parquet"
            with (
                contextlib.nullcontext() if dry_run else filelock.FileLock(store.lock_of(path)),
                in_use.free(store.use_lock_of(path), dry_run=dry_run) as is_free,
            ):
                pair = [file for file in (path, store.entry_of(path)) if files.is_own(file)]
                # A run that uses a set gives its entry the time; what is half written has a time of its own.
                last = max((file.stat().st_mtime for file in pair[-1:]), default=0.0)
                # What is hidden belongs to a run that writes now, unless the lock says that there is none.
                found = [] if dry_run else store.leftovers(path)
                if last < before.timestamp():
                    found += pair if is_free else []
                    used += [] if is_free else pair[:1]
                removed += found
                for file in () if dry_run else found:
                    file.unlink()
        # What release 0.1.0 kept of data that Qlib had built.
        prepared = [file for file in files.own_files(place / "prepared") if _PREPARED.fullmatch(file.name)]
        for file in () if dry_run else prepared:
            file.unlink()
    return removed + prepared, used

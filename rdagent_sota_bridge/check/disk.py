"""The lines of a check about the disk: room for workspaces, and for the store's copy of a set."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import Any

from rich.filesize import decimal

from rdagent_sota_bridge.check.line import Line, State
from rdagent_sota_bridge.factor_set.names import workspace_root
from rdagent_sota_bridge.qlib_files import docker

LEAST_FREE = 1_000_000_000
"""Bytes that ten model loops may leave beside copies of the set: back-tests and logs of up to 100 MB each."""


def disk_line(copy_size: int, free: int, root: Path) -> Line:
    """Return the line about room for the workspaces of ten model loops; it fails without room for one.

    Args:
        copy_size: Bytes of the set where a loop's workspace gets a copy; 0 where it gets a link.
        free: Bytes that the user may still write below `root`.
        root: The folder of all workspaces.
    """
    text = f"{decimal(free)} free in {root}"
    if copy_size:
        text += f"; every model loop gets a copy of the set, {decimal(copy_size)}"
    of_ten = LEAST_FREE + 10 * copy_size
    state: State = "pass" if free >= of_ten else "warn" if free >= of_ten / 10 else "fail"
    fix = f"make room for {decimal(of_ten)}, or set WORKSPACE_PATH to a folder on a larger disk"
    return Line("disk", state, text, "" if state == "pass" else fix, {"free": free, "copy": copy_size})


def room_line(size: int, place: Path) -> Line:
    """Return `disk_line` of this machine, for a set of so many bytes and the folder of the store."""
    root = workspace_root()
    copies = docker.env_type() == "docker" or gets_copies(place, root)
    return disk_line(size if copies else 0, shutil.disk_usage(nearest_existing(root)).free, root)


def store_line(size: int, place: Path, stored: bool) -> Line:
    """Return the line about the store's copy of a set.

    Args:
        size: Bytes that writing the copy takes.
        place: The folder of the store.
        stored: True if the copy is there.
    """
    figures: dict[str, Any] = {"folder": str(place), "stored": stored, "size": size}
    if stored:
        return Line("store", "pass", f"the set is stored in {place}", figures=figures)
    fix = "set SOTA_STORE_PATH to a folder that can be written and has the room"
    try:
        near = nearest_existing(place)
        figures["free"] = free = shutil.disk_usage(near).free
    except OSError as error:
        return Line("store", "fail", f"{place} can't be looked at: {error.strerror}", fix, figures)
    state: State = "fail"
    if place.exists() and not place.is_dir():
        text = f"{place} is no folder: no run can store the set there"
    elif not os.access(near, os.W_OK | os.X_OK, effective_ids=True):
        text = f"{near} can't be written: no run can store the set there"
    else:
        room = f"it takes {decimal(size)} of {decimal(free)} free"
        text = f"a run will write a copy of the set into {place}; {room}"
        state, fix = ("pass", "") if free >= size else ("fail", fix)
    return Line("store", state, text, fix, figures)


def gets_copies(place: Path, root: Path) -> bool:
    """Return True where a workspace can't link what is in the store, being on another file system."""
    try:
        return nearest_existing(place).stat().st_dev != nearest_existing(root).stat().st_dev
    except OSError:  # the store's own line says so
        return False


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())

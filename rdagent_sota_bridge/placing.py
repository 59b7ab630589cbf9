"""Putting a file's content under another name: as a clone, a hard link or a copy; never through a link."""

from __future__ import annotations

import re
import uuid
from pathlib import Path
from typing import Literal

from rdagent_sota_bridge import filesystem

How = Literal["clone", "link", "copy"]
"""A clone shares the blocks of the original until one of the two is changed; a link is the same file."""


def place(source: Path, target: Path, *, link: bool) -> How:
    """Put a file's content at `target`, in place of what is there.

    What is there is replaced at once and not written to: it may be a link to something precious.

    Args:
        source: The file; it is not changed.
        target: The new name, in an existing folder.
        link: True if a hard link will do: the two are one file then, for whoever writes to either.

    Raises:
        OSError: if it can't be done; `target` is as it was.
    """
    ours = re.compile(rf"\.{re.escape(target.name)}\.[0-9a-f]{{32}}\.tmp")
    for left in target.parent.iterdir():
        if ours.fullmatch(left.name):  # by a process that was killed in here
            filesystem.remove(left)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        how = _put(source, temporary, link)
        filesystem.replace(temporary, target)
    finally:
        # A rename does nothing where both names are links to one file (POSIX): the temporary one is left.
        filesystem.remove(temporary)
    return how


def detach(target: Path) -> None:
    """Take a file's name away where it is a link, so that whoever writes to it begins a file of its own."""
    if target.is_symlink() or (target.is_file() and target.stat().st_nlink > 1):
        filesystem.remove(target)


def _put(source: Path, temporary: Path, link: bool) -> How:
    with source.open("rb") as original, temporary.open("xb") as file:
        if filesystem.clone(original, file):
            return "clone"
        if not link:
            filesystem.copy(original, file)
            return "copy"
    filesystem.remove(temporary)
    return "link" if filesystem.link(source, temporary) else _put(source, temporary, link=False)

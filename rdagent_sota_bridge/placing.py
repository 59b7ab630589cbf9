"""Putting a file's content under another name: as a clone, a hard link or a copy; never through a link."""

from __future__ import annotations

import errno
import os
import re
import shutil
import sys
import uuid
from pathlib import Path
from typing import BinaryIO, Literal

How = Literal["clone", "link", "copy"]
"""A clone shares the blocks of the original until one of the two is changed; a link is the same file."""

_BLOCK = 1 << 22
_FICLONE = 0x40049409  # linux/fs.h
# What a file system says that has no clones or no links (or not between these two, or not for this user).
_NOT_POSSIBLE = {
    errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
    errno.ENOTTY, errno.EINVAL, errno.ETXTBSY,
    errno.EAGAIN,  # ZFS, of a file that was just written (openzfs/zfs#17485)
}  # fmt: skip


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
            left.unlink(missing_ok=True)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}.tmp")
    try:
        how = _put(source, temporary, link)
        temporary.replace(target)
    finally:
        # A rename does nothing where both names are links to one file (POSIX): the temporary one is left.
        temporary.unlink(missing_ok=True)
    return how


def detach(target: Path) -> None:
    """Take a file's name away where it is a link, so that whoever writes to it begins a file of its own."""
    if target.is_symlink() or (target.is_file() and target.stat().st_nlink > 1):
        target.unlink()


def clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Let `target` share the blocks of `source`, and return True; False where the file system can't.

    Raises:
        OSError: if it can, and fails.
    """
    if not sys.platform.startswith("linux"):
        return False
    import fcntl  # there is none on Windows

    try:
        fcntl.ioctl(target.fileno(), _FICLONE, source.fileno())
    except OSError as error:
        if error.errno in _NOT_POSSIBLE:
            return False
        raise
    # A ZFS was seen to say yes and to leave a part (openzfs/zfs#15728).
    if os.fstat(target.fileno()).st_size != os.fstat(source.fileno()).st_size:
        target.seek(0)
        target.truncate()
        return False
    return True


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy all bytes, and flush them to the disk."""
    source.seek(0)
    shutil.copyfileobj(source, target, _BLOCK)
    target.flush()
    os.fsync(target.fileno())


def _put(source: Path, temporary: Path, link: bool) -> How:
    with source.open("rb") as original, temporary.open("xb") as file:
        if clone(original, file):
            return "clone"
        if not link:
            copy(original, file)
            return "copy"
    temporary.unlink()
    try:
        os.link(source, temporary)
        return "link"
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
    return _put(source, temporary, link=False)

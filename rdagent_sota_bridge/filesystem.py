"""What file systems differ in: clones, links, and how a file becomes safe.

No folder is flushed, only files: a rename that a power cut undoes leaves the old file, which is whole.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
from pathlib import Path
from typing import BinaryIO

_BLOCK = 1 << 22
_FICLONE = 0x40049409  # linux/fs.h
# What a file system says that has no clones or no links (or not between these two, or not for this user).
_NOT_POSSIBLE = {
    errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
    errno.ENOTTY, errno.EINVAL, errno.ETXTBSY,
    errno.EAGAIN,  # ZFS, of a file that was just written (openzfs/zfs#17485)
}  # fmt: skip


def flush(file: BinaryIO) -> None:
    """Flush what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy all bytes, and flush them to the disk."""
    source.seek(0)
    shutil.copyfileobj(source, target, _BLOCK)
    flush(target)


def clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Let `target` share the blocks of `source`, and return True; False where the file system can't.

    Raises:
        OSError: if it can, and fails.
    """
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


def link(source: Path, target: Path) -> bool:
    """Give a file another name, as a hard link, and return True; False where links are refused.

    Raises:
        OSError: if they are not, and it fails.
    """
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno in _NOT_POSSIBLE:
            return False
        raise
    return True


def protect(file: Path) -> None:
    """Make a file read-only."""
    file.chmod(file.stat().st_mode & 0o444)  # what the user's umask leaves of it


def replace(source: Path, target: Path) -> None:
    """Rename a file over what has the name, at once."""
    source.replace(target)


def remove(file: Path) -> None:
    """Remove a file if it is there."""
    file.unlink(missing_ok=True)

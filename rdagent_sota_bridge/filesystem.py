"""What platforms differ in about files. A rule takes the platform, so that any is tested anywhere. (What
separates paths in a list is `os.pathsep`, and split in `urls`.)

No folder is flushed, only files: Windows can't open a folder for that, and a rename that a power cut undoes
leaves the old file, which is whole. Windows itself was not run: its rules are those of its documentation and
of Python's.
"""

from __future__ import annotations

import errno
import os
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import BinaryIO

_BLOCK = 1 << 22
_FICLONE = 0x40049409  # linux/fs.h
# What a file system says that has no clones or no links (or not between these two, or not for this user).
# What Windows says of them has no number of its own in Python but EINVAL: ERROR_NOT_SUPPORTED (FAT, exFAT, a
# share), ERROR_PRIVILEGE_NOT_HELD.
_NOT_POSSIBLE = {
    errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
    errno.ENOTTY, errno.EINVAL, errno.ETXTBSY,
    errno.EAGAIN,  # ZFS, of a file that was just written (openzfs/zfs#17485)
}  # fmt: skip
# How long a scanner or an indexer may hold a file that was just written: on Windows nobody renames or removes
# it meanwhile.
_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.4, 0.8)


def flush(file: BinaryIO) -> None:
    """Flush what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


def copy(source: BinaryIO, target: BinaryIO) -> None:
    """Copy all bytes, and flush them to the disk."""
    source.seek(0)
    shutil.copyfileobj(source, target, _BLOCK)
    flush(target)


def clone(source: BinaryIO, target: BinaryIO, platform: str = sys.platform) -> bool:
    """Let `target` share the blocks of `source`, and return True; False where the file system can't.

    Raises:
        OSError: if it can, and fails.
    """
    if not platform.startswith("linux"):
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


def protect(file: Path, platform: str = sys.platform) -> None:
    """Make a file read-only; not on Windows, where nobody replaces or removes one, by any of its names."""
    if not _is_windows(platform):
        file.chmod(file.stat().st_mode & 0o444)  # what the user's umask leaves of it


def replace(source: Path, target: Path, platform: str = sys.platform) -> None:
    """Rename a file over what has the name, at once; on Windows again and again where somebody has it open.

    Raises:
        OSError: if it can't be done; `target` is as it was.
    """
    _again(lambda: source.replace(target), platform)


def remove(file: Path, platform: str = sys.platform) -> None:
    """Remove a file if it is there; on Windows again and again where somebody has it open.

    Raises:
        OSError: if it can't be done.
    """
    _again(lambda: file.unlink(missing_ok=True), platform)


def _again(act: Callable[[], object], platform: str) -> None:
    for pause in _PAUSES if _is_windows(platform) else ():
        try:
            act()
            return
        except PermissionError:  # Windows: ERROR_ACCESS_DENIED, ERROR_SHARING_VIOLATION
            time.sleep(pause)
    act()


def _is_windows(platform: str) -> bool:
    return platform == "win32"

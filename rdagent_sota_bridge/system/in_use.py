"""What a living process uses: a lock that it shares with others who use it, until it ends."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

_held: dict[Path, int] = {}
# What a file system says that has no locks, or lets this user write none: then only times say what is used.
_NO_LOCKS = {
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP,
}  # fmt: skip


def hold(lock_file: Path) -> None:
    """Let others see that this process uses what a lock file stands for; the kernel ends that with it.

    Waits while another process removes it (`free`), which takes a moment.

    Raises:
        OSError: if the lock's file can't be made for another reason than a missing right.
    """
    with contextlib.suppress(FileNotFoundError):
        if lock_file in _held and os.path.samestat(os.fstat(_held[lock_file]), lock_file.stat()):
            return
    _release(lock_file)  # a lock on a file that was removed
    try:
        descriptor = os.open(lock_file, os.O_RDONLY | os.O_CREAT, 0o666)
        _held[lock_file] = descriptor
        fcntl.flock(descriptor, fcntl.LOCK_SH)
    except OSError as error:
        if error.errno not in _NO_LOCKS:
            raise


@contextlib.contextmanager
def free(lock_file: Path, *, dry_run: bool) -> Iterator[bool]:
    """Give True if no other process uses it; for the length of the block none begins to.

    Args:
        lock_file: The lock's file; it stays.
        dry_run: Make no file.

    Raises:
        OSError: if the lock's file can't be opened.
    """
    _release(lock_file)  # a process that removes it does not use it
    flags = os.O_RDONLY if dry_run else os.O_RDWR | os.O_CREAT
    with contextlib.ExitStack() as stack:
        is_free = True
        with contextlib.suppress(FileNotFoundError):  # a dry run, and nobody has used it
            descriptor = os.open(lock_file, flags, 0o666)
            stack.callback(os.close, descriptor)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                is_free = False
        yield is_free


def _release(lock_file: Path) -> None:
    descriptor = _held.pop(lock_file, None)
    if descriptor is not None:
        os.close(descriptor)

"""Files that are opened only where they are files, written whole or not at all, put under a second name, and
locked between processes.

Files are flushed, folders are not: a rename that a power cut undoes leaves the old file, which is whole.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import re
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, Literal

import filelock

How = Literal["clone", "link", "copy"]
"""A clone shares the blocks of the original until one of the two is changed; a link is the same file."""

_FICLONE = 0x40049409  # linux/fs.h
# What a file system says that has no clones or no links (or not between these two, or not for this user).
_NOT_POSSIBLE = {
    errno.EXDEV, errno.EPERM, errno.EACCES, errno.EMLINK, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS,
    errno.ENOTTY, errno.EINVAL, errno.ETXTBSY,
    errno.EAGAIN,  # ZFS, of a file that was just written (openzfs/zfs#17485)
}  # fmt: skip
_LEVELS = 100  # of JSON: what Python can parse may be too deep for what comes after
_TOO_DEEP = "it is nested too deep"
_LEFT_SECONDS = 86400.0  # after which nobody works in a folder any more
_LOCK_SECONDS = 10.0  # until a process that waits for another one says so, and says so again


def open_file(path: Path) -> BinaryIO:
    """Open a file to read its bytes.

    Raises:
        OSError: if it can't be opened, or is no file: a pipe waits for a writer, a device may never end.
    """
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "It is a pipe, a socket or a device, and no file", str(path))
    return path.open("rb")


def is_own(file: Path) -> bool:
    """Return True for a file that is there and no link: a folder of ours has none of those."""
    return file.is_file() and not file.is_symlink()


def own_files(folder: Path) -> list[Path]:
    """Return the files of a folder, by name; none of a link, and no link."""
    if folder.is_symlink() or not folder.is_dir():
        return []
    return sorted(filter(is_own, folder.iterdir()))


def read_text(path: Path) -> str:
    """Return a file's text; raise an OSError as `open_file` does, or a ValueError for what is not UTF-8."""
    with open_file(path) as file:
        return file.read().decode("utf-8")


def read_json(path: Path) -> Any:
    """Return what a JSON file holds; raise an OSError as `open_file` does, a ValueError for no JSON."""
    try:
        found = json.loads(read_text(path))
    except RecursionError:
        raise ValueError(_TOO_DEEP) from None
    level, depth = [found], 0
    while level := [inner for outer in level for inner in _inside(outer)]:
        if (depth := depth + 1) > _LEVELS:
            raise ValueError(_TOO_DEEP)
    return found


def _inside(value: Any) -> Iterable[Any]:
    return value.values() if isinstance(value, dict) else value if isinstance(value, list) else ()


def write_whole(target: Path, content: str | bytes, like: os.stat_result | None = None) -> None:
    """Write a file under a temporary name beside the target, flush it, and rename it.

    Args:
        target: The file; a kill at any moment leaves the old one or the new one.
        content: What it is to hold; a text is written as UTF-8.
        like: Of whose mode it is to be, and (where root writes) whose; None for what the umask leaves.

    Raises:
        OSError: if it can't be written; the target is as it was.
    """
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex[:8]}")
    try:
        with temporary.open("xb") as file:
            file.write(content.encode("utf-8") if isinstance(content, str) else content)
            flush(file)
        if like is not None:
            if os.geteuid() == 0:
                os.chown(temporary, like.st_uid, like.st_gid)
            temporary.chmod(stat.S_IMODE(like.st_mode))
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


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
        how = put(source, temporary, link=link)
        temporary.replace(target)
    finally:
        # A rename does nothing where both names are links to one file (POSIX): the temporary one is left.
        temporary.unlink(missing_ok=True)
    return how


def put(source: Path, new: Path, *, link: bool) -> How:
    """Make a new file with another one's content, as `place` does; what fails may leave a part of it."""
    with open_file(source) as original, new.open("xb") as file:
        cloned = _clone(original, file)
        if not cloned and not link:
            shutil.copyfileobj(original, file, 1 << 20)
        flush(file)
    if cloned or not link:
        return "clone" if cloned else "copy"
    new.unlink()
    try:
        os.link(source, new)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
        return put(source, new, link=False)
    return "link"


def _clone(source: BinaryIO, target: BinaryIO) -> bool:
    """Let `target` share the blocks of `source`, and return True; False where the file system can't."""
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


def detach(target: Path) -> None:
    """Take a file's name away where it is a link, so that whoever writes to it begins a file of its own."""
    if target.is_symlink() or (target.is_file() and target.stat().st_nlink > 1):
        target.unlink()


def flush(file: BinaryIO) -> None:
    """Flush what was written to a file to the disk."""
    file.flush()
    os.fsync(file.fileno())


@contextlib.contextmanager
def new_folder(place: Path, prefix: str) -> Iterator[Path]:
    """Have a new folder for a block; what killed processes left there under the prefix goes after a day.

    Raises:
        OSError: if nothing can be written there.
    """
    for left in place.glob(f"{prefix}*"):
        with contextlib.suppress(FileNotFoundError):  # another process removes it
            if time.time() - left.stat().st_mtime > _LEFT_SECONDS:
                shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=place, prefix=prefix, ignore_cleanup_errors=True) as name:
        yield Path(name)


@contextlib.contextmanager
def held(lock_file: Path, say: Callable[[str], object], doing: str) -> Iterator[None]:
    """Hold a lock between processes; the kernel frees that of one that was killed.

    Args:
        lock_file: The lock's file; it stays.
        say: Gets a text each time that the wait for another process has lasted ten seconds more.
        doing: What the other process does, such as `writes the set`.

    Raises:
        OSError: if the lock's file can't be written.
    """
    lock = filelock.FileLock(lock_file)
    while not lock.is_locked:
        try:
            lock.acquire(timeout=_LOCK_SECONDS)
        except filelock.Timeout:
            say(f"waiting for another process that {doing} ({lock_file})")
    try:
        yield
    finally:
        lock.release()

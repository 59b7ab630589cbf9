"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import stat
import tempfile
from pathlib import Path

from rdagent_sota_bridge import filesystem


def write_whole(target: Path, text: str) -> None:
    """Write a text file, as `write_bytes_whole` does."""
    write_bytes_whole(target, text.encode("utf-8"))


def write_bytes_whole(target: Path, content: bytes, like: os.stat_result | None = None) -> None:
    """Write a file under a temporary name beside the target, flush it, and rename it.

    A kill at any moment leaves the old file or the new one.

    Args:
        target: The file.
        content: What it is to hold.
        like: Of whose mode it is to be, and (where root writes) whose; None for one that all may read.

    Raises:
        OSError: if it can't be written; the target is as it was.
    """
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            filesystem.flush(file)
        if like is not None and os.geteuid() == 0:
            os.chown(temporary, like.st_uid, like.st_gid)
        Path(temporary).chmod(0o644 if like is None else stat.S_IMODE(like.st_mode))
        filesystem.replace(Path(temporary), target)
    except BaseException:
        filesystem.remove(Path(temporary))
        raise

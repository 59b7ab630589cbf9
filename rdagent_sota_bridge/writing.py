"""Writing a file whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from rdagent_sota_bridge import filesystem


def write_whole(target: Path, text: str) -> None:
    """Write a text file under a temporary name beside the target, flush it, and rename it.

    A kill at any moment leaves the old file or the new one.

    Raises:
        OSError: if it can't be written; the target is as it was.
    """
    descriptor, temporary = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(text.encode("utf-8"))
            filesystem.flush(file)
        Path(temporary).chmod(0o644)
        filesystem.replace(Path(temporary), target)
    except BaseException:
        filesystem.remove(Path(temporary))
        raise

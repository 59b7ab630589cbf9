"""The files that hold a factor set: one, or the parts in a folder of its name (Spark, dask, pyarrow)."""

from __future__ import annotations

from pathlib import Path

from rdagent_sota_bridge.errors import FactorFileError, Reason, refused


def parts_of(path: Path) -> list[Path]:
    """Return the files that hold a set: the file itself, or for a folder its parts, by name.

    What begins with `_` or `.` is no part: writers leave `_SUCCESS`, `_metadata` and check sums there.

    Raises:
        FactorFileError: if a folder has no part, or folders in it (their names hold values of a column).
    """
    try:
        if not path.is_dir():
            return [path]
        found = sorted(part for part in path.iterdir() if not part.name.startswith(("_", ".")))
        folders = tuple(part.name for part in found if part.is_dir())
    except OSError as error:
        fix = "make it a file or folder that you may read (ls -ld shows the rights), or name another one"
        raise refused(path, Reason.UNREADABLE, fix, examples=(error.strerror or str(error),)) from None
    if folders:
        raise refused(path, Reason.PARTS, one_file(path), examples=folders[:2])
    if not found:
        raise refused(path, Reason.NO_ROWS, "name a folder that holds parquet files, or a file", count=0)
    return found


def size_of(path: Path) -> int:
    """Return the bytes of a set's files; 0 where they can't be read, as whoever opens them says."""
    try:
        return sum(part.stat().st_size for part in parts_of(path))
    except (FactorFileError, OSError):
        return 0


def one_file(path: Path) -> str:
    """Return the fix for a folder that can't be taken.

    Without code: pandas drops columns that the first part does not have, and makes factors of partitions.
    """
    return f"write one parquet file of {path} and name that, or parts of the same columns and types"

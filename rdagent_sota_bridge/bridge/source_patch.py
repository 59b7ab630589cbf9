"""The model runner of an RD-Agent source, as a file: where it lies, and whether it calls this package."""

from __future__ import annotations

import errno
import importlib.util
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rdagent_sota_bridge.errors import SourceError
from rdagent_sota_bridge.system.files import write_whole

RUNNER_FILE = Path("scenarios", "qlib", "developer", "model_runner.py")
"""Below the package `rdagent` (0.5 to 1.0)."""

_NAME = b"sota_bridge"  # in every line of the block: a file without it is not patched
_END = rb"\r?\n"


@dataclass(frozen=True)
class Found:
    """A model runner, and how it stands to the patch.

    Attributes:
        file: The file, links resolved.
        state: `none`: not patched. `applied`: the block is in it. `old`: it has a diff of release 0.1.0.
        bare: What it holds without the patch.
    """

    file: Path
    state: Literal["none", "applied", "old"]
    bare: bytes


def find(source: Path | None) -> Found:
    """Find the model runner of a source, and look whether it is patched; nothing is changed.

    Args:
        source: The root of the repository, or its package `rdagent`; None for the RD-Agent that is installed
            beside this package. It is not imported.

    Raises:
        SourceError: if there is none, it can't be read, or it has a part of the patch.
    """
    file, content = _runner(source)
    # A formatter may put a blank line after the import.
    bare = _without(content, _patch_lines("block.txt"), rb"(?:\r?\n)+")
    if _NAME not in bare:
        return Found(file, "none" if bare == content else "applied", bare)
    # The diffs put the import before the blank line that RD-Agent's own imports follow.
    old_import, *old_call = _patch_lines("old.txt")
    half = _without(content, [old_import], _END, before=rb"(?=\r?\nfrom rdagent\.)")
    bare = _without(half, old_call, _END, before=rb"\Z")
    if content != half != bare and _NAME not in bare:
        return Found(file, "old", bare)
    numbers = [str(at) for at, line in enumerate(content.splitlines(), 1) if _NAME in line]
    raise SourceError(
        "RD-Agent's model runner has a part of the patch, or an edited one, and was left as it is",
        f"{file}, line {', '.join(numbers)}",
        f"take the lines with sota_bridge out by hand (in a checkout git checkout {file} takes them out too, "
        "with whatever else you changed in that file)",
    )


def with_block(content: bytes) -> bytes:
    """Return a file's content with the block at its end, in line ends of the file's own.

    Where the last line has no end, that of the block has none: so `find` knows what was there before.
    """
    end = _first_end(content)
    block = end.join(_patch_lines("block.txt"))
    return content + block + end if content.endswith(b"\n") else content + end + block


def write(file: Path, content: bytes) -> None:
    """Write a model runner: whole, with the mode and (for root) the owner that it had.

    A new file takes the name of the old one: what has other names, as in a package manager's cache, is not
    written through.

    Raises:
        SourceError: if it can't be written; it is as it was.
    """
    try:
        # Asked, not tried: root could, and a new file can take the name of one that may not be written.
        if not os.access(file, os.W_OK, effective_ids=True) or not file.stat().st_mode & stat.S_IWUSR:
            raise PermissionError(errno.EACCES, "it is read-only for this user")
        write_whole(file, content, like=file.stat())
    except OSError as error:
        raise SourceError(
            f"RD-Agent's model runner can't be written, and was not changed: {error.strerror}",
            str(file),
            "make it writable (chmod u+w), or do this as the user that the file and its folder belong to",
        ) from None


def _patch_lines(name: str) -> list[bytes]:
    """Return the lines of a file of `patches/`, without their ends."""
    package = Path(__file__).parents[1]
    # A wheel has them inside of the package, a checkout beside it.
    for folder in (package / "patches", package.parent / "patches"):
        if (folder / name).is_file():
            return (folder / name).read_bytes().splitlines()
    raise SourceError("The lines of the patch are missing", str(package), "install the package again")


def _without(content: bytes, lines: list[bytes], separator: bytes, before: bytes = b"") -> bytes:
    """Return a content without whole lines; the last may be the file's last, without an end."""
    pattern = rb"(?m:^)" + separator.join(map(re.escape, lines)) + rb"(?:\r?\n|\Z)" + before
    found = re.search(pattern, content)
    if found is None:
        return content
    head, tail = content[: found.start()], content[found.end() :]
    if not tail and not found[0].endswith(b"\n"):
        # The line before the patch had no end, or an editor took the patch's away.
        end = _first_end(found[0])
        head = head.removesuffix(end if head.endswith(end) else b"\n")
    return head + tail


def _first_end(content: bytes) -> bytes:
    found = re.search(_END, content)
    return found[0] if found else b"\n"


def _runner(source: Path | None) -> tuple[Path, bytes]:
    if source is None:
        spec = importlib.util.find_spec("rdagent")
        packages = [Path(place) for place in (spec and spec.submodule_search_locations) or ()]
    else:
        packages = [source / "rdagent", source]
    for file in (package / RUNNER_FILE for package in packages):
        try:
            return file.resolve(), file.read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            continue
        except OSError as error:  # such as a folder that this user may not enter
            raise SourceError(
                f"RD-Agent's model runner can't be read: {error.strerror}", str(file), "let this user read it"
            ) from None
    raise SourceError(
        "There is no RD-Agent with a model runner for Qlib",
        " and ".join(str(package / RUNNER_FILE) for package in packages) or "beside this package",
        "name the root of its repository, or the folder of its package rdagent: --source DIR",
    )

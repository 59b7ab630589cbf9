"""The model runner of an RD-Agent source, as a file: where it lies, and which diff of `patches/` it has."""

from __future__ import annotations

import importlib.util
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from rdagent_sota_bridge import diff
from rdagent_sota_bridge.errors import SourceError
from rdagent_sota_bridge.files import write_whole

RUNNER_FILE = Path("scenarios", "qlib", "developer", "model_runner.py")
"""Below the package `rdagent` (0.5 to 1.0)."""

_NAME = b"sota_bridge"  # the import and the call have it: a file without it is not patched
_OTHER_WAY = "or leave the source as it is and use the import hook, which needs no patch"


@dataclass(frozen=True)
class Found:
    """A model runner, and how it stands to the diffs.

    Attributes:
        file: The file, links resolved.
        state: `none`: not patched, and a diff fits. `applied`: it has all of a diff. `misfit`: neither.
        diff: The file of that diff; of the nearest one, at a misfit.
        changed: What the file is after `apply`, or after `revert`; empty at a misfit.
        is_touched: True if it has the import or the call of a diff, in whatever form.
        misfit: Why nothing can be done about it, with the lines.
    """

    file: Path
    state: Literal["none", "applied", "misfit"]
    diff: Path
    changed: bytes = b""
    is_touched: bool = False
    misfit: SourceError | None = None


def diffs() -> tuple[Path, ...]:
    """Return the files of the diffs, that of the newest release first."""
    package = Path(__file__).parent
    # A wheel has them inside of the package, a checkout beside it.
    for folder in (package / "patches", package.parent / "patches"):
        if folder.is_dir():
            return tuple(sorted(folder.glob("*.patch"), reverse=True))
    raise SourceError("The diffs of this package are missing", str(package), "install the package again")


def find(source: Path | None) -> Found:
    """Find the model runner of a source, and look which diff it has or takes; nothing is changed.

    Args:
        source: The root of the repository, or its package `rdagent`; None for the RD-Agent that is installed
            beside this package. It is not imported.

    Raises:
        SourceError: if there is none, or it can't be read.
    """
    file = _runner_file(source)
    try:
        content = file.read_bytes()
    except OSError as error:
        raise _unreadable(file, error) from None
    known = [(path, diff.hunks(path.read_bytes())) for path in diffs()]
    is_touched = _NAME in content
    for path, hunks in known:
        reverted, misfits = diff.apply(_reversed(hunks), content)
        if not misfits:
            return Found(file, "applied", path, reverted, is_touched)
        patched, misfits = diff.apply(hunks, content)
        if not misfits and not is_touched:
            return Found(file, "none", path, patched)
    # Of a patch in part, the lines that a whole one has are shown.
    unfit = [
        (path, diff.apply(_reversed(hunks) if is_touched else hunks, content)[1]) for path, hunks in known
    ]
    path, misfits = min(unfit, key=lambda one: (len(one[1]), -sum(misfit.alike for misfit in one[1])))
    return Found(file, "misfit", path, b"", is_touched, _misfit(file, path, misfits, is_touched))


def write(found: Found) -> None:
    """Write what a file is after the change: whole, with the mode and (for root) the owner that it had.

    A new file takes the name of the old one: what has other names, as in a package manager's cache, is not
    written through.

    Raises:
        SourceError: if it can't be written; it is as it was.
    """
    if found.misfit is not None:
        raise found.misfit
    try:
        # Asked, not tried: root could, and a new file can take the name of one that may not be written.
        mine = os.access(found.file, os.W_OK, effective_ids=os.access in os.supports_effective_ids)
        if not mine or not found.file.stat().st_mode & stat.S_IWUSR:
            raise SourceError(
                "RD-Agent's model runner is read-only for this user, and was not changed",
                str(found.file),
                "make it writable (chmod u+w), or do this as the user that it belongs to",
            )
        write_whole(found.file, found.changed, like=found.file.stat())
    except OSError as error:
        raise SourceError(
            f"RD-Agent's model runner can't be written, and was not changed: {error.strerror}",
            str(found.file),
            "do this as the user that the folder belongs to",
        ) from None


def _reversed(hunks: tuple[diff.Hunk, ...]) -> tuple[diff.Hunk, ...]:
    return tuple(hunk.reversed for hunk in hunks)


def _runner_file(source: Path | None) -> Path:
    if source is None:
        spec = importlib.util.find_spec("rdagent")
        if spec is None:
            raise SourceError(
                "RD-Agent is not installed beside this package",
                "the Python that runs rdagent-sota",
                "name the folder of its source: --source DIR",
            )
        packages = [Path(place) for place in spec.submodule_search_locations or ()]
    else:
        packages = [source / "rdagent", source]
    for package in packages:
        file = package / RUNNER_FILE
        try:
            mode = file.stat().st_mode
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:  # such as a folder that this user may not enter
            raise _unreadable(file, error) from None
        if stat.S_ISREG(mode):
            return file.resolve()
    raise SourceError(
        "There is no RD-Agent with a model runner for Qlib",
        " and ".join(str(package / RUNNER_FILE) for package in packages),
        "name the root of its repository, or the folder of its package rdagent: --source DIR",
    )


def _unreadable(file: Path, error: OSError) -> SourceError:
    return SourceError(
        f"RD-Agent's model runner can't be read: {error.strerror}", str(file), "let this user read it"
    )


_END_OF_FILE = "    (and then the end of the file)"


def _misfit(file: Path, path: Path, misfits: tuple[diff.Misfit, ...], is_touched: bool) -> SourceError:
    places = [str(file)]
    for misfit in misfits:
        end = [_END_OF_FILE] if misfit.hunk.is_at_end else []
        places += [f"  expected by {path.name}:", *_shown(misfit.hunk.old), *end]
        places += [f"  found from line {misfit.line} on:", *_shown(misfit.found)]
    if is_touched:
        fact = "RD-Agent's model runner has a part of the patch, or an edited one, and was left as it is"
        fix = (
            f"take the lines with sota_bridge out by hand (in a checkout git checkout {file} takes them out "
            "too, with whatever else you changed in that file)"
        )
    else:
        fact = "RD-Agent's model runner is not as the patch expects it, and was left as it is"
        fix = f"put in by hand what {path} adds, {_OTHER_WAY}"
    return SourceError(fact, "\n".join(places), fix)


def _shown(lines: tuple[bytes, ...]) -> list[str]:
    return [f"    | {line.decode('utf-8', 'backslashreplace')}".rstrip() for line in lines]

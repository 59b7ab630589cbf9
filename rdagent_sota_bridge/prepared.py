"""Prepared data: the handler that Qlib builds for a model's training, kept for later loops of the same data.

This is our side. What builds, keeps and loads runs in Qlib's environment: `qlib_side/sota_prepared.py`.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from datetime import datetime, timezone
from importlib import resources
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError, StoreError
from rdagent_sota_bridge.qlib_side import sota_prepared

SCRIPT_FILE = "sota_prepared.py"
"""The file for a model's workspace: Qlib finds it there, for RD-Agent starts qrun in the workspace."""

OUTCOME_FILE = sota_prepared.OUTCOME_FILE
"""What the script leaves in the workspace; to be removed before a training."""

TRAINING = sota_prepared.TRAINING
"""The variable that names a training to the script."""

_GIVEN = re.compile(r"^GIVEN: dict\[str, str\] = \{\}.*$", re.MULTILINE)
_HANDLER = "class: DataHandlerLP", "module_path: qlib.contrib.data.handler"
_PREPARED = "class: prepared_handler", f"module_path: {Path(SCRIPT_FILE).stem}"


@dataclass(frozen=True)
class Prepared:
    """A prepared file.

    Attributes:
        path: The file.
        size: Bytes.
        last_used: When a loop last loaded it, or when it was written.
        identity: What tells the factor set and the base set; None of a file that is damaged or unfinished.
        market: The name of the market; None where it is not known.
        rows: Number of (datetime, instrument) rows; likewise.
        columns: Number of features and labels; likewise.
        created: When it was written; likewise.
    """

    path: Path
    size: int
    last_used: datetime
    identity: str | None = None
    market: str | None = None
    rows: int | None = None
    columns: int | None = None
    created: datetime | None = None


@dataclass(frozen=True)
class Outcome:
    """What came of the prepared data in one training.

    Attributes:
        state: `loaded`, `built` or `not used`.
        line: What the script said of it.
        warning: What went wrong; empty if nothing did.
    """

    state: str
    line: str
    warning: str


def folder(store: Path) -> Path:
    """Return where prepared files are kept, below the folder of the store."""
    return store / "prepared"


def script(folder: Path, identity: str) -> str:
    """Return the text of `SCRIPT_FILE`.

    Args:
        folder: Where prepared files are kept, absolute; it is made when the first is written.
        identity: What tells the factor set and the base set from others, in one line. It is part of the
            files' names, and what `entries` shows.
    """
    text = (resources.files(__package__) / "qlib_side" / SCRIPT_FILE).read_text(encoding="utf-8")
    # In ASCII, and read back by JSON: a path may hold what is no UTF-8, or what ends a Python string.
    given = json.dumps({"folder": str(folder), "identity": identity})
    filled, found = _GIVEN.subn(lambda _: f"GIVEN: dict[str, str] = json.loads({given!r})", text)
    if found != 1:
        raise AssertionError(f"{SCRIPT_FILE} has {found} lines for what it is given")
    return filled


def with_prepared_handler(config: str) -> str:
    """Return the YAML of a model that trains on factors with `prepared_handler` in place of Qlib's handler.

    Args:
        config: RD-Agent's YAML, a template yet, or one that was adapted before.

    Raises:
        SeamError: if the YAML has a form that is not known.
    """
    handlers, adapted = _pairs(_HANDLER).findall(config), _pairs(_PREPARED).findall(config)
    if len(handlers) + len(adapted) != 1:
        raise _unknown_form(f"its handler was found {len(handlers) + len(adapted)} times, not once")
    changed = _pairs(_HANDLER).sub(
        lambda match: f"{match['begin']}{_PREPARED[0]}{match['between']}{_PREPARED[1]}", config
    )
    _verify(config, changed)
    return changed


def _pairs(lines: tuple[str, str]) -> re.Pattern[str]:
    first, second = (re.escape(line).replace(r":\ ", r":[ \t]*") for line in lines)
    return re.compile(
        rf"^(?P<begin>(?P<indent>[ \t]*)){first}(?P<between>[ \t]*\n(?P=indent)){second}(?=[ \t]*$)",
        re.MULTILINE,
    )


def _verify(before: str, after: str) -> None:
    """Read the YAML before and after as Qlib would: nothing but the dataset's handler may differ."""
    import jinja2
    import yaml

    from rdagent_sota_bridge import qlib_config

    try:
        expected, document = (qlib_config.rendered(text, {}) for text in (before, after))
        handler = expected["task"]["dataset"]["kwargs"]["handler"]
        handler |= dict(line.split(": ") for line in _PREPARED)
    except (KeyError, TypeError, yaml.YAMLError, jinja2.TemplateError) as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None
    if expected != document:
        raise _unknown_form("its handler is not the dataset's")


def _unknown_form(found: str) -> SeamError:
    from rdagent_sota_bridge import qlib_config

    return SeamError(
        f"RD-Agent's model YAML has a form that SOTA_PREPARED_DATA does not know: {found}",
        f"model_template/{qlib_config.CONFIG_FILE} of the installed RD-Agent",
        f"set SOTA_PREPARED_DATA=false, or {OTHER_RELEASE}",
    )


def outcome(workspace: Path, training: str = "") -> Outcome | None:
    """Return what the script did in a model's workspace, or None if it never ran to its end.

    Args:
        workspace: The workspace.
        training: What `TRAINING` was in qrun's environment; what another training left counts for nothing.
    """
    file = workspace / OUTCOME_FILE
    if not file.is_file():
        return None
    content = json.loads(file.read_text(encoding="utf-8"))
    if content["training"] != training:
        return None
    return Outcome(content["state"], content["line"], content.get("warning", ""))


def entries(folder: Path) -> list[Prepared]:
    """Return the prepared files of a folder, those used last first, then what killed loops left.

    A folder that is not there holds none.

    Raises:
        StoreError: if the folder can't be read.
    """
    try:
        return _entries(folder)
    except OSError as error:
        raise _failed("read", folder, error) from None


def _entries(folder: Path) -> list[Prepared]:
    found = []
    unfinished = [file for file in _unfinished(folder) if sota_prepared.is_abandoned(file)]
    for file in [*sota_prepared.prepared_files(folder), *unfinished]:
        try:
            found.append(_entry(file))
        except FileNotFoundError:  # a loop prunes
            continue
    return found


def prune(folder: Path, before: datetime, *, dry_run: bool) -> list[Prepared]:
    """Delete what no loop has loaded since a time, and what is damaged or unfinished; return it.

    A loop that is loading one ends that unharmed; one that is being written stays.

    Raises:
        StoreError: if one can't be deleted.
    """
    old = [entry for entry in entries(folder) if entry.identity is None or entry.last_used < before]
    try:
        for entry in old if not dry_run else ():
            entry.path.unlink(missing_ok=True)  # a loop prunes too
    except OSError as error:
        raise _failed("removed", folder, error) from None
    return old


def _failed(what: str, folder: Path, error: OSError) -> StoreError:
    return StoreError(
        f"Prepared data can't be {what}: {error.strerror}",
        str(error.filename or folder),
        "make the folder one that you may read and write (ls -l tells)",
    )


def _unfinished(folder: Path) -> list[Path]:
    return sorted(folder.glob(f".*{sota_prepared.UNFINISHED}"))


def _entry(file: Path) -> Prepared:
    status = file.stat()
    size, last_used = status.st_size, datetime.fromtimestamp(status.st_mtime, timezone.utc)
    about: dict[str, Any] = {}
    try:
        with file.open("rb") as opened:
            about, _ = sota_prepared.read_about(opened)
    except (sota_prepared.NotPreparedError, PermissionError):
        return Prepared(file, size, last_used)
    return Prepared(
        file,
        size,
        last_used,
        identity=about["identity"],
        market=about.get("market"),
        rows=about.get("rows"),
        columns=about.get("columns"),
        created=datetime.fromisoformat(about["created"]),
    )

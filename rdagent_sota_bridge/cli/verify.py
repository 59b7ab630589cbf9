"""The command `rdagent-sota verify`: a line per model loop on screen, or all of them as JSON."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.text import Text

from rdagent_sota_bridge.factor_set import locate, sessions
from rdagent_sota_bridge.factor_set.names import LATEST, MODEL_LOOPS
from rdagent_sota_bridge.report import history, verify
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.report.verify import Verification

_STYLES = {
    "factors": "green",
    "none": "yellow",
    "not trained": "dim",
    "not verified": "bold red",
    "broken": "bold red",
}
_MARKS = {"factors": "✓", "none": "-", "not trained": "-", "not verified": "?", "broken": "✗"}
_ASCII_MARKS = {**_MARKS, "factors": "+", "broken": "x"}


def run(log: str, as_json: bool = False, console: Console | None = None) -> int:
    """Print what can be shown of each model loop of a run, and return the exit status.

    Args:
        log: A log folder, its `__session__`, a session file, or `latest` for the newest log with model loops.
        as_json: Print one JSON object and nothing else.
        console: Where to print; None for stdout.

    Returns:
        1 where a loop claims what can't be shown, else 0.

    Raises:
        SessionError: if the log can't be read, or is of a run without models.
    """
    found = history.read_run(_latest() if log == LATEST else locate.existing_log(log))
    verdicts = verify.verify(found)
    show(found, verdicts, as_json, console or Console())
    return 0 if all(one.holds for one in verdicts) else 1


def show(found: Run, verdicts: list[Verification], as_json: bool, console: Console) -> None:
    """Print the verdicts on a run's model loops."""
    ascii_only = console.options.ascii_only
    if as_json:
        text = json.dumps(_document(found, verdicts), ensure_ascii=ascii_only, indent=2, default=str)
        console.file.write(text + "\n")
        return
    marks = _ASCII_MARKS if ascii_only else _MARKS

    def line(text: str, mark: str = "", style: str = "") -> None:
        text = _printable(text)
        if ascii_only:  # names come from an LLM, in any letters
            text = text.encode("ascii", "backslashreplace").decode()
        console.print(Text.assemble((mark, style), text), soft_wrap=True, highlight=False)

    line(f"{found.command}: {found.log}")
    width = max(len(one.state) for one in verdicts)
    for one in verdicts:
        number = "?" if one.loop is None else str(one.loop)
        mark = f"{marks[one.state]} {one.state:<{width}}"
        line(f"  loop {number} {one.name}: {one.text}", mark, _STYLES[one.state])
        if not one.holds and one.workspace is not None:
            line(f"  where: {one.workspace}")
    for note in found.notes:
        line(f"note: {note}")
    line(_count(verdicts))


def _printable(text: str) -> str:
    """Return a text on one line, without signs that command a terminal: they could write another verdict."""
    signs = (one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)
    return "".join(signs)


def _count(verdicts: list[Verification]) -> str:
    """Return the last line: how many loops claim the factors, and of how many that holds."""
    claiming = [one for one in verdicts if one.digest or not one.holds]
    shown = sum(one.holds for one in claiming)
    loops = f"{len(verdicts)} model loop{'' if len(verdicts) == 1 else 's'}"
    if not claiming:
        return f"{loops}: none claims factors"
    claim = "claims" if len(claiming) == 1 else "claim"
    return f"{loops}: {len(claiming)} {claim} factors, {shown} shown to have them"


def _document(found: Run, verdicts: list[Verification]) -> dict[str, Any]:
    return {
        "log": found.log,
        "command": found.command,
        "holds": all(one.holds for one in verdicts),
        "loops": [
            {**dataclasses.asdict(one), "holds": one.holds, "digest": one.digest or None} for one in verdicts
        ],
        "notes": found.notes,
    }


def _latest() -> Path:
    """Return the newest log with model loops."""
    log, _, notes = sessions.newest_log(
        lambda session: session.loop_class in MODEL_LOOPS,
        "No log of a run with models",
        "run `rdagent fin_model` in this folder, or name a log folder",
    )
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    return log

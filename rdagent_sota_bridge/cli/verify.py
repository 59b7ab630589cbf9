"""The command `rdagent-sota verify`: a line per model loop on screen, or all of them as JSON."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.text import Text

from rdagent_sota_bridge.cli.output import ASCII_MARKS, print_json, print_notes
from rdagent_sota_bridge.errors import one_line
from rdagent_sota_bridge.factor_set import locate, sessions
from rdagent_sota_bridge.factor_set.names import LATEST
from rdagent_sota_bridge.factor_set.sessions import Session
from rdagent_sota_bridge.report import history, verify
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.report.verify import Verification

_MARKS = {
    "factors": ("✓", "green"),
    "none": ("-", "yellow"),
    "not trained": ("-", "dim"),
    "not verified": ("?", "bold red"),
    "broken": ("✗", "bold red"),
}


def run(log: str, as_json: bool) -> int:
    """Print what can be shown of each model loop of a run, and return the exit status.

    Args:
        log: A log folder, its `__session__`, a session file, or `latest` for the newest log with models.
        as_json: Print one JSON object and nothing else.

    Returns:
        1 where a loop claims what can't be shown, else 0.

    Raises:
        SessionError: if the log can't be read, or is of a run without models.
    """
    fix = "run `rdagent fin_model` in this folder, or name a log folder"
    found = history.read_run(named_log(log, lambda one: one.has_models, "No log of a run with models", fix))
    verdicts = verify.verify(found)
    holds = all(one.holds for one in verdicts)
    if as_json:
        loops = [
            {**dataclasses.asdict(one), "holds": one.holds, "digest": one.digest or None} for one in verdicts
        ]
        about = {"log": found.log, "command": found.command, "holds": holds}
        print_json({**about, "loops": loops, "notes": found.notes})
    else:
        _show(found, verdicts, Console())
    return 0 if holds else 1


def named_log(named: str, fits: Callable[[Session], bool], missing: str, fix: str) -> Path:
    """Return the log folder that a text names; of `latest` the newest that fits, with notes on stderr.

    Raises:
        SessionError: if there is none: `missing` and `fix` say so of `latest`.
    """
    if named != LATEST:
        return locate.existing_log(named)
    log, _, notes = sessions.newest_log(fits, missing, fix)
    print_notes(notes)
    return log


def _show(found: Run, verdicts: list[Verification], console: Console) -> None:
    ascii_only = console.options.ascii_only

    def line(text: str, mark: str = "", style: str = "") -> None:
        text = one_line(text)  # names come from an LLM: what commands a terminal could write another verdict
        if ascii_only:
            text, mark = text.encode("ascii", "backslashreplace").decode(), mark.translate(ASCII_MARKS)
        console.print(Text.assemble((mark, style), text), soft_wrap=True, highlight=False)

    line(f"{found.command}: {found.log}")
    width = max(len(one.state) for one in verdicts)
    for one in verdicts:
        mark, style = _MARKS[one.state]
        number = "?" if one.loop is None else one.loop
        line(f"  loop {number} {one.name}: {one.text}", f"{mark} {one.state:<{width}}", style)
        if not one.holds and one.workspace is not None:
            line(f"  where: {one.workspace}")
    for note in found.notes:
        line(f"note: {note}")
    claims = [one.holds for one in verdicts if one.digest or not one.holds]
    what = f"{len(claims)} claim{'s' * (len(claims) == 1)} factors, {sum(claims)} shown to have them"
    loops = f"{len(verdicts)} model loop{'s' * (len(verdicts) != 1)}"
    line(f"{loops}: {what if claims else 'none claims factors'}")

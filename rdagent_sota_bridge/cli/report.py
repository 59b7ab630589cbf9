"""The command `rdagent-sota report`: runs side by side, as a page or as JSON."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path

import typer
from rich.filesize import decimal

from rdagent_sota_bridge.errors import ReportError
from rdagent_sota_bridge.factor_set import locate, sessions
from rdagent_sota_bridge.factor_set.names import LATEST
from rdagent_sota_bridge.report import gather, page
from rdagent_sota_bridge.system.files import write_whole

DEFAULT_OUTPUT = Path("report.html")
"""In the current folder."""

_HEAD = 4096  # the line that says what made a page stands within so many bytes


def run(logs: Sequence[str], output: Path | None, as_json: bool) -> None:
    """Write the page of some runs, and print where; or print their figures.

    Args:
        logs: Log folders, or `latest` for the newest below `./log`.
        output: The file; None is `DEFAULT_OUTPUT`.
        as_json: Print JSON, and write no file.

    Raises:
        SessionError: if a log can't be read.
        ReportError: if the file can't be written, or holds something else.
    """
    target = Path.cwd() / (output or DEFAULT_OUTPUT).expanduser()
    if not as_json:
        check_target(target)  # before a minute of work
    found = gather.gather([_log(named) for named in logs])
    if as_json:
        json.dump(gather.as_plain(found), sys.stdout, ensure_ascii=False, indent=2, allow_nan=False)
        sys.stdout.write("\n")
        return
    text = page.render(found)
    check_target(target)  # it may have come meanwhile
    try:
        write_whole(target.resolve(), text)
    except OSError as error:
        raise _no_place(target, error) from None
    typer.echo(f"{target} ({decimal(target.stat().st_size)})")


def _log(named: str) -> Path:
    """Return the log folder that a text names."""
    if named != LATEST:
        return locate.existing_log(named)
    log, _, notes = sessions.newest_log(
        lambda session: True,
        "There is no log: latest names the newest below ./log",
        "start in the project folder of a run, or name its log folder",
    )
    for note in notes:
        typer.echo(f"note: {note}", err=True)
    return log


def check_target(target: Path) -> None:
    """Refuse a file that is there and no report of ours, and a place that can hold no file.

    Raises:
        ReportError: if it is one.
    """
    try:
        with target.open("rb") as file:
            ours = page.GENERATOR.encode() in file.read(_HEAD)
    except FileNotFoundError as error:
        if not target.parent.is_dir():
            raise _no_place(target, error) from None
        return
    except OSError as error:
        raise _no_place(target, error) from None
    if not ours:
        raise ReportError(
            "The file is there, and no report: it is not written over",
            str(target),
            "name another with -o, or remove it",
        )


def _no_place(target: Path, error: OSError) -> ReportError:
    return ReportError(
        f"The report can't be written: {error.strerror}",
        str(target),
        "name a file with -o, in a folder that is there and that you may write into",
    )

"""The command `rdagent-sota path`; and how each command finds its set, with a bar while one is fetched."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    DownloadColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from rdagent_sota_bridge.cli.output import echo, print_notes
from rdagent_sota_bridge.errors import one_line
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.settings import Settings, path_entries, read_settings
from rdagent_sota_bridge.sharing import fetch, remote


def run(log: str | None) -> None:
    """Print what SOTA_WORKSPACE_PATH would hold: workspace folders, or files of another name, on one line.

    Args:
        log: A log folder, `latest`, a workspace or a URL; None for what the environment names.

    Raises:
        BridgeError: as a run would raise it.
    """
    found = find_sets(log, read_settings())
    print_notes(note for one in found for note in one.notes)
    files = [one.path for one in found]
    text = os.pathsep.join(str(file.parent if file.name == FACTOR_FILE else file) for file in files)
    # Byte for byte for a program that takes it, as `ls` does.
    typer.echo(one_line(text) if sys.stdout.isatty() else os.fsencode(text))


def find_sets(named: str | None, settings: Settings) -> tuple[Located, ...]:
    """Return the factor files that a text or the environment (None) names; those behind URLs are fetched.

    Raises:
        BridgeError: as a run would raise it.
    """
    with progress_bar() as progress:
        into_store = fetch.into_store(settings.store_path, lambda text: echo(text, err=True), progress)
        if named is None:
            return locate.factor_sets(settings.workspace_paths, settings.log_paths, into_store)
        return tuple(locate.named(entry, into_store) for entry in path_entries(named))


@contextmanager
def progress_bar() -> Iterator[remote.Progress]:
    """Give what shows bytes that move: a bar on the stderr of a terminal, a line now and then elsewhere."""
    columns = (TextColumn("{task.description}", markup=False), BarColumn(), DownloadColumn())
    times, console = (TransferSpeedColumn(), TimeRemainingColumn()), Console(stderr=True)
    shown = Progress(*columns, *times, console=console, transient=True)
    tasks: dict[str, TaskID] = {}
    lines = fetch.lines(lambda text: echo(text, err=True))

    def show(url: str, done: int, total: int | None) -> None:
        if not shown.console.is_terminal:
            lines(url, done, total)
            return
        if url not in tasks:
            shown.start()
            tasks[url] = shown.add_task(one_line(url), total=total)
        shown.update(tasks[url], completed=done, total=total)

    try:
        yield show
    finally:
        if tasks:  # Rich ends a bar that was never shown with an empty line
            shown.stop()

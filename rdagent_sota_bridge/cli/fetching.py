"""The bar that a terminal shows while a set is fetched or pushed."""

from __future__ import annotations

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

from rdagent_sota_bridge.factor_set.locate import Fetch
from rdagent_sota_bridge.sharing import fetch
from rdagent_sota_bridge.sharing.remote import Progress as Shown


@contextmanager
def bar() -> Iterator[Shown]:
    """Give what shows bytes that move, on the stderr of a terminal; nothing elsewhere or before the first."""
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    shown = Progress(*columns, TimeRemainingColumn(), console=Console(stderr=True), transient=True)
    tasks: dict[str, TaskID] = {}

    def show(url: str, done: int, total: int | None) -> None:
        if not shown.console.is_terminal:
            return
        if url not in tasks:
            shown.start()
            tasks[url] = shown.add_task(url, total=total)
        shown.update(tasks[url], completed=done, total=total)

    try:
        yield show
    finally:
        if tasks:  # Rich ends a bar that was never shown with an empty line
            shown.stop()


@contextmanager
def into_store(store_path: str | None) -> Iterator[Fetch]:
    """Give what fetches a URL's set into the store, with lines and a bar on stderr.

    Args:
        store_path: `SOTA_STORE_PATH`.
    """
    with bar() as show:
        yield fetch.into_store(store_path, lambda text: typer.echo(text, err=True), show)

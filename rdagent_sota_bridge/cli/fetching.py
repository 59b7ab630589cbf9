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
    TextColumn,
    TimeRemainingColumn,
    TransferSpeedColumn,
)

from rdagent_sota_bridge import fetching
from rdagent_sota_bridge.locate import Fetch


class Bar:
    """Bytes that move, on the stderr of a terminal; nothing elsewhere, and nothing before the first."""

    def __init__(self) -> None:
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            DownloadColumn(),
            TransferSpeedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
            transient=True,
        )
        self._tasks: dict[str, int] = {}

    def show(self, url: str, done: int, total: int | None) -> None:
        """Show how far one of them is."""
        if not self._progress.console.is_terminal:
            return
        if not self._tasks:
            self._progress.start()
        if url not in self._tasks:
            self._tasks[url] = self._progress.add_task(url, total=total)
        self._progress.update(self._tasks[url], completed=done, total=total)  # type: ignore[arg-type]

    def stop(self) -> None:
        """Take the bar away, if there is one: Rich ends one that was never shown with an empty line."""
        if self._tasks:
            self._progress.stop()


@contextmanager
def bar() -> Iterator[Bar]:
    """Give a bar, and take it away at the end."""
    shown = Bar()
    try:
        yield shown
    finally:
        shown.stop()


@contextmanager
def fetch(store_path: str | None) -> Iterator[Fetch]:
    """Give what fetches a URL's set into the store, with lines and a bar on stderr.

    Args:
        store_path: `SOTA_STORE_PATH`.
    """
    with bar() as shown:
        yield fetching.into_store(store_path, lambda text: typer.echo(text, err=True), shown.show)

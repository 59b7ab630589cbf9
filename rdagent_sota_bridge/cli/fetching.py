"""How a command fetches what a URL names: with a bar on a terminal. It imports pandas, pyarrow and fsspec."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

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

from rdagent_sota_bridge.cli.output import echo
from rdagent_sota_bridge.errors import one_line
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.sharing import fetch, remote


def fetched(url: str, store_path: str | None) -> Located:
    """Return the copy of a URL's set in the store of `SOTA_STORE_PATH`; errors are those of `fetch`."""
    with progress_bar() as progress:
        return fetch.fetch(url, store.folder(store_path), lambda text: echo(text, err=True), progress)


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

"""The command `rdagent-sota store`: the copies of factor sets, their state, and what may go."""

from __future__ import annotations

import json
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.store import Stored
from rdagent_sota_bridge.settings import read_settings
from rdagent_sota_bridge.sharing import fetch
from rdagent_sota_bridge.sharing.fetch import Copy


def show(as_json: bool) -> None:
    """Print the sets in the store and those fetched, what was used last at the end."""
    place = _place()
    found, troubles = store.entries(place)
    copies = fetch.entries(place)
    _tell(troubles)
    if as_json:
        told = {
            "sets": [_plain(stored) for stored in found],
            "fetched": [_plain_copy(copy) for copy in copies],
        }
        json.dump(told, sys.stdout, ensure_ascii=False, indent=2)
        sys.stdout.write("\n")
        return
    if found:
        Console().print(_table(found))
        typer.echo(f"{len(found)} set(s), {decimal(sum(stored.size for stored in found))} in {place}")
    else:
        typer.echo(f"No factor set is stored in {place}")
    for copy in copies:
        shared = ", the same file as the stored set" if copy.stored else ""
        typer.echo(
            f"fetched: {copy.digest.removeprefix('sha256:')[:10]}, {decimal(copy.size)}{shared}, last used "
            f"{_day(copy.used)}, from {' and '.join(copy.urls) or 'an unknown URL'}"
        )


def verify() -> int:
    """Read every stored set whole, print a line for each, and return 1 if one is not as it was written."""
    place = _place()
    found, troubles = store.entries(place)
    for stored in found:
        if trouble := store.trouble_of(stored):
            troubles = list(dict.fromkeys([*troubles, trouble]))  # the list has looked at sizes and times
        else:
            typer.echo(f"as written: {stored.path}")
    copies = fetch.entries(place)
    for copy in copies:
        if trouble := fetch.changed(copy):
            troubles.append(trouble)
        else:
            typer.echo(f"as fetched: {copy.path}")
    _tell(troubles)
    if troubles:
        typer.echo("The next run that needs such a set writes its copy anew.", err=True)
    elif not found and not copies:
        typer.echo(f"No factor set is stored in {place}")
    return 1 if troubles else 0


def prune(keep_days: float, dry_run: bool) -> None:
    """Remove the sets that no run has asked for in some days, and print what was removed."""
    place = _place()
    before = datetime.now(timezone.utc) - timedelta(days=keep_days)
    paths = store.prune(place, before, dry_run=dry_run)
    copies, parts = fetch.prune(place, before, dry_run=dry_run)
    verb = "would be removed" if dry_run else "removed"
    for copy in copies:
        typer.echo(f"{verb}: {copy.path} ({decimal(copy.size)}, fetched, last used {_day(copy.used)})")
    for path in [*paths, *parts]:
        typer.echo(f"{verb}: {path}")
    if not (paths or copies or parts):
        typer.echo(f"Nothing in {place} was last used more than {keep_days:g} days ago")


def _place() -> Path:
    return store.folder(read_settings().store_path)


def _tell(troubles: list[str]) -> None:
    for trouble in troubles:
        typer.echo(trouble, err=True)


def _table(found: list[Stored]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), expand=True, show_lines=True)
    table.add_column("set\nmade of", ratio=1, min_width=30, overflow="fold")
    table.add_column("factors\nrows", justify="right", no_wrap=True)
    table.add_column("size\nlinks", justify="right", no_wrap=True)
    table.add_column("last used\nwritten", justify="right", no_wrap=True)
    for stored in found:
        sources = "\n".join(path for path, _ in stored.sources)
        table.add_row(
            f"{stored.digest.removeprefix('sha256:')[:10]}\n{sources}",
            f"{len(stored.columns)}\n{stored.rows:,}",
            f"{decimal(stored.size)}\n{stored.links}",
            f"{_day(stored.used)}\n{_day(stored.written)}",
        )
    return table


def _day(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M")


def _plain(stored: Stored) -> dict[str, Any]:
    return {
        "digest": stored.digest,
        "path": str(stored.path),
        "factors": list(stored.columns),
        "rows": stored.rows,
        "size": stored.size,
        "links": stored.links,
        "content": stored.content,
        "sources": [{"path": path, "digest": digest} for path, digest in stored.sources],
        "written": stored.written.isoformat(),
        "used": stored.used.isoformat(),
    }


def _plain_copy(copy: Copy) -> dict[str, Any]:
    return {
        "digest": copy.digest,
        "path": str(copy.path),
        "size": copy.size,
        "urls": list(copy.urls),
        "fetched": copy.fetched.isoformat(),
        "used": copy.used.isoformat(),
        "is_stored_set": copy.stored,
    }

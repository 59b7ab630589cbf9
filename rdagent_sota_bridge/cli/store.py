"""The command `rdagent-sota store`: the copies of factor sets, their state, and what may go."""

from __future__ import annotations

from datetime import datetime, timedelta, timezone

from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table

from rdagent_sota_bridge.cli.output import echo, print_json
from rdagent_sota_bridge.errors import plural, short_digest
from rdagent_sota_bridge.factor_set import prune as pruning
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.store import Stored
from rdagent_sota_bridge.settings import read_settings
from rdagent_sota_bridge.sharing import fetched
from rdagent_sota_bridge.sharing.fetched import Copy


def show(as_json: bool) -> None:
    """Print the sets in the store and those fetched, what was used last at the end."""
    place = store.folder(read_settings().store_path)
    found, troubles = store.entries(place)
    copies = fetched.entries(place)
    _print_troubles(troubles)
    if as_json:
        sets = [_set_as_json(stored) for stored in found]
        print_json({"sets": sets, "fetched": [_copy_as_json(copy) for copy in copies]})
        return
    if found:
        Console().print(_table(found))
        for stored in found:  # below the table, whose cells would break them
            made_of = " and ".join(path for path, _ in stored.sources)
            echo(f"{short_digest(stored.digest)} is made of {made_of}")
        echo(f"{plural(len(found), 'set')}, {decimal(sum(stored.size for stored in found))} in {place}")
    else:
        echo(f"No factor set is stored in {place}")
    for copy in copies:
        shared = ", the same file as the stored set" if copy.stored else ""
        echo(
            f"fetched: {short_digest(copy.digest)}, {decimal(copy.size)}{shared}, last used "
            f"{_minute(copy.used)}, from {' and '.join(copy.urls) or 'an unknown URL'}"
        )


def verify() -> int:
    """Read every stored set whole, print a line for each, and return 1 if one is not as it was written."""
    place = store.folder(read_settings().store_path)
    found, troubles = store.entries(place)
    copies = fetched.entries(place)
    looks = [(store.trouble_of(stored), f"as written: {stored.path}") for stored in found]
    looks += [(fetched.changed(copy), f"as fetched: {copy.path}") for copy in copies]
    for trouble, passed in looks:
        if trouble:
            troubles = list(dict.fromkeys([*troubles, trouble]))  # `entries` has looked at sizes and times
        else:
            echo(passed)
    _print_troubles(troubles)
    if troubles:
        echo("The next run that needs such a set writes its copy anew.", err=True)
    elif not looks:
        echo(f"No factor set is stored in {place}")
    return 1 if troubles else 0


def prune(keep_days: float, dry_run: bool) -> None:
    """Remove the sets that no run has asked for in some days, and print what was removed."""
    place = store.folder(read_settings().store_path)
    before = datetime.now(timezone.utc) - timedelta(days=keep_days)
    paths, used = pruning.prune(place, before, dry_run=dry_run)
    copies, parts, fetched_used = fetched.prune(place, before, dry_run=dry_run)
    removed = [
        *(f"{copy.path} ({decimal(copy.size)}, fetched, last used {_minute(copy.used)})" for copy in copies),
        *map(str, [*paths, *parts]),
    ]
    for what in removed:
        echo(f"{'would be removed' if dry_run else 'removed'}: {what}")
    used += [copy.path for copy in fetched_used]
    for path in used:
        echo(f"kept, for a run uses it: {path}")
    if not removed + used:
        echo(f"Nothing in {place} was last used more than {keep_days:g} days ago")


def _print_troubles(troubles: list[str]) -> None:
    for trouble in troubles:
        echo(trouble, err=True)


def _minute(when: datetime) -> str:
    return when.astimezone().strftime("%Y-%m-%d %H:%M")


def _table(found: list[Stored]) -> Table:
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), show_lines=True)
    table.add_column("set", no_wrap=True)
    for head in ("factors\nrows", "size\nlinks", "last used\nwritten"):
        table.add_column(head, justify="right", no_wrap=True)
    for stored in found:
        table.add_row(
            short_digest(stored.digest),
            f"{len(stored.columns)}\n{stored.rows:,}",
            f"{decimal(stored.size)}\n{stored.links}",
            f"{_minute(stored.used)}\n{_minute(stored.written)}",
        )
    return table


def _set_as_json(stored: Stored) -> dict[str, object]:
    return {
        "digest": stored.digest,
        "path": stored.path,
        "factors": stored.columns,
        "rows": stored.rows,
        "size": stored.size,
        "links": stored.links,
        "content": stored.content,
        "sources": [{"path": path, "digest": digest} for path, digest in stored.sources],
        "written": stored.written.isoformat(),
        "used": stored.used.isoformat(),
    }


def _copy_as_json(copy: Copy) -> dict[str, object]:
    return {
        "digest": copy.digest,
        "path": copy.path,
        "size": copy.size,
        "urls": copy.urls,
        "fetched": copy.fetched.isoformat(),
        "used": copy.used.isoformat(),
        "is_stored_set": copy.stored,
    }

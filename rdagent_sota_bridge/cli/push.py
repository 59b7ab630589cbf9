"""The command `rdagent-sota push`: a set on shared storage, and the line that names it."""

from __future__ import annotations

from rich.filesize import decimal

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.cli.fetching import progress_bar
from rdagent_sota_bridge.cli.output import echo, print_notes
from rdagent_sota_bridge.cli.path import find_sets
from rdagent_sota_bridge.errors import LocateError, plural
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.settings import path_entries, read_settings
from rdagent_sota_bridge.sharing import push


def run(named: str, url: str, replace: bool) -> None:
    """Copy a set into the folder of a URL, and print what to set where it is to be used.

    Args:
        named: A factor workspace or file, a log folder or `latest`, or another URL.
        url: The folder.
        replace: Replace whatever is there.

    Raises:
        BridgeError: as a check of the set would raise it; and if it can't be written there.
    """
    if len(entries := path_entries(named)) != 1:
        raise LocateError(
            f"{len(entries)} sets are named, and one is pushed at a time",
            ", ".join(map(urls.without_secrets, entries)),
            "push each to a folder of its own; SOTA_WORKSPACE_PATH joins them",
        )
    (found,) = find_sets(named, read_settings())
    if found.log is None and not found.url:
        found = locate.with_its_log(found)
    print_notes(found.notes)
    if found.accepted is False:
        print_notes([f"it is the set of loop {found.loop} of {found.log}, which was rejected"])
    with progress_bar() as progress:
        held, is_moved = push.push(found, url, overwrite=replace, progress=progress)
    there = urls.without_secrets(url)
    counts = f"{plural(len(held.columns), 'factor')}, {plural(held.rows, 'row')}"
    size = f"{counts}, {decimal(found.path.stat().st_size)}"
    echo(f"{'pushed' if is_moved else 'already there, nothing was copied'}: {there} ({held.digest}, {size})")
    echo("To train on it, put this into the .env of a project (and unset SOTA_LOG_PATH there):")
    echo(f"SOTA_WORKSPACE_PATH={there}")

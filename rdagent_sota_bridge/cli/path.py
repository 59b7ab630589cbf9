"""The command `rdagent-sota path`: the path that would be used, for scripts."""

from __future__ import annotations

import os

import typer

from rdagent_sota_bridge.cli import fetching
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.settings import path_entries, read_settings


def run(log: str | None) -> None:
    """Print what SOTA_WORKSPACE_PATH would hold: workspace folders, or files of another name, on one line.

    Args:
        log: A log folder, `latest`, a workspace or a URL; None for what the environment names.

    Raises:
        BridgeError: as a run would raise it.
    """
    settings = read_settings()
    with fetching.into_store(settings.store_path) as fetch:
        if log is not None:
            found: tuple[Located, ...] = tuple(locate.named(entry, fetch) for entry in path_entries(log))
        else:
            found = locate.factor_sets(settings.workspace_paths, settings.log_paths, fetch)
    for one in found:
        for note in one.notes:
            typer.echo(f"note: {note}", err=True)
    files = [one.path for one in found]
    typer.echo(os.pathsep.join(str(file.parent if file.name == FACTOR_FILE else file) for file in files))

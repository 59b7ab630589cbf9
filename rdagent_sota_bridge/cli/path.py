"""The command `rdagent-sota path`; and how each command finds its set."""

from __future__ import annotations

import os
import sys

import typer

from rdagent_sota_bridge.cli.output import print_notes
from rdagent_sota_bridge.errors import one_line
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.settings import Settings, path_entries, read_settings


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

    def fetch(url: str) -> Located:
        from rdagent_sota_bridge.cli import fetching  # late: pandas, pyarrow and fsspec

        return fetching.fetched(url, settings.store_path)

    if named is None:
        return locate.factor_sets(settings.workspace_paths, settings.log_paths, fetch)
    return tuple(locate.named(entry, fetch) for entry in path_entries(named))

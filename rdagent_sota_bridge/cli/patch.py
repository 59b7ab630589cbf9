"""The command `rdagent-sota patch`: RD-Agent's source with the lines that call this package, or without."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from rdagent_sota_bridge.bridge import source_patch
from rdagent_sota_bridge.cli.output import echo

app = typer.Typer(
    help="RD-Agent's source with four lines that call this package, in place of the import hook.",
    no_args_is_help=True,
)

_STATES = {
    "none": "is not patched",
    "applied": "calls rdagent_sota_bridge",
    "old": "has a diff of release 0.1.0; apply replaces it, revert takes it out",
}

Source = Annotated[
    Path | None,
    typer.Option(
        metavar="DIR",
        help="The root of RD-Agent's repository, or its package rdagent; the installed one if left out.",
    ),
]


@app.command()
def status(source: Source = None) -> None:
    """Say whether the source is patched: none, applied, or old (a diff of release 0.1.0)."""
    found = source_patch.find(source)
    echo(f"{found.state}: {found.file} {_STATES[found.state]}")


@app.command()
def apply(source: Source = None) -> None:
    """Add the four lines to the end of the source; nothing is changed where they are there."""
    found = source_patch.find(source)
    if found.state == "applied":
        echo(f"{found.file} is patched already; nothing was changed")
        return
    source_patch.write(found.file, source_patch.with_block(found.bare))
    echo(f"applied the patch to {found.file}")
    echo("It imports rdagent_sota_bridge now: revert the patch before you uninstall this package.")


@app.command()
def revert(source: Source = None) -> None:
    """Take the patch out again, to the byte."""
    found = source_patch.find(source)
    if found.state == "none":
        echo(f"{found.file} is not patched; nothing was changed")
        return
    source_patch.write(found.file, found.bare)
    echo(f"took the patch out of {found.file}")

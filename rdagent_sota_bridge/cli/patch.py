"""The command `rdagent-sota patch`: RD-Agent's source with the lines that call this package, or without."""

from __future__ import annotations

from pathlib import Path

import typer

from rdagent_sota_bridge import source_file


def status(source: Path | None) -> int:
    """Print whether a source is patched, and with which diff; return 1 if it is not and none fits."""
    found = source_file.find(source)
    if found.state == "none":
        typer.echo(f"none: {found.file} is not patched; {found.diff.name} fits")
    elif found.state == "applied":
        typer.echo(f"applied: {found.file} has {found.diff.name}")
    else:
        typer.echo(f"does not fit: {found.misfit}")
    return 1 if found.state == "misfit" else 0


def apply(source: Path | None) -> None:
    """Apply the diff that fits a source; nothing is changed where it is applied already.

    Raises:
        SourceError: if none fits, or the file can't be written.
    """
    found = source_file.find(source)
    if found.state == "applied":
        typer.echo(f"{found.file} has {found.diff.name} already; nothing was changed")
        return
    source_file.write(found)
    typer.echo(f"applied {found.diff.name} to {found.file}")
    typer.echo(
        "It imports rdagent_sota_bridge now: take that out (revert) before you uninstall this package."
    )


def revert(source: Path | None) -> None:
    """Take the diff out of a source that has it, to the byte; nothing is changed where it has none.

    Raises:
        SourceError: if it has only a part of one, or the file can't be written.
    """
    found = source_file.find(source)
    if found.state != "applied" and not found.is_touched:
        typer.echo(f"{found.file} is not patched; nothing was changed")
        return
    source_file.write(found)
    typer.echo(f"took {found.diff.name} out of {found.file}")

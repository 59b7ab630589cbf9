"""The command `rdagent-sota patch`: RD-Agent's source with the lines that call this package, or without."""

from __future__ import annotations

from pathlib import Path

import typer

from rdagent_sota_bridge.bridge import source_patch


def status(source: Path | None) -> None:
    """Print whether a source is patched, and how.

    Raises:
        SourceError: if there is none, or it has a part of the patch.
    """
    found = source_patch.find(source)
    what = {
        "none": "is not patched",
        "applied": "calls rdagent_sota_bridge",
        "old": "has a diff of release 0.1.0; apply replaces it, revert takes it out",
    }
    typer.echo(f"{found.state}: {found.file} {what[found.state]}")


def apply(source: Path | None) -> None:
    """Put the block at the end of a source, in place of a diff of release 0.1.0; twice is once.

    Raises:
        SourceError: if it has a part of the patch, or the file can't be written.
    """
    found = source_patch.find(source)
    if found.state == "applied":
        typer.echo(f"{found.file} is patched already; nothing was changed")
        return
    source_patch.write(found.file, source_patch.with_block(found.bare))
    typer.echo(f"applied the patch to {found.file}")
    typer.echo(
        "It imports rdagent_sota_bridge now: take that out (revert) before you uninstall this package."
    )


def revert(source: Path | None) -> None:
    """Take the patch out of a source that has it, to the byte; nothing is changed where it has none.

    Raises:
        SourceError: if it has a part of the patch, or the file can't be written.
    """
    found = source_patch.find(source)
    if found.state == "none":
        typer.echo(f"{found.file} is not patched; nothing was changed")
        return
    source_patch.write(found.file, found.bare)
    typer.echo(f"took the patch out of {found.file}")

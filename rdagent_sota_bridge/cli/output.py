"""How the commands print: JSON on the output, notes beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console

ASCII_MARKS = str.maketrans("✓✗", "+x")
"""For a stream that holds ASCII alone."""


def print_json(document: object) -> None:
    """Print a document as JSON: paths and times as text, NaN and infinity as null.

    Letters that the output has no bytes for are written as escapes, which are the same JSON.
    """
    plain = to_jsonable_python(
        document, inf_nan_mode="null", fallback=lambda number: number.item()
    )  # numpy's
    typer.echo(json.dumps(plain, ensure_ascii=Console().options.ascii_only, indent=2, allow_nan=False))


def print_notes(notes: Iterable[str]) -> None:
    """Print what the user should know beside the output, on stderr."""
    for note in notes:
        typer.echo(f"note: {note}", err=True)

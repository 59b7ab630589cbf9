"""How the commands print: JSON on the output, notes beside it."""

from __future__ import annotations

import json
from collections.abc import Iterable

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console

from rdagent_sota_bridge.errors import is_shown, one_line

ASCII_MARKS = str.maketrans("✓✗", "+x")
"""For a stream that holds ASCII alone."""


def echo(text: str, *, err: bool = False) -> None:
    """Print one line: names and paths in it may come from an LLM or a server, and command no terminal."""
    typer.echo(one_line(text), err=err)


def print_json(document: object) -> None:
    """Print a document as JSON: paths and times as text, NaN and infinity as null.

    What the output has no bytes for, or a terminal does not show, is written as escapes: the same JSON.
    """
    plain = to_jsonable_python(
        document, inf_nan_mode="null", fallback=lambda number: number.item()
    )  # numpy's
    text = json.dumps(plain, ensure_ascii=Console().options.ascii_only, indent=2, allow_nan=False)
    typer.echo("".join(one if is_shown(one) or one == "\n" else json.dumps(one)[1:-1] for one in text))


def print_notes(notes: Iterable[str]) -> None:
    """Print what the user should know beside the output, on stderr."""
    for note in notes:
        echo(f"note: {note}", err=True)

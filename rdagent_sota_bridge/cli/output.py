"""How the commands print: JSON on the output, notes beside it."""

from __future__ import annotations

import errno
import json
import os
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import BinaryIO

import typer
from pydantic_core import to_jsonable_python
from rich.console import Console

from rdagent_sota_bridge.errors import ReportError, is_shown, one_line
from rdagent_sota_bridge.system.files import open_file

ASCII_MARKS = str.maketrans("✓✗", "+x")
"""For a stream that holds ASCII alone."""

GOOD, DOUBTFUL, BAD = "green", "black on yellow", "bold red"
"""Styles that can be read on black and on white, where yellow, dim and bold green letters are too pale."""


def echo(text: str, *, err: bool = False) -> None:
    """Print one line: names and paths in it may come from an LLM or a server, and command no terminal."""
    typer.echo(one_line(text), err=err)


def print_json(document: object) -> None:
    """Print a document as JSON: paths and times as text, NaN and infinity as null.

    What the output has no bytes for, or a terminal does not show, is written as escapes: the same JSON.
    """
    # What has `item` is numpy's.
    plain = to_jsonable_python(document, inf_nan_mode="null", fallback=lambda number: number.item())
    text = json.dumps(plain, ensure_ascii=Console().options.ascii_only, indent=2, allow_nan=False)
    typer.echo("".join(one if is_shown(one) or one == "\n" else json.dumps(one)[1:-1] for one in text))


def print_notes(notes: Iterable[str]) -> None:
    """Print what the user should know beside the output, on stderr."""
    for note in notes:
        echo(f"note: {note}", err=True)


def progress() -> Callable[[str], None]:
    """Return what prints a line of progress on stderr, with the seconds since now."""
    began = time.monotonic()
    return lambda text: echo(f"{time.monotonic() - began:4.0f} s  {text}", err=True)


def check_target(target: Path, is_ours: Callable[[BinaryIO], bool], what: str) -> None:
    """Refuse a file that is there and not ours, and a place that can hold no file.

    Args:
        target: The file that is to be written.
        is_ours: Whether a file that is there may be written over.
        what: What is to be written, such as `report`.

    Raises:
        ReportError: if it is one.
    """
    try:
        with open_file(target) as file:
            ours = is_ours(file)
    except FileNotFoundError as error:
        if not target.parent.is_dir():
            raise unwritten(target, error, what) from None
        if not os.access(target.parent, os.W_OK):
            raise unwritten(target, PermissionError(errno.EACCES, os.strerror(errno.EACCES)), what) from None
        return
    except OSError as error:
        raise unwritten(target, error, what) from None
    if not ours:
        fact = f"The file is there and is no {what}: it is not written over"
        raise ReportError(fact, str(target), "name another with -o, or remove it")


def unwritten(target: Path, error: OSError, what: str) -> ReportError:
    """Return the error of a file that can't be written."""
    fix = "name a file with -o, in a folder that is there and that you may write into"
    return ReportError(f"The {what} can't be written: {error.strerror}", str(target), fix)

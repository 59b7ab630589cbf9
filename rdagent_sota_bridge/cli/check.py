"""The command `rdagent-sota check`: a line a check on screen, or all of them as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from typing import Any

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from rdagent_sota_bridge.check.line import Line, lines_of, worst
from rdagent_sota_bridge.cli.output import ASCII_MARKS, print_json
from rdagent_sota_bridge.cli.path import find_sets
from rdagent_sota_bridge.errors import BridgeError, one_line
from rdagent_sota_bridge.settings import PATHS, read_settings

_MARKS = {"pass": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}
_NARROWEST = 30
"""How many columns a text gets at least; on a screen too narrow for that the terminal wraps."""


def run(named: str | None, with_look_ahead: bool, as_json: bool) -> int:
    """Check the set that the environment or `named` names, print the lines, and return the exit status.

    Args:
        named: A factor workspace or file, a URL, a log folder or `latest`; None for what the environment
            names.
        with_look_ahead: Run the factors' code again on data without the future.
        as_json: Print JSON.
    """
    described: dict[str, Any] = {}
    blocks: Iterable[list[Line]]
    try:
        settings = read_settings()
        located = find_sets(named, settings)
    except BridgeError as error:
        heading, blocks = "none", [lines_of(error)]
        # Who names a set hears at once what is wrong with that; who names none asks about the machine.
        if named is None and not any(map(os.environ.get, PATHS)):
            from rdagent_sota_bridge import doctor
            from rdagent_sota_bridge.factor_set import store  # late: pandas and pyarrow

            # Settings that mean nothing name no store either.
            blocks = [lines_of(error), doctor.lines(0, store.folder(None))]
    else:
        from rdagent_sota_bridge.cli import check_blocks  # late: pandas and pyarrow

        names = (f"{at.url}, fetched into {at.path}" if at.url else str(at.path) for at in located)
        heading = ", ".join(names)
        blocks = check_blocks.of_set(settings, located, with_look_ahead, described)
    if not as_json:
        return show(_while_waiting(blocks), f"Factor set: {heading}", Console())
    lines = [line for block in _while_waiting(blocks) for line in block]
    print_json({"state": worst(lines), "set": described, "checks": lines})
    return int(worst(lines) == "fail")


def _while_waiting(blocks: Iterable[list[Line]]) -> Iterator[list[Line]]:
    """Yield the blocks; a terminal shows a spinner while the next one is awaited."""
    waiting = Console(stderr=True).status("looking at the set, RD-Agent and Qlib's environment …")
    following = iter(blocks)
    while True:
        with waiting:
            block = next(following, None)
        if block is None:
            return
        yield block


def show(blocks: Iterable[list[Line]], heading: str, console: Console) -> int:
    """Print the lines of a check, and return the exit status: 1 where any line fails, else 0.

    Args:
        blocks: The lines, in the order to print them; each block is printed when it comes.
        heading: What was checked.
        console: Where to print.
    """
    lines: list[Line] = []
    _print_wrapped(console, "", heading)
    for block in blocks:
        lines += block
        names = max((cell_len(one_line(line.name)) for line in block), default=0)
        for line in block:
            mark, style = _MARKS[line.state]
            mark = mark.translate(ASCII_MARKS) if console.options.ascii_only else mark
            name = f"  {set_cell_size(one_line(line.name), names)}  "
            head = Text.assemble((f"{mark} {line.state}", style), name)
            _print_wrapped(console, head, line.text)
            if line.fix:
                _print_wrapped(console, " " * head.cell_len + "fix: ", line.fix)
    counts = ", ".join(f"{sum(line.state == state for line in lines)} {state}" for state in _MARKS)
    _print_wrapped(console, "", f"{len(lines)} check{'' if len(lines) == 1 else 's'}: {counts}")
    return int(worst(lines) == "fail")


def _print_wrapped(console: Console, head: Text | str, text: str) -> None:
    """Print a text after its head, its further lines below its first.

    A word is never cut, as rich would: a path stays one, to be copied.
    """
    first = Text(head) if isinstance(head, str) else head
    width = max(console.width - first.cell_len, _NARROWEST)
    lines = [""]
    for word in one_line(text).split():
        if lines[-1] and cell_len(f"{lines[-1]} {word}") > width:
            lines.append(word)
        else:
            lines[-1] = f"{lines[-1]} {word}".lstrip()
    for number, line in enumerate(lines):
        start = first if number == 0 else Text(" " * first.cell_len)
        console.print(start + Text(line), soft_wrap=True, highlight=False)

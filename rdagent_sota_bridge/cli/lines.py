"""Lines of a check on screen, each block as soon as it is known."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from rdagent_sota_bridge.check.line import Line, worst
from rdagent_sota_bridge.cli.output import ASCII_MARKS, BAD, DOUBTFUL, GOOD
from rdagent_sota_bridge.errors import one_line, plural

_MARKS = {"pass": ("✓", GOOD), "warn": ("!", DOUBTFUL), "fail": ("✗", BAD)}
_NARROWEST = 30
"""How many columns a text gets at least; on a screen too narrow for that the terminal wraps."""


def while_waiting(blocks: Iterable[list[Line]]) -> Iterator[list[Line]]:
    """Yield the blocks; a terminal shows a spinner while the next one is awaited."""
    waiting = Console(stderr=True).status("looking at RD-Agent and Qlib's environment …")
    following = iter(blocks)
    while True:
        with waiting:
            block = next(following, None)
        if block is None:
            return
        yield block


def show(blocks: Iterable[list[Line]], heading: str, console: Console) -> int:
    """Print the lines of a check, and return the exit status: 1 where any line fails, else 0.

    Those that do not pass are printed once more at the end, where they would have scrolled away.

    Args:
        blocks: The lines, in the order to print them; each block is printed when it comes.
        heading: What was checked.
        console: Where to print.
    """
    lines: list[Line] = []
    _print_wrapped(console, "", heading)
    for block in blocks:
        lines += block
        _print_block(block, console)
    troubles = [line for line in lines if line.state != "pass"]
    if troubles and troubles != lines[-len(troubles) :]:  # else they stand at the end
        _print_wrapped(console, "", "What does not pass:")
        _print_block(troubles, console)
    counts = ", ".join(f"{sum(line.state == state for line in lines)} {state}" for state in _MARKS)
    _print_wrapped(console, "", f"{plural(len(lines), 'check')}: {counts}")
    return int(worst(lines) == "fail")


def _print_block(block: list[Line], console: Console) -> None:
    names = max((cell_len(one_line(line.name)) for line in block), default=0)
    for line in block:
        mark, style = _MARKS[line.state]
        mark = mark.translate(ASCII_MARKS) if console.options.ascii_only else mark
        name = f"  {set_cell_size(one_line(line.name), names)}  "
        head = Text.assemble((f"{mark} {line.state}", style), name)
        _print_wrapped(console, head, line.text)
        if line.fix:
            _print_wrapped(console, " " * head.cell_len + "fix: ", line.fix)


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

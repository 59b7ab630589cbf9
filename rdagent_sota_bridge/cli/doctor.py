"""The command `rdagent-sota doctor`: a line a fact of this machine on screen, or all of them as JSON."""

from __future__ import annotations

import platform
from collections.abc import Iterator

from rich.console import Console

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.check.line import Line, worst
from rdagent_sota_bridge.cli.lines import show, while_waiting
from rdagent_sota_bridge.cli.output import print_json


def run(as_json: bool, verbose: bool) -> int:
    """Look at the machine, print the lines, and return the exit status: 1 where one fails.

    Args:
        as_json: Print JSON, with a line for each seam.
        verbose: Print a line for each seam.
    """
    if not as_json:
        return show(
            while_waiting(_blocks(verbose)), f"This machine, for rdagent-sota-bridge {__version__}", Console()
        )
    lines = [line for block in while_waiting(_blocks(True)) for line in block]
    about = {
        "rdagent_sota_bridge": __version__,
        "python": platform.python_version(),
        "system": platform.platform(),
    }
    print_json({"state": worst(lines), **about, "checks": lines})
    return int(worst(lines) == "fail")


def _blocks(with_seams: bool) -> Iterator[list[Line]]:
    from rdagent_sota_bridge.doctor import quick

    yield quick.lines("warn")
    from rdagent_sota_bridge.doctor import machine, rdagent  # late: pandas and pyarrow

    yield [line for line in machine.later() if with_seams or not line.name.startswith(rdagent.SEAM)]

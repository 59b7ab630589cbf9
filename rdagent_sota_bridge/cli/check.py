"""The command `rdagent-sota check`: a line a check on screen, or all of them as JSON."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Any

from rich.console import Console

from rdagent_sota_bridge.check.line import Line, lines_of, worst
from rdagent_sota_bridge.cli.lines import show, while_waiting
from rdagent_sota_bridge.cli.output import print_json
from rdagent_sota_bridge.cli.path import find_sets
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.settings import PATHS, read_settings


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
            from rdagent_sota_bridge.doctor import machine  # late: pandas and pyarrow

            blocks = [lines_of(error), machine.in_check(machine.lines())]
    else:
        from rdagent_sota_bridge.cli import check_blocks  # late: pandas and pyarrow

        names = (f"{at.url}, fetched into {at.path}" if at.url else str(at.path) for at in located)
        heading = ", ".join(names)
        blocks = check_blocks.of_set(settings, located, with_look_ahead, described)
    if not as_json:
        return show(while_waiting(blocks), f"Factor set: {heading}", Console())
    lines = [line for block in while_waiting(blocks) for line in block]
    print_json({"state": worst(lines), "set": described, "checks": lines})
    return int(worst(lines) == "fail")

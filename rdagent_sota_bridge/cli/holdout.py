"""The command `rdagent-sota holdout`: a look at the days that a run has not seen."""

from __future__ import annotations

import os
import shlex

from rdagent_sota_bridge.cli.output import echo, print_notes
from rdagent_sota_bridge.cli.verify import named_logs
from rdagent_sota_bridge.report import holdout as openings
from rdagent_sota_bridge.run import holdout


def run(log: str) -> None:
    """Open the holdout of a run, print what it says, and how to put it on the page.

    Raises:
        SessionError: if the log can't be read, or is of a run without models.
        BridgeError: if there is nothing to open, or it can't be opened.
    """
    missing, fix = "No log of a run with models", "name the log folder of a run of `rdagent fin_model`"
    (folder,) = named_logs([log], lambda _: [], lambda one: one.has_models, missing, fix)

    def say(text: str) -> None:
        print_notes([text])

    opened = holdout.open_(folder, say)
    for line in openings.text(opened).splitlines():
        echo(line)
    echo(f"On the page: rdagent-sota report {shlex.quote(os.path.relpath(folder))}")

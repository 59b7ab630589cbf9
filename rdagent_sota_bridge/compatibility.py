"""What the package was run on: declared once, for the seams, README's table and the tests.

`python -m rdagent_sota_bridge.compatibility` prints the table.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Literal

Proof = Literal["whole", "hand-off", "recognised"]


@dataclass(frozen=True)
class Cell:
    """One pairing of releases, and what `make test` runs on it.

    Attributes:
        rdagent: RD-Agent's release.
        python: The Python that RD-Agent runs on; empty where nothing runs.
        proof: How far the tests go.
        told: The same in a sentence.
    """

    rdagent: str
    python: str
    proof: Proof
    told: str


_HAND_OFF = "the hand-off: a model of `fin_model` trained on a planted factor, its IC compared"
_ON_PYTHONS = (
    "the tests of what may differ there (`PYTHON_TESTS`). Where the machine lacks that Python, `make test` "
    "says so"
)
_RECOGNISED = (
    "its files alone: `develop` is recognised, every seam fits, the YAML is adapted, the diff applies; "
    "not run"
)

CELLS = (
    Cell(
        "1.0.0",
        "3.11",
        "whole",
        "everything: `fin_factor`, `fin_model`, `fin_quant` and `rdagent-sota run` with Qlib for real; "
        "`fin_model` also killed, resumed, in parallel, patched, without the hook, and with a stand-in for "
        "Docker's engine",
    ),
    Cell("1.0.0", "3.10", "hand-off", f"{_HAND_OFF}; {_ON_PYTHONS}"),
    Cell("1.0.0", "3.12", "hand-off", f"{_HAND_OFF}; {_ON_PYTHONS}"),
    Cell("0.8.0", "3.11", "hand-off", f"{_HAND_OFF}; the tests of all that looks at RD-Agent (`HOST_TESTS`)"),
    Cell("0.7.0", "", "recognised", _RECOGNISED),
    Cell("0.6.1", "", "recognised", _RECOGNISED),
    Cell("0.5.0", "", "recognised", _RECOGNISED),
)

TESTED = tuple(sorted({cell.rdagent for cell in CELLS if cell.proof != "recognised"}))
"""The releases of RD-Agent that the tests run, oldest first."""


def table() -> str:
    """Return the table that README shows, in Markdown."""
    rows = [f"| {cell.rdagent} | {cell.python or 'none'} | {cell.told} |" for cell in CELLS]
    return "\n".join(["| RD-Agent | Python | what `make test` runs there |", "|---|---|---|", *rows])


if __name__ == "__main__":
    sys.stdout.write(table() + "\n")

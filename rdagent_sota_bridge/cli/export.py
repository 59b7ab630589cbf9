"""The command `rdagent-sota export`: a recorded model as one file of plain parts."""

from __future__ import annotations

import hashlib
from pathlib import Path

from rich.filesize import decimal

from rdagent_sota_bridge.cli.output import check_target, echo, print_notes, unwritten
from rdagent_sota_bridge.models import bundle, export
from rdagent_sota_bridge.models.choose import chosen
from rdagent_sota_bridge.system.files import write_whole


def run(model: str | None, output: Path) -> None:
    """Write the bundle of a model, and print where, its SHA-256, and how it was tried.

    Args:
        model: As `chosen` takes it.
        output: The file.

    Raises:
        BridgeError: as `chosen` and `export.make`, or if the file can't be written or holds something else.
    """
    target = Path.cwd() / output.expanduser()
    check_target(target, bundle.is_ours, bundle.WHAT)  # before a minute of work
    found = chosen(model)
    print_notes(found.notes)
    made = export.make(found.workspace)
    check_target(target, bundle.is_ours, bundle.WHAT)  # it may have come meanwhile
    try:
        write_whole(target.resolve(), made.content)
    except OSError as error:
        raise unwritten(target, error, bundle.WHAT) from None
    echo(f"{target} ({decimal(len(made.content))})")
    echo(f"SHA-256 {hashlib.sha256(made.content).hexdigest()}")
    echo(f"{made.rows:,} scores of the test segment were predicted from it: {_compared(made.difference)}")


def _compared(difference: float) -> str:
    if difference == 0:
        return "those that Qlib recorded, to the bit"
    now = "the model itself gives them now, to the bit"
    return (
        f"{now}; they differ from the recorded ones by up to {difference:.3g}, for Qlib's data have changed"
    )

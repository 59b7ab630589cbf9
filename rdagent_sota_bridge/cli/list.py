"""The command `rdagent-sota list`: the factor sets on screen, or as JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence

import typer
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from rdagent_sota_bridge.cli import listing
from rdagent_sota_bridge.cli.listing import Row
from rdagent_sota_bridge.factor_set import names
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, LOGS

_VERDICTS = {True: ("* accepted", "bold green"), False: ("rejected", ""), None: ("no log", "dim")}


def run(accepted: bool, sort: str, as_json: bool) -> None:
    """Print the factor sets under the workspace root.

    Args:
        accepted: Only those that a log tells were accepted.
        sort: One of `listing.SORT_FIELDS`; greatest last.
        as_json: Print a list of objects, with full names and absolute paths.
    """
    if sort not in listing.SORT_FIELDS:
        raise typer.BadParameter(f"{sort!r} is none of {', '.join(listing.SORT_FIELDS)}", param_hint="--sort")
    root, logs = names.workspace_root(), names.logs()
    found = listing.factor_set_rows(root, logs)
    rows = [row for row in listing.sort_rows(found.rows, sort) if row.accepted or not accepted]
    for note in found.notes:
        typer.echo(f"note: {note}", err=True)
    if as_json:
        json.dump([row.to_plain() for row in rows], sys.stdout, ensure_ascii=False, indent=2, allow_nan=False)
        sys.stdout.write("\n")
    elif rows:
        Console().print(_table(rows))
    if not rows:
        where = f"{root}/*/{FACTOR_FILE}, and {len(logs)} log folder(s) below {LOGS.absolute()}"
        what = f"none of the {len(found.rows)} factor sets is known to be accepted"
        typer.echo(f"No factor set: {what if found.rows else 'none was found'}. Looked at {where}", err=True)


def _table(rows: Sequence[Row]) -> Table:
    # Four lines a set, so that 80 columns hold them all and the id stays whole: it is there to be copied.
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), expand=True, show_lines=True)
    table.add_column("when, loop\nrun\nid\nfactors", ratio=1, min_width=32, no_wrap=True, overflow="ellipsis")
    table.add_column("verdict\nfactors\nsize", no_wrap=True)
    table.add_column("first day\nlast day\nrows\ninstruments", justify="right", no_wrap=True)
    table.add_column("IC\nrank IC\nann. return\nmax drawdown", justify="right", no_wrap=True)
    for row in rows:
        verdict, style = _VERDICTS[row.accepted]
        table.add_row(
            _what(row),
            Text.assemble((verdict, style), f"\n{_count(len(row.factors))}\n{decimal(row.size)}"),
            f"{row.start or '-'}\n{row.end or '-'}\n{_count(row.rows)}\n{_count(row.instruments)}",
            "\n".join(
                (
                    _figure(row.ic, ".4f"),
                    _figure(row.rank_ic, ".4f"),
                    _figure(row.annualized_return, "+.1%"),
                    _figure(row.max_drawdown, ".1%"),
                )
            ),
        )
    return table


def _what(row: Row) -> Text:
    when = row.when.astimezone().strftime("%Y-%m-%d %H:%M")
    loop = "" if row.loop is None else f"  loop {row.loop}"
    names = (", ".join(row.factors), "") if not row.trouble else (row.trouble, "red")
    return Text.assemble((when + loop, "bold"), f"\n{row.run or '-'}\n{row.id}\n", names)


def _count(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _figure(value: float, form: str) -> str:
    return "-" if math.isnan(value) else format(value, form)

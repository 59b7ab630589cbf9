"""The command `rdagent-sota list`: every factor set under the workspace root and logs, with its verdict.

Reads footers, not values. What is found in a file is cached under the file's identity: a second listing opens
no parquet file and imports neither pandas nor pyarrow.
"""

from __future__ import annotations

import datetime
import math
import os
from pathlib import Path
from typing import Any

import typer
from rich import box
from rich.console import Console
from rich.filesize import decimal
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

from rdagent_sota_bridge.cli.output import BAD, GOOD, echo, print_json, print_notes
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, SessionError, one_line, plural
from rdagent_sota_bridge.factor_set import locate, names, sessions
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, LATEST, LOGS, RESULT_FILE
from rdagent_sota_bridge.factor_set.parts import parts_of
from rdagent_sota_bridge.factor_set.sessions import Experiment, workspaces_of
from rdagent_sota_bridge.system import cache

Row = dict[str, Any]
"""One factor set, as JSON shows it; None for what is not known.

`when`: its loop ended, by the log (UTC), or else the file was written. `run`: name of the log folder.
`accepted`: the verdict. `factors`: in the file's order. `rows`: (datetime, instrument) pairs. `start`,
`end`: days. `instruments`: those with a row. `ic`, `rank_ic`, `annualized_return`, `max_drawdown`: of its
loop's back-test, the latter two of the excess return with cost. `size`: bytes. `id`, `path`: name and
absolute path of the workspace. `trouble`: why something of the file is not known. `latest`: it
is the set that `latest` names.
"""

SORT_FIELDS = (
    *("when", "run", "loop", "accepted", "factors", "rows", "start", "end", "instruments"),
    *("ic", "rank_ic", "annualized_return", "max_drawdown", "size", "id"),
)

_METRICS = {
    "ic": "IC",
    "rank_ic": "Rank IC",
    "annualized_return": "1day.excess_return_with_cost.annualized_return",
    "max_drawdown": "1day.excess_return_with_cost.max_drawdown",
}
"""Qlib's names of the metrics in `RESULT_FILE`."""

# Of the files that RD-Agent puts into a workspace when it makes one (`scenarios/qlib/experiment/*_template`,
# 0.8.0 and 1.0.0). A model.py alone says nothing: fin_quant back-tests factors with its best model.
_FACTOR_TEMPLATE = "conf_combined_factors.yaml"
_MODEL_MARKS = ("conf_sota_factors_model.yaml", "model.py")
_VERDICTS = {True: ("* accepted", GOOD), False: ("rejected", ""), None: ("no log", "")}


def run(accepted: bool, sort: str, as_json: bool) -> None:
    """Print the factor sets under the workspace root.

    Args:
        accepted: Only those that a log says were accepted.
        sort: One of `SORT_FIELDS`, `factors` by their number; greatest last, what is not known first.
        as_json: Print a list of `Row`.
    """
    if sort not in SORT_FIELDS:
        raise typer.BadParameter(f"{sort!r} is none of {', '.join(SORT_FIELDS)}", param_hint="--sort")
    root, logs = names.workspace_root(), names.logs()
    found, notes = find_rows(root, logs)
    rows = [row for row in found if row["accepted"] or not accepted]
    rows.sort(key=lambda row: (row["when"], row["id"]))
    rows.sort(key=lambda row: _order(row[sort]))
    print_notes(notes)
    if as_json:
        print_json([{**row, "when": row["when"].isoformat()} for row in rows])
    elif rows:
        console = Console()
        console.print(_table(rows, console))
        for text in _next_steps(next((row for row in found if row["latest"]), None)):
            echo(text)
    if not rows:
        where = f"{root}/*/{FACTOR_FILE}, and {plural(len(logs), 'log folder')} below {LOGS.absolute()}"
        what = f"none of {plural(len(found), 'set')} is known to be accepted" if found else "none was found"
        echo(f"No factor set: {what}. Looked at {where}", err=True)


def _next_steps(latest: Row | None) -> list[str]:
    if latest is None:
        return [
            "`latest` is none of them: no log that can be read accepted one.",
            "Next: rdagent-sota run mines; rdagent-sota check PATH looks at a set.",
        ]
    return [
        f"`latest` is that of loop {latest['loop']} of {latest['run']}.",
        "Next: rdagent-sota check latest; then rdagent-sota run --from-log latest",
    ]


def _order(value: Any) -> tuple[bool, Any]:
    known = len(value) if isinstance(value, list) else value
    return known is not None, 0 if known is None else known


def find_rows(root: Path, logs: list[Path]) -> tuple[list[Row], list[str]]:
    """Return every factor set in the workspaces below a root, and in those that logs name; and notes.

    Args:
        root: The folder of all workspaces.
        logs: The log folders; the notes say which of them can't be read.
    """
    runs: dict[str, tuple[Path, Experiment]] = {}  # by workspace, its log and its experiment
    notes = []
    for log in logs:
        try:
            runs |= {one.workspace_id: (log, one) for one in sessions.read_session(log).experiments}
        except SessionError as error:
            notes.append(f"{log.name} is left out: {error.fact} ({error.place}); fix: {error.fix}")
    folders = {folder.name: folder for folder in root.glob("*")}
    for name in runs.keys() - folders.keys():  # a run can have had its workspaces elsewhere
        log, experiment = runs[name]
        for folder in workspaces_of(experiment, log):
            try:
                if folder.is_dir():
                    folders.setdefault(name, folder)
            except OSError as error:
                notes.append(f"{folder} is left out: {error.strerror}")
    try:
        latest = locate.named(LATEST).workspace_id
    except BridgeError:  # none was accepted, or a log can't be read, as the notes say
        latest = None
    rows = []
    for name, folder in folders.items():
        of_log, of_run = runs.get(name, (None, None))
        # A link to nowhere is a row too.
        if os.path.lexists(folder / FACTOR_FILE) and not _is_model(folder, of_run):
            rows.append({**_row(folder / FACTOR_FILE, of_log, of_run), "latest": name == latest})
    return rows, notes


def _is_model(workspace: Path, experiment: Experiment | None) -> bool:
    """Return True for a model's workspace: the factors that the model was trained on have the same name."""
    if experiment is not None:
        return not experiment.is_factor
    if (workspace / _FACTOR_TEMPLATE).exists():
        return False
    return any((workspace / name).exists() for name in _MODEL_MARKS)


def _row(file: Path, log: Path | None, experiment: Experiment | None) -> Row:
    try:
        found = [part.stat() for part in parts_of(file)]
    except (OSError, FactorFileError):  # such as a link to nowhere: the look at the target says why
        found = [file.lstat()]
    try:
        metrics = cache.identity((file.parent / RESULT_FILE).stat())
    except OSError:  # there is none
        metrics = []
    key = [str(file.absolute()), metrics, *map(cache.identity, found)]
    facts = cache.find_once("listing-4", key, lambda: _look(file))
    ended, last = experiment and experiment.ended, max(status.st_mtime for status in found)
    return {
        "when": ended or datetime.datetime.fromtimestamp(last, datetime.timezone.utc),
        "run": log and log.name,
        "loop": experiment and experiment.loop,
        "accepted": experiment and experiment.accepted,
        **{name: value for name, value in facts.items() if name != "trouble"},
        "size": sum(status.st_size for status in found),
        "id": file.parent.name,
        "path": file.parent.absolute(),
        "trouble": facts["trouble"],
    }


def _look(file: Path) -> Row:
    """Open a factor file and the metrics beside, and return the fields of a row that they hold."""
    from rdagent_sota_bridge.factor_set import parquet  # late: pandas and pyarrow
    from rdagent_sota_bridge.qlib_files import training_record

    facts: Row = {"factors": [], "rows": None, "start": None, "end": None, "instruments": None}
    troubles, metrics = [], {}
    try:
        footer = parquet.read_footer(file)
        facts |= {"factors": list(footer.columns), "rows": footer.rows}
        for name, day in (("start", footer.start), ("end", footer.end)):
            facts[name] = None if day is None else day.date().isoformat()
        facts["instruments"] = parquet.count_instruments(file)
    except FactorFileError as error:
        troubles += [str(failure) for failure in error.failures]
    try:
        metrics = training_record.metrics_beside(file)
    except (OSError, ValueError) as error:
        troubles.append(str(error))
    for name, metric in _METRICS.items():
        value = metrics.get(metric, math.nan)
        facts[name] = value if math.isfinite(value) else None
    return {**facts, "trouble": "; ".join(troubles) or None}


def _table(rows: list[Row], console: Console) -> Table:
    # Four lines a set, so that 80 columns hold them all and the id stays whole: it is there to be copied.
    table = Table(box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0), show_lines=True)
    table.add_column("when, loop\nrun\nid\nfactors", ratio=1, min_width=32, no_wrap=True, overflow="ellipsis")
    table.add_column("verdict\nfactors\nsize\nlatest", no_wrap=True)
    table.add_column("first day\nlast day\nrows\ninstruments", justify="right", no_wrap=True)
    table.add_column("IC\nrank IC\nann. return\nmax drawdown", justify="right", no_wrap=True)
    figures = {"ic": ".4f", "rank_ic": ".4f", "annualized_return": "+.1%", "max_drawdown": ".1%"}
    days = {"start": "", "end": "", "rows": ",", "instruments": ","}
    for row in rows:
        when = row["when"].astimezone().strftime("%Y-%m-%d %H:%M")
        loop = "" if row["loop"] is None else f"  loop {row['loop']}"
        last = (one_line(row["trouble"] or ", ".join(row["factors"])), BAD if row["trouble"] else "")
        names = "\n".join(one_line(row[name] or "-") for name in ("run", "id"))
        table.add_row(
            Text.assemble((when + loop, "bold"), f"\n{names}\n", last),
            Text.assemble(
                _VERDICTS[row["accepted"]],
                f"\n{len(row['factors'])}\n{decimal(row['size'])}\n",
                ("= latest" if row["latest"] else "", GOOD),
            ),
            *(
                "\n".join(_shown(row[name], form) for name, form in column.items())
                for column in (days, figures)
            ),
        )
    # Where its columns are wider than the screen, the first one gives way; else it is as wide as they are.
    endless = console.options.update(max_width=10_000)
    table.expand = Measurement.get(console, endless, table).maximum > console.width
    return table


def _shown(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)

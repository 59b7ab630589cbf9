"""The command `rdagent-sota predict`: a model's scores for some days, and a manifest beside them."""

from __future__ import annotations

import datetime
import hashlib
import json
from pathlib import Path
from typing import Any, BinaryIO

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from rdagent_sota_bridge.cli.output import check_target, echo, print_json, print_notes, unwritten
from rdagent_sota_bridge.errors import BundleError, PredictError, ReportError
from rdagent_sota_bridge.factor_set.names import DATETIME, FACTOR_FILE, INSTRUMENT
from rdagent_sota_bridge.models import bundle, choose, fresh, predict
from rdagent_sota_bridge.models.predict import LATEST_DAY
from rdagent_sota_bridge.qlib_files import manifest
from rdagent_sota_bridge.system import files

COLUMNS = (DATETIME, INSTRUMENT, "score", "rank")
_WHAT = "table of scores"
_MADE_BY = {"made_by": "rdagent-sota predict"}
_HEAD = json.dumps(_MADE_BY, indent=2).encode()[:-2]  # what a manifest of ours begins with


def run(
    model: str | None,
    date: str,
    output: Path | None,
    factors: Path | None,
    factor_data: str | None,
    trust: str | None,
    changed_data: bool,
    as_json: bool,
) -> None:
    """Write a model's scores, and print where; or print what the manifest beside them holds.

    Args:
        model: A log folder, `LOG:LOOP`, a workspace or a bundle; None is the best model of the newest run
            with models.
        date: `latest`, a day, or FROM:TO.
        output: The file, .csv or .parquet; None is `predictions.csv` in the current folder.
        factors: A file with values of the mined columns; None is the set in the model's workspace, or where
            that ends sooner, one that the factors' code makes.
        factor_data: As `fresh.covering` takes it; for a bundle a folder.
        trust: The SHA-256 of the bundle whose code may run.
        changed_data: Go on where old predictions came out otherwise.
        as_json: Print JSON.

    Raises:
        FreshValuesError: if factors have no values for the days, or other ones than the model was trained on.
        PredictError: if a day has no scores, or old predictions came out otherwise.
        ReportError: if the files can't be written, or are something else.
        ResultError: if there is no such model.
    """
    asked = _days(date)
    target = Path.cwd() / (output or Path("predictions.csv")).expanduser()
    beside = target.with_name(f"{target.name}.json")
    _check(target, beside)  # before a minute of work
    values = factors
    file = None if model is None or not Path(model).is_file() else Path(model).absolute()
    if trust is not None and file is None:
        raise BundleError("--trust is for a bundle, and the model is none", "option --trust", "leave it out")
    if changed_data and file is not None:
        fact = "--changed-data is for old scores, and a bundle has none"
        raise BundleError(fact, "option --changed-data", "leave it out")
    if file is not None:
        taken = bundle.read(file)
        found = bundle.predict(taken, trust, factors, factor_data, asked)
        named: dict[str, Any] = {"bundle": str(taken.path), "sha256": taken.digest}
        where = str(taken.path)
        values = factors or (Path(factor_data) if factor_data else None)
    else:
        chosen = choose.chosen(model)
        print_notes(chosen.notes)
        values = values or _values(chosen.workspace, asked, factor_data)
        found = predict.predict(chosen.workspace, asked, values, changed_data, _say)
        log = chosen.log and str(chosen.log)
        named = {"workspace": str(chosen.workspace), "log": log, "loop": chosen.loop}
        where = str(chosen.workspace) if log is None else f"loop {chosen.loop} of {log}"
    table = ranked(found.scores)
    content = _content(table, target.suffix)
    record: dict[str, Any] = {
        **_MADE_BY,
        "created": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "model": named,
        **found.about,
        "versions": {"rd_agent_side": manifest.versions(), "qlib_side": found.about["versions"]},
        "factor_values": values and str(values),  # None: the model's own set
        "file": {"name": target.name, "sha256": hashlib.sha256(content).hexdigest(), "rows": len(table)},
    }
    _check(target, beside)  # they may have come meanwhile
    try:
        files.write_whole(target.resolve(), content)
        files.write_whole(beside.resolve(), json.dumps(record, ensure_ascii=False, indent=2) + "\n")
    except OSError as error:
        raise unwritten(target, error, _WHAT) from None
    if as_json:
        print_json(record)
        return
    echo(f"model: {where}")
    days, old = record["days"], record["old_scores"]
    if old is not None:
        echo(f"old scores of {' to '.join(old['days'])}: {predict.sentence(record)}")
    echo(f"{' to '.join(dict.fromkeys([days[0], days[-1]]))}: {len(table):,} scores")
    echo(f"{target}, and {beside.name}")


def _say(text: str) -> None:
    print_notes([text])


def _values(of: Path, days: tuple[str, str] | None, factor_data: str | None) -> Path | None:
    """Return a factor file for the days; None for that of the workspace, or where the model has none."""
    own = of.absolute() / FACTOR_FILE
    if not own.is_file():  # `predict` says so where the model was trained on one
        return None
    file, _ = fresh.covering(of, days and days[1], factor_data, _say)
    return None if file == own else file


def _days(text: str) -> tuple[str, str] | None:
    if text == LATEST_DAY:
        return None
    try:
        first, *last = (datetime.date.fromisoformat(day) for day in text.split(":", 1))
        if last and last[0] < first:
            raise ValueError
    except ValueError:
        fix = (
            f"write {LATEST_DAY}, a day such as 2026-01-30, or two with a colon between, the first one first"
        )
        raise PredictError(f"--date names no days: {text}", "option --date", fix) from None
    return str(first), str((last or [first])[0])


def ranked(scores: pd.DataFrame) -> pd.DataFrame:
    """Return the table of some scores: the day's highest has rank 1; equal ones share the better rank."""
    table = scores[["score"]].dropna().reset_index()
    table["rank"] = table.groupby(DATETIME)["score"].rank(method="min", ascending=False).astype("int64")
    return table.sort_values([DATETIME, "rank", INSTRUMENT], ignore_index=True)[list(COLUMNS)]


def _content(table: pd.DataFrame, suffix: str) -> bytes:
    if suffix != ".parquet":
        return str(table.to_csv(index=False, date_format="%Y-%m-%d")).encode()
    written: bytes = table.to_parquet(index=False)
    return written


def show(path: str | None) -> None:
    """Print the SHA-256 of a bundle, and the code in it."""
    if path is None:
        fact, fix = "--show prints what is in a bundle, and none is named", "name the file: model.zip --show"
        raise BundleError(fact, "option --show", fix)
    taken = bundle.read(Path(path).absolute())
    echo(f"SHA-256 {taken.digest}")
    for name, code in taken.code.items():
        echo(f"--- {name}")
        for line in code.splitlines():
            echo(line)


def _check(target: Path, beside: Path) -> None:
    """Refuse files that are there and not ours, another suffix, and a place that can hold no file."""
    if target.suffix not in (".csv", ".parquet"):
        fact = f"The suffix says the form of the table, and there is none for {target.suffix or 'no suffix'}"
        raise ReportError(fact, str(target), "name a file that ends in .csv or .parquet with -o")
    check_target(target, _is_table, _WHAT)
    check_target(beside, lambda file: file.read(len(_HEAD)) == _HEAD, f"manifest of a {_WHAT}")


def _is_table(file: BinaryIO) -> bool:
    head = ",".join(COLUMNS).encode()
    if file.read(len(head)) == head:
        return True
    try:
        return tuple(pq.read_schema(file).names) == COLUMNS
    except pa.ArrowInvalid:
        return False

"""The command `rdagent-sota check`: a line per check on screen, or all of them as JSON."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
from pydantic_core import to_jsonable_python
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.status import Status
from rich.text import Text

from rdagent_sota_bridge import doctor
from rdagent_sota_bridge.check import execute_factor, inspect
from rdagent_sota_bridge.check.lines import Line, State, lines_of, worst
from rdagent_sota_bridge.check.look_ahead import NAME, check_set
from rdagent_sota_bridge.check.quality import Quality, Source
from rdagent_sota_bridge.cli import fetching
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.factor_set import locate, panel, sessions, store
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.settings import Settings, is_enabled, path_entries, read_settings

STATES: tuple[State, ...] = ("pass", "warn", "fail")

_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}
_MARKS = {"pass": "✓", "warn": "!", "fail": "✗"}
_ASCII_MARKS = {"pass": "+", "warn": "!", "fail": "x"}
_NARROWEST = 30
"""How many columns a text gets at least; on a screen too narrow for that the terminal wraps."""


def run(named: str | None, look_ahead: bool, as_json: bool) -> int:
    """Check the set that the environment or `named` names, print the lines, and return the exit status.

    Args:
        named: A factor workspace or file, a URL, a log folder or `latest`; None for what the environment
            names.
        look_ahead: Run the factors' code again on data without the future.
        as_json: Print JSON.
    """
    described: dict[str, Any] = {}
    try:
        settings = read_settings()
        with fetching.into_store(settings.store_path) as fetch:
            located = (
                locate.factor_sets(settings.workspace_paths, settings.log_paths, fetch)
                if named is None
                else tuple(locate.named(entry, fetch) for entry in path_entries(named))
            )
    except BridgeError as error:
        # Settings that mean nothing name no store either.
        machine = doctor.lines(0, store.folder(None))
        return show((lines_of(error), machine), "Factor set: none", as_json, described)
    names = (f"{at.url}, fetched into {at.path}" if at.url else str(at.path) for at in located)
    heading = f"Factor set: {', '.join(names)}"
    return show(_blocks(settings, located, look_ahead, described), heading, as_json, described)


def _blocks(
    settings: Settings, located: tuple[Located, ...], look_ahead: bool, described: dict[str, Any]
) -> Iterator[list[Line]]:
    """Yield the lines of the set as soon as they are known, then those of the machine.

    Args:
        settings: The settings.
        located: The factor files.
        look_ahead: Run the factors' code again on data without the future.
        described: Where to put what the JSON says about the set.
    """
    size, place = sum(at.path.stat().st_size for at in located), store.folder(settings.store_path)
    with ThreadPoolExecutor(2) as beside:
        # RD-Agent's modules take seconds to import; meanwhile Qlib's side is looked at.
        rdagent = beside.submit(doctor.look_at_rdagent)
        machine = beside.submit(doctor.lines, size, place, rdagent.result)
        try:
            found = inspect.inspect(settings, doctor.qlib_start(rdagent.result()), located)
            described.update(_described(found))
            yield _switch() + found.lines + [Line("log", "warn", note) for at in located for note in at.notes]
            stored = store.find(found.quality.factors.digest, place) is not None
            yield [doctor.store_line(size + _laid_aside(found.quality), place, stored)]
            if look_ahead:
                yield _look_ahead(found)
        except BridgeError as error:
            yield lines_of(error)
        yield machine.result()


def _switch() -> list[Line]:
    if is_enabled():
        return []
    text = "LOAD_SOTA_FROM_WORKSPACE is not on: a run would not use the set"
    return [Line("switch", "warn", text, "set LOAD_SOTA_FROM_WORKSPACE=true, in the environment or in .env")]


def _laid_aside(found: Quality) -> int:
    """Return the bytes that `panel.write_normal` lays aside; 0 for a set that is copied."""
    return 0 if found.is_normal else 8 * found.factors.rows * len(found.factors.columns)


def _look_ahead(found: inspect.Inspection) -> list[Line]:
    lines: list[Line] = []
    for source in found.quality.sources:
        at = next(at for at in found.located if at.path == source.path)
        if at.log is None:
            fix = "name the run's log (SOTA_LOG_PATH, or rdagent-sota check LOG): its sessions hold the code"
            lines.append(Line(NAME, "warn", f"not checked: no log under log/ names {at.path}", fix))
            continue
        codes = [code for code in sessions.factor_codes(at.log) if code.accepted or code.loop == at.loop]
        # RD-Agent takes its data from the project that it was started in, the one that holds the log.
        execution = execute_factor.settings_of_rdagent(at.log.parent.parent)
        lines += check_set(codes, _Stored(source), execution)
    return lines


class _Stored(Mapping[str, pd.Series]):
    """The factors of one file, each read when it is asked for."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def __getitem__(self, column: str) -> pd.Series:
        if column not in self._source.columns:
            raise KeyError(column)
        return panel.load(self._source.path, self._source.digest, column)

    def __iter__(self) -> Iterator[str]:
        return iter(self._source.columns)

    def __len__(self) -> int:
        return len(self._source.columns)


def _described(found: inspect.Inspection) -> dict[str, Any]:
    held = found.quality.factors
    return {
        "digest": held.digest,
        "rows": held.rows,
        "columns": list(held.columns),
        "start": str(held.dates[0]),
        "end": str(held.dates[-1]),
        "instruments": len(held.instruments),
        "sources": [
            {
                "path": str(source.path),
                "digest": source.digest,
                "columns": list(source.columns),
                "log": next((str(at.log) for at in found.located if at.path == source.path and at.log), None),
                "loop": next((at.loop for at in found.located if at.path == source.path), None),
                "url": next((at.url for at in found.located if at.path == source.path and at.url), None),
            }
            for source in found.quality.sources
        ],
    }


def show(
    blocks: Iterable[list[Line]],
    heading: str,
    as_json: bool,
    factor_set: Mapping[str, Any],
    console: Console | None = None,
) -> int:
    """Print the lines of a check, and return the exit status: 1 where any line fails, else 0.

    Args:
        blocks: The lines, in the order to print them; each block is printed when it comes.
        heading: What was checked, above the lines; not part of the JSON.
        as_json: Print one JSON object and nothing else. NaN and infinity become null.
        factor_set: What the JSON says about the set that was checked; read after the last block.
        console: Where to print; None for stdout.
    """
    console = console or Console()
    lines: list[Line] = []
    if not as_json:
        _print_wrapped(console, Text(), heading)
    waiting = Console(stderr=True).status("looking at the set, RD-Agent and Qlib's environment …")
    for block in _while(waiting, blocks):
        lines += block
        if not as_json:
            _print_lines(block, console)
    if as_json:
        _print_json(lines, factor_set, console)
    else:
        counts = ", ".join(f"{sum(line.state == state for line in lines)} {state}" for state in STATES)
        _print_wrapped(console, Text(), f"{len(lines)} check{'' if len(lines) == 1 else 's'}: {counts}")
    return 1 if worst(lines) == "fail" else 0


def _while(waiting: Status, blocks: Iterable[list[Line]]) -> Iterator[list[Line]]:
    """Yield the blocks; a terminal shows a spinner while the next one is awaited."""
    following = iter(blocks)
    while True:
        with waiting:
            block = next(following, None)
        if block is None:
            return
        yield block


def _print_json(lines: list[Line], factor_set: Mapping[str, Any], console: Console) -> None:
    document = to_jsonable_python(
        {"state": worst(lines), "set": factor_set, "checks": lines},
        inf_nan_mode="null",
        fallback=lambda number: number.item(),  # numpy's
    )
    # Escapes where the stream can't hold the names: they are the same JSON.
    text = json.dumps(document, ensure_ascii=console.options.ascii_only, indent=2, allow_nan=False)
    console.file.write(text + "\n")


def _print_lines(lines: list[Line], console: Console) -> None:
    marks = _ASCII_MARKS if console.options.ascii_only else _MARKS
    names = max((cell_len(line.name) for line in lines), default=0)
    for line in lines:
        head = Text.assemble(
            (f"{marks[line.state]} {line.state}", _STYLES[line.state]),
            f"  {set_cell_size(line.name, names)}  ",
        )
        _print_wrapped(console, head, line.text)
        if line.fix:
            _print_wrapped(console, Text(" " * head.cell_len + "fix: "), line.fix)


def _print_wrapped(console: Console, head: Text, text: str) -> None:
    """Print a text after its head, its further lines below its first."""
    indent = Text(" " * head.cell_len)
    width = max(console.width - head.cell_len, _NARROWEST)
    for number, part in enumerate(_wrapped(text, width)):
        console.print((head if number == 0 else indent) + Text(part), soft_wrap=True, highlight=False)


def _wrapped(text: str, width: int) -> list[str]:
    """Break a text between words. Words are never cut, as rich would: a path has to stay one to be copied."""
    parts = [""]
    for word in text.split():
        longer = f"{parts[-1]} {word}".lstrip()
        if parts[-1] and cell_len(longer) > width:
            parts.append(word)
        else:
            parts[-1] = longer
    return parts

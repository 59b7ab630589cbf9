"""The command `rdagent-sota check`: a line a check on screen, or all of them as JSON."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pandas as pd
from rich.cells import cell_len, set_cell_size
from rich.console import Console
from rich.text import Text

from rdagent_sota_bridge import doctor
from rdagent_sota_bridge.check import disk, execute_factor, inspect, look_ahead
from rdagent_sota_bridge.check.inspect import Inspection
from rdagent_sota_bridge.check.lines import Line, lines_of, worst
from rdagent_sota_bridge.check.quality import Source
from rdagent_sota_bridge.cli.output import ASCII_MARKS, print_json
from rdagent_sota_bridge.cli.path import find_sets
from rdagent_sota_bridge.errors import BridgeError, one_line
from rdagent_sota_bridge.factor_set import panel, parts, sessions, store
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.settings import Settings, is_enabled, read_settings

_MARKS = {"pass": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red")}
_NARROWEST = 30
"""How many columns a text gets at least; on a screen too narrow for that the terminal wraps."""


def run(named: str | None, with_look_ahead: bool, as_json: bool) -> int:
    """Check the set that the environment or `named` names, print the lines, and return the exit status.

    Args:
        named: A factor workspace or file, a URL, a log folder or `latest`; None for what the environment
            names.
        with_look_ahead: Run the factors' code again on data without the future.
        as_json: Print JSON.
    """
    found: list[Inspection] = []
    blocks: Iterable[list[Line]]
    try:
        settings = read_settings()
        located = find_sets(named, settings)
        names = (f"{at.url}, fetched into {at.path}" if at.url else str(at.path) for at in located)
        heading, blocks = ", ".join(names), _blocks(settings, located, with_look_ahead, found)
    except BridgeError as error:
        # Settings that mean nothing name no store either.
        heading, blocks = "none", [lines_of(error), doctor.lines(0, store.folder(None))]
    if not as_json:
        return show(_while_waiting(blocks), f"Factor set: {heading}", Console())
    lines = [line for block in _while_waiting(blocks) for line in block]
    print_json({"state": worst(lines), "set": _described(found[0]) if found else {}, "checks": lines})
    return int(worst(lines) == "fail")


def _blocks(
    settings: Settings, located: tuple[Located, ...], with_look_ahead: bool, found: list[Inspection]
) -> Iterator[list[Line]]:
    """Yield the lines of the set as soon as they are known, then those of the machine; fill `found`."""
    size, place = sum(parts.size_of(at.path) for at in located), store.folder(settings.store_path)
    with ThreadPoolExecutor(2) as beside:
        # RD-Agent's modules take seconds to import; meanwhile Qlib's side is looked at.
        rdagent = beside.submit(doctor.look_at_rdagent)
        machine = beside.submit(doctor.lines, size, place, rdagent.result)
        try:
            one = inspect.inspect(settings, doctor.qlib_start(rdagent.result()), located)
            found.append(one)
            yield _switch() + one.lines + [Line("log", "warn", note) for at in located for note in at.notes]
            held = one.quality.factors
            # What is not in normal form is laid aside while it is written.
            aside = 0 if one.quality.is_normal else 8 * held.rows * len(held.columns)
            yield [disk.store_line(size + aside, place, store.find(held.digest, place) is not None)]
            if with_look_ahead:
                yield [line for source in one.quality.sources for line in _look_ahead(source, one.located)]
        except BridgeError as error:
            yield lines_of(error)
        yield machine.result()


def _switch() -> list[Line]:
    if is_enabled():
        return []
    text = "LOAD_SOTA_FROM_WORKSPACE is not on: a run would not use the set"
    return [Line("switch", "warn", text, "set LOAD_SOTA_FROM_WORKSPACE=true, in the environment or in .env")]


def _look_ahead(source: Source, located: tuple[Located, ...]) -> list[Line]:
    at = next(at for at in located if at.path == source.path)
    if at.log is None:
        fix = "name the run's log (SOTA_LOG_PATH, or rdagent-sota check LOG): its sessions hold the code"
        return [Line(look_ahead.NAME, "warn", f"not checked: no log under log/ names {at.path}", fix)]
    codes = [code for code in sessions.factor_codes(at.log) if code.accepted or code.loop == at.loop]
    # RD-Agent takes its data from the project that it was started in, the one that holds the log.
    execution = execute_factor.settings_of_rdagent(at.log.parent.parent)
    return look_ahead.check_set(codes, _Columns(source), execution)


class _Columns(Mapping[str, pd.Series]):
    """The factors of one file, each read when it is asked for: all of them may not fit into memory."""

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


def _described(found: Inspection) -> dict[str, Any]:
    """Return what the JSON says about the set."""
    held, located = found.quality.factors, {at.path: at for at in found.located}
    sources = [(source, located.get(source.path)) for source in found.quality.sources]
    return {
        "digest": held.digest,
        "rows": held.rows,
        "columns": held.columns,
        "start": str(held.dates[0]),
        "end": str(held.dates[-1]),
        "instruments": len(held.instruments),
        "sources": [
            {
                "path": source.path,
                "digest": source.digest,
                "columns": source.columns,
                "log": at and at.log,
                "loop": at and at.loop,
                "url": (at and at.url) or None,
            }
            for source, at in sources
        ],
    }


def _while_waiting(blocks: Iterable[list[Line]]) -> Iterator[list[Line]]:
    """Yield the blocks; a terminal shows a spinner while the next one is awaited."""
    waiting = Console(stderr=True).status("looking at the set, RD-Agent and Qlib's environment …")
    following = iter(blocks)
    while True:
        with waiting:
            block = next(following, None)
        if block is None:
            return
        yield block


def show(blocks: Iterable[list[Line]], heading: str, console: Console) -> int:
    """Print the lines of a check, and return the exit status: 1 where any line fails, else 0.

    Args:
        blocks: The lines, in the order to print them; each block is printed when it comes.
        heading: What was checked.
        console: Where to print.
    """
    lines: list[Line] = []
    _print_wrapped(console, "", heading)
    for block in blocks:
        lines += block
        names = max((cell_len(one_line(line.name)) for line in block), default=0)
        for line in block:
            mark, style = _MARKS[line.state]
            mark = mark.translate(ASCII_MARKS) if console.options.ascii_only else mark
            name = f"  {set_cell_size(one_line(line.name), names)}  "
            head = Text.assemble((f"{mark} {line.state}", style), name)
            _print_wrapped(console, head, line.text)
            if line.fix:
                _print_wrapped(console, " " * head.cell_len + "fix: ", line.fix)
    counts = ", ".join(f"{sum(line.state == state for line in lines)} {state}" for state in _MARKS)
    _print_wrapped(console, "", f"{len(lines)} check{'' if len(lines) == 1 else 's'}: {counts}")
    return int(worst(lines) == "fail")


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

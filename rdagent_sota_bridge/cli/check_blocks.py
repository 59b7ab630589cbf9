"""The lines that `rdagent-sota check` prints, in blocks, each as soon as it is known."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

from rdagent_sota_bridge.check import disk, factor_settings, inspect, look_ahead
from rdagent_sota_bridge.check.inspect import Inspection
from rdagent_sota_bridge.check.line import Line, lines_of
from rdagent_sota_bridge.check.quality import Source
from rdagent_sota_bridge.doctor import machine, rdagent
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.factor_set import panel, parts, sessions, store
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.settings import Settings, is_enabled


def of_set(
    settings: Settings, located: tuple[Located, ...], with_look_ahead: bool, described: dict[str, Any]
) -> Iterator[list[Line]]:
    """Yield the lines of the set as soon as they are known, then those of the machine.

    Args:
        settings: The settings.
        located: The set's factor files.
        with_look_ahead: Run the factors' code again on data without the future.
        described: Gets what the JSON says about the set, where it could be looked at.
    """
    size, place = sum(parts.size_of(at.path) for at in located), store.folder(settings.store_path)
    with ThreadPoolExecutor(2) as beside:
        # RD-Agent's modules take seconds to import; meanwhile Qlib's side is looked at.
        looking = beside.submit(rdagent.look_at_rdagent)
        all_lines = beside.submit(machine.lines, looking.result)
        try:
            one = inspect.inspect(settings, rdagent.qlib_start(looking.result()), located)
            described |= _described(one)
            yield _switch() + one.lines + [Line("log", "warn", note) for at in located for note in at.notes]
            held = one.quality.factors
            # What is not in normal form is laid aside while it is written.
            aside = 0 if one.quality.is_normal else 8 * held.rows * len(held.columns)
            stored = store.find(held.digest, place) is not None
            yield [disk.store_line(size + aside, place, stored), disk.room_line(size, place)]
            if with_look_ahead:
                yield [line for source in one.quality.sources for line in _look_ahead(source, one.located)]
        except BridgeError as error:
            yield lines_of(error)
        yield machine.in_check(all_lines.result())


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
    # RD-Agent takes its data from the project that it was started in, the one that holds the log.
    execution = factor_settings.settings_of_rdagent(at.log.parent.parent)
    # Each is read when it is asked for: all of them may not fit into memory.
    read = {name: partial(panel.load, source.path, source.digest, name) for name in source.columns}
    return look_ahead.check_set(sessions.codes_of_set(at.log, at.loop), read, execution)


def _described(found: Inspection) -> dict[str, Any]:
    """Return what the JSON says about the set."""
    located = {at.path: at for at in found.located}
    sources = [(source, located.get(source.path)) for source in found.quality.sources]
    return {
        **panel.described(found.quality.factors),
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

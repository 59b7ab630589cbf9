"""Days that were kept back from a project's runs: which workspaces saw them, and each look at them.

A look is a line of a file in the project, beside the folder of the workspaces. None is ever taken out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pandas as pd
from pydantic import ConfigDict, TypeAdapter, with_config

from rdagent_sota_bridge.errors import HoldoutError, ResultError, plural
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.names import WORKSPACES
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.qlib_files.model_yaml import Segment
from rdagent_sota_bridge.report.statistics import Estimate
from rdagent_sota_bridge.report.trials import share_a_day
from rdagent_sota_bridge.system import files

LEDGER = "sota_holdout.jsonl"
"""The file of all openings of a project."""

UNKNOWN: Segment = (pd.NaT, pd.NaT)
"""Stands for the segments of a workspace that does not say them: they may hold every day."""


@with_config(ConfigDict(extra="forbid", ser_json_inf_nan="strings"))
@dataclass(frozen=True)
class Opening:
    """A look at days that were kept back.

    Attributes:
        opened: When (ISO, UTC).
        log: The name of the log folder of the models.
        model: The name of the workspace of the best of them.
        ablation: That of the same model without the mined columns; empty for none.
        first: The first of the days (ISO).
        last: The last of them.
        seen_by: How many workspaces may have one of these days in a segment.
        before: How many openings of the project before this one shared a day with it.
        ic: The mean daily IC of the model.
        base: That of the ablation.
        difference: With the mined columns less without, paired by day.
    """

    opened: str
    log: str
    model: str
    ablation: str
    first: str
    last: str
    seen_by: int
    before: int
    ic: Estimate
    base: Estimate | None = None
    difference: Estimate | None = None

    @property
    def days(self) -> Segment:
        """The first and the last day."""
        return pd.Timestamp(self.first), pd.Timestamp(self.last)


_OPENING = TypeAdapter(Opening)


# --- who saw a day ---


def segments(roots: Iterable[Path], sources: Iterable[Path] = ()) -> dict[Path, tuple[Segment, ...]]:
    """Return the segments of all trainings in a project: training, validation and test, by workspace.

    Args:
        roots: Folders of workspaces. What has no finished training in there saw nothing.
        sources: The workspaces that mined a set. Where one is gone, or is none, nobody knows what it saw.
    """
    inside = {folder.parent for root in roots for folder in root.glob("*/mlruns")}
    found: dict[Path, tuple[Segment, ...]] = {}
    for workspace in sorted(inside | set(sources)):
        try:
            record = training_record.read(workspace)
        except ResultError:
            found[workspace] = (UNKNOWN,)
            continue
        if record is not None and record.task is not None:
            found[workspace] = (record.task.train, record.task.valid, record.task.test)
        elif record is not None or workspace not in inside:
            found[workspace] = (UNKNOWN,)
    return found


def mined_in(factor_set: Mapping[str, Any], workspace: Path) -> list[Path]:
    """Return the workspaces that mined a model's set; by their ids where the project was moved."""
    listed = factor_set.get("sources") or [factor_set] * bool(factor_set)
    found = [Path(str(one.get("path"))).parent for one in listed]
    return [beside if (beside := workspace.parent / one.name).is_dir() else one for one in found]


def seen_by(known: Mapping[Path, tuple[Segment, ...]], days: Segment) -> list[Path]:
    """Return the workspaces that may have one of some days in a segment."""
    return [place for place, held in known.items() if any(share_a_day(one, days) for one in held)]


# --- the openings ---


def openings(log: Path) -> tuple[Opening, ...]:
    """Return all openings of the project that a log, or another file beside it, belongs to, in their order.

    Raises:
        HoldoutError: if they can't be read, or a line is damaged.
    """
    file, found = _ledger(log), list[Opening]()
    try:
        lines = files.read_text(file).splitlines() if file.exists() else []
        for line in lines:
            found.append(_OPENING.validate_json(line))
    except (OSError, ValueError) as error:
        where = f"{file}, line {len(found) + 1}" if isinstance(error, ValueError) else str(file)
        fact = "How often a holdout was opened is not known: the file can't be read, or the line is damaged"
        raise HoldoutError(fact, where, "put back what was there, and let this user read it") from None
    return tuple(found)


def add(log: Path, opening: Opening, say: Callable[[str], object]) -> Opening:
    """Write an opening down, a whole line or nothing, with the number of those before it, and return it.

    Raises:
        HoldoutError: if the openings of before can't be read.
        StoreError: if it can't be written.
    """
    file = _ledger(log)
    fix = "make the folder one that you may write into, with room; then open it again"
    with (
        store.failing_at(file, ("The opening of a holdout can't be written down", fix)),
        files.held(file.with_name(f".{LEDGER}.lock"), say, "opens a holdout"),
    ):
        before = openings(log)
        opening = replace(opening, before=count(before, opening.days))
        lines = [_OPENING.dump_json(one).decode() for one in (*before, opening)]
        files.write_whole(file, "".join(f"{line}\n" for line in lines))
    return opening


def count(found: Iterable[Opening], days: Segment) -> int:
    """Return how many openings share a day with some days."""
    return sum(share_a_day(one.days, days) for one in found)


def newest(logs: Iterable[Path]) -> Opening | None:
    """Return the newest opening of the models of some logs; None where none was opened.

    Raises:
        HoldoutError: if the openings of a project can't be read.
    """
    found = [one for log in logs for one in openings(log) if one.log == log.absolute().name]
    return max(reversed(found), key=lambda one: one.opened, default=None)


def _ledger(log: Path) -> Path:
    folders = log.absolute().parent.parents  # --log-dir may lie deeper in the project
    project = next((one for one in folders if (one / WORKSPACES).is_dir()), folders[0])
    return project / LEDGER


# --- in words ---


def seen_text(count: int) -> str:
    """Return that so many workspaces are not known not to have seen a day."""
    return f"{plural(count, 'workspace')} of this project may have a day of it in a segment"


def before_text(count: int) -> str:
    """Return that days were opened so often before."""
    return f"These days were opened {plural(count, 'time')} before"


def text(one: Opening) -> str:
    """Return an opening as lines of a terminal."""
    said = f"Holdout, {one.first} to {one.last}, {one.ic.days} days, opened {one.opened}\n"
    said += f"  the best model ({one.model}): IC {one.ic}\n"
    if one.base is None or one.difference is None:
        said += "  no ablation of it is there, so no difference is claimed"
    else:
        said += f"  without the mined columns {one.base}, difference {one.difference}"
    said += f"\n  not unseen: {seen_text(one.seen_by)}" * bool(one.seen_by)
    return said + f"\n  {before_text(one.before)}" * bool(one.before)

"""A recorded model trained on later days, without an LLM: once, or walking forward."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from rdagent_sota_bridge.errors import BridgeError, ResultError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import fresh, segments, trainings
from rdagent_sota_bridge.models.retrain import Change
from rdagent_sota_bridge.models.segments import Segments, iso
from rdagent_sota_bridge.models.trainings import How, Wanted
from rdagent_sota_bridge.qlib_files import manifest, training_record
from rdagent_sota_bridge.report import daily_ic, holdout
from rdagent_sota_bridge.report.statistics import Estimate, estimate


@dataclass(frozen=True, eq=False)
class Piece:
    """A training on later segments.

    Attributes:
        workspace: Its workspace.
        segments: What it was trained and tested on.
        ic: The daily IC of the test segment.
        in_sample: Whether its factors were mined with knowledge of days of the test segment; None where that
            is not known.
    """

    workspace: Path
    segments: Segments
    ic: pd.Series
    in_sample: bool | None


@dataclass(frozen=True, eq=False)
class Refreshed:
    """What became of a model.

    Attributes:
        pieces: In the order of time; one without a walk.
        mined_on: First and last day that the mining of the factors knew; None where that is not known.
    """

    pieces: tuple[Piece, ...]
    mined_on: tuple[str, str] | None

    def joined(self, *, unseen: bool = False) -> Estimate | None:
        """Return the daily IC of all pieces, or of those that are not in sample; None without one."""
        series = [one.ic for one in self.pieces if not unseen or one.in_sample is False]
        return estimate(pd.concat(series).to_frame()) if series else None


def refresh(
    of: Path,
    train_end: str | None,
    rolling: str | None,
    factor_data: str | None,
    how: How,
    say: Callable[[str], object],
) -> Refreshed:
    """Train a recorded model again on later segments, its processors fitted anew.

    All segments move by as many trading days. A walk forward goes from the first day of the test segment to
    the last one that has a label; each piece of it is predicted by a model that was trained before it began.
    A piece that an earlier call has trained is not trained once more, and one that fails stops no other.

    Args:
        of: The model's workspace; the new ones are made beside it.
        train_end: The last trading day of the (first) training; None for the recorded one where it walks,
            else for the one with which the test segment ends on the last day that has a label.
        rolling: The length of a piece, such as `3M`; None for no walk.
        factor_data: As `fresh.covering` takes it, for pieces that end behind the workspace's own set.
        how: Where the trainings go.
        say: Gets a line before each training: it takes minutes.

    Raises:
        ResultError: if one of several trainings failed; with the reason of each.
        BridgeError: if the segments can't be had, or as `fresh.covering` and `train_again` do.
    """
    of = of.absolute()
    training = training_record.read_training(of)
    recorded = manifest.read(of, whole=True)
    plan = segments.later(of, training, train_end, rolling)
    mined_on = _mined_on(of, recorded)
    # Before the first training, for what is missing is missing after hours too.
    wider, own_end = of / FACTOR_FILE, pd.Timestamp.max
    if recorded.mined:
        wider, own_end = fresh.covering(of, plan[-1]["test"][1], factor_data, say)
    wanted = {}
    for days in plan:
        is_behind = wider != of / FACTOR_FILE and pd.Timestamp(days["test"][1]) > own_end
        wanted[Wanted(of, Change(segments=days, values=wider if is_behind else None))] = days

    def begin(one: Wanted) -> bool:
        spans = ", ".join(f"{name} {start} to {end}" for name, (start, end) in wanted[one].items())
        say(f"training {list(wanted).index(one) + 1} of {len(wanted)}: {spans}")
        return True

    pieces, failed = list[Piece](), list[tuple[Segments, BridgeError]]()
    with contextlib.closing(trainings.train_all(list(wanted), how, say, begin=begin)) as answers:
        for one, answer in answers:
            days = wanted[one]
            if isinstance(answer, BridgeError):
                failed.append((days, answer))
                continue
            record = training_record.read(answer)
            ic = daily_ic.read(answer, record.recorder if record else "").ic
            in_sample = None if recorded.mined else False
            if mined_on is not None:
                in_sample = days["test"][0] <= mined_on[1] and mined_on[0] <= days["test"][1]
            pieces.append(Piece(answer, days, ic, in_sample))
    if failed:
        raise _failed(failed, len(plan))
    pieces.sort(key=lambda one: one.segments["test"])
    return Refreshed(tuple(pieces), mined_on)


def _failed(failed: list[tuple[Segments, BridgeError]], count: int) -> BridgeError:
    if count == 1:
        return failed[0][1]
    fact = f"{len(failed)} of {count} trainings failed, and the others are kept"
    reasons = [f"test {' to '.join(days['test'])}: {error.fact} ({error.place})" for days, error in failed]
    fix = "see to the reasons; the same command trains what is missing, and nothing twice"
    return ResultError(fact, "; ".join(sorted(reasons)), fix)


def _mined_on(of: Path, recorded: manifest.Recorded) -> tuple[str, str] | None:
    """Return the first and last day of the back-tests by which RD-Agent accepted a model's factors."""
    factor_set = recorded.factor_set or {}
    if set(recorded.mined) - set(factor_set.get("columns", ())):
        return None  # some are of fin_quant's own
    known = holdout.segments((), holdout.mined_in(factor_set, of))
    found = [one for held in known.values() for one in held]
    if not found or any(pd.isna(start) for start, _ in found):
        return None
    ends = (pd.Timestamp(factor_set["end"]) if pd.isna(end) else end for _, end in found)
    return iso(min(start for start, _ in found)), iso(max(ends))

"""Which factors of a set are taken: those that the user names, without those that say the same.

Two factors say the same where their mean daily cross-sectional |correlation| is high.
"""

from __future__ import annotations

import difflib
import fnmatch
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from rdagent_sota_bridge.errors import ChoiceError
from rdagent_sota_bridge.factor_set.panel import Panel

SAMPLE_CELLS = 100_000
"""Pairs are looked for on evenly spread days of about this many rows, and then computed on all days."""

_SAMPLE_VALUES = 12_000_000  # of all factors together, 96 MB
_MARGIN = 0.01
_ROUNDING = 1e-9
_ROUNDING_OF_VALUES = 1e-12


def chosen(
    names: Sequence[str], wanted: Sequence[str], excluded: Sequence[str], place: str
) -> tuple[str, ...]:
    """Return the factors that are wanted and not excluded, in the set's order.

    Args:
        names: The factors of the set.
        wanted: Names or shell patterns (`SOTA_FACTORS`); empty for all. A text that is a name is that name,
            whatever signs it holds.
        excluded: Names or shell patterns (`SOTA_FACTORS_EXCLUDE`).
        place: What a message calls the set.

    Raises:
        ChoiceError: if a text fits no name, or none is left.
    """
    has = f"the set has {', '.join(names[:12])}" + (f", … ({len(names)} in all)" if len(names) > 12 else "")

    def fitting(texts: Sequence[str], variable: str) -> set[str]:
        fitting: set[str] = set()
        for text in texts:
            found = {text} & set(names) or {name for name in names if fnmatch.fnmatchcase(name, text)}
            if not found:
                pattern = "has a pattern that fits no factor"
                what = pattern if set(text) & set("*?[") else "names a factor that is not"
                near = difflib.get_close_matches(text, names, n=3) or _same_letters(text, names)
                fix = f"did you mean {' or '.join(near)}?" if near else has
                raise ChoiceError(f"{variable} {what} in the set: {text}", place, fix)
            fitting |= found
        return fitting

    kept = fitting(wanted, "SOTA_FACTORS") if wanted else set(names)
    kept -= fitting(excluded, "SOTA_FACTORS_EXCLUDE")
    if not kept:
        raise ChoiceError(
            f"No factor is left of the {len(names)} of the set",
            f"SOTA_FACTORS={','.join(wanted)} SOTA_FACTORS_EXCLUDE={','.join(excluded)}, {place}",
            f"leave one in; {has}",
        )
    return tuple(name for name in names if name in kept)


def _same_letters(text: str, names: Sequence[str]) -> list[str]:
    letters = text.casefold().strip("*")
    return [name for name in names if letters and letters in name.casefold()][:3]


@dataclass(frozen=True)
class Dropped:
    """A factor that is left out, the earlier one that says the same, and their mean |correlation|."""

    column: str
    kept: str
    correlation: float


def sampled_dates(panel: Panel) -> Any:
    """Return the positions of the dates that the sample holds, evenly spread, ascending."""
    cells = min(SAMPLE_CELLS, _SAMPLE_VALUES // len(panel.columns))
    number = max(1, min(len(panel.dates), cells // max(1, panel.rows // len(panel.dates))))
    return np.unique(np.linspace(0, len(panel.dates) - 1, number).round().astype(int))


def to_drop(panel: Panel, sample: Any, rows_of_dates: list[slice], threshold: float) -> list[Dropped]:
    """Return the factors that say the same as an earlier one.

    RD-Agent drops new factors so, against earlier accepted ones, by the signed mean
    (`deduplicate_new_factors` in `scenarios/qlib/developer/factor_runner.py`, 0.8.0 and 1.0.0).

    Args:
        panel: The factors.
        sample: float64, (factors, rows): their values on sampled days.
        rows_of_dates: The rows of `sample` that belong to each sampled day.
        threshold: The least |correlation| that drops; infinite for none.
    """
    if not np.isfinite(threshold) or len(panel.columns) < 2:
        return []
    highest = _sampled(sample, rows_of_dates)
    dropped: dict[int, Dropped] = {}
    for later, column in enumerate(panel.columns):
        # NaN, no sampled day in common, is computed too.
        near = [one for one in range(later) if one not in dropped and not highest[one, later] < threshold]
        values = panel.read(column) if near else None
        for earlier in near:
            other = panel.columns[earlier]
            value = _on_all_days(panel.read(other), values, panel)
            if value >= threshold - _ROUNDING:
                dropped[later] = Dropped(column, other, float(value))
                break
    return list(dropped.values())


def _sampled(sample: Any, rows_of_dates: list[slice]) -> Any:
    """Return how high the mean daily |correlation| of each pair may be, NaN where no sampled day has both.

    That is the mean of the sample, three standard errors of it, and a margin.
    """
    number = len(sample)
    total, total_of_squares, days = (np.zeros((number, number)) for _ in range(3))
    for rows in rows_of_dates:
        block = sample[:, rows]
        there = ~np.isnan(block)
        count = there.sum(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            middle = np.where(there, block, 0).sum(axis=1, keepdims=True) / count
            centred = np.where(there, block - middle, 0)
            mask = there.astype(np.float64)
            shared = mask @ mask.T
            sums, squares = centred @ mask.T, (centred**2) @ mask.T
            covariance = centred @ centred.T - sums * sums.T / shared
            spread = squares - sums**2 / shared
            # As on all days: what rounding leaves is no spread.
            spread[spread <= _ROUNDING_OF_VALUES * squares] = 0.0
            found = np.abs(covariance) / np.sqrt(spread * spread.T)
        usable = np.isfinite(found) & (shared > 2)
        total[usable] += found[usable]
        total_of_squares[usable] += found[usable] ** 2
        days += usable
    with np.errstate(invalid="ignore"):
        mean = total / days
        error = np.sqrt(np.maximum(total_of_squares / days - mean**2, 0) / days)
        return mean + 3 * error + _MARGIN


def _on_all_days(one: Any, other: Any, panel: Panel) -> float:
    """Return the mean daily |correlation| of two factors; NaN without a day with three common instruments."""
    shared = ~(np.isnan(one) | np.isnan(other))
    starts: Any = panel.starts
    count = np.add.reduceat(shared, starts, dtype=np.int64)

    def centred(values: Any) -> Any:
        held = np.where(shared, values, 0.0)
        with np.errstate(invalid="ignore", divide="ignore"):
            level = (np.add.reduceat(held, starts) / count)[panel.date_codes]
        held -= level
        # What rounding leaves of a day on which all values are the same is no spread.
        held[~shared | (np.abs(held) <= _ROUNDING_OF_VALUES * np.abs(level))] = 0.0
        return held

    x, y = centred(one), centred(other)
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.sqrt(np.add.reduceat(x * x, starts)) * np.sqrt(np.add.reduceat(y * y, starts))
        found = np.abs(np.add.reduceat(x * y, starts)) / spread
    usable = found[np.isfinite(found) & (count > 2)]
    return float(usable.mean()) if len(usable) else float("nan")

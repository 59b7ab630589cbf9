"""A factor set before it is trained on: which factors are taken, and what they look like on the market."""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from rdagent_sota_bridge.check.figures import FactorFigures, FigureGround
from rdagent_sota_bridge.factor_set import panel, parquet, selection
from rdagent_sota_bridge.factor_set.parquet import Days, FactorSet
from rdagent_sota_bridge.factor_set.selection import Dropped
from rdagent_sota_bridge.qlib_files import label
from rdagent_sota_bridge.qlib_files.market import Market, check_fit
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.system import cache

_KIND = "quality-5"
_PRICE_FILES = 200


@dataclass(frozen=True)
class Wish:
    """Which factors the user wants: names or shell patterns.

    Attributes:
        wanted: Empty for all.
        excluded: Taken from those.
        max_correlation: Of two factors that are at least so alike the later is dropped; infinite for none.
    """

    wanted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    max_correlation: float = 0.99


@dataclass(frozen=True)
class Source:
    """One file of a set: its path, its digest, the factors taken from it, and its layout in a line.

    `layout` is empty for what RD-Agent writes, and where it is not known.
    """

    path: Path
    digest: str
    columns: tuple[str, ...]
    layout: str = ""


@dataclass(frozen=True, eq=False)
class Quality:
    """What was found out about a set.

    Attributes:
        factors: The set as it is handed over. Its digest is the file's, or where factors were chosen or files
            joined, that of the sources' digests and factors.
        sources: The files.
        left_out: Factors that the wish leaves out.
        dropped: Factors that say the same as an earlier one.
        figures: By factor.
        filled: By segment, the share of the market's cells that have a row; None where the market has no day.
        missing_days: Days of the calendar inside the set's range that have no row.
        in_market: How many of the set's instruments are in the market; None without a market.
        is_normal: True if the set is one file, whole and in the form that RD-Agent would write.
    """

    factors: FactorSet
    sources: tuple[Source, ...]
    left_out: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    figures: dict[str, FactorFigures]
    filled: dict[str, float | None]
    missing_days: Days
    in_market: int | None
    is_normal: bool


_QUALITY = TypeAdapter(Quality)


def look(paths: Sequence[Path], wish: Wish, market: Market | None, task: Task) -> Quality:
    """Look at a set; what is known of the same content, wish, market and segments is not computed anew.

    Streams: one factor's values at a time are in memory.

    Args:
        paths: The factor files.
        wish: Which factors are wanted.
        market: The market; None where Qlib's data is not there yet.
        task: The segments and the label.

    Raises:
        FactorFileError: if a file can't be trained on; it lists every reason.
        ChoiceError: if the wish names a factor that is not there, or leaves none.
        UnequalFactorError: if a factor has different values in two files.
    """
    # Two files of one content are one.
    files: dict[str, Path] = {}
    for path in paths:
        files.setdefault(parquet.current_digest(path), path)
    key = [list(files), repr(wish), repr(task), None if market is None else _identity(market, task)]
    if (known := cache.get(_KIND, key)) is not None:
        kept = _QUALITY.validate_python(known)
        sources = tuple(replace(source, path=files[source.digest]) for source in kept.sources)
        return replace(kept, factors=replace(kept.factors, path=sources[0].path), sources=sources)
    found = _look(list(files.values()), wish, market, task)
    if {source.digest for source in found.sources} <= set(files):  # else a file was replaced meanwhile
        cache.put(_KIND, key, _QUALITY.dump_python(found, mode="json"))
    return found


def _look(paths: Sequence[Path], wish: Wish, market: Market | None, task: Task) -> Quality:
    there: tuple[str, ...] = ()

    def choose(columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        nonlocal there
        there = panel.union(columns)
        return selection.chosen(there, wish.wanted, wish.excluded, " and ".join(map(str, paths)))

    with panel.opened(paths, choose) as rows:
        first, described = rows.files[0], rows.factor_set
        check_fit(described, market, task.train, task.region)
        dates = selection.sampled_dates(rows)
        ground = FigureGround(rows, market, task, dates)
        sample = np.empty((len(rows.columns), len(ground.sample)), dtype=np.float64)
        found = {}
        for number, (column, values) in enumerate(panel.values(rows)):
            found[column] = ground.take(values)
            sample[number] = values[ground.sample]
        starts = np.searchsorted(rows.date_codes[ground.sample], np.append(dates, len(rows.dates)))
        days = [slice(*pair) for pair in itertools.pairwise(starts)]
        dropped = tuple(selection.to_drop(rows, sample, days, wish.max_correlation))
        kept = tuple(name for name in rows.columns if name not in {drop.column for drop in dropped})
        sources = tuple(
            Source(
                file.path,
                file.digest,
                tuple(name for name in kept if name in file.columns),
                file.understood,
            )
            for file in rows.files
        )
        left_out = tuple(name for name in there if name not in found)
        if all(source.columns for source in sources):
            whole = len(sources) == 1 and kept == first.columns
            digest = first.digest if whole else _digest(sources)
            return Quality(
                factors=replace(described, columns=kept, digest=digest),
                sources=sources,
                left_out=left_out,
                dropped=dropped,
                figures={name: found[name] for name in kept},
                filled=ground.filled,
                missing_days=ground.missing_days,
                in_market=None if market is None else len(set(rows.instruments) & set(market.instruments)),
                is_normal=whole and panel.is_normal(rows),
            )
    # A file all of whose factors were dropped does not belong to the set: without it there may be fewer rows.
    used = [source.path for source in sources if source.columns]
    rest = _look(used, replace(wish, wanted=kept, excluded=()), market, task)
    return replace(rest, left_out=left_out, dropped=(*dropped, *rest.dropped))


def _digest(sources: tuple[Source, ...]) -> str:
    text = json.dumps([[source.digest, source.columns] for source in sources], ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


def _identity(market: Market, task: Task) -> list[Any]:
    """Return what identifies a market: its lists, and the state of price files that the IC is from.

    The files of evenly spread instruments stand for all: an update or a new adjustment writes every one.
    """
    step = max(1, len(market.instruments) // _PRICE_FILES)
    prices = []
    for instrument in market.instruments[::step]:
        try:
            status = label.file_of(market.folder, task.label, instrument).stat()
        except OSError:  # not there, or not to be read: the look finds out
            continue
        prices.append([instrument, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return [str(market.folder), market.name, market.digest, prices]

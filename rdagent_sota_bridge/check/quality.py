"""A factor set before it is trained on: which factors are taken, and what they look like on the market."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import TypeAdapter

from rdagent_sota_bridge.check import figures
from rdagent_sota_bridge.check.figures import FactorFigures
from rdagent_sota_bridge.factor_set import parquet, selection
from rdagent_sota_bridge.factor_set.panel import is_normal, opened, union, values
from rdagent_sota_bridge.factor_set.parquet import Days, FactorSet
from rdagent_sota_bridge.factor_set.selection import Dropped
from rdagent_sota_bridge.qlib_files import label
from rdagent_sota_bridge.qlib_files.market import Market, check_fit
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.system import cache

_KIND = "quality-3"
_PRICE_FILES = 200


@dataclass(frozen=True)
class Wish:
    """Which factors the user wants.

    Attributes:
        wanted: Names or shell patterns; empty for all.
        excluded: Names or shell patterns.
        max_correlation: Of two factors that are at least so alike the later is dropped; infinite for none.
    """

    wanted: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()
    max_correlation: float = 0.99


@dataclass(frozen=True)
class Source:
    """One file of a set: its path, its digest, and the factors taken from it."""

    path: Path
    digest: str
    columns: tuple[str, ...]


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
    known_paths: dict[str, Path] = {}
    for path in paths:
        known_paths.setdefault(parquet.current_digest(path), path)
    paths, digests = list(known_paths.values()), list(known_paths)
    key = [digests, _plain(wish), _plain(task), None if market is None else _identity(market, task)]
    known = cache.get(_KIND, key)
    if known is not None:
        kept = _QUALITY.validate_python(known)
        sources = tuple(dataclasses.replace(one, path=known_paths[one.digest]) for one in kept.sources)
        described = dataclasses.replace(kept.factors, path=sources[0].path)
        return dataclasses.replace(kept, factors=described, sources=sources)
    found = _look(paths, wish, market, task)
    if {source.digest for source in found.sources} <= set(digests):  # else a file was replaced meanwhile
        cache.put(_KIND, key, _QUALITY.dump_python(found, mode="json"))
    return found


def _look(paths: Sequence[Path], wish: Wish, market: Market | None, task: Task) -> Quality:
    there: list[str] = []

    def choose(columns: Sequence[tuple[str, ...]]) -> tuple[str, ...]:
        place = " and ".join(map(str, paths))
        there.extend(union(columns))
        return selection.chosen(union(columns), wish.wanted, wish.excluded, place)

    with opened(paths, choose) as panel:
        check_fit(panel.factor_set, market, task.train)
        dates = selection.sampled_dates(panel)
        ground = figures.ground(panel, market, task, dates)
        sample = np.empty((len(panel.columns), len(ground.sample)), dtype=np.float64)
        found = {}
        for number, (column, cells) in enumerate(values(panel)):
            found[column] = figures.take(cells, panel, ground)
            sample[number] = cells[ground.sample]
        starts = np.searchsorted(panel.date_codes[ground.sample], np.append(dates, len(panel.dates)))
        days = [slice(*pair) for pair in itertools.pairwise(starts)]
        dropped = selection.to_drop(panel, sample, days, wish.max_correlation)
        kept = tuple(name for name in panel.columns if name not in {drop.column for drop in dropped})
        sources = tuple(
            Source(file.path, file.digest, tuple(name for name in kept if name in file.columns))
            for file in panel.files
        )
        left_out = tuple(name for name in there if name not in found)
        if all(source.columns for source in sources):
            whole = len(sources) == 1 and kept == panel.files[0].columns
            return Quality(
                factors=dataclasses.replace(
                    panel.factor_set, columns=kept, digest=sources[0].digest if whole else _digest(sources)
                ),
                sources=sources,
                left_out=left_out,
                dropped=tuple(dropped),
                figures={name: found[name] for name in kept},
                filled=ground.filled,
                missing_days=ground.missing_days,
                in_market=None if market is None else len(set(panel.instruments) & set(market.instruments)),
                is_normal=whole and is_normal(panel),
            )
    # A file all of whose factors were dropped does not belong to the set: without it there may be fewer rows.
    used = [source.path for source in sources if source.columns]
    rest = _look(used, dataclasses.replace(wish, wanted=kept, excluded=()), market, task)
    return dataclasses.replace(rest, left_out=left_out, dropped=(*dropped, *rest.dropped))


def _digest(sources: tuple[Source, ...]) -> str:
    text = json.dumps([[source.digest, source.columns] for source in sources], ensure_ascii=False)
    return f"sha256:{hashlib.sha256(text.encode()).hexdigest()}"


# --- as JSON ---


def _plain(value: Wish | Task) -> dict[str, Any]:
    return {name: repr(part) for name, part in dataclasses.asdict(value).items()}


def _identity(market: Market, task: Task) -> list[Any]:
    """Return what tells a market from others: its lists, and the identity of price files that the IC is from.

    The files of evenly spread instruments stand for all: an update or a new adjustment writes every one.
    """
    step = max(1, len(market.instruments) // _PRICE_FILES)
    prices = []
    for instrument in market.instruments[::step]:
        try:
            status = label.file_of(market.folder, task.label, instrument).stat()
        except OSError:  # not there, or not to be read: the look tells
            continue
        prices.append([instrument, status.st_size, status.st_mtime_ns, status.st_ctime_ns])
    return [str(market.folder), market.name, market.digest, prices]

"""What happens at the seams of RD-Agent's merge: it gets the loaded set, with no factor code run again."""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa

from rdagent_sota_bridge.bridge import dry_run, handoff
from rdagent_sota_bridge.bridge import plan as plans
from rdagent_sota_bridge.bridge.handoff import HandOff
from rdagent_sota_bridge.bridge.stop import logger
from rdagent_sota_bridge.check import inspect
from rdagent_sota_bridge.errors import OTHER_RELEASE, HandOffError, SeamError, StoreError
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.factor_set.panel import complete_rows, nested_columns
from rdagent_sota_bridge.factor_set.parquet import DATETIME, INSTRUMENT
from rdagent_sota_bridge.system import files


def merge_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return the replacements of `process_factor_data` wherever it is held; idle outside a hand-off.

    RD-Agent's own (`scenarios/qlib/developer/utils.py`, 0.8.0, 1.0.0) runs factor code again, and raises
    FactorEmptyError for experiments without any, on which the loop is skipped with its LLM calls spent.
    """
    places = dry_run.merge_places(module)
    if not places:
        raise SeamError("RD-Agent's runner has no process_factor_data", module.__name__, OTHER_RELEASE)
    return [
        (owner, name, _merge_in_place_of(getattr(owner, name)))
        for owner, name in places
        if owner is module or not dry_run.is_ours(getattr(owner, name))
    ]


def _merge_in_place_of(process_before: Any) -> Any:
    @functools.wraps(process_before)
    def process_factor_data(exp_or_list: Any) -> Any:
        hand_off = handoff.current()
        if hand_off is None:
            return process_before(exp_or_list)

        def process_own(experiments: Any) -> Any:
            # Outside of the hand-off: where a fork looks the merge up in its module, others have the
            # replacement from there too, and one may lie in another.
            with handoff.activate(None), handoff.cache_switched(hand_off.uses_cache):
                return process_before(experiments)

        return handoff.fail_once(hand_off, lambda: _merged(process_own, exp_or_list, hand_off))

    return process_factor_data


def _merged(process_before: Any, experiments: Any, hand_off: HandOff) -> pd.DataFrame:
    """Return the loaded set, and beside it what this run's own factor experiments (fin_quant) bring.

    What RD-Agent asks for without the set (a factor loop's new factors) is RD-Agent's own.
    """
    from rdagent_sota_bridge.bridge import experiment

    listed = experiments if isinstance(experiments, list) else [experiments]
    if not any(experiment.stands_for_a_set(based) for based in listed):
        new = process_before(experiments)  # the new factors of a factor loop
        _warn_of_names(hand_off, new.columns)
        return new
    stored = plans.keep_in_store(hand_off.record)
    files.detach(_file_of(hand_off))  # RD-Agent writes there, and may not write through a link
    own = experiment.with_code(listed)
    if hand_off.is_of_model and not own and not hand_off.whole:
        hand_off.to_place = stored
        frame = _sample(stored.columns)
    else:
        hand_off.to_place = None
        frame = _read(stored)
    if experiment.stands_for_a_set(hand_off.experiment):
        # The reference of factor loops, in which RD-Agent keeps the rows with a value of every factor.
        frame = frame[complete_rows(stored.path)]
    if own:
        # The set was read first: that it is gone is said before minutes of factor code.
        mined = process_before(own)
        frame = _joined(frame, mined)
        _warn_of_names(hand_off, mined.columns)
    hand_off.mined = tuple(dict.fromkeys(str(name) for name in frame.columns))
    handoff.give_base_features(hand_off)
    if own and hand_off.is_of_model:
        handoff.log_base_set(hand_off)
    return frame


def _joined(loaded: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    try:
        return pd.concat([loaded, own], axis=1)
    except (ValueError, pd.errors.InvalidIndexError) as error:  # a row twice in what a factor's code made
        # RD-Agent's own error for it (`developer/utils.py`, 1.0.0): the loop is skipped, and the LLM told.
        raise handoff.loop_is_empty(
            f"the run's own factors can't be joined with the loaded set: {error}"
        ) from None


def _warn_of_names(hand_off: HandOff, names: Any) -> None:
    """Warn of loaded factors whose name the run's own have: RD-Agent's merge keeps the newer one."""
    both = [str(name) for name in names if str(name) in set(hand_off.record["columns"])]
    new = [name for name in both if name not in hand_off.replaced]
    if new:
        hand_off.replaced += tuple(new)
        logger().warning(
            f"{len(new)} loaded factors give way to factors of the same name that this run mined itself: "
            f"{', '.join(new)}"
        )


def _file_of(hand_off: HandOff) -> Path:
    return Path(hand_off.experiment.experiment_workspace.workspace_path) / FACTOR_FILE


def _read(stored: store.Stored) -> pd.DataFrame:
    try:
        frame = pd.read_parquet(stored.path)
    except OSError as error:  # pruned, or its disk is gone
        raise StoreError(
            f"The stored factor set can't be read any more: {error.strerror or error}",
            str(stored.path),
            "resume the run; it writes the set's copy anew",
        ) from None
    return frame.set_axis(pd.Index(stored.columns, dtype=object), axis=1)


# --- the sample, and the set in its place ---


def _sample(columns: tuple[str, ...]) -> pd.DataFrame:
    """Return the few rows that a model's `develop` gets: it reads nothing of a set but the names.

    They show what a fork's `develop` does with a set: a filter of dates or of an exchange takes rows away,
    and so does a `dropna`, of columns too, for most values are missing; a fill, a clip, a rank, a scaling or
    another type changes the three values of a column.
    """
    days = pd.to_datetime(["1700-01-01", "2020-01-02", "2200-01-01"])
    index = pd.MultiIndex.from_product(
        [days, ["BJ430047", "SH600000", "SZ000001"]], names=[DATETIME, INSTRUMENT]
    )
    values = np.full((len(index), len(columns)), np.nan)
    values[3:6] = np.outer([-1e9 / 3, 0.1, 1e9 / 3], np.arange(1, len(columns) + 1))
    return pd.DataFrame(values, index, pd.Index(columns, dtype=object))


def _is_sample(file: Path, columns: tuple[str, ...]) -> bool:
    """Return True if what `develop` wrote is the sample that it got, in rows, names and values."""
    expected = _sample(columns).set_axis(nested_columns(columns), axis=1)
    try:
        return bool(pd.read_parquet(file).equals(expected))
    except (OSError, pa.ArrowException):
        return False


def changed_sample(hand_off: HandOff) -> bool:
    """Return True where `develop` got the sample and did not come to a training on just that.

    It has to get the whole set then: a fork may filter dates, drop factors, or count the rows.
    """
    stored = hand_off.to_place
    if stored is None or hand_off.stored is not None or hand_off.trained:
        return False
    return isinstance(hand_off.failed, HandOffError) or not _is_sample(_file_of(hand_off), stored.columns)


def place_set(hand_off: HandOff) -> None:
    """Put the stored set in place of the sample in the workspace, before Qlib reads it.

    Raises:
        HandOffError: if something else than the sample lies there; `develop` then has to get the whole set.
        StoreError: if it can't be placed.
    """
    stored, file = hand_off.to_place, _file_of(hand_off)
    if stored is None:
        return
    if (hand_off.stored is None or file.exists()) and not _is_sample(file, stored.columns):
        raise HandOffError(
            "RD-Agent's develop wrote other factors than it was given",
            str(file),
            OTHER_RELEASE,
        )
    how = store.hand_out(stored, file, link=not inspect.is_qlib_in_docker())
    if hand_off.stored is None:
        logger().info(f"SOTA factors placed in the model's workspace: a {how} of {stored.path}")
    hand_off.stored = {"path": str(stored.path), "digest": stored.content, "placed_as": how}


def take_away(hand_off: HandOff) -> None:
    """Take the set out of the workspace after a qrun that failed.

    A fork may write and train again, and must not write through a link.
    """
    if hand_off.stored is not None:
        _file_of(hand_off).unlink(missing_ok=True)


def put_back(hand_off: HandOff) -> None:
    """Put the set back once `develop` has ended, for whoever looks into a workspace in which qrun failed."""
    if hand_off.stored is not None and not _file_of(hand_off).exists():
        place_set(hand_off)

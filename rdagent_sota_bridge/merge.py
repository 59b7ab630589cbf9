"""What happens at the seams of RD-Agent's merge: it gets the loaded set, with no factor code run again."""

from __future__ import annotations

import functools
from pathlib import Path
from types import ModuleType
from typing import Any

import pandas as pd

from rdagent_sota_bridge import (
    dry_run,
    inspection,
    normal,
    placing,
    result_caches,
    run_base,
    store,
    underway,
)
from rdagent_sota_bridge import plan as plans
from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError
from rdagent_sota_bridge.frame import StoredFrame
from rdagent_sota_bridge.locate import FACTOR_FILE
from rdagent_sota_bridge.stop import logger
from rdagent_sota_bridge.underway import HandOff


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
        hand_off = underway.current()
        if hand_off is None:
            return process_before(exp_or_list)

        def process_own(experiments: Any) -> Any:
            # Outside of the hand-off: where a fork looks the merge up in its module, others have the
            # replacement from there too, and one may lie in another.
            with underway.activate(None), result_caches.switched(hand_off.result_caches):
                return process_before(experiments)

        return underway.fail_once(hand_off, lambda: _merged(process_own, exp_or_list, hand_off))

    return process_factor_data


def _merged(process_before: Any, experiments: Any, hand_off: HandOff) -> pd.DataFrame:
    """Return the loaded set, and beside it what this run's own factor experiments (fin_quant) bring.

    What RD-Agent asks for without the set (a factor loop's new factors) is RD-Agent's own.
    """
    from rdagent_sota_bridge import experiment

    listed = experiments if isinstance(experiments, list) else [experiments]
    if not any(experiment.stands_for_a_set(based) for based in listed):
        new = process_before(experiments)  # the new factors of a factor loop
        _warn_of_names(hand_off, new.columns)
        return new
    stored = plans.keep_in_store(hand_off.record)
    # In a container RD-Agent changes the modes of all files of the workspace (`_get_chmod_cmd` in
    # `utils/env.py`, 0.8.0 and 1.0.0), and through a hard link those of the stored file.
    link = not inspection.is_qlib_in_docker()
    frame: pd.DataFrame = StoredFrame(stored, link, functools.partial(_placed, hand_off, stored))
    if (
        experiment.stands_for_a_set(hand_off.experiment)
        and not (whole := normal.complete_rows(stored.path)).all()
    ):
        # The reference of factor loops, in which RD-Agent keeps the rows with a value of every factor.
        frame = frame.copy()[whole]
    own = experiment.with_code(listed)
    if own:
        # RD-Agent will open this file for writing: where it is a link, it must not write through it.
        placing.detach(Path(hand_off.experiment.experiment_workspace.workspace_path) / FACTOR_FILE)
        # Read first: a set that is gone is told before minutes of factor code.
        mined = process_before(own)
        frame = _joined(frame.copy(), mined)
        _warn_of_names(hand_off, mined.columns)
        hand_off.own_codes = experiment.codes_digest(own)
    hand_off.mined = tuple(dict.fromkeys(str(name) for name in frame.columns))
    hand_off.merged = True
    run_base.give_base_features(hand_off)
    if own and hand_off.is_of_model:
        run_base.log_base_set(hand_off)
    return frame


def _joined(loaded: pd.DataFrame, own: pd.DataFrame) -> pd.DataFrame:
    try:
        return pd.concat([loaded, own], axis=1)
    except (ValueError, pd.errors.InvalidIndexError) as error:  # a row twice in what a factor's code made
        # RD-Agent's own error for it (`developer/utils.py`, 1.0.0): the loop is skipped, and the LLM told.
        raise underway.loop_is_empty(
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


def _placed(hand_off: HandOff, stored: store.Stored, how: placing.How) -> None:
    hand_off.stored = {"path": str(stored.path), "digest": stored.content, "placed_as": how}
    logger().info(f"SOTA factors placed in the model's workspace: a {how} of {stored.path}")

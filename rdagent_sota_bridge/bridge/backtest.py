"""The back-test: stored set and YAML are put in place before qrun, and Qlib's record is read after it."""

from __future__ import annotations

import contextlib
import functools
import inspect
import re
import uuid
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from rdagent_sota_bridge.bridge import dry_run, handoff
from rdagent_sota_bridge.bridge.handoff import HandOff
from rdagent_sota_bridge.bridge.stop import logger
from rdagent_sota_bridge.errors import (
    OTHER_RELEASE,
    FactorFileError,
    HandOffError,
    Reason,
    SeamError,
    StoreError,
)
from rdagent_sota_bridge.factor_set import panel, parquet, store
from rdagent_sota_bridge.qlib_files import batches, docker, manifest, model_yaml
from rdagent_sota_bridge.settings import read_settings

RESULT_SCRIPT = "read_exp_res.py"
"""RD-Agent's reader of a back-test's results, which runs in Qlib's environment after qrun."""

_LOGGING_RACE = re.compile(r"Metric '[^']*' is malformed")


def workspace_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/experiment/workspace.py` (0.8.0, 1.0.0).

    On the class: a workspace is pickled with every session, so nothing of ours may hang on an instance.
    """
    workspace_class = getattr(module, "QlibFBWorkspace", None)
    execute_before = getattr(workspace_class, "execute", None)
    if workspace_class is None or execute_before is None:
        raise SeamError("RD-Agent has no QlibFBWorkspace.execute", module.__name__, OTHER_RELEASE)
    signature = inspect.signature(execute_before)
    if not {"qlib_config_name", "run_env"} <= set(signature.parameters):
        raise SeamError(f"QlibFBWorkspace.execute takes {signature}", module.__name__, OTHER_RELEASE)

    @functools.wraps(execute_before)
    def execute(self: Any, *args: Any, **kwargs: Any) -> Any:
        hand_off = handoff.current()
        if hand_off is None or self is not hand_off.experiment.experiment_workspace:
            return execute_before(self, *args, **kwargs)
        bound = signature.bind(self, *args, **kwargs)
        bound.apply_defaults()
        named = bound.arguments
        run = functools.partial(execute_before, self, **named.get("kwargs", {}))
        name, run_env = named["qlib_config_name"], named["run_env"] or {}
        return handoff.fail_once(hand_off, lambda: _train(run, self, name, run_env, hand_off))

    return [(workspace_class, "execute", execute)]


def _train(run: Any, workspace: Any, config_name: str, run_env: dict[str, Any], hand_off: HandOff) -> Any:
    """Run qrun on a workspace whose YAML says what is handed over, and look at what Qlib loaded."""
    if config_name not in hand_off.configs:
        raise HandOffError(
            f"RD-Agent took {config_name} in place of {' or '.join(hand_off.configs)}: the model would be "
            "trained without the factors",
            str(workspace.workspace_path),
            OTHER_RELEASE,
        )
    config = _text_in(workspace, config_name)
    if hand_off.to_place is None:
        # What RD-Agent wrote: a factor loop's new factors too, less those that it found too like old ones.
        hand_off.mined = _merged_columns(hand_off)
    hand_off.task = model_yaml.read_task(config, {name: str(value) for name, value in run_env.items()})
    if hand_off.to_place is None and not hand_off.is_of_model:
        _check_rows(hand_off, hand_off.task.train)
    base = hand_off.base_beside_mined
    width = len(base.features) + len(hand_off.mined)
    run_env = {**run_env, **model_yaml.feature_variables(base, hand_off.mined), "num_features": str(width)}

    def run_with_set(**arguments: Any) -> Any:
        _place_set(hand_off)
        result = None
        try:
            result, output = run(**arguments)
        finally:
            placed = hand_off.stored
            if placed is not None and (result is None or placed["placed_as"] == "link"):
                # A fork may write and train again, and must not write through a link.
                with contextlib.suppress(FileNotFoundError):
                    hand_off.file.replace(hand_off.aside)
        return result, output

    adapted = model_yaml.adapt(config, base, hand_off.note, hand_off.mined)
    trained = train(run_with_set, workspace, {config_name: adapted}, run_env, hand_off.note)
    hand_off.batches, hand_off.trained = trained.batches, True
    if trained.result is not None:
        _check_loaded(hand_off, workspace.workspace_path)
    return trained.result, trained.output


@dataclass(frozen=True)
class Trained:
    """What came of a qrun.

    Attributes:
        result: The metrics by name, a Series; None where there are none.
        output: What qrun said.
        batches: Where the batches came from, as a manifest says it.
    """

    result: Any
    output: Any
    batches: dict[str, str]


def train(
    run: Any, workspace: Any, named_config: dict[str, str], run_env: dict[str, Any], note: str
) -> Trained:
    """Run qrun with batches from memory and the probe, and repeat it once after Qlib's logging race.

    Args:
        run: RD-Agent's `execute` of the workspace, or what calls it.
        workspace: RD-Agent's QlibFBWorkspace, which has the script that reads results.
        named_config: The YAML by its name; the note stands in it.
        run_env: Variables for qrun.
        note: What the training is of, in one line.
    """
    ((config_name, config),) = named_config.items()
    script = _text_in(workspace, RESULT_SCRIPT)
    config, beside, said = batches.adapt(config, wanted=read_settings().fast_training)

    def attempt() -> Any:
        # With an id of its own: RD-Agent's ENABLE_CACHE (`Env.cached_run` in `utils/env.py`, 0.8.0, 1.0.0)
        # knows these texts and no segments, and would answer with another training.
        named = f"{note}, training {uuid.uuid4().hex}"
        texts = {config_name: config.replace(note, named, 1), **beside}
        workspace.inject_files(**{**texts, RESULT_SCRIPT: manifest.with_probe(script, named)})
        for name in (manifest.LOADED_FILE, batches.ANSWER):
            (workspace.workspace_path / name).unlink(missing_ok=True)
        return run(qlib_config_name=config_name, run_env=run_env)

    result, output = attempt()
    if result is None and (race := _LOGGING_RACE.search(str(output))):
        logger().warning(f"qrun died of Qlib's logging race ({race.group()}); it is repeated once")
        result, output = attempt()
    if result is not None:
        if beside:
            said = batches.answer(workspace.workspace_path)
        if beside or config_name == model_yaml.CONFIG_FILE:  # LightGBM, in a factor loop, has no loader
            way = said.get("loader")
            source = "memory" if way is None else f"Qlib's own loader: {way}"
            logger().info(f"SOTA training: batches come from {source}")
    return Trained(result, output, said)


def _text_in(workspace: Any, name: str) -> str:
    text = workspace.file_dict.get(name)
    if text is None:
        raise SeamError(f"A model's workspace has no {name}", str(workspace.workspace_path), OTHER_RELEASE)
    return str(text)


def _place_set(hand_off: HandOff) -> None:
    """Put the stored set in place of the nine rows that `develop` got, before Qlib reads it.

    Raises:
        HandOffError: if something else than those rows lies there.
        StoreError: if it can't be placed.
    """
    stored, file = hand_off.to_place, hand_off.file
    if stored is None:
        return
    if (hand_off.stored is None or file.exists()) and not dry_run.is_sample(file, stored.columns):
        if hand_off.stored is not None and file.stat().st_size == stored.size:
            return  # the copy that was placed for a training before this one
        raise HandOffError(
            "RD-Agent's develop wrote other factors than it was given", str(file), OTHER_RELEASE
        )
    if hand_off.placed is not None and store.identity_of(hand_off.aside) == hand_off.placed:
        hand_off.aside.replace(file)  # the store may be gone meanwhile
        return
    how = store.hand_out(stored, file, link=not docker.is_qlib_in_docker())
    if hand_off.stored is None:
        logger().info(f"SOTA factors placed in the model's workspace: a {how} of {stored.path}")
    hand_off.stored = {"path": str(stored.path), "digest": stored.content, "placed_as": how}
    hand_off.placed = store.identity_of(file)


def put_back(hand_off: HandOff) -> None:
    """Leave the set in the workspace once `develop` has ended, or nothing: never the nine rows."""
    stored, file = hand_off.to_place, hand_off.file
    if stored is None:
        return
    if hand_off.stored is None:
        if dry_run.is_sample(file, stored.columns):
            file.unlink()
    elif not file.exists() or (
        file.stat().st_size != stored.size and dry_run.is_sample(file, stored.columns)
    ):
        try:
            _place_set(hand_off)
        except StoreError as error:  # it may not hide what ended `develop`
            logger().warning(error)
    hand_off.aside.unlink(missing_ok=True)


def _merged_columns(hand_off: HandOff) -> tuple[str, ...]:
    """Return the factors in the file that RD-Agent wrote.

    Raises:
        FactorEmptyError: RD-Agent's, which skips the loop, if this run's own factors leave no usable file.
        FactorFileError: if a `develop` that changes what it gets does.
    """
    try:
        return parquet.read_footer(hand_off.file).columns
    except FactorFileError as error:
        if hand_off.whole:
            raise
        first = error.failures[0]
        if first.reason is Reason.NO_ROWS:  # factor loops keep the rows with a value of every factor
            raise handoff.loop_is_empty("no row has a value of every factor, old and new") from None
        raise handoff.loop_is_empty(f"the run's own factors leave no usable file: {first.fact}") from None


def _check_rows(hand_off: HandOff, train: model_yaml.Segment) -> None:
    """Log how many rows a factor loop is trained on: RD-Agent keeps those with a value of every factor.

    Raises:
        FactorEmptyError: RD-Agent's, if none is in the training segment: no factor would be seen there.
    """
    days = panel.days_of(hand_off.file)
    trained = int(model_yaml.inside(days, train).sum())
    logger().info(
        f"SOTA factors: {len(days)} of the loaded set's {hand_off.record['rows']} rows have a value of every "
        f"factor, old and new; {trained} of them are in the training segment"
    )
    if not trained:
        raise handoff.loop_is_empty(
            f"no row of the training segment ({train[0]:%Y-%m-%d} to {train[1]:%Y-%m-%d}) has a value of "
            "every factor, old and new"
        )


def _check_loaded(hand_off: HandOff, workspace: Path) -> None:
    loaded = manifest.read_loaded(workspace)
    if loaded is None:
        logger().warning(
            f"The factors were handed over; what Qlib loaded could not be read back ({workspace}), so this "
            "loop has no proof that they were used"
        )
        return
    base = hand_off.base_beside_mined
    manifest.check_loaded(loaded, base.names, hand_off.mined, workspace)
    hand_off.loaded = loaded
    kinds = f"({len(hand_off.mined)} mined, {len(base.features)} base)"
    if loaded.columns is None:
        logger().info(f"SOTA factors used: LightGBM was trained on {loaded.num_features} columns {kinds}")
        return
    logger().info(
        f"SOTA factors used: Qlib loaded {len(loaded.columns)} columns {kinds}, "
        f"num_features {loaded.num_features}"
    )
    if loaded.columns_without_spread is None:
        logger().info(
            "SOTA factors: how much of each the model saw is unknown, for another processor than Qlib's "
            "RobustZScoreNorm scaled them"
        )
    elif flat := [name for name in hand_off.mined if name in loaded.columns_without_spread]:
        logger().warning(
            f"SOTA factors that the model saw little or nothing of: {', '.join(flat)}. The median absolute "
            f"deviation of their training values is under {manifest.LEAST_SPREAD:g}, and Qlib's "
            "RobustZScoreNorm adds 1e-12 to it; `rdagent-sota check` says what to do"
        )

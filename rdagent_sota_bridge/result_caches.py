"""RD-Agent's caches of results: whether one tells factor sets apart, turned on and off, and looked into."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.errors import OTHER_RELEASE, HandOffError
from rdagent_sota_bridge.stop import logger
from rdagent_sota_bridge.underway import HandOff


def tells_sets_apart(cache: dict[str, Any], hand_off: HandOff, runner: Any) -> bool:
    """Return True if a cache of results gives no model the result of another set, or of none.

    A fork's own key function may leave out the experiments before, or count them: the function is asked.

    Raises:
        HandOffError: if the function fails, or a cache that does not tell sets apart can't be turned off.
    """
    from rdagent_sota_bridge import experiment

    exp, record, base = hand_off.experiment, hand_off.record, hand_off.base
    given = exp.based_experiments
    # The reference of fin_quant's factor loops has the set in its own sub-task.
    stands_there = any(experiment.stands_for_a_set(based) for based in given)
    if not stands_there or not (hand_off.result_caches or cache["force"]):
        return True
    key_function = cache["hash_func"]
    place = (
        f"{key_function.__module__}.{key_function.__qualname__}, the key of the cache of develop's results"
    )
    others = [
        None,
        experiment.synthetic_experiment({**record, "digest": "another set"}, base.digest),
        experiment.synthetic_experiment(record, "another base set"),
    ]
    try:
        key = cache["hash_func"](runner, exp)
        keys = []
        for other in others:
            replaced = [other if experiment.stands_for_a_set(based) else based for based in given]
            exp.based_experiments = [based for based in replaced if based is not None]
            keys.append(cache["hash_func"](runner, exp))
    except Exception as error:
        raise HandOffError(
            f"RD-Agent's cache makes no key for a model with factors: {type(error).__name__}: {error}",
            place,
            "let it make one of the text of all sub-tasks, as RD-Agent's CachedRunner.get_cache_key does",
        ) from error
    finally:
        exp.based_experiments = given
    if key is None or key not in keys:
        return True
    if cache["force"]:
        raise HandOffError(
            "RD-Agent's cache would answer with the result of another factor set, and can't be turned off",
            place,
            "take force=True away, or let the key have the text of all sub-tasks in based_experiments",
        )
    logger().warning(f"RD-Agent's result cache is not used: it does not tell factor sets apart ({place})")
    return False


@contextmanager
def switched(on: bool) -> Iterator[None]:
    """Turn RD-Agent's caches of results on or off; `cache_with_pickle` reads the setting at each call."""
    settings = import_module("rdagent.core.conf").RD_AGENT_SETTINGS
    before = settings.cache_with_pickle
    settings.cache_with_pickle = on
    try:
        yield
    finally:
        settings.cache_with_pickle = before


def check_cached(hand_off: HandOff, cache: dict[str, Any] | None, runner: Any, exp: Any) -> None:
    """Check that a result without a training is one of RD-Agent's cache, and not one without the factors."""
    settings = import_module("rdagent.core.conf").RD_AGENT_SETTINGS
    key = None if cache is None else cache["hash_func"](runner, exp)
    cached = key is not None and any(Path(settings.pickle_cache_folder_path_str).glob(f"*/{key}.pkl"))
    if hand_off.merged or not cached:
        raise HandOffError(
            "RD-Agent gave a result without training a model, and not from its cache",
            f"{type(runner).__module__}.{type(runner).__qualname__}.develop",
            OTHER_RELEASE,
        )

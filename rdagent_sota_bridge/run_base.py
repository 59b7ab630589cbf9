"""The base set of a run: which it is, how RD-Agent is given it, and what is said of it."""

from __future__ import annotations

from typing import Any

from rdagent_sota_bridge import alpha, dry_run, qlib_config
from rdagent_sota_bridge import plan as plans
from rdagent_sota_bridge.plan import Record
from rdagent_sota_bridge.stop import logger
from rdagent_sota_bridge.underway import HandOff


def base_of_run(record: Record, exp: Any) -> alpha.BaseSet:
    """Return the base set of the run: the one asked for, or features that the user chose in RD-Agent.

    The record remembers which, from the first model on: later ones must have the same.
    """
    asked = record["base_set"]
    base = alpha.BaseSet(asked["name"], tuple((name, expression) for name, expression in asked["features"]))
    given = _chosen_in_rdagent(exp)
    if given and not asked["explicit"]:
        base = alpha.given_set(given)
    began_name, began_digest = record.setdefault("base_of_run", [base.name, base.digest])
    if began_digest != base.digest:
        raise plans.changed_base_set(
            f"{began_name} (sha256:{began_digest})", f"{base.name} (sha256:{base.digest})"
        )
    return base


def _chosen_in_rdagent(exp: Any) -> dict[str, str]:
    """Return the base features that the user chose in RD-Agent, or wrote into its YAML; empty for ALPHA20."""
    given = getattr(exp, "base_features", None)
    if given and not alpha.same_features(given, alpha.ALPHA20):
        return dict(given)
    # A factor loop's workspace has other YAML files; its base features have to be the models'.
    text = exp.experiment_workspace.file_dict.get(qlib_config.CONFIG_FILE)
    written = qlib_config.written_features(dry_run.of_models().config if text is None else text)
    return {} if written == alpha.ALPHA20 else written


def log_base_set(hand_off: HandOff) -> None:
    """Tell what a model gets beside the mined columns: the line of the plan, and what gives way to what."""
    log = logger()
    base, beside = hand_off.base, hand_off.base_beside_mined
    given = _chosen_in_rdagent(hand_off.experiment)
    if base.name == alpha.GIVEN:
        shown = ", ".join(base.names[:5]) + (", …" if len(base.names) > 5 else "")
        log.info(f"Base features chosen in RD-Agent are kept, for ALPHA_FACTORS is not set: {shown}")
    elif given:
        log.info(f"The base set {base.name} takes the place of {len(given)} base features chosen in RD-Agent")
    if not base.features:
        log.info("USE_ALPHA_FACTORS is off: the model trains on the mined factors alone")
        return
    log.info(f"叠加Alpha因子: {len(beside.features)}个")
    replaced = [name for name in base.names if name not in set(beside.names)]
    if replaced:
        log.info(
            f"{len(replaced)} of the {len(base.features)} features of {base.name} give way to mined columns "
            f"of the same name: {', '.join(replaced)}"
        )


def give_base_features(hand_off: HandOff) -> None:
    """Give RD-Agent 1.0.0 the base features that it counts into num_features; 0.8.0 knows none."""
    if hasattr(hand_off.experiment, "base_features"):
        hand_off.experiment.base_features = dict(hand_off.base_beside_mined.features)

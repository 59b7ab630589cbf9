"""What a run is going to do with the factors: checked before the first LLM call, and kept by the runner."""

from __future__ import annotations

import dataclasses
import math
import os
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.bridge import dry_run, seams, verdict
from rdagent_sota_bridge.bridge.stop import continue_without_factors, logger
from rdagent_sota_bridge.check import inspect
from rdagent_sota_bridge.errors import (
    OTHER_RELEASE,
    BridgeError,
    HandOffError,
    SeamError,
    SetChangedError,
    SettingsError,
)
from rdagent_sota_bridge.factor_set import locate, panel, parquet, store
from rdagent_sota_bridge.qlib_files import manifest, training_record
from rdagent_sota_bridge.settings import Settings, is_enabled, lost_switch, read_settings
from rdagent_sota_bridge.sharing import fetch

RUNNER_ATTRIBUTE = "sota_bridge"
"""What a runner carries through a session: {"record": plain dict or None, "reason": text}."""

Record = dict[str, Any]

RECORD_VERSION = 2
"""The form of the records that runners carry; 1 was that of one file taken whole.

A release may add entries, and may not need them of a session. One that takes away an entry that
`check_same_set` reads, or gives it or a digest another meaning, raises this number: sessions of another form
are refused, before RD-Agent touches them, with the release that they are for.
"""


@dataclass(frozen=True)
class Plan:
    """What a run is going to do: hand over the set of `record`, or train without factors for `reason`.

    A run that was resumed with its set keeps the reason for which its first loops had none.
    """

    record: Record | None
    reason: str = ""


# --- the check ---


def checked_plan() -> Plan | None:
    """Check everything that a run needs, and return its plan; None where the switch is off.

    A run for which a set is named and no switch is set gets a warning.
    Where the factors can't be used and `SOTA_ON_ERROR=baseline`, the reason is logged as a warning and the
    plan is to train without them.

    Raises:
        BridgeError: where the factors can't be used otherwise, and for a setting that means nothing.
    """
    if not is_enabled():
        if text := lost_switch():
            logger().warning(text)
        return None
    settings = read_settings()
    release = manifest.versions().get("rdagent", "of a source checkout")
    logger().info(f"SOTA seams: rdagent-sota-bridge {__version__} on RD-Agent {release}: {seams.shown()}")
    try:
        record = _checked_record(settings)
        keep_in_store(record)  # now, so that a full disk is noticed before an LLM call is paid
        plan = Plan(record)
    except SettingsError:
        raise
    except BridgeError as error:
        if settings.on_error == "fail":
            raise
        continue_without_factors(error)
        plan = Plan(None, str(error))
    _warn_of_verdict(settings)
    return plan


def check_named() -> None:
    """Check that what a run names is there; not where it could go on without, which a warning says later.

    Raises:
        BridgeError: if not, and for a setting that means nothing.
    """
    if is_enabled() and (settings := read_settings()).on_error == "fail":
        _located(settings)


def _located(settings: Settings) -> tuple[locate.Located, ...]:
    fetched = fetch.into_store(settings.store_path, lambda text: logger().info(f"SOTA factors fetch: {text}"))
    return locate.factor_sets(settings.workspace_paths, settings.log_paths, fetched)


def _checked_record(settings: Settings) -> Record:
    """Check RD-Agent's shape, base set, set and market, and return the record of what will be used."""
    for status in seams.status():
        if status.state == "misfit" and status.seam.carries_factors:
            raise SeamError(status.reason, status.seam.module, OTHER_RELEASE)
    located = _located(settings)
    columns = dict.fromkeys(name for at in located for name in parquet.read_footer(at.path).columns)
    found = inspect.inspect(settings, dry_run.of_models(tuple(columns)).start, located)
    found.raise_failures()
    _log_loaded(found)
    held, base = found.quality.factors, found.base
    sources = [
        {
            "path": str(source.path),
            "digest": source.digest,
            "columns": list(source.columns),
            "metrics": _metrics_beside(source.path),
            **_origin(source.path, found.located),
        }
        for source in found.quality.sources
    ]
    return {
        "version": RECORD_VERSION,
        "release": __version__,
        "path": str(held.path),
        **panel.described(held),
        "is_normal": found.quality.is_normal,
        # Those of a back-test of the whole set say nothing of a part of it, or of a join.
        "metrics": sources[0]["metrics"] if sources[0]["digest"] == held.digest else {},
        "sources": sources,
        "choice": {
            "factors": list(settings.factor_patterns),
            "exclude": list(settings.excluded_patterns),
            "max_correlation": settings.max_correlation if math.isfinite(settings.max_correlation) else "off",
            "left_out": list(found.quality.left_out),
            "dropped": [dataclasses.asdict(drop) for drop in found.quality.dropped],
        },
        "base_set": {
            "name": base.name,
            "digest": f"sha256:{base.digest}",
            "features": [list(pair) for pair in base.features],
            "explicit": settings.alpha_factors_explicit or not settings.use_alpha_factors,
        },
    }


def _origin(path: Path, located: tuple[locate.Located, ...]) -> dict[str, Any]:
    """Return what led to a file: its log, or its URL without secrets; {} where its path was named."""
    for at in located:
        if at.path == path and at.url:
            return {"url": at.url, "fetched": at.fetched}
        if at.path == path and at.log is not None:
            return {"log": str(at.log), "loop": at.loop, "workspace_id": at.workspace_id}
    return {}


def _metrics_beside(path: Path) -> dict[str, float]:
    try:
        return training_record.metrics_beside(path)
    except (OSError, ValueError) as error:
        logger().warning(f"The factor run's own metrics are left out, for {error}")
        return {}


def _log_loaded(found: inspect.Inspection) -> None:
    log, held = logger(), found.quality.factors
    for at in found.located:
        if at.accepted:
            log.info(f"SOTA factors accepted in loop {at.loop} of {at.log}")
        if at.url:
            log.info(f"SOTA factors fetched from {at.url} ({at.fetched})")
        for note in at.notes:
            log.warning(note)
    for source in found.quality.sources:
        log.info(f"SOTA factors loaded from workspace: {source.path}")
        if source.layout:
            log.info(f"SOTA factors layout: {source.layout}")
    log.info(f"SOTA factors shape: ({held.rows}, {len(held.columns)})")
    log.info(f"SOTA factors digest: {held.digest}")
    for line in found.lines:
        if line.state == "warn":
            log.warning(f"SOTA factors check: {line}")


def _warn_of_verdict(settings: Settings) -> None:
    """Warn a run that can't accept a model in fin_model, or perhaps can't."""
    # A loop imports it after its runner; with the hook that applies its seam.
    feedback = import_module("rdagent.scenarios.qlib.developer.feedback")
    judge = getattr(getattr(feedback, "QlibModelExperiment2Feedback", None), "generate_feedback", None)
    at = next(status for status in seams.status() if status.seam.name == "verdict")
    misfit = "" if at.state == "applied" else at.reason or "the seam verdict is not applied"
    if trouble := verdict.trouble(judge, settings.verdict_on_models, misfit):
        logger().warning(f"SOTA model verdict: {trouble}")


def keep_in_store(record: Record) -> store.Stored:
    """Return the copy in the store of the set that a run hands over; it is written where it is not there.

    Raises:
        BridgeError: if a file has changed, or the store can't be written.
    """
    wanted = store.Wanted(
        record["digest"],
        tuple(record["columns"]),
        tuple((Path(source["path"]), source["digest"]) for source in record["sources"]),
        record["is_normal"],
    )
    place = store.folder(read_settings().store_path)
    stored = store.keep(wanted, place, lambda text: logger().info(f"SOTA factors store: {text}"))
    if stored.note:
        logger().warning(f"SOTA factors store: {stored.note}; the copy was written anew")
    return stored


# --- what a runner carries ---


def record_of(runner: Any) -> Record | None:
    """Return the record of the set that a runner hands over, or None."""
    return getattr(runner, RUNNER_ATTRIBUTE, {}).get("record")


def remember(runner: Any, plan: Plan | None) -> None:
    """Let a runner carry a plan through its session; None takes away what it carries."""
    vars(runner).pop(RUNNER_ATTRIBUTE, None)
    if plan is not None:
        setattr(runner, RUNNER_ATTRIBUTE, dataclasses.asdict(plan))


def resume_with(runner: Any, plan: Plan | None) -> None:
    """Give a resumed runner the plan of this process; warn where factors come or go.

    Raises:
        SetChangedError: if the run would continue with another set, or base set, than it began with.
    """
    began, now = record_of(runner), None if plan is None else plan.record
    if began is not None and now is not None:
        check_same_set(began, now)
        if "base_of_run" in began:
            now["base_of_run"] = began["base_of_run"]
        then, here = began.get("release"), now["release"]
        if then not in (None, here):
            logger().info(f"This run began with rdagent-sota-bridge {then}, and goes on with {here}")
    elif began is not None:
        why = "LOAD_SOTA_FROM_WORKSPACE is off" if plan is None else "the set can't be used"
        logger().warning(
            f"This run was trained on the factor set {began['digest']} ({began['path']}) so far, and goes on "
            f"without it: {why}. Results before and after don't compare"
        )
    elif now is not None:
        logger().warning(
            f"This run was trained without factors so far, and goes on with the set {now['digest']}: "
            "results before and after don't compare"
        )
    if plan is not None and now is not None:  # why its first loops had none stays known
        plan = dataclasses.replace(plan, reason=getattr(runner, RUNNER_ATTRIBUTE, {}).get("reason", ""))
    remember(runner, plan)


def check_same_set(began: Record, now: Record) -> None:
    """Check that a run continues with the set and the base set that it began with.

    Raises:
        SetChangedError: if not; it names both digests.
    """
    if began["version"] != now["version"]:
        release = began.get("release", "")  # the first releases wrote none
        which = f"rdagent-sota-bridge=={release}" if release else "the release that it was written with"
        raise SetChangedError(
            f"The session was written by another release of rdagent-sota-bridge{release and f', {release}'}",
            f"form {began['version']} then, {now['version']} now ({now['release']})",
            f"install {which}, or start a new run",
        )
    files_then, files_now = ([source["digest"] for source in record["sources"]] for record in (began, now))
    if began["digest"] != now["digest"] and files_then == files_now:
        raise SetChangedError(
            "The factors taken are not those that this run began with: "
            f"it began with {', '.join(began['columns'])}, now taken are {', '.join(now['columns'])}",
            f"SOTA_FACTORS, SOTA_FACTORS_EXCLUDE and SOTA_MAX_CORRELATION, {now['path']}",
            "set them as they were and resume, or start a new run",
        )
    if began["digest"] != now["digest"]:
        paths = os.pathsep.join(source["path"] for source in began["sources"])
        raise SetChangedError(
            "The factor set is not the one that this run began with: "
            f"it began with {began['digest']}, now named is {now['digest']}",
            f"{began['path']} then, {now['path']} now",
            f"name the set of the first digest and resume (SOTA_WORKSPACE_PATH={paths}, and "
            "SOTA_LOG_PATH not set), or start a new run with the new set",
        )
    before, after = began["base_set"], now["base_set"]
    if (before["digest"], before["explicit"]) != (after["digest"], after["explicit"]):
        asked = {True: "by ALPHA_FACTORS or USE_ALPHA_FACTORS", False: "by default"}
        raise changed_base_set(
            *(f"{base['name']} ({base['digest']}, {asked[base['explicit']]})" for base in (before, after))
        )


def changed_base_set(began: str, now: str) -> SetChangedError:
    """Return the error for a base set that is not what the run began with."""
    return SetChangedError(
        "The base set is not the one that this run began with: "
        f"it began with {began}, now asked for is {now}",
        "USE_ALPHA_FACTORS and ALPHA_FACTORS, or the base features chosen in RD-Agent",
        "set them as they were and resume, or start a new run",
    )


# --- runner classes ---


def check_runner(runner: Any) -> dry_run.DryRun:
    """Return what a runner's `develop` does with the set that the runner carries.

    Raises:
        HandOffError: if it does not lead to the hand-off; the run would drop the factors in silence.
    """
    record = record_of(runner)
    columns = dry_run.PROBED if record is None else tuple(record["columns"])
    return check_runner_class(type(runner), columns, runner)


def check_runner_class(
    runner_class: type, columns: tuple[str, ...] = dry_run.PROBED, runner: Any = None
) -> dry_run.DryRun:
    """Return what the `develop` of any class that QLIB_MODEL_RUNNER may name does, as `check_runner` does."""
    asked = dry_run.ask_model_runner(runner_class, columns, runner)
    if isinstance(asked, dry_run.DryRun):
        return asked
    raise HandOffError(
        "LOAD_SOTA_FROM_WORKSPACE is on, and the run's model runner can't be given the factors",
        f"{runner_class.__module__}.{runner_class.__qualname__}, whose develop {asked}",
        "unset QLIB_MODEL_RUNNER (QLIB_QUANT_MODEL_RUNNER), or call super().develop(exp) in a class derived "
        "from QlibModelRunner, without a cache around it",
    )


def warn_of_unlike_factor_loops(reason: str) -> None:
    """Warn of a run of `fin_quant` whose factor loops don't get the set that its models get."""
    logger().warning(
        f"SOTA factors can't join the factor loops of this run ({reason}): RD-Agent judges them without the "
        "loaded set, the first one against its base features, later ones against models that were trained "
        "with it"
    )

"""Everything about a set that a run checks, and `rdagent-sota check` without a run."""

from __future__ import annotations

import os
from dataclasses import dataclass

from rdagent_sota_bridge.check import quality
from rdagent_sota_bridge.check.line import Line, lines_of
from rdagent_sota_bridge.check.lines import failures, set_lines
from rdagent_sota_bridge.check.quality import Quality
from rdagent_sota_bridge.errors import FactorFileError, SettingsError
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.qlib_files import base_sets, docker, market
from rdagent_sota_bridge.qlib_files.market import Market
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart, Task
from rdagent_sota_bridge.settings import REMOVED, Settings, misspelt_names


@dataclass(frozen=True, eq=False)
class Inspection:
    """What was found.

    Attributes:
        located: The factor files, and how they were found.
        base: The base set.
        task: The segments, the market's name and the label.
        market: The market; None where Qlib's data is not there yet.
        quality: What was found out about the set.
        late: What is wrong with a test segment that ends too late; None for one that does not.
        lines: The lines of the check.
    """

    located: tuple[Located, ...]
    base: base_sets.BaseSet
    task: Task
    market: Market | None
    quality: Quality
    late: SettingsError | None
    lines: list[Line]

    def raise_failures(self) -> None:
        """Raise what stops a run.

        Raises:
            SettingsError: if no back-test can end with the test segment.
            FactorFileError: if the set fills too little of the market.
        """
        if self.late is not None:
            raise self.late
        if found := failures(self.quality, self.task):
            raise FactorFileError(" and ".join(str(source.path) for source in self.quality.sources), found)


def inspect(settings: Settings, start: QlibStart, located: tuple[Located, ...]) -> Inspection:
    """Look at a set, against the market and the segments of the installed RD-Agent.

    Args:
        settings: The settings.
        start: What RD-Agent's `develop` would start Qlib with: it names the market, the segments, the label.
        located: The factor files.

    Raises:
        BridgeError: if the set can't be used, whatever the figures of its values.
    """
    base = base_sets.base_set(settings.alpha_factors) if settings.use_alpha_factors else base_sets.NO_BASE_SET
    located = tuple(at if at.log is not None or at.url else locate.with_its_log(at) for at in located)
    task = start.task(base)
    home = market.read_market(task.provider_uri, task.market)
    wish = quality.Wish(settings.factor_patterns, settings.excluded_patterns, settings.max_correlation)
    found = quality.look([at.path for at in located], wish, home, task)
    late = market.late_end(home, start, task)
    lines = [*_settings_lines(), *_cache_lines(), *_verdict_lines(located), *set_lines(found, home, task)]
    lines += [] if late is None else lines_of(late, "test end")
    return Inspection(located, base, task, home, found, late, lines)


def _settings_lines() -> list[Line]:
    found = [
        (name, f"{name} is no setting of this package", f"did you mean {near}?")
        for name, near in misspelt_names()
    ]
    if REMOVED in os.environ:
        text = f"{REMOVED} has no effect any more: Qlib builds the data of each model"
        found.insert(0, (REMOVED, text, f"take {REMOVED} out of the environment or .env"))
    return [Line("settings", "warn", text, fix, {"name": name}) for name, text, fix in found]


def _cache_lines() -> list[Line]:
    """Return the line of RD-Agent's cache of qruns (`utils/env.py`, 0.8.0, 1.0.0), where it is on."""
    names = [*(["QLIB_DOCKER_ENABLE_CACHE"] if docker.is_qlib_in_docker() else []), "ENABLE_CACHE"]
    name = next((name for name in names if os.environ.get(name)), "")
    if os.environ.get(name, "").lower() not in ("1", "on", "t", "true", "y", "yes"):
        return []
    text = (
        f"{name} is on: RD-Agent keeps a zip of each training's workspace, the factor file included, in its "
        "cache folder, and no later training with loaded factors uses it"
    )
    return [Line("cache", "warn", text, f"set {name}=false, and delete the folder's zips")]


def _verdict_lines(located: tuple[Located, ...]) -> list[Line]:
    """Return the lines of sets that a run rejected: their files mix the rejected factors in."""
    found = []
    for at in located:
        if at.accepted is False:
            text = f"{at.path.parent} is the set of loop {at.loop} of {at.log}, which was rejected"
            fix = f"name the run's log, for the set of its last accepted loop: SOTA_LOG_PATH={at.log}"
            found.append(Line("verdict", "warn", text, fix, {"loop": at.loop, "log": str(at.log)}))
    return found

"""The synthetic experiment that carries a factor set into RD-Agent's merge path."""

from __future__ import annotations

import math
from typing import Any

import pandas as pd
from rdagent.components.coder.factor_coder.factor import FactorTask
from rdagent.core.experiment import Experiment
from rdagent.core.proposal import Hypothesis
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

from rdagent_sota_bridge.errors import plural

ATTRIBUTE = "sota_factor_set"
"""The attribute that our experiments alone have: a plain dict, so that a session loads after an uninstall."""

# IMPORTANT_METRICS of `scenarios/qlib/developer/feedback.py` and QLIB_SELECTED_METRICS of `log/ui/app.py`
# (0.8.0, 1.0.0), which RD-Agent reads with `.loc`: a missing name is a KeyError there.
METRICS = (
    *("IC", "ICIR", "Rank IC", "Rank ICIR"),
    *(
        f"1day.excess_return_{costs}_cost.{figure}"
        for costs in ("without", "with")
        for figure in ("annualized_return", "information_ratio", "max_drawdown")
    ),
)


def synthetic_experiment(record: dict[str, Any], base_digest: str) -> Any:
    """Return a `QlibFactorExperiment` that stands for a set: a path, a digest and names, never the data.

    Its one sub-task carries the digests of the set and of the base set into RD-Agent's cache key, which is
    the text of the sub-tasks (`components/runner/__init__.py`, 0.8.0 and 1.0.0). Of the factor run's metrics
    RD-Agent gets the missing ones as NaN.
    """
    task = FactorTask(
        factor_name="SOTA factor set",
        factor_description=f"{plural(len(record['columns']), 'factor')} that a factor run accepted",
        factor_formulation=f"factor set {record['digest']}, base set sha256:{base_digest}",
        variables={},
    )
    count = plural(len(record["columns"]), "factor")
    text = f"Accepted: {count} of {record['path']} ({record['digest']})."
    experiment = _bare_experiment([task], Hypothesis(text, text, text, text, text, text))
    experiment.result = pd.Series({**dict.fromkeys(METRICS, math.nan), **record["metrics"]}, name="0")
    setattr(experiment, ATTRIBUTE, {name: record[name] for name in ("path", "digest", "columns")})
    return experiment


def reference_experiment(record: dict[str, Any], base_digest: str, like: Any) -> Any:
    """Return a `QlibFactorExperiment` that RD-Agent's factor runner can back-test: a set on a base set.

    A factor loop of `fin_quant` in which nothing is accepted yet is compared with its result, where RD-Agent
    takes that of its base features alone (`developer/factor_runner.py`, 0.8.0 and 1.0.0). It gets the base
    features (1.0.0: names, expressions, code) of the loop's experiment, `like`.
    """
    synthetic = synthetic_experiment(record, base_digest)
    reference = QlibFactorExperiment(synthetic.sub_tasks, hypothesis=None)
    reference.based_experiments = [base_experiment()]
    reference.base_features = getattr(like, "base_features", None) or {}
    reference.base_feature_codes = getattr(like, "base_feature_codes", None) or {}
    setattr(reference, ATTRIBUTE, getattr(synthetic, ATTRIBUTE))
    return reference


def base_experiment() -> Any:
    """Return the empty factor experiment that RD-Agent's factor loop puts first.

    The merge in `QlibModelRunner.develop` needs more than one factor experiment (0.8.0, 1.0.0).
    """
    experiment = _bare_experiment([], None)
    experiment.result = pd.Series(dict.fromkeys(METRICS, math.nan), name="0")
    setattr(experiment, ATTRIBUTE, {})
    return experiment


def is_ours(experiment: Any) -> bool:
    """Return True for the two experiments of this module."""
    return ATTRIBUTE in vars(experiment)


def stands_for_a_set(experiment: Any) -> bool:
    """Return True for an experiment of this module that carries a set."""
    return bool(vars(experiment).get(ATTRIBUTE))


def with_code(experiments: list[Any]) -> list[Any]:
    """Return those for which RD-Agent has factor code to run: a run's own tasks, or base features' (1.0.0).

    Ours stand for a set; of the reference that is the code of base features alone, as an experiment.
    """
    found = []
    for experiment in experiments:
        codes = getattr(experiment, "base_feature_codes", None)
        if is_ours(experiment):
            if codes:
                bare = _bare_experiment([], None)
                bare.base_feature_codes = codes
                found.append(bare)
        elif experiment.sub_tasks or codes:
            found.append(experiment)
    return found


def is_factor_experiment(experiment: Any) -> bool:
    """Return True for a factor experiment. (RD-Agent's `FactorExperiment` is an alias for models too.)"""
    return isinstance(experiment, QlibFactorExperiment)


def _bare_experiment(tasks: list[FactorTask], hypothesis: Hypothesis | None) -> Any:
    # `QlibFactorExperiment.__init__` makes a workspace folder with templates in it on disk; the base class
    # makes none. Its default for `based_experiments` is one list for all instances, so a new one is passed.
    experiment = QlibFactorExperiment.__new__(QlibFactorExperiment)
    Experiment.__init__(experiment, tasks, based_experiments=[], hypothesis=hypothesis)
    experiment.stdout = ""
    experiment.base_features = {}
    experiment.base_feature_codes = {}
    return experiment

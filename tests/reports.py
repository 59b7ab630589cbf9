"""Reports as `report.gather` makes them, written by hand: of any number of loops and factors."""

from __future__ import annotations

import dataclasses
import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.qlib_files.base_sets import ALPHA20, ALPHA22
from rdagent_sota_bridge.qlib_files.model_yaml import Task
from rdagent_sota_bridge.qlib_files.training_record import QlibRecord
from rdagent_sota_bridge.report.ablation import Pair, Trained
from rdagent_sota_bridge.report.daily_ic import DailyIC
from rdagent_sota_bridge.report.factor_analysis import FactorAnalysis
from rdagent_sota_bridge.report.gather import METRICS, FactorOrigin, Report
from rdagent_sota_bridge.report.history import Factor, Loop, Run
from rdagent_sota_bridge.report.portfolio_returns import Returns
from rdagent_sota_bridge.report.tearsheet import QUANTILES, ROLLING_DAYS, Sheet
from rdagent_sota_bridge.report.trials import Trials

CREATED = datetime.datetime(2026, 1, 6, 12, 0, tzinfo=datetime.timezone.utc)
DIGEST = "sha256:" + "ab12cd34" * 8

HOSTILE = (
    "</script><script>window.ran=1</script><img src=x onerror=window.ran=2>"
    "<svg onload=window.ran=3><a href='javascript:window.ran=4'>x</a>"
    "{{ 7*7 }}${window.ran=5}%{x}`\"'--><!--\u2028\u2029\u202e\ud800 &lt;b&gt;\x00"
)
"""A text that runs a script, ends a comment or a string, or breaks an encoder where it is not escaped."""

TASK = Task(
    provider_uri="~/.qlib/qlib_data/cn_data",
    market="csi300",
    train=(pd.Timestamp("2008-01-01"), pd.Timestamp("2014-12-31")),
    valid=(pd.Timestamp("2015-01-01"), pd.Timestamp("2016-12-31")),
    test=(pd.Timestamp("2017-01-01"), pd.Timestamp("2020-08-01")),
    label="Ref($close, -2)/Ref($close, -1) - 1",
)
DAYS = pd.bdate_range("2017-01-03", "2020-07-31")[:870]


def metrics(ic: float, annual: float = 0.1) -> dict[str, float]:
    """Return a loop's metrics by Qlib's names."""
    values = (ic, ic * 6, ic * 1.1, ic * 6.5, annual, annual * 12, -abs(annual) / 2 - 0.01)
    return dict(zip(METRICS.values(), values, strict=True))


def manifest(columns: tuple[str, ...], log: str = "/project/log/factors", loop: int = 0) -> dict[str, Any]:
    """Return a manifest as the package writes it."""
    base = dict(ALPHA22)
    source = {"path": "/project/w/combined_factors_df.parquet", "digest": DIGEST, "columns": list(columns)}
    return {
        "model": {"name": "Net", "type": "Tabular"},
        "factor_set": {
            **source,
            "rows": 261000,
            "instruments": 300,
            "start": "2008-01-02 00:00:00",
            "end": "2020-08-01 00:00:00",
            "metrics": {},
            "sources": [{**source, "metrics": {}, "log": log, "loop": loop, "workspace_id": "w"}],
            "stored": {"path": "/project/store/x.parquet", "digest": DIGEST, "placed_as": "link"},
        },
        "mined_columns": list(columns),
        "base_set": {"name": "alpha22", "digest": DIGEST, "features": base, "replaced_by_mined": []},
        "qlib_loaded": {
            "columns": sorted([*base, *columns]),
            "columns_without_training_values": [],
            "num_features": len(base) + len(columns),
        },
        "versions": {
            "rd_agent_side": {"rdagent-sota-bridge": "0.1.0", "rdagent": "1.0.0", "python": "3.11.7"},
            "qlib_side": {"qlib": "0.9.7", "torch": "2.13.0"},
        },
    }


def returns(seed: int, drift: float = 0.0004, days: pd.DatetimeIndex = DAYS) -> Returns:
    """Return a walk of daily returns."""
    steps = np.random.default_rng(seed).normal(drift, 0.004, len(days))
    with_cost = np.cumsum(steps)
    drawdown = with_cost - np.maximum.accumulate(with_cost)
    return Returns(days, with_cost + 0.0002 * np.arange(len(days)), with_cost, drawdown)


def daily_ic(seed: int, mean: float, days: pd.DatetimeIndex = DAYS) -> DailyIC:
    """Return the daily ICs of a model."""
    random = np.random.default_rng(seed)
    return DailyIC(*(pd.Series(random.normal(mean, 0.1, len(days)), days) for _ in range(2)))


def pair(
    loop: int,
    ours: float,
    base: float,
    *,
    run: int = 0,
    seed: int | None = None,
    days: pd.DatetimeIndex = DAYS,
    drifts: tuple[float, float] = (0.0004, 0.0002),
) -> Pair:
    """Return a model of these mean ICs, with the mined columns and without, and of these daily returns."""
    sides = (
        Trained(
            Path(f"/project/w/{loop}{seed or ''}{name}"),
            metrics(mean),
            daily_ic(100 * loop + (seed or 0) + at, mean, days),
            returns(100 * loop + at, drift, days),
        )
        for at, (name, mean, drift) in enumerate(zip(("", "-"), (ours, base), drifts, strict=True))
    )
    return Pair((run, loop), seed, *sides)


def sheet(name: str, seed: int = 0, mean: float = 0.03) -> Sheet:
    """Return a tear sheet of random figures that fit each other."""
    random = np.random.default_rng(seed)
    ic = random.normal(mean, 0.12, len(DAYS))
    months = pd.Series(ic, DAYS).groupby(DAYS.strftime("%Y-%m")).mean()
    autocorrelation = random.normal(0.85, 0.03, len(DAYS) - 1)
    return Sheet(
        name=name,
        coverage=0.97,
        days=DAYS,
        ic=ic,
        rolling_ic=pd.Series(ic).rolling(ROLLING_DAYS).mean().to_numpy(),
        mean_ic=float(ic.mean()),
        icir=float(ic.mean() / ic.std(ddof=1)),
        t_statistic=float(ic.mean() / ic.std(ddof=1) * len(ic) ** 0.5),
        months=tuple(months.index),
        monthly_ic=months.to_numpy(),
        quantile_returns=np.linspace(-0.0006, 0.0007, QUANTILES),
        autocorrelation_days=DAYS[1:],
        autocorrelation=autocorrelation,
        mean_autocorrelation=float(autocorrelation.mean()),
    )


def factor_analysis(
    columns: tuple[str, ...], notes: tuple[str, ...] = (), *, with_figures: bool = True
) -> FactorAnalysis:
    """Return the analysis of a set."""
    names = (*columns, *ALPHA22)
    random = np.random.default_rng(5)
    correlation = np.corrcoef(random.normal(size=(len(names), 40)))
    sheets = tuple(sheet(name, number, 0.04 - 0.004 * number) for number, name in enumerate(columns))
    if not with_figures:
        return FactorAnalysis(DIGEST, None, columns, (), names, np.full((len(names),) * 2, np.nan), notes)
    return FactorAnalysis(DIGEST, TASK, columns, sheets, names, correlation, notes)


def model_loop(number: int, ic: float, *, columns: tuple[str, ...] = (), **others: Any) -> Loop:
    """Return a model loop that was trained, on factors where some are named."""
    fields: dict[str, Any] = {
        "number": number,
        "kind": "model",
        "name": f"ResidualGRU_{number}",
        "model_type": "TimeSeries" if number % 2 else "Tabular",
        "accepted": number % 3 == 0,
        "hypothesis": f"Hypothesis {number}: a gated network keeps the slow part of the signal.",
        "observations": "The IC rose in most years; the drawdown did not.",
        "reason": "Better than the best so far." if number % 3 == 0 else "No better than the best so far.",
        "started": CREATED - datetime.timedelta(hours=20 - number),
        "ended": CREATED - datetime.timedelta(hours=19 - number),
        "seconds": 912.0 + 61 * number,
        "metrics": metrics(ic, ic * 3),
        "features": 22 + len(columns) if columns else 20,
        "cached": False,
        "workspace": Path(f"/project/w/{number}"),
        "manifest": manifest(columns) if columns else None,
        "record": QlibRecord(
            22 + len(columns), TASK, bool(columns), tuple(ALPHA22) if columns else tuple(ALPHA20)
        ),
        "code": "import torch\n\n\nclass Net(torch.nn.Module):\n    pass\n",
    }
    return Loop(**{**fields, **others})


def factor_loop(number: int, ic: float, names: tuple[str, ...], **others: Any) -> Loop:
    """Return a factor loop with a result."""
    factors = tuple(
        Factor(name, f"What {name} measures.", r"\frac{a}{b}", f"def {name}():\n    return 1 < 2\n")
        for name in names
    )
    fields: dict[str, Any] = {
        "number": number,
        "kind": "factor",
        "name": ", ".join(names),
        "accepted": number % 2 == 0,
        "hypothesis": f"Volume that comes with a gap carries on ({number}).",
        "seconds": 340.0,
        "started": CREATED - datetime.timedelta(days=2, hours=20 - number),
        "metrics": metrics(ic, ic * 2),
        "cached": False,
        "workspace": Path(f"/project/w/f{number}"),
        "record": QlibRecord(None, TASK, True, tuple(ALPHA20)),
        "factors": factors,
    }
    return Loop(**{**fields, **others})


def factor_names(count: int) -> tuple[str, ...]:
    """Return names as an LLM gives them."""
    stems = ("overnight_gap", "volume_surge", "residual_momentum", "range_reversal", "turnover_shock")
    return tuple(f"{stems[number % 5]}_{5 * (number // 5 + 1)}D" for number in range(count))


def failed(number: int) -> Loop:
    """Return a model loop without a result."""
    why = "not finished: the coder did not get the model to work (RuntimeError: shape mismatch)"
    return Loop(number, "model", "WideTransformer", "TimeSeries", None, why, "A wider network sees more.")


def whole_report(loops: int = 10, factors: int = 12) -> Report:
    """Return a factor run, a model run with the factors, and one without, of so many loops each."""
    random = np.random.default_rng(1)
    names = factor_names(factors)
    groups = [names[number::loops] or (names[0],) for number in range(loops)]
    mined = tuple(
        factor_loop(number, 0.02 + 0.002 * number, group, accepted=True)
        for number, group in enumerate(groups)
    )
    ours = tuple(
        model_loop(number, 0.045 + 0.02 * random.random(), columns=names) for number in range(loops - 1)
    )
    base = tuple(model_loop(number, 0.02 + 0.02 * random.random()) for number in range(loops))
    runs = (
        Run(Path("/project/log/factors"), "fin_factor", mined, {"evolving_n": "10"}),
        Run(
            Path("/project/log/models"),
            "fin_model",
            (*ours, failed(loops - 1)),
            {"train_start": "2008-01-01"},
        ),
        Run(Path("/baseline/log/models"), "fin_model", base),
    )
    found = {
        (position, number): returns(50 * position + number, 0.0001 * position)
        for position, run in enumerate(runs)
        for number, loop in enumerate(run.loops)
        if loop.metrics
    }
    origins = {
        (DIGEST, factor.name): FactorOrigin(runs[0].log, loop.number, loop.hypothesis, factor)
        for loop in mined
        for factor in loop.factors
    }
    daily = {
        place: daily_ic(50 * place[0] + place[1], runs[place[0]].loops[place[1]].metrics["IC"])
        for place in found
    }
    pairs = tuple(pair(number, 0.05, 0.02, run=1) for number in range(loops - 1))
    tried = Trials(2 * loops, factors, 0.002)
    return Report(CREATED, runs, found, (factor_analysis(names),), (), origins, daily, pairs, tried)


def poor_reports() -> dict[str, Report]:
    """Return reports that miss something."""
    whole = whole_report(2, 1)
    factors, ours, base = whole.runs
    note = "There is no Qlib data at ~/.qlib/qlib_data/cn_data, so these factors have no figures."
    no_figures = (factor_analysis(factor_names(1), (note,), with_figures=False),)
    all_failed = Run(ours.log, "fin_model", (failed(0), failed(1)))
    nothing: dict[str, Any] = {"returns": {}, "factor_analyses": (), "pairs": (), "daily": {}}
    changes: dict[str, dict[str, Any]] = {
        "no Qlib data": {"factor_analyses": no_figures},
        "no returns": {"returns": {}},
        "only factors": {"runs": (factors,), "returns": {}, "pairs": (), "daily": {}},
        "only a baseline": {"runs": (base,), **nothing},
        "all failed": {"runs": (all_failed,), **nothing},
        "not begun": {"runs": (Run(ours.log, "fin_model", ()),), **nothing},
    }
    return {which: dataclasses.replace(whole, **change) for which, change in changes.items()}

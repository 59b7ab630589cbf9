"""A report all of whose texts are hostile: they would run scripts wherever they are not escaped."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.report.gather import FactorOrigin, Report
from rdagent_sota_bridge.report.history import Run
from tests import reports
from tests.reports import HOSTILE


def hostile_report() -> Report:
    """Return a report with hostile names, hypotheses, reasons, code, columns, paths, notes and manifests."""
    columns = (HOSTILE, "__proto__", "var(--plot-1)", "x" * 400)
    texts: dict[str, Any] = {
        "name": HOSTILE,
        "model_type": HOSTILE,
        "hypothesis": HOSTILE,
        "observations": HOSTILE,
        "reason": HOSTILE,
        "code": HOSTILE,
    }
    told = hostile(reports.manifest(columns))
    model = dataclasses.replace(reports.model_loop(0, 0.05), manifest=told, **texts)
    second = dataclasses.replace(reports.model_loop(1, 0.04), manifest={"factor_set": HOSTILE}, **texts)
    failed = dataclasses.replace(reports.failed(2), name=HOSTILE, failure=HOSTILE * 20)
    factors = tuple(
        dataclasses.replace(factor, name=name, description=HOSTILE, formulation=HOSTILE, code=HOSTILE)
        for name, factor in zip(columns, reports.factor_loop(0, 0.02, columns).factors, strict=True)
    )
    mined = dataclasses.replace(
        reports.factor_loop(0, 0.02, columns), factors=factors, name=HOSTILE, hypothesis=HOSTILE
    )
    task = dataclasses.replace(reports.TASK, market=HOSTILE, label=HOSTILE, provider_uri=HOSTILE)
    record = dataclasses.replace(mined.record, task=task) if mined.record is not None else None
    mined = dataclasses.replace(mined, record=record)
    log = Path("/project") / HOSTILE.replace("/", "").replace("\0", "")
    runs = (
        Run(log, HOSTILE, (mined,), {HOSTILE: HOSTILE}, (HOSTILE,)),
        Run(log / "models", "fin_model", (model, second, failed)),
    )
    analysis = dataclasses.replace(reports.factor_analysis(columns, (HOSTILE,)), task=task)
    origins = {(analysis.digest, factor.name): FactorOrigin(log, 0, HOSTILE, factor) for factor in factors}
    returns = {(0, 0): reports.returns(1), (1, 0): reports.returns(2), (1, 1): reports.returns(3)}
    return Report(reports.CREATED, runs, returns, (analysis,), (HOSTILE,), origins)


def hostile(value: Any) -> Any:
    """Return a manifest with every text in it, keys of features and versions too, made hostile."""
    if isinstance(value, dict):
        return {name: hostile(one) for name, one in value.items()} | {HOSTILE: HOSTILE}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return HOSTILE if isinstance(value, str) else value

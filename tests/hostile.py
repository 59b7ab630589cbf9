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
    fields = ("name", "model_type", "hypothesis", "observations", "reason", "code")
    texts: dict[str, Any] = dict.fromkeys(fields, HOSTILE)
    manifest = hostile(reports.manifest(columns))
    models = (
        dataclasses.replace(reports.model_loop(0, 0.05), manifest=manifest, **texts),
        dataclasses.replace(reports.model_loop(1, 0.04), manifest={"factor_set": HOSTILE}, **texts),
        dataclasses.replace(reports.failed(2), name=HOSTILE, failure=HOSTILE * 20),
    )
    mined = reports.factor_loop(0, 0.02, columns)
    assert mined.record is not None
    words = dict.fromkeys(("description", "formulation", "code"), HOSTILE)
    factors = tuple(dataclasses.replace(factor, **words) for factor in mined.factors)
    task = dataclasses.replace(reports.TASK, market=HOSTILE, label=HOSTILE, provider_uri=HOSTILE)
    record = dataclasses.replace(mined.record, task=task)
    mined = dataclasses.replace(mined, factors=factors, name=HOSTILE, hypothesis=HOSTILE, record=record)
    log = Path("/project") / HOSTILE.replace("/", "").replace("\0", "")
    runs = (
        Run(log, HOSTILE, (mined,), {HOSTILE: HOSTILE}, (HOSTILE,)),
        Run(log / "models", "fin_model", models),
    )
    analysis = dataclasses.replace(reports.factor_analysis(columns, (HOSTILE,)), task=task)
    origins = {(analysis.digest, factor.name): FactorOrigin(log, 0, HOSTILE, factor) for factor in factors}
    returns = {place: reports.returns(seed) for seed, place in enumerate([(0, 0), (1, 0), (1, 1)])}
    return Report(reports.CREATED, runs, returns, (analysis,), (HOSTILE,), origins)


def hostile(value: Any) -> Any:
    """Return a manifest with every text in it, keys of features and versions too, made hostile."""
    if isinstance(value, dict):
        return {name: hostile(one) for name, one in value.items()} | {HOSTILE: HOSTILE}
    if isinstance(value, list):
        return [hostile(one) for one in value]
    return HOSTILE if isinstance(value, str) else value

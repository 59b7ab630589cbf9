"""What the template shows beside tables and plots: the headline, the facts, and what each loop tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rdagent_sota_bridge.report import ablation, gather
from rdagent_sota_bridge.report.ablation import Difference
from rdagent_sota_bridge.report.gather import METRICS, Place, Report
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.report.holdout import Opening
from rdagent_sota_bridge.report.page import tables
from rdagent_sota_bridge.report.page.plots import of_factor
from rdagent_sota_bridge.report.page.tables import entry, names_in, text
from rdagent_sota_bridge.report.page.wording import (
    CORRELATION,
    FORMS,
    MISSING,
    PERCENT,
    counted,
    figure,
    loop_name,
    loop_number,
    place,
    segment,
    words,
)
from rdagent_sota_bridge.report.statistics import Estimate, deflated_sharpe_ratio_of
from rdagent_sota_bridge.report.trials import YEAR

MONOSPACE = ("market", "label", "set", "digest", "base digest")
"""The facts that are set as code."""

_PROVEN = {
    "digest": ("factor_set", "digest"),
    "rows": ("factor_set", "rows"),
    "instruments": ("factor_set", "instruments"),
    "start": ("factor_set", "start"),
    "end": ("factor_set", "end"),
    "base set": ("base_set", "name"),
    "base digest": ("base_set", "digest"),
}
"""Where a manifest has what the proof shows."""

_VERSIONS = ("rdagent-sota-bridge", "rdagent", "qlib", "torch", "python", "pandas", "pyarrow")


# --- runs ---


def run_names(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what each run is called on the page: its role, with a number where two have the same."""
    roles = [words.roles[gather.role(run)] for run in runs]
    return tuple(
        f"{role} {roles[: position + 1].count(role)}" if roles.count(role) > 1 else role
        for position, role in enumerate(roles)
    )


def facts(report: Report, names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """Return the facts that all runs share or differ in: market, segments, label, sets, versions."""
    named = list(zip(report.runs, names, strict=True))
    loops = [(loop, name) for run, name in named for loop in run.loops]
    tasks = [
        (loop.record.task, name)
        for loop, name in loops
        if loop.record is not None and loop.record.task is not None
    ]
    manifests = [loop.manifest for loop, _ in loops if loop.manifest is not None]
    features = [len(names_in(entry(one, "base_set", "features"))) for one in manifests]
    analyses = report.factor_analyses
    rows = {
        "market": _by_run(
            (words.market_in.format(task.market, task.provider_uri), run) for task, run in tasks
        ),
        "train": _by_run((segment(task.train), run) for task, run in tasks),
        "valid": _by_run((segment(task.valid), run) for task, run in tasks),
        "test": _by_run((segment(task.test), run) for task, run in tasks),
        "label": _by_run((task.label, run) for task, run in tasks),
        "set": [f"{one.digest} ({counted(len(one.columns), words.factors)})" for one in analyses],
        "base set": [
            f"{text(entry(one, 'base_set', 'name'))} ({counted(count, words.features)})"
            for one, count in zip(manifests, features, strict=True)
        ],
        "verdict": _by_run((verdict, name) for run, name in named for verdict in _verdicts(run)),
        "versions": [_versions(one) for one in manifests],
    }
    return {name: tuple(dict.fromkeys(values)) or (MISSING,) for name, values in rows.items()}


def _verdicts(run: Run) -> list[str]:
    """Return how the models of a run were judged; nothing where its log does not say."""
    judged = gather.judged(run)
    unread = words.unread.format(judged.unread, judged.in_vain)
    return [said for said, count in ((words.read, judged.read), (unread, judged.unread)) if count]


def _by_run(pairs: Iterable[tuple[str, str]]) -> list[str]:
    """Return values of runs, each once; with the runs, where they differ."""
    runs: dict[str, dict[str, None]] = {}
    for value, run in pairs:
        runs.setdefault(value, {})[run] = None
    if len(runs) < 2:
        return list(runs)
    return [f"{value} ({', '.join(of_runs)})" for value, of_runs in runs.items()]


def _versions(manifest: Mapping[str, Any]) -> str:
    found: dict[str, Any] = {}
    for side in ("rd_agent_side", "qlib_side"):
        versions = entry(manifest, "versions", side)
        found |= versions if isinstance(versions, Mapping) else {}
    return ", ".join(f"{name} {found[name]}" for name in _VERSIONS if name in found) or MISSING


# --- the headline ---


def headline(report: Report) -> dict[str, Any]:
    """Return the answer to "was it worth it?" in a sentence or two, and the figures of the best model.

    Returns:
        `sentence`, `rest`, `tiles` (label, value, and the value without factors), `best_model`, `seeds` (what
        several make of it) and `tried`.
    """
    runs, names = report.runs, run_names(report.runs)
    best = gather.best_model(runs)
    if best is not None:
        sentence, rest = words.sides[gather.role(runs[best[0]])]
        sentence = sentence.format(_metric(runs, best, "IC"))
        said = ablation.difference(report.pairs)
        if said is not None:
            sentence, rest = _added(said.ic), _measured(report, said)
        if report.holdout is not None:
            is_best = gather.is_best(runs, report.holdout.model)
            sentence, rest = _held_back(report.holdout, is_best, sentence, rest)
        loop = gather.loop_at(runs, best)
        named = f"{loop_name(loop)}, {place(names[best[0]], loop.number)}"
        base = next((one.base.metrics for one in report.pairs if (one.place, one.seed) == (best, None)), None)
        tiles = _tiles(runs, best, base)
        beside = {"best_model": named, "seeds": _seeds(report, best), "tried": _tried(report, best)}
        return {"sentence": sentence, "rest": rest, "tiles": tiles, **beside}
    count = sum(len(one.columns) for one in report.factor_analyses)
    places = [one for one in tables.loops_of(runs, "factor") if gather.loop_at(runs, one).accepted]
    mined = gather.best(runs, places)
    nothing: dict[str, Any] = {"rest": "", "tiles": [], "best_model": "", "seeds": "", "tried": ""}
    if mined is None:
        return {**nothing, "sentence": words.no_result_yet}
    what = counted(count, words.factors) if count else words.some_factors
    return {
        **nothing,
        "sentence": words.mined.format(what, _metric(runs, mined, "IC")),
        "rest": words.mined_alone,
        "tiles": _tiles(runs, mined, None),
    }


def _metric(runs: Sequence[Run], place: Place, name: str) -> str:
    return figure(gather.metric(gather.loop_at(runs, place), name), FORMS[name])


def _added(ic: Estimate) -> str:
    """Return what the factors did to the models' IC: better, worse, or that no difference can be told."""
    if math.isnan(ic.error):
        return str(words.added["few days"].format(counted(ic.days, words.days)))
    ends = (-ic.mean, -ic.high, -ic.low) if ic.answer == "worse" else (ic.mean, ic.low, ic.high)
    return str(words.added[ic.answer].format(_between(*ends)))


def _measured(report: Report, said: Difference) -> str:
    """Return what the headline is measured on, what the return says, and what is not in it."""
    ic, excess = said.ic, said.excess
    seeds = counted(said.seeds, words.seeds)
    if ic.loops > 1 and said.seeds > 1:
        seeds = words.up_to.format(seeds)
    counts = f"{counted(ic.days, words.days)}, {counted(ic.loops, words.loops)}, {seeds}"
    interval = "" if math.isnan(ic.error) else words.with_interval
    texts = [f"{counted(ic.loops, words.measured)} ({counts}){interval}."]
    if ic.loops == 1:
        texts.append(words.luck_is_left_out)
    left = len(gather.models(report.runs, "with factors")) - ic.loops
    if left > 0:
        texts.append(counted(left, words.unpaired))
    if excess is None:
        texts.append(words.no_excess)
    else:
        is_against = ic.answer != "open" and excess.mean * ic.mean < 0
        figures = (figure(value * YEAR, "+.1%") for value in (excess.mean, excess.low, excess.high))
        texts.append((words.excess_against if is_against else words.excess).format(*figures))
    return " ".join(texts)


def _seeds(report: Report, place: Place) -> str:
    """Return mean and standard deviation of the best model's IC over seeds; empty for fewer than two."""
    said = ablation.over_seeds(report.pairs, place)
    if said is None:
        return ""
    ours, base = (
        words.deviation.format(figure(one.mean, CORRELATION), figure(one.deviation, CORRELATION))
        for one in (said.ours, said.base)
    )
    return str(words.over_seeds.format(seeds=counted(said.seeds, words.seeds), ours=ours, base=base))


def _held_back(one: Opening, is_best: bool, sentence: str, rest: str) -> tuple[str, str]:
    """Return the headline where days were kept back: theirs, if no workspace saw them before.

    Args:
        one: The look at them.
        is_best: Whether its model is the best on the page; runs may have got a better one since.
        sentence: The headline of the test segment.
        rest: What is said beside it.
    """
    model, ic = words.holdout_models[is_best], _with_interval(one.ic)
    first = words.holdout_ic.format(model=model, ic=ic)
    if one.base is not None and one.difference is not None:
        first = _added(one.difference)
        ic = words.holdout_without.format(ic, _with_interval(one.base))
    days = words.segment.format(one.first, one.last)
    days = words.holdout.format(days=days, count=counted(one.ic.days, words.days), model=model, ic=ic)
    again = [counted(one.before, words.holdout_opened)] * bool(one.before)
    again += [words.holdout_better] * (not is_best)
    if one.seen_by:
        return sentence, " ".join([counted(one.seen_by, words.holdout_seen, days=days), *again, rest])
    unseen = words.holdout_unseen.format(days)
    beside = (words.holdout_limits, words.holdout_beside, sentence, rest)
    return first, " ".join([unseen, *again, *beside])


def _between(mean: float, low: float, high: float) -> str:
    return "{} [{}, {}]".format(*(figure(value, CORRELATION) for value in (mean, low, high)))


def _with_interval(one: Estimate) -> str:
    return figure(one.mean, CORRELATION) if math.isnan(one.error) else _between(one.mean, one.low, one.high)


def _tried(report: Report, place: Place) -> str:
    """Return how much was tried on the best model's test segment, and what that leaves of its return."""
    tried, returns = report.trials, report.returns.get(place)
    if tried is None or not tried.models:
        return ""
    models, factors = counted(tried.models, words.models), counted(tried.factors, words.factors)
    daily = [] if returns is None else returns.daily_excess
    ratio = deflated_sharpe_ratio_of(daily, tried.models + tried.factors, tried.variance)
    luck = words.not_deflated if math.isnan(ratio) else words.deflated.format(figure(ratio, PERCENT))
    return f"{words.tried.format(models=models, factors=factors)} {luck}"


def _tiles(runs: Sequence[Run], best: Place, base: Mapping[str, float] | None) -> list[tuple[str, str, str]]:
    return [
        (
            words.metrics[name][0].upper() + words.metrics[name][1:],
            _metric(runs, best, name),
            "" if base is None else words.without_mined.format(figure(base.get(METRICS[name]), FORMS[name])),
        )
        for name in ("IC", "information ratio", "annualized return", "max drawdown")
    ]


# --- loops ---


def loop_stories(runs: Sequence[Run], names: Sequence[str], kind: str) -> list[dict[str, Any]]:
    """Return what each loop of a kind tried, in the order of the leaderboard."""
    found = []
    for run, number in tables.loops_of(runs, kind):
        loop = runs[run].loops[number]
        failure = tables.why_no_result(loop)
        verdict = words.story_failed if failure else words.verdicts[loop.accepted]
        said = (failure, loop.hypothesis, loop.observations, loop.reason)
        codes = [(words.code_of_model, loop.code)]
        codes += [(words.code_of.format(factor.name), factor.code) for factor in loop.factors]
        story = {
            "anchor": f"loop-{run}-{number}",
            "title": loop_name(loop),
            "beside": f"{place(names[run], loop.number)} · {verdict}",
            "missing": words.story_missing,
            "texts": list(zip(words.story, said, strict=True)),
        }
        found.append({**story, "codes": codes, "plots": [], "no_plots": ""})
    return found


def without_returns(report: Report, names: Sequence[str], kind: str) -> str:
    """Return which loops with results left no daily returns, so that their curves are missing; or nothing."""
    return ", ".join(
        place(names[position], loop.number)
        for position, run in enumerate(report.runs)
        for number, loop in enumerate(run.loops)
        if loop.kind == kind and loop.metrics and (position, number) not in report.returns
    )


# --- factors ---


def brought_by(report: Report, names: Sequence[str], digest: str) -> dict[str, str]:
    """Return by factor of a set which loop of which run brought it."""
    known = {run.log: name for run, name in zip(report.runs, names, strict=True)}
    return {
        column: place(known.get(one.log, one.log.name), one.loop)
        for (of_set, column), one in report.origins.items()
        if of_set == digest
    }


def factor_stories(report: Report, position: int, brought_by: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return what each factor of a set is, who brought it, and its plots.

    Args:
        report: What is shown.
        position: The position of the set.
        brought_by: By factor, which loop brought it.
    """
    analysis = report.factor_analyses[position]
    sheets = {sheet.name: sheet for sheet in analysis.sheets}
    found = []
    for number, column in enumerate(analysis.columns):
        sheet, origin = sheets.get(column), report.origins.get((analysis.digest, column))
        anchor, texts, codes = f"factor-{position}-{number}", [], []
        if origin is not None:
            said = (origin.hypothesis, origin.factor.description, origin.factor.formulation)
            texts = list(zip(words.factor_story, said, strict=True))
            codes = [(words.factor_code, origin.factor.code)]
        about = words.no_figures
        if sheet is not None:
            about = words.rank_ic.format(figure(sheet.mean_ic, CORRELATION))
        story = {
            "anchor": anchor,
            "title": column,
            "beside": " · ".join(filter(None, [about, brought_by.get(column)])),
            "missing": words.factor_story_missing,
            "plots": [] if sheet is None else of_factor(sheet, anchor),
            "no_plots": "" if sheet else ": ".join([words.there_are_no_figures, *analysis.notes[:1]]),
        }
        found.append({**story, "texts": texts, "codes": codes})
    return found


# --- proof ---


def proof(run: Run, name: str) -> dict[str, Any]:
    """Return what the manifests of a run say, all as text, for a manifest may hold anything."""
    known: dict[str, dict[str, None]] = {}
    columns: dict[tuple[str, ...], list[str]] = {}
    for loop in run.loops:
        if loop.kind == "model" and loop.manifest is not None:
            for fact, path in _PROVEN.items():
                known.setdefault(fact, {})[text(entry(loop.manifest, *path))] = None
            replaced = names_in(entry(loop.manifest, "base_set", "replaced_by_mined"))
            known.setdefault("replaced", {})[", ".join(replaced) or words.none] = None
            if loaded := names_in(entry(loop.manifest, "qlib_loaded", "columns")):
                columns.setdefault(loaded, []).append(loop_number(loop))
    return {
        "run": name,
        "facts": known,
        "sources": tables.sources_table(run),
        "loaded": tables.loaded_table(run),
        "columns": {loaded: ", ".join(loops) for loaded, loops in columns.items()},
    }

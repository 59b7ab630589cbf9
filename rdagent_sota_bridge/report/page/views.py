"""What the template shows beside tables and plots: the headline, the facts, and what each loop tried."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rdagent_sota_bridge.errors import plural
from rdagent_sota_bridge.report import ablation, gather
from rdagent_sota_bridge.report.ablation import Difference
from rdagent_sota_bridge.report.gather import METRICS, Place, Report, Role
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.report.holdout import Opening, before_text, seen_text
from rdagent_sota_bridge.report.page import tables
from rdagent_sota_bridge.report.page.plots import of_factor
from rdagent_sota_bridge.report.page.tables import entry, names_in, text
from rdagent_sota_bridge.report.page.wording import (
    CORRELATION,
    FORMS,
    MISSING,
    PERCENT,
    figure,
    loop_number,
    segment,
)
from rdagent_sota_bridge.report.statistics import Estimate, deflated_sharpe_ratio_of
from rdagent_sota_bridge.report.trials import YEAR

MONOSPACE = ("Market", "Label", "Factor set", "Digest of the set", "Digest of the base set")
"""The facts that are set as code."""

_PROVEN = {
    "Digest of the set": ("factor_set", "digest"),
    "Rows": ("factor_set", "rows"),
    "Instruments": ("factor_set", "instruments"),
    "First day": ("factor_set", "start"),
    "Last day": ("factor_set", "end"),
    "Base set": ("base_set", "name"),
    "Digest of the base set": ("base_set", "digest"),
}
"""Where a manifest has what the proof shows."""

_VERSIONS = ("rdagent-sota-bridge", "rdagent", "qlib", "torch", "python", "pandas", "pyarrow")
_SIDES: dict[Role, tuple[str, str]] = {
    "with factors": (
        "The best model with the factors",
        "None of its models was trained again without the mined columns, so this page does not say what "
        "they add. `rdagent-sota run --from-models LOG --baseline` does that.",
    ),
    "without factors": (
        "The best model without factors",
        "No run with the factors is among these logs.",
    ),
    "factors unknown": (
        "The best model",
        "Its workspaces are gone: nothing says whether it was given factors.",
    ),
}
_LIMITS = (
    "What a holdout can’t cure: the factors’ data were not cut, so RD-Agent’s own deduplication of factors "
    "saw all days; and an LLM may know what happened in those years."
)


# --- runs ---


def run_names(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what each run is called on the page: its role, with a number where two have the same."""
    roles = [gather.role(run) for run in runs]
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
        "Market": _by_run((f"{task.market} in {task.provider_uri}", run) for task, run in tasks),
        "Training": _by_run((segment(task.train), run) for task, run in tasks),
        "Validation": _by_run((segment(task.valid), run) for task, run in tasks),
        "Test": _by_run((segment(task.test), run) for task, run in tasks),
        "Label": _by_run((task.label, run) for task, run in tasks),
        "Factor set": [f"{one.digest} ({plural(len(one.columns), 'factor')})" for one in analyses],
        "Base set": [
            f"{text(entry(one, 'base_set', 'name'))} ({count} features)"
            for one, count in zip(manifests, features, strict=True)
        ],
        "Verdict on models": _by_run((verdict, name) for run, name in named for verdict in _verdicts(run)),
        "Versions": [_versions(one) for one in manifests],
    }
    return {name: tuple(dict.fromkeys(values)) or (MISSING,) for name, values in rows.items()}


def _verdicts(run: Run) -> list[str]:
    """Return how the models of a run were judged; nothing where its log does not say."""
    judged = gather.judged(run)
    unread = (
        "asked for in a form that RD-Agent does not read: "
        f"none of {judged.unread} could be accepted; the LLM said yes to {judged.in_vain}"
    )
    read = "asked for in the form that RD-Agent reads"
    return [words for words, count in ((read, judged.read), (unread, judged.unread)) if count]


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
    place = gather.best_model(runs)
    if place is not None:
        subject, rest = _SIDES[gather.role(runs[place[0]])]
        sentence = f"{subject} has an IC of {_metric(runs, place, 'IC')}."
        said = ablation.difference(report.pairs)
        if said is not None:
            sentence, rest = _worth(said.ic), _measured(report, said)
        if report.holdout is not None:
            is_best = gather.is_best(runs, report.holdout.model)
            sentence, rest = _held_back(report.holdout, is_best, sentence, rest)
        loop = gather.loop_at(runs, place)
        named = f"{loop.name or 'unnamed'}, loop {loop_number(loop)}, {names[place[0]]}"
        base = next(
            (one.base.metrics for one in report.pairs if (one.place, one.seed) == (place, None)), None
        )
        tiles = _tiles(runs, place, base)
        beside = {"best_model": named, "seeds": _seeds(report, place), "tried": _tried(report, place)}
        return {"sentence": sentence, "rest": rest, "tiles": tiles, **beside}
    count = sum(len(one.columns) for one in report.factor_analyses)
    places = [place for place in tables.loops_of(runs, "factor") if gather.loop_at(runs, place).accepted]
    mined = gather.best(runs, places)
    nothing: dict[str, Any] = {"rest": "", "tiles": [], "best_model": "", "seeds": "", "tried": ""}
    if mined is None:
        return {**nothing, "sentence": "No loop of these runs has a result yet."}
    what = plural(count, "factor") if count else "Factors"
    return {
        **nothing,
        "sentence": f"{what} accepted; the best accepted loop has an IC of {_metric(runs, mined, 'IC')}.",
        "rest": "RD-Agent judges factors with a LightGBM of its own. No model run is among these logs, so "
        "this page can’t say what the factors add to a model.",
        "tiles": _tiles(runs, mined, None),
    }


def _metric(runs: Sequence[Run], place: Place, name: str) -> str:
    return figure(gather.metric(gather.loop_at(runs, place), name), FORMS[name])


def _worth(ic: Estimate) -> str:
    """Return what the factors did to the models' IC: better, worse, or that no difference can be told."""
    if math.isnan(ic.error):
        return f"No difference can be told: {plural(ic.days, 'day')} are too few."
    mean, low, high = (figure(value, CORRELATION) for value in (ic.mean, ic.low, ic.high))
    if ic.answer == "open":
        return (
            f"No difference can be told: with the factors the models’ IC changes by {mean} [{low}, {high}]."
        )
    if ic.answer == "worse":
        mean, low, high = (figure(-value, CORRELATION) for value in (ic.mean, ic.high, ic.low))
        return f"The factors make the models worse: their IC is lower by {mean} [{low}, {high}]."
    return f"The factors make the models better: their IC is higher by {mean} [{low}, {high}]."


def _measured(report: Report, said: Difference) -> str:
    """Return what the headline is measured on, what the return says, and what is not in it."""
    ic, excess = said.ic, said.excess
    what = (
        f"The mean over {ic.loops} loops of the daily difference" if ic.loops > 1 else "The daily difference"
    )
    seeds = "up to " * (ic.loops > 1 and said.seeds > 1) + plural(said.seeds, "seed")
    counts = f"{plural(ic.days, 'day')}, {plural(ic.loops, 'loop')}, {seeds}"
    words = f"{what} to the same models trained again without the mined columns"
    words += f" ({counts}){', with its 95 % interval' * (not math.isnan(ic.error))}."
    if ic.loops == 1:
        words += " How much two trainings of one model differ by luck is not in it: it takes several loops."
    left = len(gather.models(report.runs, "with factors")) - ic.loops
    if left > 0:
        words += f" {plural(left, 'model')} of these runs have no such pair, and are not in it."
    if excess is None:
        return f"{words} Of the excess return not all days are there, so nothing is said of it."
    mean, low, high = (figure(value * YEAR, "+.1%") for value in (excess.mean, excess.low, excess.high))
    figures = f"{mean} a year [{low}, {high}]"
    if ic.answer != "open" and excess.mean * ic.mean < 0:
        return f"{words} But the excess return, less cost, went the other way: {figures}."
    return f"{words} The excess return, less cost, changes by {figures}."


def _seeds(report: Report, place: Place) -> str:
    """Return mean and standard deviation of the best model's IC over seeds; empty for fewer than two."""
    said = ablation.over_seeds(report.pairs, place)
    if said is None:
        return ""
    ours, base = (
        f"{figure(one.mean, CORRELATION)} (standard deviation {figure(one.deviation, CORRELATION)})"
        for one in (said.ours, said.base)
    )
    return f"Trained again with {said.seeds} seeds, its IC is {ours}, and {base} without the mined columns. "


def _held_back(one: Opening, is_best: bool, sentence: str, rest: str) -> tuple[str, str]:
    """Return the headline where days were kept back: theirs, if no workspace saw them before.

    Args:
        one: The look at them.
        is_best: Whether its model is the best on the page; runs may have got a better one since.
        sentence: The headline of the test segment.
        rest: What is said beside it.
    """
    model = "best model" if is_best else "best model of then"
    first = f"The {model} has an IC of {_with_interval(one.ic)} on days that no loop has seen."
    figures = f"IC {_with_interval(one.ic)}"
    if one.base is not None and one.difference is not None:
        first = _worth(one.difference)
        figures += f", without the mined columns {_with_interval(one.base)}"
    figures = f"{one.first} to {one.last} ({plural(one.ic.days, 'day')}, the {model} alone: {figures})"
    again = f" {before_text(one.before)}." * bool(one.before)
    again += " Another model is the best now, and has not been looked at there." * (not is_best)
    if one.seen_by:
        return sentence, f"The holdout, {figures}, is not unseen: {seen_text(one.seen_by)}.{again} {rest}"
    words = f"That is of the holdout, {figures}, of which no segment of this project has a day.{again}"
    chosen = "In the test segment, by which models and factors were chosen:"
    return first, f"{words} {_LIMITS} {chosen} {sentence} {rest}"


def _with_interval(one: Estimate) -> str:
    mean, low, high = (figure(value, CORRELATION) for value in (one.mean, one.low, one.high))
    return mean if math.isnan(one.error) else f"{mean} [{low}, {high}]"


def _tried(report: Report, place: Place) -> str:
    """Return how much was tried on the best model's test segment, and what that leaves of its return."""
    tried, returns = report.trials, report.returns.get(place)
    if tried is None or not tried.models:
        return ""
    models, factors = plural(tried.models, "model"), plural(tried.factors, "factor")
    words = f"{models} and {factors} were tried on that segment in this project, rejected ones too. "
    daily = [] if returns is None else returns.daily_excess
    ratio = deflated_sharpe_ratio_of(daily, tried.models + tried.factors, tried.variance)
    if math.isnan(ratio):
        return f"{words}Too few daily returns are left for a deflated Sharpe ratio."
    words += "The chance that its excess return is more than the luck of so many (deflated Sharpe ratio): "
    return f"{words}{figure(ratio, PERCENT)}."


def _tiles(runs: Sequence[Run], best: Place, base: Mapping[str, float] | None) -> list[tuple[str, str, str]]:
    return [
        (
            name[0].upper() + name[1:],
            _metric(runs, best, name),
            "" if base is None else f"{figure(base.get(METRICS[name]), FORMS[name])} without mined columns",
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
        verdict = {True: "accepted", False: "rejected", None: "no verdict"}[loop.accepted]
        texts = {
            "No result": failure,
            "Hypothesis": loop.hypothesis,
            "Observations": loop.observations,
            "Reason for the verdict": loop.reason,
        }
        codes = [("Code of the model", loop.code)]
        codes += [(f"Code of {factor.name}", factor.code) for factor in loop.factors]
        story = {
            "anchor": f"loop-{run}-{number}",
            "title": loop.name or "unnamed",
            "beside": f"{names[run]} · loop {loop_number(loop)} · {'no result' if failure else verdict}",
            "missing": "The log has no words on this loop.",
        }
        found.append({**story, "texts": texts, "codes": codes, "plots": [], "no_plots": ""})
    return found


def without_returns(report: Report, names: Sequence[str], kind: str) -> str:
    """Return which loops with results left no daily returns, so that their curves are missing; or nothing."""
    return ", ".join(
        f"{names[position]} loop {loop_number(loop)}"
        for position, run in enumerate(report.runs)
        for number, loop in enumerate(run.loops)
        if loop.kind == kind and loop.metrics and (position, number) not in report.returns
    )


# --- factors ---


def brought_by(report: Report, names: Sequence[str], digest: str) -> dict[str, str]:
    """Return by factor of a set which loop of which run brought it."""
    known = {run.log: name for run, name in zip(report.runs, names, strict=True)}
    return {
        column: f"{known.get(one.log, one.log.name)}, loop {'?' if one.loop is None else one.loop}"
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
        anchor, texts, codes = f"factor-{position}-{number}", {}, []
        if origin is not None:
            texts = {
                "Hypothesis of the loop": origin.hypothesis,
                "Description": origin.factor.description,
                "Formulation": origin.factor.formulation,
            }
            codes = [("Code", origin.factor.code)]
        about = "no figures" if sheet is None else f"rank IC {figure(sheet.mean_ic, CORRELATION)}"
        story = {
            "anchor": anchor,
            "title": column,
            "beside": " · ".join(filter(None, [about, brought_by.get(column)])),
            "missing": "No log here says which loop brought this factor.",
            "plots": [] if sheet is None else of_factor(sheet, anchor),
            "no_plots": "" if sheet else ": ".join(["There are no figures", *analysis.notes[:1]]),
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
            known.setdefault("Replaced by mined columns", {})[", ".join(replaced) or "none"] = None
            if loaded := names_in(entry(loop.manifest, "qlib_loaded", "columns")):
                columns.setdefault(loaded, []).append(loop_number(loop))
    return {
        "run": name,
        "facts": known,
        "sources": tables.sources_table(run),
        "loaded": tables.loaded_table(run),
        "columns": {loaded: ", ".join(loops) for loaded, loops in columns.items()},
    }

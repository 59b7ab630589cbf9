"""What the template shows beside tables and plots: the headline, the facts, and what each loop tried."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rdagent_sota_bridge.report import gather
from rdagent_sota_bridge.report.gather import Place, Report, Role
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.report.page import tables, wording
from rdagent_sota_bridge.report.page.drawing import Plot
from rdagent_sota_bridge.report.page.plots import of_factor
from rdagent_sota_bridge.report.page.tables import Table, entry, names_in, text
from rdagent_sota_bridge.report.page.wording import (
    CORRELATION,
    MISSING,
    figure,
    loop_number,
    plural,
    segment,
)

Facts = dict[str, tuple[str, ...]]
"""What is known, by what it is called."""

MONOSPACE = ("Market", "Label", "Factor set", "Digest of the set", "Digest of the base set")
"""The facts that are set as code."""

_SIDES: dict[Role, str] = {
    "with factors": "with the factors",
    "without factors": "without factors",
    "factors unknown": "",
}
_VERSIONS = ("rdagent-sota-bridge", "rdagent", "qlib", "torch", "python", "pandas", "pyarrow")


@dataclass(frozen=True)
class Headline:
    """The answer to "was it worth it?", with the figures of the best model beside those without factors."""

    sentence: str
    rest: str = ""
    tiles: tuple[tuple[str, str, str], ...] = ()
    best_model: str = ""


@dataclass(frozen=True)
class Story:
    """A folded part of the page: what a loop tried, or what a factor is; empty texts are not shown."""

    anchor: str
    title: str
    beside: str
    texts: dict[str, str]
    codes: tuple[tuple[str, str], ...]
    missing: str
    plots: tuple[Plot, ...] = ()
    no_plots: str = ""


@dataclass(frozen=True)
class Proof:
    """What the manifests of one run say; all texts, for a manifest may hold anything."""

    run: str
    facts: Facts
    sources: Table
    loaded: Table
    columns: dict[tuple[str, ...], str]


# --- runs ---


def run_names(runs: Sequence[Run]) -> tuple[str, ...]:
    """Return what each run is called on the page: its role, with a number where two have the same."""
    roles = [gather.role(run) for run in runs]
    return tuple(
        f"{role} {roles[: position + 1].count(role)}" if roles.count(role) > 1 else role
        for position, role in enumerate(roles)
    )


def facts(report: Report, names: Sequence[str]) -> Facts:
    """Return the facts that all runs share or differ in: market, segments, label, sets, versions."""
    tasks = [
        (loop.record.task, name)
        for run, name in zip(report.runs, names, strict=True)
        for loop in run.loops
        if loop.record is not None and loop.record.task is not None
    ]
    manifests = [loop.manifest for run in report.runs for loop in run.loops if loop.manifest is not None]
    rows = {
        "Market": _by_run((f"{task.market} in {task.provider_uri}", run) for task, run in tasks),
        "Training": _by_run((segment(task.train), run) for task, run in tasks),
        "Validation": _by_run((segment(task.valid), run) for task, run in tasks),
        "Test": _by_run((segment(task.test), run) for task, run in tasks),
        "Label": _by_run((task.label, run) for task, run in tasks),
        "Factor set": [
            f"{one.digest} ({plural(len(one.columns), 'factor')})" for one in report.factor_analyses
        ],
        "Base set": [
            f"{text(entry(one, 'base_set', 'name'))} "
            f"({len(names_in(entry(one, 'base_set', 'features')))} features)"
            for one in manifests
        ],
        "Verdict on models": _by_run(_verdicts(report.runs, names)),
        "Versions": [_versions(one) for one in manifests],
    }
    return {name: tuple(dict.fromkeys(values)) or (MISSING,) for name, values in rows.items()}


def _verdicts(runs: Sequence[Run], names: Sequence[str]) -> list[tuple[str, str]]:
    """Return how the models of each run were judged, with the run; nothing where its log does not say."""
    found = []
    for run, name in zip(runs, names, strict=True):
        judged = gather.judged(run)
        if judged.read:
            found.append(("asked for in the form that RD-Agent reads", name))
        if judged.unread:
            found.append(
                (
                    "asked for in a form that RD-Agent does not read: "
                    f"none of {judged.unread} could be accepted; the LLM said yes to {judged.in_vain}",
                    name,
                )
            )
    return found


def _by_run(pairs: Any) -> list[str]:
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


def headline(report: Report) -> Headline:
    """Return the answer in a sentence or two, and the figures of the best model."""
    runs, names = report.runs, run_names(report.runs)
    best = {which: gather.best(runs, gather.models(runs, which)) for which in _SIDES}
    for which, words in _SIDES.items():
        place = best[which]
        if place is None:
            continue
        loop = gather.loop_at(runs, place)
        named = f"{loop.name or 'unnamed'}, loop {loop_number(loop)}, {names[place[0]]}"
        base = best["without factors"] if which == "with factors" else None
        if base is not None:
            sentence, rest = _gain(report, place, base)
        else:
            sentence = f"The best model{' ' * bool(words)}{words} has an IC of {_ic(runs, place)}."
            rest = {
                "with factors": "No run without the factors is among these logs, so this page can't say "
                "what they added.",
                "without factors": "No run with the factors is among these logs.",
                "factors unknown": "Its workspaces are gone: nothing says whether it was given factors.",
            }[which]
        return Headline(sentence, rest, _tiles(runs, place, base), named)
    return _mined(report)


def _ic(runs: Sequence[Run], place: Place) -> str:
    return figure(gather.metric(gather.loop_at(runs, place), "IC"), CORRELATION)


def _gain(report: Report, best: Place, base: Place) -> tuple[str, str]:
    """Return what the factors added, in a sentence, and what belongs beside it."""
    compared = next(one for one in gather.compare(report.runs) if one.metric == "IC")
    shown, before = _ic(report.runs, best), _ic(report.runs, base)
    rises = compared.best_with > compared.best_without
    sentence = (
        f"With the factors, the best model’s IC {'rose' if rises else 'fell'} from {before} to {shown}."
    )
    if shown == before:
        sentence = f"The factors made no difference to the best model’s IC: {shown} with and without them."
    ours, others = (figure(one, CORRELATION) for one in (compared.mean_with, compared.mean_without))
    rest = f"The mean over loops went from {others} to {ours}."
    if rises != (compared.mean_with > compared.mean_without) and ours != others:
        rest = f"Mind that the mean over loops went the other way, from {others} to {ours}."
    if not gather.tested_alike(report.runs):
        rest += " The runs were not tested on the same market, days and label: the two don’t compare."
    return sentence, rest


def _tiles(runs: Sequence[Run], best: Place, base: Place | None) -> tuple[tuple[str, str, str], ...]:
    tiles = []
    for name in ("IC", "information ratio", "annualized return", "max drawdown"):
        values = [
            figure(gather.metric(gather.loop_at(runs, place), name), wording.FORMS[name])
            for place in (best, base)
            if place is not None
        ]
        beside = f"{values[1]} without factors" if len(values) > 1 else ""
        tiles.append((name[0].upper() + name[1:], values[0], beside))
    return tuple(tiles)


def _mined(report: Report) -> Headline:
    count = sum(len(one.columns) for one in report.factor_analyses)
    accepted = [
        (position, number)
        for position, run in enumerate(report.runs)
        for number, loop in enumerate(run.loops)
        if loop.kind == "factor" and loop.accepted and loop.metrics
    ]
    best = gather.best(report.runs, accepted)
    if best is None:
        return Headline("No loop of these runs has a result yet.")
    what = plural(count, "factor") if count else "Factors"
    return Headline(
        f"{what} accepted; the best accepted loop has an IC of {_ic(report.runs, best)}.",
        "RD-Agent judges factors with a LightGBM of its own. No model run is among these logs, so this page "
        "can’t say what the factors add to a model.",
        _tiles(report.runs, best, None),
    )


# --- loops ---


def counted(runs: Sequence[Run]) -> str:
    """Return over how many loops the comparison is, and what follows from that; empty without one."""
    compared = gather.compare(runs)
    if not compared:
        return ""
    ours, base = max(one.loops_with for one in compared), max(one.loops_without for one in compared)
    words = f"Results are of {plural(ours, 'loop')} with the factors and {base} without"
    sides = [gather.models(runs, which) for which in ("with factors", "without factors")]
    again = sum(map(len, sides)) - ours - base
    if again:
        words += f"; {plural(again, 'loop')} without a new result (cached, or no number) not counted"
    words += "."
    if ours != base:
        words += " The best of more tries is the higher by luck alone: the means compare better."
    widths = [{gather.loop_at(runs, place).features for place in side} - {None} for side in sides]
    if all(widths):  # the base sets can differ too
        with_factors, without = (
            " or ".join(map(str, sorted(map(int, filter(None, side))))) for side in widths
        )
        words += f" Models had {with_factors} features with the factors and {without} without."
    return words


def loop_stories(runs: Sequence[Run], names: Sequence[str], kind: str) -> tuple[Story, ...]:
    """Return what each loop of a kind tried, in the order of the leaderboard."""
    found = []
    for place in tables.loops_of(runs, kind):
        loop = gather.loop_at(runs, place)
        failure = tables.why_no_result(loop)
        verdict = {True: "accepted", False: "rejected", None: "no verdict"}[loop.accepted]
        found.append(
            Story(
                f"loop-{place[0]}-{place[1]}",
                loop.name or "unnamed",
                f"{names[place[0]]} · loop {loop_number(loop)} · {'no result' if failure else verdict}",
                {
                    "No result": failure,
                    "Hypothesis": loop.hypothesis,
                    "Observations": loop.observations,
                    "Reason for the verdict": loop.reason,
                },
                (
                    ("Code of the model", loop.code),
                    *((f"Code of {factor.name}", factor.code) for factor in loop.factors),
                ),
                "The log has no words on this loop.",
            )
        )
    return tuple(found)


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


def factor_stories(report: Report, position: int, brought_by: Mapping[str, str]) -> tuple[Story, ...]:
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
        anchor = f"factor-{position}-{number}"
        texts: dict[str, str] = {}
        codes: tuple[tuple[str, str], ...] = ()
        if origin is not None:
            texts = {
                "Hypothesis of the loop": origin.hypothesis,
                "Description": origin.factor.description,
                "Formulation": origin.factor.formulation,
            }
            codes = (("Code", origin.factor.code),)
        beside = "no figures" if sheet is None else f"rank IC {figure(sheet.mean_ic, CORRELATION)}"
        found.append(
            Story(
                anchor,
                column,
                " · ".join([beside, *filter(None, [brought_by.get(column)])]),
                texts,
                codes,
                "No log here says which loop brought this factor.",
                () if sheet is None else of_factor(sheet, anchor),
                "" if sheet is not None else ": ".join(["There are no figures", *analysis.notes[:1]]),
            )
        )
    return tuple(found)


# --- proof ---


def proof(run: Run, name: str) -> Proof:
    """Return what the manifests of a run say."""
    known: dict[str, dict[str, None]] = {}
    columns: dict[tuple[str, ...], str] = {}
    for loop in run.loops:
        if loop.kind != "model" or loop.manifest is None:
            continue
        factor_set, base = entry(loop.manifest, "factor_set"), entry(loop.manifest, "base_set")
        described = {
            "Digest of the set": entry(factor_set, "digest"),
            "Rows": entry(factor_set, "rows"),
            "Instruments": entry(factor_set, "instruments"),
            "First day": entry(factor_set, "start"),
            "Last day": entry(factor_set, "end"),
            "Base set": entry(base, "name"),
            "Digest of the base set": entry(base, "digest"),
            "Gave way to mined columns": ", ".join(names_in(entry(base, "replaced_by_mined"))) or "none",
        }
        for fact, value in described.items():
            known.setdefault(fact, {})[text(value)] = None
        loaded = names_in(entry(loop.manifest, "qlib_loaded", "columns"))
        if loaded:
            before = f"{columns[loaded]}, " if loaded in columns else ""
            columns[loaded] = before + loop_number(loop)
    facts_of_run = {fact: tuple(values) for fact, values in known.items()}
    return Proof(name, facts_of_run, tables.sources_table(run), tables.loaded_table(run), columns)

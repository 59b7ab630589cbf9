"""Every word of the page stands in words.yaml: a page in another language is that file again."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Collection, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.bridge.verdict import DECISION, REPLACE, Asked
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.report.gather import Report
from rdagent_sota_bridge.report.holdout import Opening
from rdagent_sota_bridge.report.page.wording import words
from rdagent_sota_bridge.report.statistics import Estimate
from tests import reports
from tests.report.test_page import Parts, sides

READ_BY_CODE = {"model", "factor", "unknown", "fin_model", "fin_factor", *DECISION, *REPLACE}
"""Texts of a report that are no texts of a log."""

NAMES = (
    *("rdagent-sota verify LOG", "alphalens-reloaded", "performance.py", "utils.py", __version__),
    *("rdagent-sota-bridge", "rdagent", "qlib", "torch", "python", "fin_model", "fin_factor"),
    *(FACTOR_FILE, MANIFEST_FILE, "evolving_n", "train_start"),
)
"""What is called alike in every language: commands, packages, files and settings."""


def foreign(value: Any, kept: Collection[str] = ()) -> Any:
    """Return an entry of words.yaml, or a report but for texts to keep, without Latin letters."""
    if isinstance(value, str):
        letters = r"[A-Za-z]" if kept else r"[A-Za-z](?![^{]*\})"  # what is in braces is filled in
        return value if value in kept else re.sub(letters, _cyrillic, value)
    if isinstance(value, Path):
        return Path(foreign(str(value)))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [one.name for one in dataclasses.fields(value) if one.init]
        return dataclasses.replace(value, **{name: foreign(getattr(value, name), kept) for name in names})
    if isinstance(value, dict):
        keys = (foreign(key) if isinstance(key, tuple) else key for key in value)
        return dict(zip(keys, (foreign(one, kept) for one in value.values()), strict=True))
    return type(value)(foreign(one, kept) for one in value) if type(value) in (tuple, list) else value


def _cyrillic(letter: re.Match[str]) -> str:
    return chr(0x410 + ord(letter[0]) - ord("A"))


def texts(parts: Parts) -> Iterator[str]:
    """Return all that a page shows: its text, what is read aloud, and the texts in its plots."""
    yield parts.words
    for _, attributes in parts.elements:
        yield from (attributes.get(name) or "" for name in ("title", "aria-label"))
    for attributes, text in parts.scripts:
        if attributes.get("type") == "application/json":
            figure = json.loads(text)
            yield from strings([figure["layout"][axis].get("title") for axis in ("xaxis", "yaxis")])
            yield from strings([figure["layout"][axis].get("ticktext") for axis in ("xaxis", "yaxis")])
            for trace in figure["data"]:
                shown = strings([trace.get(key) for key in ("name", "hovertemplate", "customdata", "x", "y")])
                yield from (re.sub(r"%\{[^}]*\}|</?extra>|<br>", "", one) for one in shown)


def strings(value: Any) -> Iterator[str]:
    """Return the texts of plotly's JSON; its numbers are bytes in base64."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (list, dict)) and "bdata" not in value:
        for one in value.values() if isinstance(value, dict) else value:
            yield from strings(one)


def cases() -> Iterator[tuple[str, Report]]:
    """Return reports that say all that the page can say."""
    whole = reports.whole_report(3, 3)
    yield "whole", whole
    yield from reports.poor_reports().items()
    known, few = Estimate(0.003, -0.008, 0.014, 230, 1), Estimate(0.002, math.nan, math.nan, 9, 1)
    opening = Opening("2020", "models", "0", "v", "2019-10-08", "2020-09-22", 2, 0, known, known, few)
    for seen_by in (0, 3):
        yield (
            f"holdout seen by {seen_by}",
            dataclasses.replace(whole, holdout=dataclasses.replace(opening, seen_by=seen_by)),
        )
    seeds = (None, 1, 2)
    pairs = [reports.pair(0, ic, 0.02, seed=seed) for ic, seed in zip((0.05, 0.04, 0.06), seeds, strict=True)]
    several = dataclasses.replace(sides([0.05], [0.02]), pairs=tuple(pairs))
    asked = [Asked(key, key, True) for key in (DECISION, REPLACE)]
    runs = tuple(
        dataclasses.replace(run, loops=(dataclasses.replace(run.loops[0], asked=one, accepted=False),))
        for run, one in zip(several.runs, asked, strict=True)
    )
    yield "seeds and verdicts", dataclasses.replace(several, runs=runs)
    unknown = dataclasses.replace(several.runs[0].loops[0], manifest=None, record=None, workspace=None)
    yield (
        "unknown",
        dataclasses.replace(
            several, pairs=(), runs=(dataclasses.replace(several.runs[0], loops=(unknown,)),)
        ),
    )


@pytest.mark.parametrize(("case", "report"), list(cases()), ids=[case for case, _ in cases()])
def test_no_word_stands_elsewhere(monkeypatch: pytest.MonkeyPatch, case: str, report: Report) -> None:
    """Of a page of foreign runs, in foreign words, only names are left in Latin letters."""
    for name, entry in vars(words).items():
        monkeypatch.setattr(words, name, foreign(entry))
    left = set()
    for text in texts(Parts(foreign(report, READ_BY_CODE))):
        for name in NAMES:
            text = text.replace(name, "")
        left |= set(re.findall(r"[^\n]*[A-Za-z][^\n]*", text))
    assert left == set()


def test_each_word_is_used() -> None:
    """What words.yaml holds is what the page's code and template ask for."""
    package = resources.files("rdagent_sota_bridge.report.page")
    sources = [one.read_text() for one in package.iterdir() if one.name.endswith((".py", ".j2"))]
    used = {name for source in sources for name in re.findall(r"\bwords\.(?!yaml)([a-z_]+)", source)}
    assert used == set(vars(words))

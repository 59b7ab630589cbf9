"""How figures, times and names are written on the page. A figure that is missing is written as missing."""

from __future__ import annotations

import datetime
import math
from collections.abc import Sequence
from importlib import resources
from types import SimpleNamespace
from typing import Any

import yaml

from rdagent_sota_bridge.report.history import Loop

words: Any = SimpleNamespace(
    **yaml.safe_load(resources.files(__package__).joinpath("words.yaml").read_text(encoding="utf-8"))
)
"""The words of the page, by what `words.yaml` calls them: nothing else holds any."""

MISSING = "–"

CORRELATION, RATIO, PERCENT = ".3f", ".2f", ".1%"

FORMS = {
    "IC": CORRELATION,
    "ICIR": RATIO,
    "rank IC": CORRELATION,
    "rank ICIR": RATIO,
    "annualized return": PERCENT,
    "information ratio": RATIO,
    "max drawdown": PERCENT,
}
"""How each of `gather.METRICS` is written."""


def figure(value: float | None, form: str) -> str:
    """Write a number in a format of Python's, with a true minus sign, and no sign before a zero."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = format(value, form)
    if not any(sign in "123456789" for sign in text):
        text = text.lstrip("+-")
    return text.replace("-", "−")


def duration(seconds: float | None) -> str:
    """Write a time that something took, as h:mm:ss."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    minutes, left = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02}:{left:02}"


def moment(when: datetime.datetime | None) -> str:
    """Write a point in time."""
    if when is None:
        return MISSING
    return str(words.moment.format(f"{when.astimezone(datetime.timezone.utc):%Y-%m-%d %H:%M}"))


def segment(days: Any) -> str:
    """Write the first and the last day of a segment."""
    ends = (f"{day:%Y-%m-%d}" if day == day else words.open for day in days)  # NaT is not itself
    return str(words.segment.format(*ends))


def loop_number(loop: Loop) -> str:
    """Write the number of a loop."""
    return "?" if loop.number is None else str(loop.number)


def loop_name(loop: Loop) -> str:
    """Write what a loop made."""
    return loop.name or words.unnamed


def place(run: str, number: int | str | None) -> str:
    """Write which loop of which run."""
    return f"{run} · {words.loop_number.format('?' if number is None else number)}"


def counted(count: int, texts: Sequence[str], **others: str) -> str:
    """Write how many of something there are, in the text for one or that for any other number."""
    text = texts[count != 1]
    return text.format(f"{count:,}", **others)


def shortened(text: str, most: int) -> str:
    """Cut a text that has no room."""
    return text if len(text) <= most else f"{text[: most - 1]}…"

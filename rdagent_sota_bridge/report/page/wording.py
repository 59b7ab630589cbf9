"""How figures, times and names are written on the page. A figure that is missing is written as missing."""

from __future__ import annotations

import datetime
import math
from typing import Any

from rdagent_sota_bridge.report.history import Loop

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
    return str(datetime.timedelta(seconds=round(seconds)))


def moment(when: datetime.datetime | None) -> str:
    """Write a point in time."""
    return MISSING if when is None else when.astimezone(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def segment(days: Any) -> str:
    """Write the first and the last day of a segment."""
    start, end = (f"{day:%Y-%m-%d}" if day == day else "open" for day in days)  # NaT is not itself
    return f"{start} to {end}"


def loop_number(loop: Loop) -> str:
    """Write the number of a loop."""
    return "?" if loop.number is None else str(loop.number)


def shortened(text: str, most: int) -> str:
    """Cut a text that has no room."""
    return text if len(text) <= most else f"{text[: most - 1]}…"

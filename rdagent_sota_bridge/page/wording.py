"""How figures, times and names are written on the page. A figure that is missing is written as missing."""

from __future__ import annotations

import datetime
import math

MISSING = "–"
MINUS = "−"


def figure(value: float | None, form: str) -> str:
    """Write a number in a format of Python's, with a true minus sign, and no sign before a zero."""
    if value is None or not math.isfinite(value):
        return MISSING
    text = format(value, form)
    if not any(sign in "123456789" for sign in text.partition("e")[0]):
        text = text.lstrip("+-")
    return text.replace("-", MINUS)


def correlation(value: float | None) -> str:
    """Write an IC."""
    return figure(value, ".3f")


def ratio(value: float | None) -> str:
    """Write an ICIR, an information ratio or a t-statistic."""
    return figure(value, ".2f")


def percent(value: float | None) -> str:
    """Write a return, a drawdown or a share."""
    return figure(value, ".1%")


def basis_points(value: float | None) -> str:
    """Write a return of a day."""
    return figure(None if value is None else value * 1e4, "+.1f")


FORMS = {
    "IC": correlation,
    "ICIR": ratio,
    "rank IC": correlation,
    "rank ICIR": ratio,
    "annualized return": percent,
    "information ratio": ratio,
    "max drawdown": percent,
}
"""How each of `report.METRICS` is written."""


def difference(metric: str, value: float) -> str:
    """Write the difference of two values of one of `report.METRICS`; that of returns is in points."""
    if FORMS[metric] is percent:
        points = figure(value * 100, "+.1f")
        return points if points == MISSING else f"{points} pp"
    return figure(value, "+.3f" if FORMS[metric] is correlation else "+.2f")


def duration(seconds: float | None) -> str:
    """Write a time that something took."""
    if seconds is None or not math.isfinite(seconds):
        return MISSING
    if seconds < 60:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def moment(when: datetime.datetime | None) -> str:
    """Write a point in time."""
    return MISSING if when is None else when.astimezone(datetime.timezone.utc).strftime("%Y-%m-%d %H:%M UTC")


def short_digest(digest: str) -> str:
    """Write the first ten digits of a digest, as `rdagent-sota store` does."""
    return digest.removeprefix("sha256:")[:10]


def shortened(text: str, most: int) -> str:
    """Cut a text that has no room."""
    return text if len(text) <= most else f"{text[: most - 1]}…"

"""Dates that were stored in another time zone: whose midnights they are, and how they become days again.

No fix here sets times to midnight: Shanghai's midnights in UTC are 16:00 of the day before, so that would
bring each value a day too early, and a model would look ahead.
"""

from __future__ import annotations

import datetime
from typing import Any

import pandas as pd

from rdagent_sota_bridge.factor_set.names import DATETIME

MARKETS = {"cn": "Asia/Shanghai", "tw": "Asia/Taipei", "us": "America/New_York"}
"""The zones of the markets, by Qlib's regions (`qlib/constant.py`, pyqlib 0.9.7)."""

_NOON = 12 * 60


def of_market(region: str) -> str:
    """Return the zone of a region's market; of one that Qlib does not know, that of its default."""
    return MARKETS.get(region, MARKETS["cn"])


def conversion(zone: str) -> str:
    """Return the call that makes days of a zone of times in UTC."""
    return f".tz_localize('UTC').tz_convert('{zone}').tz_localize(None)"


def zone_fix(moments: pd.DatetimeIndex, zone: str, key: Any, *, is_level: bool) -> str:
    """Return the fix for dates with a zone: to convert them to the zone whose midnights they are.

    Args:
        moments: In UTC, without their zone.
        zone: The zone that they have.
        key: What pandas calls the column or level.
        is_level: Whether it is a level of the index.
    """
    found = _zone_of_midnights(moments, zone, *MARKETS.values())
    others = "" if found else f" for Qlib's region cn, with {MARKETS['us']!r} for us"
    change = f".tz_convert('{found or MARKETS['cn']}').tz_localize(None)"
    if is_level:
        return _changed(change, key) + others
    return f"df[{key!r}] = pd.to_datetime(df[{key!r}]){_of_series(change)}{others}"


def time_fix(moments: pd.DatetimeIndex, calendar: pd.DatetimeIndex, region: str) -> str:
    """Return the fix for times of day that a market's calendar does not have, and what they look like.

    Args:
        moments: The set's dates, each once.
        calendar: The market's days.
        region: Qlib's region.
    """
    times, theirs, ways = set(moments.time), set(calendar.time), []
    if theirs == {datetime.time()} and theirs.isdisjoint(times):
        home = of_market(region)
        zone = _zone_of_midnights(moments, home, *MARKETS.values())
        if zone != home and len(times) == 1:
            (time,) = times
            if moments.normalize().isin(calendar).all():
                ways.append(f"if it is the market's own time of day: {_changed(_shift('-', time))}")
            zone = zone or _zone_with_midnight(time)
        if zone:
            like = "they look like" if zone == home else "if they are"
            ways.append(f"{like} midnights of {zone} in UTC: {_changed(conversion(zone))}")
    elif times == {datetime.time()} and len(theirs) == 1:
        ways.append(f"give them the calendar's: {_changed(_shift('+', theirs.pop()))}")
    return "; ".join(ways) or "name a set of the calendar's frequency"


def _zone_of_midnights(moments: pd.DatetimeIndex, *zones: str) -> str:
    """Return the first of some zones in which moments of UTC are all midnight; empty for none."""
    for zone in zones:
        try:
            local = moments.tz_localize("UTC").tz_convert(zone).tz_localize(None)
        except (KeyError, ValueError):  # a name that no list of zones has
            continue
        if len(local) and (local == local.normalize()).all():
            return zone
    return ""


def _zone_with_midnight(time: datetime.time) -> str:
    """Return the zone, such as +09:00, whose midnight is a time of UTC; empty for none."""
    minutes = time.hour * 60 + time.minute
    if minutes % 15 or time.replace(hour=0, minute=0) != datetime.time():
        return ""
    # Zones are at most 12 hours behind UTC; of those ahead it is the midnight that begins the next day.
    sign, distance = ("-", minutes) if minutes < _NOON else ("+", 2 * _NOON - minutes)
    return f"{sign}{distance // 60:02}:{distance % 60:02}"


def _shift(sign: str, time: datetime.time) -> str:
    return f" {sign} pd.Timedelta('{time}')"


def _changed(change: str, label: str = DATETIME) -> str:
    """Return the code that changes the dates of a frame, be they a level of its index or a column."""
    table = f"(df.reset_index() if {label!r} in df.index.names else df)"
    changed = f"pd.to_datetime(d[{label!r}]){_of_series(change)}"
    return f"df = {table}.assign(**{{{label!r}: lambda d: {changed}}})"


def _of_series(change: str) -> str:
    return change.replace(".tz_", ".dt.tz_")

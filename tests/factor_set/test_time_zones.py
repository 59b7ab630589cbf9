"""Dates that were stored in another time zone: what the message says of them, and that its fix mends them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import FactorFileError, Reason
from rdagent_sota_bridge.qlib_files.market import Market, check_fit
from tests.frames import examine, factor_frame, factor_set, write

DAYS = pd.bdate_range("2019-11-01", "2020-04-30")  # New York's clocks change in between
US = Market(Path("/qlib"), "sp500", DAYS, ("SH600000",))
CN = Market(Path("/qlib"), "csi300", DAYS, ("SH600000",))
CLOSE = Market(Path("/qlib"), "csi300", DAYS + pd.Timedelta(hours=15), ("SH600000",))
MINUTES = pd.DatetimeIndex(["2020-01-02 09:31", "2020-01-02 09:32", "2020-01-03 09:31"])


def stored_in_utc(zone: str) -> pd.DatetimeIndex:
    """Return the days' midnights of a zone, in UTC and without a zone."""
    return DAYS.tz_localize(zone).tz_convert("UTC").tz_localize(None)


@pytest.mark.parametrize(
    ("days", "market", "region", "says", "lines"),
    [
        (stored_in_utc("Asia/Shanghai"), CN, "cn", "they look like midnights of Asia/Shanghai in UTC", 1),
        (
            stored_in_utc("America/New_York"),
            US,
            "us",
            "they look like midnights of America/New_York in UTC",
            1,
        ),
        (stored_in_utc("America/New_York"), CN, "cn", "if they are midnights of America/New_York in UTC", 1),
        (stored_in_utc("Asia/Taipei"), CN, "tw", "they look like midnights of Asia/Taipei in UTC", 1),
        (stored_in_utc("Asia/Tokyo"), CN, "cn", "if they are midnights of +09:00 in UTC", 1),
        (stored_in_utc("Asia/Kolkata"), CN, "cn", "if they are midnights of +05:30 in UTC", 1),
        (stored_in_utc("Pacific/Honolulu"), US, "us", "if it is the market's own time of day", 2),
        (DAYS + pd.Timedelta(hours=15), CN, "cn", "if it is the market's own time of day", 2),
        (DAYS + pd.Timedelta(hours=16), US, "us", "if it is the market's own time of day", 2),
        (
            DAYS + pd.Timedelta(minutes=897),
            CN,
            "cn",
            "if it is the market's own time of day",
            1,
        ),
        (DAYS, CLOSE, "cn", "give them the calendar's", 1),
    ],
    ids=[
        *("Shanghai", "New York", "New York in another market", "Taipei", "Tokyo", "India", "Honolulu"),
        *(
            "China's close",
            "New York's close",
            "no zone's midnight",
            "days, where the calendar has the close",
        ),
    ],
)
def test_the_fix_of_times_of_day(days: Any, market: Market, region: str, says: str, lines: int) -> None:
    """What the times look like is said; each way leads to times of the calendar, the first to its days."""
    frame = pd.DataFrame(
        {"a": 1.0}, index=pd.MultiIndex.from_product([days, ["SH600000"]], names=["datetime", "instrument"])
    )
    with pytest.raises(FactorFileError) as caught:
        check_fit(factor_set(days, ["SH600000"]), market, (days[0], days[-1]), region)
    (failure,) = caught.value.failures
    assert failure.reason is Reason.TIME_OF_DAY
    assert failure.fix.startswith(says)
    assert "normalize" not in failure.fix
    ways = failure.fix.split("; ")
    assert len(ways) == lines
    for way in ways:
        named = {"df": frame.copy(), "pd": pd}
        exec(way.partition(": ")[2], named)
        mended = pd.DatetimeIndex(named["df"]["datetime"])  # type: ignore[index]
        assert set(mended.time) == set(market.calendar.time)
        if way is ways[0]:
            assert list(mended) == list(market.calendar)


@pytest.mark.parametrize("days", [MINUTES, [DAYS[0], DAYS[1] + pd.Timedelta(hours=16)]])
def test_times_of_day_that_no_conversion_mends(days: Any) -> None:
    """Of minutes, and of times in some rows alone, nothing is said but that the frequency is another one."""
    with pytest.raises(FactorFileError) as caught:
        check_fit(factor_set(days, ["SH600000"]), CN, (DAYS[0], DAYS[-1]))
    fixes = {failure.fix for failure in caught.value.failures if failure.reason is Reason.TIME_OF_DAY}
    assert fixes == {"name a set of the calendar's frequency"}


@pytest.mark.parametrize(
    ("days", "zone"),
    [
        (DAYS.tz_localize("Asia/Shanghai"), "Asia/Shanghai"),
        (DAYS.tz_localize("Asia/Shanghai").tz_convert("UTC"), "Asia/Shanghai"),
        (DAYS.tz_localize("Asia/Shanghai").tz_convert("Europe/London"), "Asia/Shanghai"),
        (DAYS.tz_localize("America/New_York").tz_convert("UTC"), "America/New_York"),
        (DAYS.tz_localize("Asia/Tokyo"), "Asia/Tokyo"),
        (DAYS.tz_localize("+09:00"), "+09:00"),
        (DAYS.tz_localize("UTC"), "UTC"),
    ],
    ids=["Shanghai", "Shanghai in UTC", "Shanghai in London", "New York in UTC", "Tokyo", "an offset", "UTC"],
)
@pytest.mark.parametrize(
    "change",
    [lambda frame: frame, lambda frame: frame.swaplevel(), lambda frame: frame.reset_index()],
    ids=["a level", "the second level", "a column"],
)
def test_the_fix_of_a_time_zone(days: pd.DatetimeIndex, zone: str, change: Any, tmp_path: Path) -> None:
    """Dates with a zone become the days whose midnights they are, as a level or a column, and are taken."""
    frame = change(factor_frame(days=days))
    with pytest.raises(FactorFileError) as caught:
        examine(write(frame, tmp_path))
    (failure,) = caught.value.failures
    assert (failure.reason, f".dt.tz_convert('{zone}').dt.tz_localize(None)" in failure.fix) == (
        Reason.TIME_ZONE,
        True,
    )
    named = {"df": frame, "pd": pd}
    exec(failure.fix, named)
    found = examine(write(named["df"], tmp_path))
    assert list(found.dates) == list(DAYS)
    check_fit(found, CN, (DAYS[0], DAYS[-1]))


def test_a_time_zone_whose_midnights_nobody_knows(tmp_path: Path) -> None:
    """Times of a day with a zone get the zones of the markets."""
    days = (DAYS + pd.Timedelta(hours=15)).tz_localize("Asia/Shanghai").tz_convert("UTC")
    with pytest.raises(FactorFileError) as caught:
        examine(write(factor_frame(days=days), tmp_path))
    (failure,) = caught.value.failures
    assert ".dt.tz_convert('Asia/Shanghai').dt.tz_localize(None)}) for Qlib's region cn" in failure.fix
    assert failure.fix.endswith("with 'America/New_York' for us")

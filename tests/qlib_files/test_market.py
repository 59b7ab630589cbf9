"""The market that Qlib trains on, and whether a factor set fits it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.errors import FactorFileError, Reason
from rdagent_sota_bridge.qlib_files.market import Market, check_fit, read_market
from tests.frames import assert_survives_pickling, examine, factor_frame, factor_set, nested, write

CALENDAR = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-06", "2020-01-07", "2020-01-08"])
TRAIN = (pd.Timestamp("2020-01-03"), pd.Timestamp("2020-01-07"))
CSI300 = Market(Path("/qlib"), "csi300", CALENDAR, ("SH600000", "SH600004", "SZ000001", "SZ000002"))


def put_market(folder: Path, calendar: str, instruments: str, name: str = "csi300") -> Path:
    """Write Qlib's two text files into a folder and return it."""
    (folder / "calendars").mkdir()
    (folder / "calendars" / "day.txt").write_text(calendar, encoding="utf-8")
    (folder / "instruments").mkdir()
    (folder / "instruments" / f"{name}.txt").write_text(instruments, encoding="utf-8")
    return folder


CODES = (
    "SZ000001\t2005-01-04\t2010-12-31\nSH600000\t2005-01-04\t2020-01-03\nSZ000001\t2015-01-05\t2020-01-03\n"
)
DAYS = "2020-01-02\n2020-01-03\n"


@pytest.mark.parametrize(
    ("calendar", "instruments", "name", "first"),
    [
        (DAYS, CODES, "csi300", "2020-01-02"),
        (DAYS, CODES, "CSI300", "2020-01-02"),
        (
            "2020-01-02 \r\n\n2020-01-03\n\n",
            "SH600000 \t2005-01-04\n\nSZ000001\n\t\n",
            "csi300",
            "2020-01-02",
        ),
        ("2020-01-02 15:00:00\n2020-01-03 15:00:00\n", CODES, "csi300", "2020-01-02 15:00"),
    ],
    ids=["plain", "name in upper case", "loose ends", "times of day"],
)
def test_market_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, calendar: str, instruments: str, name: str, first: str
) -> None:
    """Days and codes are read, each code once, sorted; `~` is the home folder, as in RD-Agent's YAML."""
    (tmp_path / "data").mkdir()
    put_market(tmp_path / "data", calendar, instruments)
    monkeypatch.setenv("HOME", str(tmp_path))
    market = read_market("~/data", name)
    assert market is not None
    assert (market.folder, market.name) == (tmp_path / "data", name)
    assert market.instruments == ("SH600000", "SZ000001")
    assert (len(market.calendar), market.calendar[0]) == (2, pd.Timestamp(first))


@pytest.mark.parametrize(
    ("file", "text"),
    [
        ("calendars/day.txt", None),
        ("calendars/day.txt", ""),
        ("calendars/day.txt", "\n\n"),
        ("calendars/day.txt", "soon\n"),
        ("calendars/day.txt", "2020-01-02\n2020-13-45\n"),
        ("calendars/day.txt", "\x00\x01"),
        ("calendars/day.txt", "2020-01-02\n2020-01-02\n"),
        ("calendars/day.txt", "2020-01-03\n2020-01-02\n"),
        ("calendars/day.txt", b"\xff\xfe2020"),
        ("instruments/csi300.txt", None),
        ("instruments/csi300.txt", ""),
        ("instruments/csi300.txt", "\n"),
        ("instruments/csi300.txt", "\t2005-01-04\t2020-01-03\n"),
        ("instruments/csi300.txt", "SH600000\tsoon\tlater\n"),
        ("instruments/csi300.txt", b"\xff\xfe2020"),
    ],
)
def test_a_market_that_is_none(tmp_path: Path, file: str, text: str | bytes | None) -> None:
    """A missing, empty, damaged or half file, days twice or in another order: no market (yet)."""
    put_market(tmp_path, DAYS, CODES)
    assert read_market(str(tmp_path), "csi300") is not None
    assert read_market(str(tmp_path / "absent"), "csi300") is None
    if text is None:
        (tmp_path / file).unlink()
    else:
        (tmp_path / file).write_bytes(text.encode() if isinstance(text, str) else text)
    assert read_market(str(tmp_path), "csi300") is None


def test_days_that_are_written_in_several_ways(tmp_path: Path) -> None:
    """Days with and without a time of day in one file are read, as Qlib does; memberships count by day."""
    put_market(
        tmp_path,
        "2020-01-02\n2020-01-03 00:00:00\n20200106\n",
        "A\t2020-01-03 15:00:00\t2020-01-03 15:00:00\nB\t2020-01-02 00:00:00\t20200103\n",
    )
    market = read_market(str(tmp_path), "csi300")
    assert market is not None
    assert list(market.calendar) == list(CALENDAR[:3])
    assert market.members().tolist() == [[False, True], [True, True], [False, False]]


# --- who was in the market when ---

ALL = [True] * 5
SPANS = {
    "always": ([("2000-01-01", "2030-12-31")], ALL),
    "both ends belong": ([("2020-01-03", "2020-01-07")], [False, True, True, True, False]),
    "one day": ([("2020-01-06", "2020-01-06")], [False, False, True, False, False]),
    "a week-end": ([("2020-01-04", "2020-01-05")], [False] * 5),
    "ends on a week-end": ([("2020-01-04", "2020-01-12")], [False, False, True, True, True]),
    "before the calendar": ([("2000-01-01", "2010-12-31")], [False] * 5),
    "after the calendar": ([("2021-01-01", "2030-12-31")], [False] * 5),
    "twice": ([("2000-01-01", "2020-01-02"), ("2020-01-07", "2030-12-31")], [True, False, False, True, True]),
    "in any order": (
        [("2020-01-07", "2030-12-31"), ("2000-01-01", "2020-01-02")],
        [True, False, False, True, True],
    ),
    "next to each other": ([("2000-01-01", "2020-01-03"), ("2020-01-06", "2030-12-31")], ALL),
    "overlapping": ([("2000-01-01", "2020-01-07"), ("2020-01-03", "2030-12-31")], ALL),
    "the same twice": ([("2020-01-06", "2030-12-31")] * 2, [False, False, True, True, True]),
    "ends before it begins": ([("2020-01-07", "2020-01-03")], [False] * 5),
    "one of two ends before it begins": ([("2000-01-01", "2030-12-31"), ("2020-01-07", "2020-01-03")], ALL),
    "without an end": ([("2020-01-07", "")], [False, False, False, True, True]),
    "none given": ([], ALL),
}


@pytest.mark.parametrize("hours", [0, 15])
def test_members(tmp_path: Path, hours: int) -> None:
    """Memberships begin, end, and begin again, in any order of the lines; without dates they are for ever."""
    lines = [f"{name}\t{start}\t{end}\n" for name, (spans, _) in SPANS.items() for start, end in spans]
    lines += [f"{name}\n" for name, (spans, _) in SPANS.items() if not spans]
    calendar = "".join(f"{day + pd.Timedelta(hours=hours)}\n" for day in CALENDAR)
    put_market(tmp_path, calendar, "".join(lines[::-1]))
    market = read_market(str(tmp_path), "csi300")
    assert market is not None
    found = {name: list(column) for name, column in zip(market.instruments, market.members().T, strict=True)}
    assert found == {name: days for name, (_, days) in SPANS.items()}


def test_members_of_random_memberships() -> None:
    """Many memberships of many instruments are what a look-up a cell says."""
    random = np.random.default_rng(5)
    days = pd.bdate_range("2020-01-01", periods=40)
    every = pd.date_range("2019-12-20", "2020-03-10")
    spans = [
        (int(position), *(str(every[day].date()) for day in sorted(random.choice(len(every), 2))))
        for position in random.integers(0, 6, size=15)
    ]
    codes = tuple("ABCDEF")
    expected = [
        [
            any(at == place and pd.Timestamp(one) <= day <= pd.Timestamp(end) for at, one, end in spans)
            or place not in {at for at, *_ in spans}
            for place in range(len(codes))
        ]
        for day in days
    ]
    assert Market(Path("/qlib"), "m", days, codes, tuple(spans)).members().tolist() == expected


def test_digest_changes_with_either_file(tmp_path: Path) -> None:
    """The digest is the same for the same two texts anywhere, and another one where one of them differs."""
    texts = [
        ("2020-01-02\n", "A\t2005-01-04\t2020-01-03\n"),
        ("2020-01-02\n2020-01-03\n", "A\t2005-01-04\t2020-01-03\n"),
        ("2020-01-02\n", "A\t2005-01-04\t2020-01-06\n"),
        ("2020-01-02\n", "A\t2005-01-04\t2020-01-03\n"),
    ]
    digests = []
    for number, (calendar, instruments) in enumerate(texts):
        folder = tmp_path / str(number)
        folder.mkdir()
        put_market(folder, calendar, instruments, "csi300" if number else "other")
        market = read_market(str(folder), "csi300" if number else "other")
        assert market is not None
        digests.append(market.digest)
    assert len(digests[0]) == 64
    assert len(set(digests)) == 3
    assert digests[0] == digests[3]


# --- whether a set fits ---

CLOSE = Market(Path("/qlib"), "csi300", CALENDAR + pd.Timedelta(hours=15), CSI300.instruments)
WEEKEND = ["2020-01-04", "2020-01-05"]


@pytest.mark.parametrize(
    ("days", "instruments", "market"),
    [
        (CALENDAR, ["SH600000"], CSI300),
        (["2019-12-31", "2020-01-07", "2021-01-04"], ["AAPL", "SZ000002"], CSI300),
        (["2020-01-03"], ["SH600000"], CSI300),
        (["2020-01-07"], ["SH600000"], None),
        (WEEKEND, ["SH600000"], None),
        (CALENDAR + pd.Timedelta(hours=15), ["AAPL"], None),
        (["2020-01-07 15:00"], ["SH600000"], CLOSE),
    ],
    ids=[
        *("whole", "a day and an instrument in common", "first day", "last day"),
        *("no trading day, not known", "nothing but dates is known", "times of day of the calendar"),
    ],
)
def test_a_set_that_fits(days: Any, instruments: list[str], market: Market | None) -> None:
    """One common instrument and one training day are enough; without a market dates alone count."""
    check_fit(factor_set(days, instruments), market, TRAIN)


NO_DAY = Reason.NO_TRAINING_DATE
IN_TRAIN = "2020-01-03 to 2020-01-07 as training segment"
IN_MARKET = "SH600000, SH600004 in the market"


@pytest.mark.parametrize(
    ("days", "instruments", "market", "found"),
    [
        (["2020-01-02"], None, CSI300, {NO_DAY: (1, "2020-01-02 to 2020-01-02 in the file", IN_TRAIN)}),
        (["2020-01-08"], None, None, {NO_DAY: (1, "2020-01-08 to 2020-01-08 in the file", IN_TRAIN)}),
        (
            ["2020-01-02", "2020-01-08"],
            None,
            CSI300,
            {NO_DAY: (2, "2020-01-02 to 2020-01-08 in the file", IN_TRAIN)},
        ),
        (WEEKEND, None, CSI300, {NO_DAY: (2, "2020-01-04 to 2020-01-05 in the file", IN_TRAIN)}),
        (
            CALENDAR,
            ["000001.SZ", "600000.SH", "600004.SH"],
            CSI300,
            {Reason.NO_INSTRUMENT: (3, "000001.SZ, 600000.SH in the file", IN_MARKET)},
        ),
        (CALENDAR, ["sh600000"], CSI300, {Reason.NO_INSTRUMENT: (1, "sh600000 in the file", IN_MARKET)}),
        (
            CALENDAR,
            ["AAPL"],
            Market(Path("/qlib"), "csi300", CALENDAR, ()),
            {Reason.NO_INSTRUMENT: (1, "AAPL in the file", "no instrument at all in the market")},
        ),
        (
            [*CALENDAR[:3], CALENDAR[3] + pd.Timedelta(hours=9)],
            None,
            CSI300,
            {Reason.TIME_OF_DAY: (1, "2020-01-07 09:00:00", "2020-01-02 00:00:00 in the calendar")},
        ),
        (
            CALENDAR,
            None,
            CLOSE,
            {Reason.TIME_OF_DAY: (5, "2020-01-02 00:00:00", "2020-01-02 15:00:00 in the calendar")},
        ),
        (
            ["2021-01-04 15:00"],
            ["AAPL"],
            CSI300,
            {
                NO_DAY: (1, "2021-01-04 to 2021-01-04 in the file", IN_TRAIN),
                Reason.TIME_OF_DAY: (1, "2021-01-04 15:00:00", "2020-01-02 00:00:00 in the calendar"),
                Reason.NO_INSTRUMENT: (1, "AAPL in the file", IN_MARKET),
            },
        ),
    ],
    ids=[
        *("before", "after, no market", "around", "no trading day", "other codes", "lower case"),
        *("empty market", "times of day", "a calendar with times of day", "all at once"),
    ],
)
def test_a_set_that_does_not_fit(
    days: Any, instruments: list[str] | None, market: Market | None, found: dict[Reason, tuple[int, str, str]]
) -> None:
    """What Qlib would make zeros of is refused, all at once, with both sides and the count."""
    with pytest.raises(FactorFileError) as caught:
        check_fit(factor_set(days, instruments or ["SH600000"]), market, TRAIN)
    assert_survives_pickling(caught.value)
    failures = caught.value.failures
    assert {failure.reason: (failure.count, *failure.examples) for failure in failures} == found
    assert all(failure.fix for failure in failures)


def test_real_file_against_a_real_folder(tmp_path: Path) -> None:
    """What `examine` finds in a file fits the market that `read_market` finds in a folder."""
    path = write(nested(factor_frame()), tmp_path)
    put_market(tmp_path, "2020-01-02\n2020-01-03\n2020-01-06\n2020-01-07\n", CODES)
    check_fit(examine(path), read_market(str(tmp_path), "csi300"), TRAIN)

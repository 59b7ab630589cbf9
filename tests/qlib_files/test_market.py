"""The market that Qlib trains on, and whether a factor set fits it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.errors import FactorFileError, Failure, Reason
from rdagent_sota_bridge.factor_set.parquet import FactorSet
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


def misfits(factors: FactorSet, market: Market | None = CSI300) -> tuple[Failure, ...]:
    """Return why a set does not fit; fail where it does."""
    with pytest.raises(FactorFileError) as caught:
        check_fit(factors, market, TRAIN)
    assert caught.value.path == str(factors.path)
    assert_survives_pickling(caught.value)
    return caught.value.failures


def test_market_is_read(tmp_path: Path) -> None:
    """Days and codes are read, each code once, sorted, whatever the dates of its memberships."""
    put_market(
        tmp_path,
        "2020-01-02\n2020-01-03\n",
        "SZ000001\t2005-01-04\t2010-12-31\nSH600000\t2005-01-04\t2020-01-03\nSZ000001\t2015-01-05\t2020-01-03\n",
    )
    market = read_market(str(tmp_path), "csi300")
    assert market is not None
    assert (market.folder, market.name) == (tmp_path, "csi300")
    assert market.instruments == ("SH600000", "SZ000001")
    assert list(market.calendar) == [pd.Timestamp("2020-01-02"), pd.Timestamp("2020-01-03")]


def test_market_with_loose_ends_is_read(tmp_path: Path) -> None:
    """Blank lines, blanks, and lines without dates do no harm."""
    put_market(tmp_path, "2020-01-02 \r\n\n2020-01-03\n\n", "SH600000 \t2005-01-04\n\nSZ000001\n\t\n")
    market = read_market(str(tmp_path), "csi300")
    assert market is not None
    assert market.instruments == ("SH600000", "SZ000001")
    assert len(market.calendar) == 2


def test_calendar_with_times_of_day_is_read(tmp_path: Path) -> None:
    """A calendar's times of day are kept."""
    put_market(tmp_path, "2020-01-02 15:00:00\n2020-01-03 15:00:00\n", "SH600000\t2005-01-04\t2020-01-03\n")
    market = read_market(str(tmp_path), "csi300")
    assert market is not None
    assert market.calendar[0] == pd.Timestamp("2020-01-02 15:00")


def test_market_name_in_upper_case(tmp_path: Path) -> None:
    """Qlib's file of a market has a lower-case name, the market may be written in any."""
    put_market(tmp_path, "2020-01-02\n", "SH600000\t2005-01-04\t2020-01-03\n")
    market = read_market(str(tmp_path), "CSI300")
    assert market is not None
    assert market.name == "CSI300"


def test_market_below_the_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`~` in Qlib's folder is the home folder, as in RD-Agent's YAML."""
    (tmp_path / "data").mkdir()
    put_market(tmp_path / "data", "2020-01-02\n", "SH600000\t2005-01-04\t2020-01-03\n")
    monkeypatch.setenv("HOME", str(tmp_path))
    market = read_market("~/data", "csi300")
    assert market is not None
    assert market.folder == tmp_path / "data"


@pytest.mark.parametrize("missing", ["calendars/day.txt", "instruments/csi300.txt"])
def test_market_without_one_of_its_files(tmp_path: Path, missing: str) -> None:
    """A folder without the calendar, or without the market, does not have the market."""
    put_market(tmp_path, "2020-01-02\n", "SH600000\t2005-01-04\t2020-01-03\n")
    assert read_market(str(tmp_path), "csi300") is not None
    (tmp_path / missing).unlink()
    assert read_market(str(tmp_path), "csi300") is None


@pytest.mark.parametrize("days", ["2020-01-02\n2020-01-02\n", "2020-01-03\n2020-01-02\n"])
def test_a_calendar_that_is_none(tmp_path: Path, days: str) -> None:
    """Days that stand twice or in another order are no calendar: positions in it would mean nothing."""
    put_market(tmp_path, days, "SH600000\t2005-01-04\t2020-01-03\n")
    assert read_market(str(tmp_path), "csi300") is None


def test_missing_data_folder(tmp_path: Path) -> None:
    """Qlib's data not downloaded yet, there is no market."""
    assert read_market(str(tmp_path / "absent"), "csi300") is None


@pytest.mark.parametrize("text", ["", "\n\n", "soon\n", "2020-01-02\n2020-13-45\n", "\x00\x01"])
def test_calendar_without_days(tmp_path: Path, text: str) -> None:
    """An empty calendar, or half of a download, is no market yet."""
    put_market(tmp_path, text, "SH600000\t2005-01-04\t2020-01-03\n")
    assert read_market(str(tmp_path), "csi300") is None


@pytest.mark.parametrize("text", ["", "\n", "\t2005-01-04\t2020-01-03\n", "SH600000\tsoon\tlater\n"])
def test_market_without_instruments(tmp_path: Path, text: str) -> None:
    """A market without an instrument, or with memberships that are no dates, is no market yet."""
    put_market(tmp_path, "2020-01-02\n", text)
    assert read_market(str(tmp_path), "csi300") is None


@pytest.mark.parametrize("file", ["calendars/day.txt", "instruments/csi300.txt"])
def test_market_that_is_no_text(tmp_path: Path, file: str) -> None:
    """Bytes that are no text, in either file, are no market yet."""
    put_market(tmp_path, "2020-01-02\n", "SH600000\t2005-01-04\t2020-01-03\n")
    (tmp_path / file).write_bytes(b"\xff\xfe2020")
    assert read_market(str(tmp_path), "csi300") is None


def test_days_that_are_written_in_several_ways(tmp_path: Path) -> None:
    """Days with and without a time of day in one file are read, as Qlib reads them."""
    put_market(
        tmp_path,
        "2020-01-02\n2020-01-03 00:00:00\n20200106\n",
        "A\t2020-01-03\t2020-01-03 00:00:00\nB\t2020-01-02 00:00:00\t20200103\n",
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


def test_members_with_times_of_day(tmp_path: Path) -> None:
    """A membership that is given by the minute counts by the day."""
    put_market(
        tmp_path, "2020-01-02\n2020-01-03\n2020-01-06\n", "A\t2020-01-03 15:00:00\t2020-01-03 15:00:00\n"
    )
    market = read_market(str(tmp_path), "csi300")
    assert market is not None
    assert market.members().tolist() == [[False], [True], [False]]


def test_members_of_a_market_without_memberships() -> None:
    """Where nothing is known of memberships, everyone is in the market on every day."""
    assert CSI300.members().shape == (5, 4)
    assert CSI300.members().all()


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


def test_fitting_set_passes() -> None:
    """A set over the market's days and instruments is accepted."""
    check_fit(factor_set(CALENDAR), CSI300, TRAIN)


def test_partial_overlap_passes() -> None:
    """One common instrument and one common training day are enough."""
    check_fit(factor_set(["2019-12-31", "2020-01-07", "2021-01-04"], ["AAPL", "SZ000002"]), CSI300, TRAIN)


@pytest.mark.parametrize("day", ["2020-01-03", "2020-01-07"])
def test_both_ends_of_the_segment_are_inside(day: str) -> None:
    """First and last day of the training segment belong to it."""
    check_fit(factor_set([day]), CSI300, TRAIN)
    check_fit(factor_set([day]), None, TRAIN)


@pytest.mark.parametrize("day", ["2020-01-02", "2020-01-08"])
def test_days_beside_the_segment_are_outside(day: str) -> None:
    """The days just before and after the training segment do not belong to it."""
    assert [failure.reason for failure in misfits(factor_set([day]))] == [Reason.NO_TRAINING_DATE]
    assert [failure.reason for failure in misfits(factor_set([day]), None)] == [Reason.NO_TRAINING_DATE]


def test_other_instruments_show_both_sides() -> None:
    """Codes that are written another way are refused, with two of each side."""
    (failure,) = misfits(factor_set(CALENDAR, ["000001.SZ", "600000.SH", "600004.SH"]))
    assert failure == Failure(
        Reason.NO_INSTRUMENT,
        "write the codes as the market csi300 in /qlib does",
        "instrument",
        3,
        ("000001.SZ, 600000.SH in the file", "SH600000, SH600004 in the market"),
    )


def test_instruments_in_another_case_do_not_match() -> None:
    """Qlib joins codes as text, so lower case is another instrument."""
    (failure,) = misfits(factor_set(CALENDAR, ["sh600000"]))
    assert (failure.reason, failure.count) == (Reason.NO_INSTRUMENT, 1)
    assert failure.examples == ("sh600000 in the file", "SH600000, SH600004 in the market")


def test_market_without_instruments_is_told() -> None:
    """An empty market matches nothing, and the message says so."""
    (failure,) = misfits(factor_set(CALENDAR), Market(Path("/qlib"), "csi300", CALENDAR, ()))
    assert failure.reason is Reason.NO_INSTRUMENT
    assert failure.examples[1] == "no instrument at all in the market"


def test_no_training_date() -> None:
    """A set mined over the test segment alone is refused, with both ranges."""
    (failure,) = misfits(factor_set(["2021-01-04", "2021-01-05", "2021-06-30"]))
    assert failure == Failure(
        Reason.NO_TRAINING_DATE,
        "mine the factors over the training segment too, or set the segment to the dates of the file",
        "datetime",
        3,
        ("2021-01-04 to 2021-06-30 in the file", "2020-01-03 to 2020-01-07 as training segment"),
    )


def test_days_around_the_segment_are_not_inside() -> None:
    """A set with days before and after, and none inside, is refused though its range covers the segment."""
    (failure,) = misfits(factor_set(["2020-01-02", "2020-01-08"]))
    assert (failure.reason, failure.count) == (Reason.NO_TRAINING_DATE, 2)


def test_dates_inside_the_segment_that_are_no_trading_days() -> None:
    """Week-ends inside the segment give the model nothing; without a market they can't be told."""
    weekend = factor_set(["2020-01-04", "2020-01-05"])
    (failure,) = misfits(weekend)
    assert (failure.reason, failure.column, failure.count) == (Reason.NO_TRAINING_DATE, "datetime", 2)
    check_fit(weekend, None, TRAIN)


def test_times_of_day_against_a_daily_calendar() -> None:
    """15:00 never equals Qlib's midnight: refused, with one of each side, though the days are right."""
    (failure,) = misfits(factor_set(CALENDAR + pd.Timedelta(hours=15)))
    assert failure == Failure(
        Reason.TIME_OF_DAY,
        "take them off: index.normalize(), or name a set of the calendar's frequency",
        "datetime",
        5,
        ("2020-01-02 15:00:00", "2020-01-02 00:00:00 in the calendar"),
    )


def test_some_times_of_day_are_counted() -> None:
    """Among days at midnight, the rows with another time are counted and the first is named."""
    (failure,) = misfits(factor_set([*CALENDAR[:3], CALENDAR[3] + pd.Timedelta(hours=9)]))
    assert (failure.reason, failure.count) == (Reason.TIME_OF_DAY, 1)
    assert failure.examples[0] == "2020-01-07 09:00:00"


def test_midnight_against_a_calendar_with_times() -> None:
    """The other way round is refused as well."""
    close = Market(Path("/qlib"), "csi300", CALENDAR + pd.Timedelta(hours=15), CSI300.instruments)
    (failure,) = misfits(factor_set(CALENDAR), close)
    assert (failure.reason, failure.count) == (Reason.TIME_OF_DAY, 5)
    assert failure.examples == ("2020-01-02 00:00:00", "2020-01-02 15:00:00 in the calendar")


def test_times_of_day_that_the_calendar_has_pass() -> None:
    """Where the calendar has the same times, they fit; the segment's last day is inside to its end."""
    close = Market(Path("/qlib"), "csi300", CALENDAR + pd.Timedelta(hours=15), CSI300.instruments)
    check_fit(factor_set(CALENDAR + pd.Timedelta(hours=15)), close, TRAIN)
    check_fit(factor_set([pd.Timestamp("2020-01-07 15:00")]), close, TRAIN)


def test_without_a_market_only_the_dates_are_compared() -> None:
    """Qlib's data not there yet, instruments and times of day pass and the dates are still checked."""
    check_fit(factor_set(CALENDAR + pd.Timedelta(hours=15), ["AAPL"]), None, TRAIN)
    (failure,) = misfits(factor_set(["2021-01-04"], ["AAPL"]), None)
    assert failure.reason is Reason.NO_TRAINING_DATE


def test_every_misfit_is_told_at_once() -> None:
    """Dates, times of day and instruments stand in one error."""
    found = misfits(factor_set(pd.DatetimeIndex(["2021-01-04 15:00"]), ["AAPL"]))
    assert [failure.reason for failure in found] == [
        Reason.NO_TRAINING_DATE,
        Reason.TIME_OF_DAY,
        Reason.NO_INSTRUMENT,
    ]


def test_real_file_against_a_real_folder(tmp_path: Path) -> None:
    """What `examine` finds in a file fits the market that `read_market` finds in a folder."""
    path = write(nested(factor_frame()), tmp_path)
    days = "2020-01-02\n2020-01-03\n2020-01-06\n2020-01-07\n"
    put_market(tmp_path, days, "SH600000\t2005-01-04\t2020-12-31\n")
    check_fit(examine(path), read_market(str(tmp_path), "csi300"), TRAIN)
    other = write(nested(factor_frame(instruments=["600000.SH"])), tmp_path, "other.parquet")
    (failure,) = misfits(examine(other), read_market(str(tmp_path), "csi300"))
    assert failure.examples == ("600000.SH in the file", "SH600000 in the market")

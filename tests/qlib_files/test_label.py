"""Qlib's label from Qlib's price files, against plain loops and Qlib's own answer."""

from __future__ import annotations

import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.errors import MarketError
from rdagent_sota_bridge.qlib_files import label
from tests.frames import public_folder, without_privileges, write_prices

LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
NAN = float("nan")
DAYS = 12
PRICES = {
    "SH600000": (0, [10.0 + number for number in range(DAYS)]),
    "SH600004": (3, [20.0, 21.0, NAN, 23.0, 25.0]),  # listed later, gone earlier, with a gap
    "SH600006": (0, [5.0, 0.0, 5.0, 6.0, 0.0, 0.0] + [7.0] * 6),  # zeros
    "SZ000001": (DAYS - 1, [3.0]),  # listed on the last day
    "SZ000002": (7, []),  # a header alone
    "SZ000004": (float("nan"), [1.0] * DAYS),  # a header that is no number
}
CODES = (*PRICES, "SZ999999")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a Qlib data folder with the prices; one instrument has none."""
    for code, (start, prices) in PRICES.items():
        write_prices(tmp_path, code, "close", start, prices)
    return tmp_path


def plain(later: int, earlier: int, days: list[int], codes: tuple[str, ...] = CODES) -> np.ndarray:
    """Return the label by one look-up a cell."""
    table = np.full((len(days), len(codes)), np.nan, dtype=np.float32)
    for column, code in enumerate(codes):
        start, prices = PRICES.get(code, (0, []))
        if np.isnan(start):
            continue
        known = dict(enumerate(prices, int(start)))
        for row, day in enumerate(days):
            one, two = known.get(day + later, NAN), known.get(day + earlier, NAN)
            if day >= start and two and not np.isnan(one / two):
                table[row, column] = np.float32(one) / np.float32(two) - np.float32(1)
    return table


@pytest.mark.parametrize(
    ("expression", "later", "earlier"),
    [
        (LABEL, 2, 1),
        ("  Ref($close,-2) /  Ref($close,   -1)-1 ", 2, 1),
        ("Ref($close, -6)/Ref($close, -1) - 1", 6, 1),
        ("Ref($close, -1)/Ref($close, -3) - 1", 1, 3),
        ("Ref($close, -40)/Ref($close, -1) - 1", 40, 1),
        ("Ref($Close, -2)/Ref($Close, -1) - 1", 2, 1),
    ],
)
@pytest.mark.parametrize("days", [list(range(DAYS)), [0], [DAYS - 1], [2, 5, 6, 9], [DAYS + 5], []])
def test_against_a_loop(folder: Path, expression: str, later: int, earlier: int, days: list[int]) -> None:
    """Each cell is the return between its two later days; NaN before the first price, and without one."""
    found = label.values(folder, expression, np.array(days, dtype=int), CODES)
    expected = plain(later, earlier, days)
    assert (found.dtype, found.shape) == (np.float32, expected.shape)
    np.testing.assert_array_equal(found, expected)


def test_the_loop_sees_labels_and_gaps() -> None:
    """What the label is compared with has values and gaps, so that the comparison can fail."""
    counts = (~np.isnan(plain(2, 1, list(range(DAYS))))).sum(axis=0)
    assert list(counts) == [10, 1, 7, 0, 0, 0, 0]


def test_other_field_and_order_of_instruments(folder: Path) -> None:
    """Another price is read where the label names it, and columns are in the order of the instruments."""
    write_prices(folder, "SZ000001", "vwap", 0, [1, 2, 4, 16])
    found = label.values(
        folder, "Ref($vwap, -2)/Ref($vwap, -1) - 1", np.array([0, 1, 2]), ("SH600000", "SZ000001")
    )
    np.testing.assert_array_equal(found, np.array([[NAN, 1], [NAN, 3], [NAN, NAN]], dtype=np.float32))


def test_folder_without_prices(tmp_path: Path) -> None:
    """No price file at all, every label is NaN."""
    assert np.isnan(label.values(tmp_path, LABEL, np.arange(3), CODES)).all()
    assert label.values(tmp_path, LABEL, np.arange(3), ()).shape == (3, 0)


@pytest.mark.parametrize(
    "expression",
    [
        "",
        "$close",
        "Ref($close, -1)/$close - 1",
        "Ref($close, -2)/Ref($open, -1) - 1",
        "Ref($close, 2)/Ref($close, 1) - 1",
        "Ref($close, -2)/Ref($close, -1)",
        "Ref($close, -2)/Ref($close, -1) - 10",
        "Ref($close, -2)/Ref($close, -1) + 1",
        "Log(Ref($close, -2)/Ref($close, -1) - 1)",
        "Ref($close, -2)/Ref($close, -1) - 1 - Mean($close, 5)",
        "Ref($close / $factor, -2)/Ref($close / $factor, -1) - 1",
    ],
)
def test_other_expressions_are_not_guessed(folder: Path, expression: str) -> None:
    """A label that is no plain return between two later days is not known."""
    assert label.values(folder, expression, np.arange(3), CODES) is None


@pytest.mark.e2e
def test_qlib_says_the_same(folder: Path) -> None:
    """Qlib itself, on the same files, has the same labels."""
    days = [f"2020-01-{day:02d}" for day in range(1, DAYS + 1)]
    codes = [code for code, (start, prices) in PRICES.items() if prices and not np.isnan(start)]
    (folder / "calendars").mkdir()
    (folder / "calendars" / "day.txt").write_text("".join(f"{day}\n" for day in days))
    (folder / "instruments").mkdir()
    (folder / "instruments" / "all.txt").write_text(
        "".join(f"{code}\t{days[0]}\t{days[-1]}\n" for code in codes)
    )
    code = (
        "import sys, qlib\nfrom qlib.data import D\n"
        "if __name__ == '__main__':\n"
        "    qlib.init(provider_uri=sys.argv[1], kernels=1, logging_level=50)\n"
        "    frame = D.features(sys.argv[3:], [sys.argv[2]]).iloc[:, 0].unstack('instrument')\n"
        "    frame.to_csv(sys.stdout)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), LABEL, *codes], capture_output=True, text=True, check=True
    )
    theirs = pd.read_csv(io.StringIO(done.stdout), index_col="datetime").reindex(index=days, columns=codes)
    ours = label.values(folder, LABEL, np.arange(DAYS), codes)
    np.testing.assert_allclose(ours, theirs.replace(np.inf, np.nan).to_numpy(float), rtol=1e-6)


def test_prices_that_can_not_be_read() -> None:
    """A price file of another user's is an error with its path and the system's reason."""
    with public_folder() as folder:
        file = write_prices(folder, "SH600000", "close", 0, [1.0, 2.0, 3.0])
        file.chmod(0o000)
        with without_privileges(), pytest.raises(MarketError, match="Permission denied") as caught:
            label.values(folder, LABEL, np.arange(1), ["SH600000"])
    assert caught.value.place == str(file)


@pytest.mark.parametrize(
    ("expression", "days"),
    [
        (LABEL, 2),
        ("Ref($open, -1)/Ref($open, -6) - 1", 6),
        ("Ref($close, -5)/$close - 1", 5),
        ("Ref(Mean(Ref($close, -3), 5), -2)/$close - 1", 5),
        ("$close/Ref($close, 1) - 1", 0),
    ],
)
def test_how_far_a_label_looks_ahead(expression: str, days: int) -> None:
    """As far as Qlib extends the data for it, for the known form and others."""
    assert label.days_ahead(expression) == days

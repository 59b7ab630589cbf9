"""Forms of which only one reading, or none, is safe: what is read, what is refused, and with which code."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pytest

from rdagent_sota_bridge.errors import Reason
from rdagent_sota_bridge.factor_set import parquet
from tests.factor_set.test_layout import BOTH, DAYS, bare, columns
from tests.frames import examine, factor_frame, failures_of, nested, write, write_table


@pytest.mark.parametrize(
    "values",
    [
        DAYS.strftime("%d/%m/%Y"),
        DAYS.strftime("%y%m%d"),
        DAYS.strftime("%Y年%m月%d日"),
        pd.Index([43832, 43833] * 6),
        pd.Index([10**17] * 12),
    ],
    ids=["either month first", "two digits of a year", "words", "Excel's days", "no unit"],
)
def test_dates_of_which_no_reading_is_certain(tmp_path: Path, values: pd.Index) -> None:
    """No code is given that could read another day: the user has to say the form."""
    (failure,) = failures_of(write(columns(datetime=values), tmp_path))
    assert failure.fix.endswith("format='…'), with the form in which they are written")


@pytest.mark.parametrize("values", [DAYS.strftime("%Y%m%d").astype(float), DAYS.strftime("%Y%m%d150000")])
def test_numbers_that_are_dates(tmp_path: Path, values: pd.Index) -> None:
    """Dates as floats, and with the time of day, become the days that they name."""
    path = write(columns(datetime=values), tmp_path)
    (failure,) = failures_of(path)
    named = {"df": pd.read_parquet(path), "pd": pd}
    exec(failure.fix[failure.fix.index("df") :], named)
    assert set(named["df"]["datetime"].dt.normalize()) == set(DAYS)  # type: ignore[index]


def test_a_label_beside_the_features(tmp_path: Path) -> None:
    """RD-Agent's groups, without what pandas wrote of them, are groups all the same: a label is no factor."""
    frame = nested(factor_frame())
    frame["label", "LABEL0"] = 1.0
    (failure,) = failures_of(write_table(bare(frame), tmp_path))
    assert (failure.reason, failure.examples) == (Reason.LAYOUT, ("('label', 'LABEL0')",))


def test_row_numbers_of_another_program(tmp_path: Path) -> None:
    """The index that pandas had without a name is no factor."""
    table = pa.Table.from_pandas(columns().sample(frac=1, random_state=1)).replace_schema_metadata(None)
    path = write_table(table, tmp_path)
    with parquet.opened(path) as file:
        assert (file.columns, file.understood) == (
            ("momentum", "turnover"),
            f"{BOTH}, the row number is left out",
        )


def test_times_that_python_can_not_hold(tmp_path: Path) -> None:
    """Of a wrong unit the footer says no bounds, and the file is refused as one with other dates."""
    table = bare(columns())
    far = pa.array([10**12] * 12, pa.timestamp("s"))
    path = write_table(table.set_column(table.schema.get_field_index("datetime"), "datetime", far), tmp_path)
    assert parquet.read_footer(path).start is None
    assert [failure.reason for failure in failures_of(path)] == [Reason.NOT_DATES]


@pytest.mark.parametrize(
    "frame",
    [
        lambda: nested(columns(datetime=DAYS.strftime("%Y%m%d").astype(int))),
        lambda: nested(columns(datetime=DAYS.tz_localize("Asia/Shanghai").tz_convert("UTC"))),
        lambda: nested(pd.concat([columns(), columns().iloc[:1]])),
        lambda: factor_frame().swaplevel().rename_axis([None, None]),
    ],
    ids=["integers, nested", "a time zone, nested", "rows twice, nested", "swapped levels without names"],
)
def test_the_code_has_the_names_that_pandas_has(frame: Callable[[], pd.DataFrame], tmp_path: Path) -> None:
    """Names of two parts are tuples in a fix, and levels without names get them in the right order."""
    path = write(frame(), tmp_path)
    named = {"df": pd.read_parquet(path), "pd": pd}
    code = failures_of(path)[0].fix
    code = code[code.index("df") :]
    exec(code if " = " in code else f"df = {code}", named)
    found = examine(write(named["df"], tmp_path))  # type: ignore[arg-type]
    assert (found.rows, set(found.dates)) == (12, set(DAYS))

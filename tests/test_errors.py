"""The errors: their text, and that they cross a process boundary unharmed."""

from __future__ import annotations

import multiprocessing
import pickle
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from rdagent_sota_bridge import errors
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, Failure, Reason
from tests.frames import assert_survives_pickling, examine, factor_file, factor_frame, write


def test_every_error() -> None:
    """Fact, place and fix stand in the text, on a line each, and come back from pickling."""
    kinds = [
        kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BridgeError)
    ]
    assert len(kinds) > 10
    for kind in kinds:
        if kind is not FactorFileError:
            error = kind("It is wrong: 因子", "there", "fix it")
            assert str(error) == "It is wrong: 因子\n  where: there\n  fix:   fix it"
            assert (error.fact, error.place, error.fix) == ("It is wrong: 因子", "there", "fix it")
            assert_survives_pickling(error)


def test_a_factor_file_error_lists_every_failure() -> None:
    """The text has the file once and a line for each failure; fact, place and fix are as of every error."""
    failures = (
        Failure(Reason.INFINITE, "replace them", "动量", 1234567, ("(a, b)", "(c, d)")),
        Failure(Reason.NO_ROWS, "mine again"),
    )
    error = FactorFileError("/sets/因子.parquet", failures)
    assert str(error) == (
        "The factor file can't be used for training: /sets/因子.parquet\n"
        "  - a column has infinite values [动量], 1,234,567 in all, "
        "such as (a, b) and (c, d); fix: replace them\n"
        "  - the file has no rows; fix: mine again"
    )
    assert (error.fact, error.place, error.fix) == (
        "The factor file can't be used for training",
        "/sets/因子.parquet",
        "replace them",
    )
    assert_survives_pickling(error)
    assert pickle.loads(pickle.dumps(error)).failures == failures


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (Failure(Reason.NO_ROWS, "m"), "the file has no rows; fix: m"),
        (Failure(Reason.NO_ROWS, "m", count=0), "the file has no rows, 0 in all; fix: m"),
        (Failure(Reason.ALL_NAN, "m", "x", 3), "a column is all NaN [x], 3 in all; fix: m"),
        (
            Failure(Reason.NO_LEVEL, "m", "x", examples=("y",)),
            "an index level is missing [x], such as y; fix: m",
        ),
    ],
)
def test_failure_text_leaves_out_what_is_not_known(failure: Failure, text: str) -> None:
    """A failure says only what it carries: no empty brackets, counts or examples."""
    assert str(failure) == text


def test_reasons_tell_themselves_apart() -> None:
    """No two reasons share a text, or the enum would merge them."""
    assert len({reason.value for reason in Reason}) == len(Reason.__members__)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_real_errors_cross_a_process_pool(tmp_path: Path, method: str) -> None:
    """Errors raised in a worker process, as in RD-Agent's parallel loops, arrive with the same text."""
    frame = factor_frame()
    frame.iloc[2, 0] = np.inf
    frame["turnover"] = np.nan
    path = write(frame, tmp_path)
    missing = str(tmp_path / "nothing")
    with pytest.raises(FactorFileError) as here:
        examine(path)
    with pytest.raises(errors.WorkspaceNotFoundError) as missing_here:
        factor_file(missing)
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        with pytest.raises(FactorFileError) as there:
            pool.submit(examine, path).result(timeout=60)
        with pytest.raises(errors.WorkspaceNotFoundError) as missing_there:
            pool.submit(factor_file, missing).result(timeout=60)
    assert str(there.value) == str(here.value)
    assert there.value.failures == here.value.failures
    assert len(there.value.failures) == 2
    assert str(missing_there.value) == str(missing_here.value)

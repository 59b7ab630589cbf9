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

PLAIN_ERRORS = [
    error
    for error in vars(errors).values()
    if isinstance(error, type) and issubclass(error, BridgeError) and error is not FactorFileError
]


def two_failures() -> FactorFileError:
    """Return an error with two failures, the first with everything that a failure may carry."""
    return FactorFileError(
        "/sets/因子.parquet",
        (
            Failure(Reason.INFINITE, "replace them", "动量", 1234567, ("(a, b)", "(c, d)")),
            Failure(Reason.NO_ROWS, "mine again"),
        ),
    )


def test_every_error_is_a_bridge_error() -> None:
    """Each error class of the module has the one base that callers catch."""
    assert {error.__name__ for error in PLAIN_ERRORS} >= {
        "BridgeError",
        "SettingsError",
        "LocateError",
        "WorkspaceNotFoundError",
        "FactorFileNotFoundError",
        "BaseSetError",
        "SeamError",
        "SetChangedError",
        "HandOffError",
    }
    assert issubclass(FactorFileError, BridgeError)


@pytest.mark.parametrize("error_class", PLAIN_ERRORS)
def test_text_has_fact_place_and_fix(error_class: type[BridgeError]) -> None:
    """The text names what is wrong, where, and what to do, on a line each."""
    error = error_class("It is wrong: 因子", "there", "fix it")
    assert str(error) == "It is wrong: 因子\n  where: there\n  fix:   fix it"
    assert (error.fact, error.place, error.fix) == ("It is wrong: 因子", "there", "fix it")


@pytest.mark.parametrize("error_class", PLAIN_ERRORS)
@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_every_error_survives_pickling(error_class: type[BridgeError], protocol: int) -> None:
    """A pickled error comes back as the same class with the same text and parts."""
    error = error_class("fact", "place", "fix")
    copy = pickle.loads(pickle.dumps(error, protocol))
    assert type(copy) is error_class
    assert str(copy) == str(error)
    assert (copy.fact, copy.place, copy.fix) == ("fact", "place", "fix")


def test_factor_file_error_lists_every_failure() -> None:
    """The text has the file once and a line for each failure, in order, with all that is known of it."""
    assert str(two_failures()) == (
        "The factor file can't be used for training: /sets/因子.parquet\n"
        "  - a column has infinite values [动量], 1,234,567 in all, "
        "such as (a, b) and (c, d); fix: replace them\n"
        "  - the file has no rows; fix: mine again"
    )


def test_factor_file_error_has_the_parts_of_every_bridge_error() -> None:
    """Code that handles any bridge error finds fact, place and fix here too."""
    error = two_failures()
    assert (error.fact, error.place, error.fix) == (
        "The factor file can't be used for training",
        "/sets/因子.parquet",
        "replace them",
    )


def test_factor_file_error_survives_pickling() -> None:
    """A pickled factor file error keeps its text and its failures."""
    error = two_failures()
    assert_survives_pickling(error)
    assert pickle.loads(pickle.dumps(error)).failures == error.failures


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
    with pytest.raises(FactorFileError) as here:
        examine(path)
    missing = str(tmp_path / "nothing")
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

"""The errors: their text, and that they cross a process boundary unharmed."""

from __future__ import annotations

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import pytest

from rdagent_sota_bridge import errors
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, Failure, Reason

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, BridgeError)]
FAILURES = (
    Failure(Reason.INFINITE, "replace them", "动量", 1234567, ("(a, b)", "(c, d)")),
    Failure(Reason.NO_ROWS, "mine again"),
)


def raise_it(error: BridgeError) -> None:
    """Raise an error in a worker."""
    raise error


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_every_error_crosses_a_process_pool(method: str) -> None:
    """Raised in a worker, as in RD-Agent's parallel loops, each has its fact, place, fix and failures."""
    made = [kind("It is wrong: 因子", "there", "fix it") for kind in KINDS if kind is not FactorFileError]
    made.append(FactorFileError("/sets/因子.parquet", FAILURES))
    assert len(made) == len(KINDS) > 10
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context(method)) as pool:
        for error in made:
            with pytest.raises(type(error)) as caught:
                pool.submit(raise_it, error).result(timeout=60)
            assert str(caught.value) == str(error)
            assert vars(caught.value).items() >= vars(error).items()


def test_the_text_of_an_error() -> None:
    """Fact, place and fix stand on a line each; a file's error has the file once and a line a failure."""
    error = BridgeError("It is wrong: 因子", "there", "fix it")
    assert str(error) == "It is wrong: 因子\n  where: there\n  fix:   fix it"
    of_file = FactorFileError("/sets/因子.parquet", FAILURES)
    assert str(of_file) == (
        "The factor file can't be used for training: /sets/因子.parquet\n"
        "  - a column has infinite values [动量], 1,234,567 in all, "
        "such as (a, b) and (c, d); fix: replace them\n"
        "  - the file has no rows; fix: mine again"
    )
    assert (of_file.place, of_file.fix) == ("/sets/因子.parquet", "replace them")


@pytest.mark.parametrize(
    ("failure", "text"),
    [
        (Failure(Reason.NO_ROWS, "m", count=0), "the file has no rows, 0 in all; fix: m"),
        (Failure(Reason.ALL_NAN, "m", "x"), "a column is all NaN [x]; fix: m"),
        (Failure(Reason.NO_LEVEL, "m", examples=("y",)), "an index level is missing, such as y; fix: m"),
    ],
)
def test_failure_text_leaves_out_what_is_not_known(failure: Failure, text: str) -> None:
    """A failure says only what it carries: no empty brackets, counts or examples."""
    assert str(failure) == text

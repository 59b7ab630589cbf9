"""`--loop_n` of a resumed run: a total, which RD-Agent does not say."""

from __future__ import annotations

import pytest

from tests import seams
from tests.bridge.test_loop import FactorRDLoop


@pytest.mark.parametrize(
    ("finished", "loop_n", "said"),
    [(2, 2, "--loop_n 4"), (2, 1, "--loop_n 3"), (1, 1, "--loop_n 2"), (2, 3, ""), (0, 2, ""), (2, None, "")],
)
def test_a_count_that_is_reached_is_told(finished: int, loop_n: int | None, said: str) -> None:
    """RD-Agent counts the finished loops too, and ends in silence; one line names the number to give."""
    loop = FactorRDLoop(None)
    for number in range(finished):
        loop.step_idx[number] = len(loop.steps)
    with seams.logged() as lines:
        loop.run(loop_n=loop_n).close()
    found = [line for line in lines if "is the total of this session's loops" in line]
    assert len(found) == bool(said)
    assert all(f"For {loop_n} more give {said}" in line for line in found)

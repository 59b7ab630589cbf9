"""One job of many trainings, by stand-ins: their order, their threads, and their end."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge import models
from rdagent_sota_bridge.errors import JobError, ResultError, SettingsError
from rdagent_sota_bridge.models import trainings
from rdagent_sota_bridge.models.retrain import Change
from rdagent_sota_bridge.models.trainings import How, Wanted, train_all

Train = Callable[[int, Callable[[], bool]], Any]


def wanted(count: int) -> list[Wanted]:
    """Return trainings that are told apart by their seeds."""
    return [Wanted(Path("model"), Change(seed=number)) for number in range(count)]


@pytest.fixture
def train(monkeypatch: pytest.MonkeyPatch) -> Callable[[Train], list[int | None]]:
    """Let a function of the seed, and of whether it is wanted still, train; the list gets the threads."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)

    def set_to(stand_in: Train) -> list[int | None]:
        threads: list[int | None] = []

        def train_again(of: Path, change: Change, keep: Any, number: Any, is_wanted: Any) -> Any:
            threads.append(number)
            stand_in(change.seed or 0, is_wanted)
            return Path(str(change.seed))

        monkeypatch.setattr(trainings, "train_again", train_again)
        return threads

    return set_to


def seeds(answers: Any) -> list[int | None]:
    """Return the seeds of trainings in the order of their answers."""
    return [one.change.seed for one, _ in answers]


def test_as_they_come(train: Any) -> None:
    """One after the other in their order; at once in the order of completion, so many and no more."""
    train(lambda *_: None)
    assert seeds(train_all(wanted(4), How(), str)) == [0, 1, 2, 3]
    both, last = threading.Barrier(2, timeout=30), threading.Event()

    def at_once(seed: int, _: Any) -> None:
        if seed < 2:
            both.wait()
        if seed == 0:
            assert last.wait(30)
        if seed == 3:
            last.set()

    train(at_once)
    begun: list[int | None] = []

    def begin(one: Wanted) -> bool:
        begun.append(one.change.seed)
        return True

    answers = seeds(train_all(wanted(4), How(jobs=2), str, begin=begin))
    assert (answers[0], sorted(map(int, map(str, answers))), begun) == (1, [0, 1, 2, 3], [0, 1, 2, 3])


def test_one_that_fails_costs_itself(train: Any) -> None:
    """The error takes the place of what it would have left."""

    def no_room(seed: int, _: Any) -> None:
        if seed == 1:
            raise ResultError("no room", "there", "make some")

    train(no_room)
    answers = [answer for _, answer in train_all(wanted(3), How(), str)]
    assert [isinstance(answer, ResultError) for answer in answers] == [False, True, False]


def test_none_is_begun_any_more(train: Any) -> None:
    """Where the time is used up; what has begun is finished."""
    train(lambda *_: None)
    assert seeds(train_all(wanted(4), How(jobs=2), str, begin=lambda one: one.change.seed != 2)) == [0, 1]


def test_what_runs_is_ended(train: Any) -> None:
    """Where the iterator is closed."""
    ended = threading.Event()

    def until_unwanted(seed: int, is_wanted: Callable[[], bool]) -> None:
        while seed == 1 and is_wanted():
            pass
        if seed == 1:
            ended.set()

    train(until_unwanted)
    answers = train_all(wanted(3), How(jobs=2), str)
    next(answers)
    answers.close()
    assert ended.is_set()


@pytest.mark.parametrize(
    ("count", "jobs", "variable", "threads"),
    [(1, 1, None, None), (2, 1, None, 1), (2, 2, None, 1), (1, 1, "3", 3), (2, 2, "3", 3), (2, 1, " ", 1)],
)
def test_threads(
    count: int, jobs: int, variable: str | None, threads: Any, train: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The user's own number, else 1 for more than one training; never by how many are trained at once."""
    found = train(lambda *_: None)
    if variable is not None:
        monkeypatch.setenv("OMP_NUM_THREADS", variable)
    list(train_all(wanted(count), How(jobs), str))
    assert found == [threads] * count


@pytest.mark.parametrize("variable", ["0", "many", "-1"])
def test_threads_that_are_no_number(variable: str, train: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, and nothing is trained."""
    found = train(lambda *_: None)
    monkeypatch.setenv("OMP_NUM_THREADS", variable)
    with pytest.raises(SettingsError, match="OMP_NUM_THREADS"):
        list(train_all(wanted(2), How(), str))
    assert found == []


def test_a_cluster_without_dask(monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, which names the extra."""
    monkeypatch.delitem(sys.modules, "rdagent_sota_bridge.models.cluster", raising=False)
    monkeypatch.delattr(models, "cluster", raising=False)
    monkeypatch.setitem(sys.modules, "distributed", None)
    with pytest.raises(JobError, match="needs Dask") as caught:
        next(train_all(wanted(1), How(cluster="tcp://127.0.0.1:9"), str))
    assert "rdagent-sota-bridge[cluster]" in caught.value.fix

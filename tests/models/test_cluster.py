"""One job of many trainings on a real Dask scheduler; its workers are processes, and train by a stand-in."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.errors import JobError, ResultError
from rdagent_sota_bridge.models import cluster, trainings
from rdagent_sota_bridge.models.retrain import Change
from rdagent_sota_bridge.models.trainings import How, Wanted, train_all
from tests import clusters
from tests.clusters import TROUBLE, Cluster
from tests.stand_in import wait_until

pytestmark = pytest.mark.e2e

URI = "~/market"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a home folder with a folder of market data."""
    home = write_market(tmp_path / "home", "2020-01-02\n")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(trainings, "_markets", lambda _: [URI])
    return home


@pytest.fixture
def dask(tmp_path: Path, home: Path) -> Iterator[Cluster]:
    """Return a scheduler without a worker."""
    with clusters.cluster(tmp_path) as found:
        yield found


def write_market(home: Path, days: str) -> Path:
    """Write market data into a home folder, and return it."""
    file = home / "market" / "calendars" / "day.txt"
    file.parent.mkdir(parents=True)
    file.write_text(days)
    return home


class Job:
    """Six trainings, or as many as are asked for, and what was said meanwhile."""

    def __init__(self, folder: Path, count: int = 6, **trouble: str) -> None:
        self.root, self.said = folder / "root", list[str]()
        self.root.mkdir()
        (self.root / TROUBLE).write_text(json.dumps(trouble))
        self.wanted = [Wanted(self.root / "model", Change(seed=number)) for number in range(count)]

    def answers(self, dask: Cluster, begin: Callable[[Wanted], bool] = lambda _: True) -> Any:
        """Return the iterator of the trainings."""
        return train_all(self.wanted, How(cluster=dask.address), self.said.append, begin=begin)

    def begun(self, number: int) -> list[str]:
        """Return the processes that trained one, each with the threads."""
        file = self.root / str(number)
        return file.read_text().splitlines() if file.exists() else []

    @property
    def workers(self) -> set[str]:
        """The processes that trained."""
        return {line.split()[0] for one in range(len(self.wanted)) for line in self.begun(one)}


def test_two_workers(dask: Cluster, tmp_path: Path) -> None:
    """Both train, each with one thread; one that fails costs itself, and nothing of ours is left."""
    dask.start_two()
    job = Job(tmp_path, **{"3": "fails"})
    found = {one.change.seed: answer for one, answer in job.answers(dask)}
    assert sorted(map(str, found)) == sorted(map(str, range(6)))
    assert [seed for seed, answer in found.items() if isinstance(answer, ResultError)] == [3]
    assert found[4] == job.root / "4"
    assert len(job.workers) == 2
    assert [job.begun(number)[0].split()[1] for number in range(6)] == ["1"] * 6
    assert job.said == []
    assert not list(job.root.glob(".sota-job-*"))


def test_the_environment_of_a_project(dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker loads its `.env`, and nothing of it is left for another project."""
    dask.start("worker")
    job = Job(tmp_path, count=1)
    for name, text in (("a", "OF_PROJECT=a"), ("b", ""), ("c", "OF_PROJECT=c")):
        (tmp_path / name).mkdir()
        (tmp_path / name / ".env").write_text(text)
        monkeypatch.chdir(tmp_path / name)
        assert len(list(job.answers(dask))) == 1
    assert [line.split()[2] for line in job.begun(0)] == ["a", "None", "c"]


def test_a_worker_that_dies(dask: Cluster, tmp_path: Path) -> None:
    """It costs its training alone, which another one begins anew; one that comes later is taken."""
    dask.start_two()
    job = Job(tmp_path, **{"2": "dies"})
    found = [one.change.seed for one, answer in job.answers(dask) if isinstance(answer, Path)]
    assert sorted(map(str, found)) == sorted(map(str, range(6)))
    (line,) = job.said
    assert "is gone, and with it a training of model" in line
    assert [len(job.begun(number)) for number in range(6)] == [1, 1, 2, *[1] * 3]


def test_a_training_that_ends_its_workers(dask: Cluster, tmp_path: Path) -> None:
    """After three it is given up, and the others are trained."""
    for _ in range(4):
        dask.start("worker")
    job = Job(tmp_path, **{"0": "always dies"})
    failed = {one.change.seed: answer for one, answer in job.answers(dask) if isinstance(answer, ResultError)}
    assert list(failed) == [0]
    assert failed[0].fact == "The workers that trained the model died, one after the other"
    assert len(job.begun(0)) == 3


def test_workers_that_can_not_train(dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is named once, and its trainings go to another; where none comes for a while the job stops."""
    monkeypatch.setattr(cluster, "_NO_WORKER_SECONDS", 2.0)
    dask.start("worker")
    other = str(write_market(tmp_path / "other", "2020-01-03\n"))
    reasons = {
        dask.start("without Qlib"): "not looked at: conda is not on PATH",
        dask.start("elsewhere"): "it does not see ",
        dask.start("worker", HOME=other): f"its market data in {URI} are not those",
        dask.start("stranger"): "it has not this release of rdagent-sota-bridge",
    }
    job = Job(tmp_path)
    for alone in (False, True):
        if alone:
            dask.kill(1)
            with pytest.raises(JobError, match="No worker of the cluster can train"):
                list(job.answers(dask))
        else:
            assert len(list(job.answers(dask))) == 6
        for address, why in reasons.items():
            (line,) = [line for line in job.said if address in line]
            assert line.startswith(f"Worker {address} trains nothing, and its trainings go to others: {why}")
        job.said.clear()


def test_the_end(dask: Cluster, tmp_path: Path) -> None:
    """Where the iterator is closed, what runs on a worker is ended, and none is begun any more."""
    dask.start_two()
    job = Job(tmp_path, **{"0": "hangs"})
    answers = job.answers(dask)
    next(answers)
    wait_until(lambda: bool(job.begun(0)))
    answers.close()
    wait_until((job.root / "ended").exists)
    assert job.begun(2) == []


def test_a_client_that_is_killed(dask: Cluster, tmp_path: Path) -> None:
    """Nothing hears of it but the scheduler; what runs on a worker is ended all the same."""
    dask.start("worker")
    job = Job(tmp_path, count=1, **{"0": "hangs"})
    code = (
        "from pathlib import Path; from rdagent_sota_bridge.models.trainings import *; import sys; "
        "root = Path(sys.argv[1]); wanted = [Wanted(root / 'model', Change(seed=0))]; "
        "list(train_all(wanted, How(cluster=sys.argv[2]), print))"
    )
    client = subprocess.Popen([sys.executable, "-c", code, str(job.root), dask.address])
    wait_until(lambda: bool(job.begun(0)))
    client.kill()
    client.wait()
    wait_until((job.root / "ended").exists)


def test_the_time_is_used_up(dask: Cluster, tmp_path: Path) -> None:
    """What has begun is finished."""
    dask.start("worker")
    job = Job(tmp_path)
    assert [one.change.seed for one, _ in job.answers(dask, lambda one: one.change.seed != 2)] == [0, 1]


def test_a_scheduler_that_goes(dask: Cluster, tmp_path: Path) -> None:
    """One message."""
    dask.start("worker")
    job = Job(tmp_path)
    answers = job.answers(dask)
    next(answers)
    dask.kill(0)
    with pytest.raises(JobError, match="The Dask scheduler is gone"):
        list(answers)


def test_no_worker(dask: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message, once nobody came for a while."""
    monkeypatch.setattr(cluster, "_NO_WORKER_SECONDS", 0.5)
    with pytest.raises(JobError, match="The cluster has no worker"):
        list(Job(tmp_path).answers(dask))


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:9", "nonsense://x", "foo"])
def test_no_scheduler(address: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One message before the first training."""
    monkeypatch.setattr(cluster, "_CONNECT_SECONDS", 0.5)
    job = Job(tmp_path)
    begun: list[Wanted] = []
    with pytest.raises(JobError, match="No Dask scheduler answers"):
        next(train_all(job.wanted, How(cluster=address), str, begin=lambda one: not begun.append(one)))
    assert begun == []

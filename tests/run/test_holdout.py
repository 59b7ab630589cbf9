"""Days that a job keeps back: which they are, what its stages get, and what is believed of them."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from examples.demo.market import Market
from rdagent_sota_bridge.bridge.dry_run import DryRun
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import BridgeError, HoldoutError, JobError
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE, FACTOR_CONFIG_FILES, QlibStart
from rdagent_sota_bridge.report.history import Run
from rdagent_sota_bridge.run import holdout, outcome, stages
from rdagent_sota_bridge.run import job as jobs
from rdagent_sota_bridge.run.job import FACTORS, MODELS, Holdout, Job, Options
from tests import logs, reports
from tests.forking import Forks
from tests.run.test_gate import YAML

LABELLED = YAML.replace("[$close]", '["Ref($close, -2)/Ref($close, -1) - 1"]')
HELD = Holdout("2019-10-01", "2020-09-01", {FACTORS: "2019-09-02", MODELS: "2019-09-02"})


@pytest.fixture
def provider(market_home: tuple[Path, Market]) -> Path:
    """Return the folder of the demo's market."""
    return market_home[1].provider


def seams_of(yaml: str, of_models: dict[str, str], of_factors: dict[str, str] | None) -> Seams:
    """Return what is found of an RD-Agent whose runners hand these variables to that YAML."""
    asked = DryRun(True, QlibStart(CONFIG_FILE, yaml, of_models))
    factors = (
        None if of_factors is None else DryRun(True, QlibStart(FACTOR_CONFIG_FILES[0], yaml, of_factors))
    )
    return dataclasses.replace(Seams(True, {}), asked=asked, of_factors=factors)


def held_from(first: str, **test_ends: str) -> Holdout:
    """Return the days from one on, up to the last one of the market that has a label."""
    return Holdout(first, "2020-09-10", test_ends)


JULY = held_from("2019-07-08", models="2019-06-07", factors="2019-06-07")


@pytest.mark.parametrize(
    ("asked", "of_models", "of_factors", "held"),
    [
        (
            "12M",
            "2020-08-01",
            "2020-08-01",
            held_from("2019-09-13", models="2019-08-15", factors="2019-08-15"),
        ),
        ("2019-06-30", "2020-08-01", "2020-08-01", JULY),
        ("2019-07-08", "", "2020-09-30", JULY),
        (
            "12M",
            "2018-01-05",
            "2020-08-01",
            held_from("2019-09-13", models="2018-01-05", factors="2019-08-15"),
        ),
        ("12M", "2020-08-01", None, held_from("2019-09-13", models="2019-08-15")),
    ],
    ids=["months", "a day", "open and late ends", "an end that is early", "no factor stage"],
)
def test_the_days(asked: str, of_models: str, of_factors: str | None, held: Holdout, provider: Path) -> None:
    """The last ones with a label; the test segments end a label and a day before, or where they did."""
    stages.check_holdout(asked)
    factors = None if of_factors is None else {"test_end": of_factors}
    seams = seams_of(LABELLED.replace("DATA", str(provider)), {"test_end": of_models}, factors)
    assert holdout.plan(asked, seams, of_factors is not None) == held
    checked = holdout.moved(seams, held)
    assert isinstance(checked, Seams) and checked.asked is not None
    test_end = checked.asked.start.task().test[1]
    assert test_end == pd.Timestamp(held.test_ends[MODELS]), "by which a set is checked"


@pytest.mark.parametrize(
    "asked", ["0M", "12", "12m", "1.5M", "soon", "2020-02-30", "20200101T00", "2020-W05-5"]
)
def test_an_option_that_is_no_time(asked: str) -> None:
    """It is refused in one message, with both forms."""
    with pytest.raises(HoldoutError, match="is no time") as caught:
        stages.check_holdout(asked)
    assert "12M" in caught.value.fix and "2020-01-31" in caught.value.fix


KNOWN = {"test_end": "2020-08-01"}
NEAR = "inside the training or validation segment, or too near: "
LONG_TRAINING = LABELLED.replace("2014-12-31", "2019-12-31")
LATE_TEST = LABELLED.replace("test: [2017-01-01", "test: [2017-02-01")
FIXED = LABELLED.replace('{{ test_end | default("null", true) }}', "2020-08-01")


@pytest.mark.parametrize(
    ("asked", "yaml", "of_models", "of_factors", "said"),
    [
        ("300M", LABELLED, KNOWN, KNOWN, "longer than the data"),
        ("2007-12-31", LABELLED, KNOWN, KNOWN, "longer than the data"),
        ("2008-01-20", LABELLED, KNOWN, KNOWN, "longer than the data"),
        ("2014-06-30", LABELLED, KNOWN, KNOWN, NEAR + "2016-12-31"),
        ("2016-06-30", LABELLED, KNOWN, KNOWN, NEAR + "2016-12-31"),
        ("2017-01-05", LABELLED, KNOWN, KNOWN, NEAR + "2016-12-31"),
        ("2019-01-05", LONG_TRAINING, KNOWN, KNOWN, NEAR + "2019-12-31"),
        ("2017-02-10", LATE_TEST, KNOWN, KNOWN, "leaves no day of the test segment, which begins on 2017-02"),
        ("2020-09-11", LABELLED, KNOWN, KNOWN, "is empty: the last day that has a label is 2020-09-10"),
        ("12M", YAML.replace("$close", "{{ label }}"), KNOWN, KNOWN, "last days with a label is not known"),
        ("12M", LABELLED.replace("csi300", "csi500"), KNOWN, KNOWN, "last days with a label is not known"),
        ("12M", LABELLED, {}, KNOWN, "does not take the end of the test segment from a variable"),
        ("12M", LABELLED, KNOWN, {}, "does not take the end of the test segment from a variable"),
        ("12M", FIXED, KNOWN, KNOWN, "does not take the end of the test segment from a variable"),
        ("12M", LABELLED, {"test_end": "soon"}, KNOWN, "QLIB_MODEL_TEST_END is no date"),
        ("12M", LABELLED, KNOWN, None, "would start Qlib with is not known"),
    ],
)
def test_what_can_not_be_kept_back(
    asked: str, yaml: str, of_models: dict[str, str], of_factors: Any, said: str, provider: Path
) -> None:
    """It is refused before the first loop, with the reason; RD-Agent 0.8.0 has its dates in its YAML."""
    with pytest.raises(BridgeError) as caught:
        holdout.plan(asked, seams_of(yaml.replace("DATA", str(provider)), of_models, of_factors), True)
    assert said in caught.value.fact


def test_rdagent_that_is_not_known(provider: Path) -> None:
    """Without a look at RD-Agent nothing is planned."""
    with pytest.raises(BridgeError, match="would start Qlib with is not known"):
        holdout.plan("12M", Line("seams", "fail", "not looked at"), True)


def test_data_that_are_gone_when_a_job_is_resumed(provider: Path, tmp_path: Path) -> None:
    """The gate leaves Qlib's data to the holdout, which refuses the job before its next stage."""
    known = {"test_end": "2020-08-01"}
    there = seams_of(LABELLED.replace("DATA", str(provider)), known, known)
    gone = seams_of(LABELLED.replace("DATA", str(tmp_path)), known, known)
    assert holdout.moved(there, HELD) != there
    with pytest.raises(HoldoutError, match="last days with a label is not known"):
        holdout.moved(gone, HELD)


INSTALLED = """
from importlib import import_module
from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import HoldoutError
from rdagent_sota_bridge.run import holdout
runner = import_module("rdagent.scenarios.qlib.developer.factor_runner").QlibFactorRunner
seams = Seams(True, {}, asked=dry_run.of_models(), of_factors=dry_run.ask_factor_runner(runner))
try:
    print(holdout.plan("12M", seams, True))
except HoldoutError as error:
    print(error)
"""


def test_the_installed_rdagent(market_home: tuple[Path, Market], forks_of_rdagent: Forks) -> None:
    """The ends of 1.0.0 are moved; 0.8.0 is refused, for its YAML has the dates."""
    found = forks_of_rdagent.output(INSTALLED, HOME=str(market_home[0])).splitlines()
    if not logs.SIGNED:
        assert found[-3].endswith("a variable: no day can be kept back")
        assert "0.8.0 has them in its YAML" in found[-1]
    else:
        known = {MODELS: "2019-08-15", FACTORS: "2019-08-15"}
        assert found[-1] == str(Holdout("2019-09-13", "2020-09-10", known))


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Job:
    """Return a job with a holdout, whose stages have not begun; the current folder is its project."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "log").mkdir()
    return dataclasses.replace(jobs.new(Options(1, 1, holdout="12M"), tmp_path / "log"), holdout=HELD)


@pytest.mark.parametrize("folder", [None, "/big/cache"])
def test_what_the_stages_get(folder: str | None, job: Job, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ends, and a folder of the job's own for RD-Agent's caches, not among the logs."""
    if folder is not None:
        monkeypatch.setenv("PICKLE_CACHE_FOLDER_PATH_STR", folder)
    given = stages.of_holdout(job)
    cache = Path(given.pop("PICKLE_CACHE_FOLDER_PATH_STR"))
    assert given == {"QLIB_FACTOR_TEST_END": "2019-09-02", "QLIB_MODEL_TEST_END": "2019-09-02"}
    assert cache.parent == Path(folder or Path.cwd() / "pickle_cache")
    assert job.file.name.startswith(cache.name)
    assert stages.of_holdout(dataclasses.replace(job, holdout=None)) == {}


def on(test_end: str, **others: str) -> Any:
    """Return a record of a training whose test segment ends on a day."""
    task = dataclasses.replace(
        reports.TASK,
        test=(pd.Timestamp("2017-01-01"), pd.Timestamp(test_end)),
        **{name: (pd.Timestamp("2008-01-01"), pd.Timestamp(end)) for name, end in others.items()},
    )
    record = reports.model_loop(0, 0.1).record
    return None if record is None else dataclasses.replace(record, task=task)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"record": on("2019-09-02")}, ""),
        ({"record": None, "cached": True}, ""),
        (
            {"record": on("2020-08-01")},
            "loop 0 train to 2014-12-31, valid .*, test to 2020-08-01$",
        ),
        ({"record": on("2019-09-01")}, "test to 2019-09-01$"),
        ({"record": on("NaT")}, "test to NaT$"),
        ({"record": on("2019-09-02", train="2019-12-31")}, "loop 0 train to 2019-12-31, "),
        ({"record": None, "cached": False}, "loop 0 on days that nobody knows"),
    ],
)
def test_recorded_segments(
    changes: dict[str, Any], said: str, job: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Workspaces that say other segments than the job has set stop it, and what they saw is said."""
    loop = reports.model_loop(0, 0.1, **changes)
    monkeypatch.setattr(outcome.history, "read_run", lambda log: Run(log, "fin_factor", (loop,)))
    if not said:
        outcome.check(job, FACTORS, Path("log"))
        return
    with pytest.raises(JobError) as caught:
        outcome.check(job, FACTORS, Path("log"))
    assert re.search(said, caught.value.fact)
    assert "begin a new job with --new" in caught.value.fix

"""`rdagent-sota predict`: what it writes, what it never writes over, and which days it takes."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.errors import PredictError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import fresh, predict
from rdagent_sota_bridge.models.predict import Prediction
from tests import trained

DAYS = ("2020-09-29", "2020-09-30")
INDEX = pd.MultiIndex.from_product([pd.to_datetime(DAYS), ["SH600000", "SH600001", "SH600002"]])
INDEX.names = ["datetime", "instrument"]
SCORES = pd.DataFrame({"score": [0.5, 1.5, 0.5, -1.0, float("nan"), 0.0], "label": float("nan")}, INDEX)
OLD = {
    "days": ["2017-01-03", "2020-07-31"],
    "rows": 4,
    "moved": 0,
    "largest_difference": 0.0,
    "standard_deviation": 1.0,
}
ABOUT = {"days": list(DAYS), "old_scores": OLD}
CSV = """\
datetime,instrument,score,rank
2020-09-29,SH600001,1.5,1
2020-09-29,SH600000,0.5,2
2020-09-29,SH600002,0.5,2
2020-09-30,SH600002,0.0,1
2020-09-30,SH600000,-1.0,2
"""


@pytest.fixture
def asked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Be in a folder with a model's workspace; return the list that gets what the stand-in is asked."""
    monkeypatch.chdir(tmp_path)
    trained.write_training(tmp_path / "model")
    found: list[Any] = []

    def stand_in(of: Path, days: Any, values: Any, changed_data: bool, _: Callable[[str], object]) -> Any:
        found.append((of.name, days, values, changed_data))
        return Prediction(SCORES, SCORES[:0], {**ABOUT, "versions": {"pyqlib": "0.9.7"}})

    monkeypatch.setattr(predict, "predict", stand_in)
    monkeypatch.setattr(fresh, "covering", lambda of, *_: (of / FACTOR_FILE, None))
    return found


def run(*arguments: str) -> Result:
    """Run `rdagent-sota predict` with the model of the folder."""
    return CliRunner().invoke(app, ["predict", "model", *arguments])


@pytest.mark.parametrize(
    ("date", "days"),
    [
        ("latest", None),
        ("2020-09-30", ("2020-09-30", "2020-09-30")),
        ("2020-09-29:2020-09-30", DAYS),
    ],
)
def test_a_table_and_its_manifest(date: str, days: Any, asked: list[Any], tmp_path: Path) -> None:
    """Sorted by day and rank, equal scores share a rank; the manifest names model, set, data and file."""
    for _ in range(2):  # what is ours is written over
        done = run("--date", date, "--changed-data")
        assert done.exit_code == 0, done.output
    assert asked[0] == ("model", days, None, True)
    assert (tmp_path / "predictions.csv").read_text() == CSV
    record = json.loads((tmp_path / "predictions.csv.json").read_text())
    versions = record.pop("versions")
    assert (versions["qlib_side"], "pandas" in versions["rd_agent_side"]) == ({"pyqlib": "0.9.7"}, True)
    assert record.pop("created")
    workspace = str(tmp_path / "model")
    assert record == {
        "made_by": "rdagent-sota predict",
        "model": {"workspace": workspace, "log": None, "loop": None},
        "factor_values": None,
        **ABOUT,
        "file": {
            "name": "predictions.csv",
            "sha256": hashlib.sha256(CSV.encode()).hexdigest(),
            "rows": 5,
        },
    }
    assert done.stdout.splitlines() == [
        f"model: {workspace}",
        "old scores of 2017-01-03 to 2020-07-31: 4 equal to the bit",
        "2020-09-29 to 2020-09-30: 5 scores",
        f"{tmp_path / 'predictions.csv'}, and predictions.csv.json",
    ]


@pytest.mark.parametrize(
    ("date", "last"),
    [("latest", None), (DAYS[1], DAYS[1]), (":".join(DAYS), DAYS[1])],
    ids=["latest", "day", "days"],
)
def test_fresh_values(
    date: str, last: str | None, asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The factors' code is asked for values up to the last day, and the manifest names their file."""
    wanted: list[Any] = []

    def covering(of: Path, *arguments: Any) -> Any:
        wanted.append((of.name, *arguments[:2]))
        arguments[2]("the code is run again")
        return tmp_path / "new.parquet", None

    monkeypatch.setattr(fresh, "covering", covering)
    done = run("--date", date, "--factor-data", "fresh", "--json")
    assert (done.exit_code, wanted, asked[0][2]) == (0, [("model", last, "fresh")], tmp_path / "new.parquet")
    assert json.loads(done.stdout)["factor_values"] == str(asked[0][2])
    assert "the code is run again" in done.stderr
    done = run("--factors", "own.parquet", "--factor-data", "fresh")
    assert (done.exit_code, len(wanted), str(asked[1][2])) == (0, 1, "own.parquet")


def test_parquet_and_json(asked: list[Any], tmp_path: Path) -> None:
    """The suffix says the form; `--json` prints what the manifest holds."""
    for _ in range(2):
        done = run("-o", "scores.parquet", "--json")
        assert done.exit_code == 0, done.output
    table = pd.read_parquet(tmp_path / "scores.parquet")
    assert list(table.columns) == ["datetime", "instrument", "score", "rank"]
    assert table.to_csv(index=False) == CSV
    assert json.loads(done.stdout) == json.loads((tmp_path / "scores.parquet.json").read_text())


@pytest.mark.parametrize(
    ("name", "content", "options", "fact"),
    [
        (
            "predictions.csv",
            "datetime,instrument,close\n",
            (),
            "is no table of scores: it is not written over",
        ),
        ("predictions.csv.json", '{"made_by": "me"}', (), "no manifest of a table of scores"),
        ("mine.parquet", "PAR1", ("-o", "mine.parquet"), "is no table of scores"),
        ("mine.csv", CSV, ("-o", "mine.txt"), "none for .txt"),
        ("mine.csv", CSV, ("-o", "gone/mine.csv"), "can't be written: No such file"),
        ("mine.csv", CSV, ("--date", "tomorrow"), "--date names no days: tomorrow"),
        ("mine.csv", CSV, ("--date", "2020-09-30:2020-09-29"), "--date names no days"),
        ("mine.csv", CSV, ("--date", "2020-09-29:"), "--date names no days"),
        ("mine.csv", CSV, ("--trust", "5"), "--trust is for a bundle, and the model is none"),
    ],
)
def test_refusals(
    name: str, content: str, options: tuple[str, ...], fact: str, asked: list[Any], tmp_path: Path
) -> None:
    """One message before anything is predicted, and every file is as it was."""
    (tmp_path / name).write_text(content)
    before = sorted(tmp_path.rglob("*"))
    done = run(*options)
    assert (done.exit_code, asked, done.stdout) == (1, [], "")
    assert fact in done.stderr and "fix:" in done.stderr
    assert (sorted(tmp_path.rglob("*")), (tmp_path / name).read_text()) == (before, content)


def test_show_without_a_bundle() -> None:
    """There is no newest bundle to take."""
    done = CliRunner().invoke(app, ["predict", "--show"])
    assert (done.exit_code, done.stdout) == (1, "")
    assert "--show prints what is in a bundle, and none is named" in done.stderr and "fix:" in done.stderr


def test_days_without_scores(asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The status is 1, and the table of before stays."""
    run()

    def none(*_: Any) -> Any:
        raise PredictError("Qlib's data end before 2020-10-09", "calendars/day.txt", "bring them up to date")

    monkeypatch.setattr(predict, "predict", none)
    assert run().exit_code == 1
    assert (tmp_path / "predictions.csv").read_text() == CSV

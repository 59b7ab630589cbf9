"""Days scored by the programs of RD-Agent and Qlib, with models that were trained on a planted alpha."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.errors import PredictError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import predict
from tests.models.world import Project, known_days

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("models")]  # one run for all

NEW = ("2020-08-03", "2020-09-30")
"""Days behind the test segment, to the end of Qlib's data and of the set."""


def feature(project: Project, code: str, field: str) -> Path:
    """Return Qlib's file of an instrument's prices: the place of the first day, and a number a day."""
    return project.box.provider / "features" / code.lower() / f"{field}.day.bin"


def prediction(
    of: Path, days: tuple[str, str] | None = NEW, values: Path | None = None
) -> predict.Prediction:
    """Return what a model predicts."""
    return predict.predict(of, days, values, False, lambda _: None)


@pytest.mark.parametrize("name", ["SmallMLP", "SmallGRU"])
def test_new_days(name: str, project: Project) -> None:
    """Old scores are equal to the bit, from the late start too, and the alpha is found on days to come."""
    found = prediction(project.models[name])
    old = found.about["old_scores"]
    assert (old["largest_difference"], old["moved"], old["rows"]) == (0.0, 0, 7980)
    assert "2016" < old["data_from"] < "2017"
    days = project.market.days[project.market.days >= NEW[0]]
    assert found.about["days"] == [str(day)[:10] for day in days]
    assert known_days(found.scores).index.equals(days)


def test_the_command(project: Project, tmp_path: Path) -> None:
    """The best accepted model of a log scores the last day, every instrument once."""
    done = CliRunner().invoke(app, ["predict", str(project.log), "-o", str(tmp_path / "day.csv"), "--json"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["days"] == ["2020-09-30"]
    assert (record["qlib_data_end"], record["features_end"]) == ("2020-09-30", "2020-09-30")
    assert (record["old_scores"]["largest_difference"], record["old_scores"]["moved"]) == (0.0, 0)
    table = pd.read_csv(tmp_path / "day.csv")
    assert sorted(table["instrument"]) == sorted(project.market.instruments)
    assert list(table["rank"]) == list(range(1, 61)) and table["score"].is_monotonic_decreasing
    late = CliRunner().invoke(
        app, ["predict", str(project.log), "--date", "2020-10-09", "-o", str(tmp_path / "late.csv")]
    )
    assert (late.exit_code, (tmp_path / "late.csv").exists()) == (1, False)
    assert "Qlib's data end before 2020-10-09" in late.stderr


def test_prices_that_are_adjusted_anew(project: Project) -> None:
    """All prices of an instrument have another factor: old scores differ by rounding alone."""
    for code in project.market.instruments[:5]:
        for field in ("open", "high", "low", "close", "vwap"):
            scale(feature(project, code, field), 0.7)
    old = prediction(project.models["SmallMLP"]).about["old_scores"]
    assert 0 < old["largest_difference"] <= predict.TOLERANCE * old["standard_deviation"]
    assert "2016" < old["data_from"] < "2017"


def scale(file: Path, by: float, days: slice = slice(None)) -> None:
    """Change the prices of some days."""
    content = np.fromfile(file, dtype="<f4")
    content[1:][days] *= by
    content.tofile(file)


def test_changed_prices(project: Project, tmp_path: Path) -> None:
    """It stops, and names days and instruments; `--changed-data` goes on, and the manifest says so."""
    code = project.market.instruments[3]
    days = project.market.days.get_indexer(pd.to_datetime(["2019-01-01", "2019-03-01"]), method="bfill")
    scale(feature(project, code, "close"), 1.1, slice(*days))
    words = ["predict", f"{project.log}:0", "-o", str(tmp_path / "day.csv"), "--json"]
    done = CliRunner().invoke(app, words)
    assert (done.exit_code, (tmp_path / "day.csv").exists()) == (1, False)
    assert "once more, on data from the recorded start" in done.stderr
    assert f"1 instruments; the most: {code} on 2019-0" in done.stderr
    done = CliRunner().invoke(app, [*words, "--changed-data"])
    assert done.exit_code == 0, done.output
    record = json.loads(done.stdout)
    assert record["old_scores"]["moved"] > 5 and record["changed_data"] is True
    assert record["old_scores"]["data_from"] < "2010"


@pytest.mark.parametrize(
    ("lines", "fact"),
    [
        (lambda lines: lines[1:], "Old scores came out otherwise"),
        (lambda lines: [line.replace("2020-09-30", "2020-08-01") for line in lines], "has no instrument on"),
    ],
)
def test_a_list_of_instruments_that_lost_some(lines: object, fact: str, project: Project) -> None:
    """A member that is gone, and members whose days end."""
    file = project.box.provider / "instruments" / "csi300.txt"
    file.write_text("".join(lines(file.read_text().splitlines(keepends=True))))  # type: ignore[operator]
    with pytest.raises(PredictError, match=fact) as caught:
        prediction(project.models["SmallMLP"])
    if fact.startswith("Old"):
        assert "SH600000 on 2017-0" in caught.value.place and "nan now" in caught.value.place


def test_a_set_that_ends(project: Project, tmp_path: Path) -> None:
    """Its last day is the latest; a later one is refused, and a day that is no trading day."""
    model = project.models["SmallMLP"]
    values = tmp_path / "values.parquet"
    frame = pd.read_parquet(model / FACTOR_FILE)
    frame[frame.index.get_level_values("datetime") <= "2020-09-10"].to_parquet(values)
    found = prediction(model, None, values)
    ends = [found.about[name] for name in ("features_end", "qlib_data_end")]
    assert (found.about["days"], ends) == (["2020-09-10"], ["2020-09-10", NEW[1]])
    for days, fact in (
        (NEW, "Features end on 2020-09-10, before 2020-09-30"),
        (("2020-09-12", "2020-09-13"), "2020-09-12 is no trading day"),
    ):
        with pytest.raises(PredictError, match=fact):
            prediction(model, days, values)

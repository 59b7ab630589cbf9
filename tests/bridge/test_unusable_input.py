"""What a run with bad input says at the seams of the real model runner, and what `check` says of it."""

from __future__ import annotations

import contextlib
import io
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdagent_sota_bridge.bridge import dry_run, plan
from rdagent_sota_bridge.cli import check
from rdagent_sota_bridge.doctor import machine, rdagent
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, Reason
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import frames, logs, seams
from tests.seams import Place

Make = Callable[[Place], Path | str | None]


class Bad:
    """One kind of bad input: how it is made, and what the message has to name."""

    def __init__(
        self,
        name: str,
        make: Make,
        *expected: str,
        reason: Reason | None = None,
        line: str = "Failed to load SOTA factors from workspace: ",
        **variables: str,
    ) -> None:
        self.name, self.make, self.expected = name, make, expected
        self.reason, self.line, self.variables = reason, line, variables


def bad_folder(place: Place) -> Path:
    """Make an empty folder."""
    folder = place.workspace.parent / "bad"
    folder.mkdir()
    return folder


def changed(change: Callable[[pd.DataFrame], pd.DataFrame]) -> Make:
    """Return a maker of a set whose (flat) frame was changed."""

    def make(place: Place) -> Path:
        frame = change(seams.factor_frame(place.market, noise=1.0))
        return seams.write_set(bad_folder(place), frame, nested=False)

    return make


def with_days(values: Callable[[pd.DatetimeIndex], object]) -> Make:
    """Return a maker of a set with other dates."""
    return changed(
        lambda frame: frames.with_level(
            frame, "datetime", values(pd.DatetimeIndex(frame.index.get_level_values(0)))
        )
    )


def with_codes(value: Callable[[str], object]) -> Make:
    """Return a maker of a set with other instruments."""
    return changed(
        lambda frame: frames.with_level(
            frame, "instrument", [value(code) for code in frame.index.get_level_values(1)]
        )
    )


def with_noise(value: float, rows: slice) -> Make:
    """Return a maker of a set with one value in rows of the column `noise`."""

    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame.iloc[rows, 1] = value
        return frame

    return changed(change)


def only_after_training(frame: pd.DataFrame) -> pd.DataFrame:
    """Keep every row, and values after the training segment alone."""
    frame.loc[frame.index.get_level_values("datetime") < pd.Timestamp("2016-01-01")] = np.nan
    return frame


def with_bytes(content: Callable[[bytes], bytes]) -> Make:
    """Return a maker of a set whose file's bytes were changed."""

    def make(place: Place) -> Path:
        folder = bad_folder(place)
        (folder / FACTOR_FILE).write_bytes(content((place.workspace / FACTOR_FILE).read_bytes()))
        return folder

    return make


def with_table(change: Callable[[pa.Table], pa.Table]) -> Make:
    """Return a maker of a set whose Arrow table was changed, to what pandas does not write."""

    def make(place: Place) -> Path:
        folder = bad_folder(place)
        table = pa.Table.from_pandas(seams.factor_frame(place.market))
        pq.write_table(change(table), folder / FACTOR_FILE)
        return folder

    return make


def folder_of_that_name(place: Place) -> Path:
    """Make a folder where the factor file should be."""
    folder = bad_folder(place)
    (folder / FACTOR_FILE).mkdir()
    return folder


def good(place: Place) -> Path:
    """Return the good set: something else is bad."""
    return place.workspace


def nothing(place: Place) -> None:
    """Name no workspace."""


def unequal(place: Place) -> str:
    """Join two sets that have other values of one factor."""
    frame = seams.factor_frame(place.market)
    frame.iloc[100] += 1
    return f"{place.workspace}{os.pathsep}{seams.write_set(bad_folder(place), frame)}"


def file_beside(name: str, text: str) -> Make:
    """Return a maker of a file in the current folder, beside a good set."""

    def make(place: Place) -> Path:
        Path(name).write_text(text, encoding="utf-8")
        return place.workspace

    return make


TRAINING = "2008-01-01 to 2014-12-31"
NOT_FOUND = "SOTA workspace path not found: nowhere"
NO_FILE, NO_COPY = "SOTA factors file not found: ", "The factor set can't be copied into the store"
CSV = b"datetime,instrument,x\n"
NO_LEVEL, COVERAGE = Reason.NO_LEVEL, Reason.LOW_COVERAGE
TWO_NAMES = with_table(lambda table: table.append_column("overnight_gap", table["overnight_gap"]))
DAY_NAMED = changed(lambda frame: frame.rename_axis(["day", "instrument"]))
CODE_NAMED = changed(lambda frame: frame.rename_axis(["datetime", "ticker"]))
ROWS_TWICE = changed(lambda frame: pd.concat([frame, frame.iloc[:3]]))
GROUPS = changed(lambda frame: pd.concat({"label": frame}, axis=1))
AFTER_TRAINING = changed(lambda frame: frame.loc["2016-01-01":])
UNTIL_VALID = changed(lambda frame: frame.loc[:"2015-06-30"])
VALID, OF_TEST = "% of the valid segment", "0.0% of the test segment"
TURNED = with_codes(lambda code: f"{code[2:]}.{code[:2]}")  # as other data vendors write them
MALFORMED = file_beside("mine.yaml", "MA20: [1, 2")
UNCLOSED = file_beside("mine.json", '{"MA20": "Mean($close, 20"}')
STORE = file_beside("store", "")
BAD = [
    # The file.
    Bad("no path set", nothing, "SOTA_LOG_PATH and SOTA_WORKSPACE_PATH (not set)", "rdagent-sota list"),
    Bad("path missing", lambda place: "nowhere", "SOTA_WORKSPACE_PATH", line=NOT_FOUND),
    Bad("folder without the file", bad_folder, "an empty folder", line=NO_FILE),
    Bad("file is an empty folder", folder_of_that_name, "no rows", reason=Reason.NO_ROWS),
    Bad("not parquet", with_bytes(lambda _: CSV), "not parquet", reason=Reason.NOT_PARQUET),
    Bad("empty file", with_bytes(lambda _: b""), "not parquet", reason=Reason.NOT_PARQUET),
    Bad("truncated", with_bytes(lambda whole: whole[: len(whole) // 2]), "cut off", reason=Reason.DAMAGED),
    # Its levels.
    Bad("no datetime level", DAY_NAMED, "[datetime]", reason=NO_LEVEL),
    Bad("no instrument level", CODE_NAMED, "[instrument]", reason=NO_LEVEL),
    Bad("no index", changed(lambda frame: frame.reset_index(drop=True)), "df.rename", reason=NO_LEVEL),
    Bad(
        "other names",
        with_table(
            lambda table: table.rename_columns([*table.column_names[:-1], "symbol"]).replace_schema_metadata(
                None
            )
        ),
        "rename(columns={'symbol': 'instrument'})",
        reason=NO_LEVEL,
    ),
    Bad(
        "dates are text",
        with_days(lambda days: days.strftime("%d/%m/%Y")),
        "to_datetime",
        reason=Reason.NOT_DATES,
    ),
    Bad(
        "dates with a zone",
        with_days(lambda days: days.tz_localize("Asia/Shanghai")),
        "Asia/Shanghai",
        reason=Reason.TIME_ZONE,
    ),
    Bad(
        "times of day",
        with_days(lambda days: days + pd.Timedelta(hours=15)),
        "15:00:00",
        reason=Reason.TIME_OF_DAY,
    ),
    Bad(
        "instruments are numbers",
        with_codes(lambda code: int(code[2:])),
        "SH600000",
        reason=Reason.NOT_TEXT,
    ),
    Bad(
        "other market's codes",
        TURNED,
        *("600000.SH", "SH600000", "SH600001"),
        reason=Reason.NO_INSTRUMENT,
    ),
    # Its rows, columns and values.
    Bad("no rows", changed(lambda frame: frame.iloc[:0]), "no rows", reason=Reason.NO_ROWS),
    Bad("no columns", changed(lambda frame: frame[[]]), "no factor columns", reason=Reason.NO_COLUMNS),
    Bad("rows twice", ROWS_TWICE, "3 in all", "SH600001", reason=Reason.DUPLICATE_ROW),
    Bad("a column twice", TWO_NAMES, "[overnight_gap]", reason=Reason.DUPLICATE_NAME),
    Bad(
        "a column of text",
        changed(lambda frame: frame.assign(sector="bank")),
        *("[sector]", "'bank'"),
        reason=Reason.NOT_NUMERIC,
    ),
    Bad("a column all NaN", with_noise(np.nan, slice(None)), "[noise]", reason=Reason.ALL_NAN),
    Bad("infinite values", with_noise(np.inf, slice(5)), "[noise]", "5 in all", reason=Reason.INFINITE),
    Bad("other column groups", GROUPS, "label", reason=Reason.LAYOUT),
    # Its fit to the market.
    Bad("no training day", AFTER_TRAINING, TRAINING, reason=Reason.NO_TRAINING_DATE),
    Bad("no value in training", changed(only_after_training), TRAINING, reason=Reason.NO_TRAINING_VALUE),
    Bad("too little of a segment", UNTIL_VALID, VALID, OF_TEST, "QLIB_MODEL_TEST_START", reason=COVERAGE),
    Bad(
        "too little of a factor",
        with_noise(np.nan, slice(27_000)),
        *("[noise]", "SOTA_FACTORS_EXCLUDE=noise"),
        reason=COVERAGE,
    ),
    # The settings.
    Bad("misspelt factor", good, "overnight_gap", SOTA_FACTORS="overnite_gap"),
    Bad("misspelt exclusion", good, "SOTA_FACTORS_EXCLUDE", SOTA_FACTORS_EXCLUDE="noise*"),
    Bad("no factor left", good, "No factor is left", SOTA_FACTORS_EXCLUDE="*"),
    Bad("log missing", nothing, "SOTA log path not found: log/no", SOTA_LOG_PATH="log/no"),
    Bad("log that is none", nothing, "no session", SOTA_LOG_PATH="."),
    Bad("no log at all", nothing, "No log accepted", SOTA_LOG_PATH="latest"),
    Bad("factor unequal in two sets", unequal, "other values in two sets", "the first of 1 rows"),
    Bad("unknown entry of a list", good, "SOTA_LOG_PATH", "is empty", SOTA_LOG_PATH="a::b"),
    Bad("unknown correlation", good, "SOTA_MAX_CORRELATION", SOTA_MAX_CORRELATION="1.5"),
    Bad("unknown switch", good, "LOAD_SOTA_FROM_WORKSPACE", "'ture'", LOAD_SOTA_FROM_WORKSPACE="ture"),
    Bad("unknown alpha switch", good, "USE_ALPHA_FACTORS", "'maybe'", USE_ALPHA_FACTORS="maybe"),
    Bad("unknown base set", good, "ALPHA_FACTORS", "alpha20, alpha22, alpha158", ALPHA_FACTORS="alpha21"),
    Bad("unknown error mode", good, "SOTA_ON_ERROR", "'ignore'", SOTA_ON_ERROR="ignore"),
    Bad("base-set file missing", good, "ALPHA_FACTORS", "No such file", ALPHA_FACTORS="mine.json"),
    Bad("base-set file malformed", MALFORMED, "mine.yaml", "malformed", ALPHA_FACTORS="mine.yaml"),
    Bad("base-set expression malformed", UNCLOSED, "MA20", ALPHA_FACTORS="mine.json"),
    Bad("store that is a file", STORE, "SOTA_STORE_PATH", line=NO_COPY, SOTA_STORE_PATH="store"),
]


@pytest.mark.parametrize("what", BAD, ids=lambda what: what.name)
def test_bad_input(what: Bad, place: Place) -> None:
    """A run stops with one message that names fact, place and fix; so does `check`, with a failed line.

    With SOTA_ON_ERROR=baseline the message is a warning and develop is RD-Agent's own; a setting that means
    nothing is never guessed at, and stops all the same.
    """
    path = what.make(place)
    place.patch.setenv("LOAD_SOTA_FROM_WORKSPACE", "true")
    if path is not None:
        place.patch.setenv("SOTA_WORKSPACE_PATH", str(path))
    for name, value in what.variables.items():
        place.patch.setenv(name, value)

    with pytest.raises(SystemExit) as stopped:
        seams.build_runner()
    said = stopped.value.code
    assert isinstance(said, str), "a text as code is printed and makes status 1"
    assert said.startswith(what.line)
    assert [text for text in (*what.expected, "fix:") if text not in said] == []
    error = stopped.value.__cause__
    assert isinstance(error, BridgeError)
    if what.reason is not None:
        assert isinstance(error, FactorFileError)
        assert what.reason in {failure.reason for failure in error.failures}

    # The machine has tests of its own.
    place.patch.setattr(machine, "lines", lambda look=None: [])
    asked = dry_run.of_models()
    place.patch.setattr(rdagent, "look_at_rdagent", lambda: Seams(True, {}, asked=asked))
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        assert check.run(None, False, True) == 1
    failed = [line for line in json.loads(printed.getvalue())["checks"] if line["state"] == "fail"]
    assert failed
    assert all(line["fix"] for line in failed)
    if what.reason not in (Reason.LOW_COVERAGE, Reason.NO_TRAINING_VALUE):
        said = " ".join(f"{line['text']} {line['fix']}" for line in failed)
        assert [text for text in what.expected if text not in said] == []

    if "SOTA_ON_ERROR" not in what.variables:
        place.patch.setenv("SOTA_ON_ERROR", "baseline")
    if what.name.startswith("unknown "):
        with pytest.raises(SystemExit):
            seams.build_runner()
        return
    with seams.logged() as logged:
        runner = seams.build_runner()
    assert any(line.startswith(f"WARNING: {what.line}") for line in logged)
    assert plan.record_of(runner) is None
    experiment = seams.develop_up_to_qlib(runner, seams.model_experiment())
    assert experiment.based_experiments == []
    assert not seams.in_workspace(experiment).exists()


def test_a_segment_that_is_no_date_stops_the_run_where_rdagent_reads_it(place: Place) -> None:
    """RD-Agent 1.0.0 takes the segments from variables; 0.8.0 has them in its YAML and reads none."""
    from rdagent.app.qlib_rd_loop.conf import ModelBasePropSetting

    place.switch_on(SOTA_ON_ERROR="baseline", QLIB_MODEL_TRAIN_START="soon")
    if "train_start" in ModelBasePropSetting.model_fields:
        with pytest.raises(SystemExit, match="QLIB_MODEL_TRAIN_START is no date: 'soon'"):
            seams.build_runner()
    else:
        assert plan.record_of(seams.build_runner()) is not None


def test_qlib_data_that_is_not_there_is_one_warning(place: Place, tmp_path: Path) -> None:
    """Without Qlib's data, as before its first download, one warning says what can't be checked."""
    place.patch.setenv("HOME", str(tmp_path / "home"))
    place.switch_on()
    with seams.logged() as lines:
        assert plan.record_of(seams.build_runner()) is not None
    (warning,) = [line for line in lines if line.startswith("WARNING")]
    assert "Qlib data is not there yet" in warning


def test_metrics_that_can_not_be_read_are_one_warning(place: Place) -> None:
    """A damaged qlib_res.csv beside the set costs its metrics, not the run; it is read at the start."""
    (place.workspace / "qlib_res.csv").write_bytes(b"IC,\xff\xfe")
    place.switch_on()
    with seams.logged() as lines:
        record = plan.record_of(seams.build_runner())
    assert record is not None
    assert record["metrics"] == {}
    assert sum("qlib_res.csv can't be read" in line for line in lines) == 1


def test_a_rejected_set_and_a_misspelt_setting_are_warnings(place: Place, tmp_path: Path) -> None:
    """A workspace that its run rejected is used where it is named, but with a warning, as are bad names."""
    project = tmp_path / "project"
    root = project / "git_ignore_folder" / "RD-Agent_workspace"
    workspace = seams.write_set(root / "w", seams.factor_frame(place.market))
    log = logs.write_run(project / "log" / "run", root, ("w", ("overnight_gap",), False))
    seams.switch_on(place.patch, workspace, SOTA_FACTOR="overnight_gap", SOTA_PREPARED_DATA="true")
    with seams.logged() as lines:
        record = plan.record_of(seams.build_runner())
    assert record is not None
    assert (record["sources"][0]["log"], record["sources"][0]["loop"]) == (str(log), 0)
    warnings = "".join(line for line in lines if line.startswith("WARNING"))
    assert f"verdict: {workspace} is the set of loop 0 of {log}, which was rejected" in warnings
    assert f"SOTA_LOG_PATH={log}" in warnings
    assert "SOTA_FACTOR is no setting of this package; fix: did you mean SOTA_FACTORS?" in warnings
    assert warnings.count("SOTA_PREPARED_DATA has no effect any more") == 1
    assert "accepted in loop" not in "".join(lines)

"""The list of factor sets: what the files and the logs tell, on screen and as JSON."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import shutil
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app, listing
from rdagent_sota_bridge.cli.listing import Row
from rdagent_sota_bridge.factor_set import names
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.system import cache
from tests import logs
from tests.frames import INSTRUMENTS, factor_frame, nested, write

ROOT = Path("git_ignore_folder") / "RD-Agent_workspace"
IDS = {name: f"{number:032x}" for number, name in enumerate(("first", "second", "third", "model", "alone"))}
METRICS = """,0
IC,0.0521
Rank IC,0.0498
1day.excess_return_with_cost.annualized_return,0.1234
1day.excess_return_with_cost.max_drawdown,-0.0876
"""


def put(name: str, *columns: str, metrics: str = METRICS, flat: bool = False) -> Path:
    """Make a workspace below the current folder, with a factor file and its metrics; return the folder."""
    folder = ROOT / IDS.get(name, name)
    folder.mkdir(parents=True)
    frame = factor_frame(columns)
    write(frame if flat else nested(frame), folder)
    if metrics:
        (folder / RESULT_FILE).write_text(metrics, encoding="utf-8")
    return folder


def rows() -> list[Row]:
    """Return what is listed in the current folder."""
    return listed().rows


def listed() -> listing.Listing:
    """Return the listing of the current folder."""

    return listing.factor_set_rows(names.workspace_root(), names.logs())


def command(*arguments: str, columns: int = 80) -> Result:
    """Run `rdagent-sota` in the current folder."""
    return CliRunner().invoke(app, arguments, env={"COLUMNS": str(columns)})


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Start in an empty folder, with an empty cache."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


@pytest.fixture
def run(project: Path) -> Path:
    """Make the log and the workspaces of a run of three loops, the last one rejected."""
    put("first", "momentum")
    put("second", "momentum", "因子[b]")
    put("third", "momentum", "因子[b]", "worthless")
    loops = [(IDS["first"], ("momentum",), True), (IDS["second"], ("因子[b]",), True)]
    return logs.write_run(
        Path("log") / "the run", project / ROOT, *loops, (IDS["third"], ("worthless",), False)
    )


def test_a_row_has_all_that_file_and_log_tell(run: Path) -> None:
    """Rows, dates, instruments and names come from the file, metrics from beside, the rest from the log."""
    first, second, third = rows()
    assert [(row.loop, row.accepted) for row in (first, third)] == [(0, True), (2, False)]
    assert second == Row(
        when=logs.BEGIN + timedelta(hours=1),
        run="the run",
        loop=1,
        accepted=True,
        factors=("momentum", "因子[b]"),
        rows=12,
        start="2020-01-02",
        end="2020-01-07",
        instruments=len(INSTRUMENTS),
        ic=0.0521,
        rank_ic=0.0498,
        annualized_return=0.1234,
        max_drawdown=-0.0876,
        size=(ROOT / IDS["second"] / FACTOR_FILE).stat().st_size,
        id=IDS["second"],
        path=Path.cwd() / ROOT / IDS["second"],
        trouble="",
    )


def test_a_set_without_a_log(project: Path) -> None:
    """Without a log run, loop and verdict are not known, and the file's time stands for the loop's end."""
    folder = put("alone", "a", metrics="", flat=True)
    os.utime(folder / FACTOR_FILE, (1_600_000_000, 1_600_000_000))
    (row,) = rows()
    assert (row.run, row.loop, row.accepted) == ("", None, None)
    assert row.when == datetime.fromtimestamp(1_600_000_000, timezone.utc)
    assert row.factors == ("a",)
    assert all(math.isnan(value) for value in (row.ic, row.rank_ic, row.annualized_return, row.max_drawdown))


@pytest.mark.parametrize(
    ("beside", "is_listed"),
    [
        ((), True),
        (("conf_combined_factors.yaml", "model.py"), True),
        (("conf_sota_factors_model.yaml",), False),
        (("model.py",), False),
    ],
)
def test_models_have_such_a_file_too(project: Path, beside: tuple[str, ...], is_listed: bool) -> None:
    """A model's workspace is no factor set; one of factors that were back-tested with a model is."""
    folder = put("alone", "a")
    for name in beside:
        (folder / name).touch()
    assert len(rows()) == is_listed


def test_the_log_knows_models(project: Path) -> None:
    """What the log says of a workspace counts, whatever else is in it."""
    for name in ("model", "first"):
        (put(name, "a") / "model.py").touch()
    loops = ((IDS["first"], ("a",), True), (IDS["model"], (), True))
    logs.write_run(Path("log/run"), project / ROOT, *loops, kind="QuantRDLoop")
    assert [row.id for row in rows()] == [IDS["first"]]


@pytest.mark.parametrize(
    ("damage", "trouble"),
    [
        (lambda content: b"", "the file is not parquet"),
        (lambda content: b"no parquet", "the file is not parquet"),
        (lambda content: content[: len(content) // 2], "the file is damaged or cut off"),
    ],
)
def test_a_damaged_file_is_a_row_that_says_so(project: Path, damage: Any, trouble: str) -> None:
    """One bad file spoils nothing of the list."""
    put("first", "a")
    file = put("second", "a") / FACTOR_FILE
    file.write_bytes(damage(file.read_bytes()))
    bad = next(row for row in rows() if row.id == IDS["second"])
    assert bad.trouble.startswith(trouble)
    assert (bad.rows, bad.instruments, bad.factors, bad.start) == (None, None, (), "")
    assert bad.ic == 0.0521
    assert len(rows()) == 2
    assert trouble[:20] in command("list").stdout


def test_data_that_can_not_be_read(project: Path) -> None:
    """A good footer over spoilt data is shown, with the reason why the rest is missing."""
    file = put("first", "a") / FACTOR_FILE
    content = bytearray(file.read_bytes())
    footer = int.from_bytes(content[-8:-4], "little") + 8
    content[4:-footer] = bytes(len(content) - footer - 4)
    file.write_bytes(content)
    (row,) = rows()
    assert row.factors == ("a",)
    assert row.rows == 12
    assert row.instruments is None
    assert row.trouble.startswith("the file is damaged or cut off [instrument]")


def test_a_link_to_nowhere(project: Path) -> None:
    """A linked set whose target is gone is a row that says so."""
    (ROOT / "link").mkdir(parents=True)
    (ROOT / "link" / FACTOR_FILE).symlink_to("gone")
    (row,) = rows()
    assert "the file can't be read" in row.trouble


@pytest.mark.parametrize(
    ("content", "ic", "trouble"),
    [
        (b"IC,nonsense\n", math.nan, ""),
        (b"IC,inf\n", math.nan, ""),
        (b"IC,0.1\n", 0.1, ""),
        (b"\xff\xfe\x00", math.nan, RESULT_FILE),
    ],
    ids=["no number", "infinite", "a number", "no text"],
)
def test_metrics(project: Path, content: bytes, ic: float, trouble: str) -> None:
    """A metric that is no finite number is not known; metrics that are no text are trouble of their own."""
    (put("first", "a") / RESULT_FILE).write_bytes(content)
    (row,) = rows()
    assert row.ic == pytest.approx(ic, nan_ok=True)
    assert trouble in row.trouble
    assert row.rows == 12


def test_a_log_that_can_not_be_read_is_told(run: Path) -> None:
    """It may know more of the sets: its reason goes to stderr, and the other logs are used."""
    logs.dump_object(None, Path("log") / "damaged" / "__session__" / "0" / "0_step")
    (note,) = listed().notes
    assert note.startswith("damaged is left out: The file is no session of RD-Agent's")
    result = command("list", "--json")
    assert len(json.loads(result.stdout)) == 3
    assert f"note: {note}" in result.stderr


# --- sorting ---


def test_every_field_sorts(run: Path) -> None:
    """Each field that is offered sorts ascending, the unknown first; another is a mistake that lists them."""
    put("alone", "z", metrics="")
    for name in listing.SORT_FIELDS:
        by_field = listing.sort_rows(rows(), name)
        values = [len(row.factors) if name == "factors" else getattr(row, name) for row in by_field]
        known = [value for value in values if value is not None and value == value]
        assert known == sorted(known), name
        assert values[len(values) - len(known) :] == known, name
        assert len(by_field) == 4
    result = command("list", "--sort", "nonsense")
    assert result.exit_code == 2
    assert "rank_ic" in result.stderr


# --- what is printed ---


def test_json(run: Path) -> None:
    """JSON has full names, absolute paths, and null for what is not known."""
    put("alone", "z", metrics="IC,nan\n")
    result = command("list", "--json")
    found = {entry["id"]: entry for entry in json.loads(result.stdout, parse_constant=pytest.fail)}
    assert found[IDS["second"]]["factors"] == ["momentum", "因子[b]"]
    assert found[IDS["second"]]["path"] == str(Path.cwd() / ROOT / IDS["second"])
    assert found[IDS["second"]]["when"] == "2026-01-05T10:00:00+00:00"
    alone = found[IDS["alone"]]
    assert [alone[name] for name in ("ic", "loop", "run", "accepted", "trouble")] == [None] * 5
    assert set(alone) == {field.name for field in dataclasses.fields(Row)}


@pytest.mark.parametrize("columns", [80, 160])
def test_the_table_fits(run: Path, columns: int) -> None:
    """At the usual widths no line is too long, and id, number of factors and figures are whole."""
    names = [f"a_factor_with_a_long_name_{number}" for number in range(12)]
    put("alone", *names)
    lines = command("list", columns=columns).stdout.splitlines()
    assert max(len(line) for line in lines) <= columns
    text = "\n".join(lines)
    for whole in (
        *list(IDS.values())[:3],
        "the run",
        "* accepted",
        "rejected",
        "no log",
        "+12.3%",
        "-8.8%",
        "0.0521",
    ):
        assert whole in text, whole
    assert "因子[b]" in text, "names are text, not markup"
    (line,) = [line for line in lines if names[0] in line]
    assert "…" in line
    assert sum(line.split()[-2:-1] == ["12"] for line in lines) > 0


def test_nothing_found(project: Path) -> None:
    """One sentence says where was looked, and JSON stays JSON."""
    result = command("list", "--json")
    assert json.loads(result.stdout) == []
    assert result.stderr == (
        f"No factor set: none was found. Looked at {project / ROOT}/*/{FACTOR_FILE}, and 0 log folder(s) "
        f"below {project / 'log'}\n"
    )
    assert result.exit_code == 0


def test_accepted_ones_alone(run: Path) -> None:
    """--accepted leaves out rejected sets and those without a log; of none left, a sentence says so."""
    put("alone", "z")
    found = json.loads(command("list", "--json", "--accepted").stdout)
    assert [entry["loop"] for entry in found] == [0, 1]
    shutil.rmtree("log")
    assert "none of the 4 factor sets is known to be accepted" in command("list", "--accepted").stderr


# --- what is kept ---


def test_a_second_listing_opens_no_file(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once seen, sets and logs are listed without pandas, pyarrow and RD-Agent, to the same answer."""
    monkeypatch.setattr(cache, "_COARSE_CLOCK", -(10**12))
    first = command("list", "--json").stdout
    code = (
        "import sys; from rdagent_sota_bridge.cli import app\n"
        "app(['list', '--json'], standalone_mode=False)\n"
        "heavy = ('pandas', 'pyarrow', 'rdagent.core')\n"
        "print(*(name for name in heavy if name in sys.modules), file=sys.stderr)"
    )
    patch = "from rdagent_sota_bridge.system import cache; cache._COARSE_CLOCK = -(10**12)\n"
    second = subprocess.run([sys.executable, "-c", patch + code], capture_output=True, text=True, check=True)
    assert second.stdout == first
    assert second.stderr.split() == []


@pytest.mark.parametrize("what", ["set", "metrics", "metrics come", "metrics go"])
def test_what_is_remembered_ends_with_the_file(
    project: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A changed file is looked at anew, and so are its metrics."""
    monkeypatch.setattr(cache, "_COARSE_CLOCK", -(10**12))
    folder = put("first", "a", metrics="" if what == "metrics come" else METRICS)
    before = rows()[0]
    if what == "set":
        write(factor_frame(("b", "c")), folder)
        assert rows()[0].factors == ("b", "c")
    elif what == "metrics go":
        (folder / RESULT_FILE).unlink()
        assert math.isnan(rows()[0].ic)
    else:
        (folder / RESULT_FILE).write_text("IC,0.9\n", encoding="utf-8")
        assert rows()[0].ic == 0.9
        assert before.ic != 0.9


# --- path ---


def test_path_of_a_log(run: Path) -> None:
    """`path LOG` and `path latest` print the folder that SOTA_WORKSPACE_PATH would name, and nothing else."""
    expected = f"{Path.cwd() / ROOT / IDS['second']}\n"
    for named in (str(run), "latest"):
        result = command("path", named)
        assert (result.stdout, result.stderr, result.exit_code) == (expected, "", 0)


def test_path_of_what_the_environment_names(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without LOG it is what a run would use: several on one line, a file of another name as it is."""
    other = Path(shutil.copy(ROOT / IDS["first"] / FACTOR_FILE, "other.parquet")).absolute()
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", f"{ROOT / IDS['first']}{os.pathsep}other.parquet")
    assert command("path").stdout == f"{Path.cwd() / ROOT / IDS['first']}{os.pathsep}{other}\n"


def test_path_reads_the_env_file(run: Path) -> None:
    """The .env file of the current folder counts, as it does for `rdagent`."""
    Path(".env").write_text("SOTA_LOG_PATH=latest\n", encoding="utf-8")
    environment = {name: value for name, value in os.environ.items() if name != "SOTA_LOG_PATH"}
    code = "from rdagent_sota_bridge.cli import app; app(['path'])"
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert found.stdout == f"{Path.cwd() / ROOT / IDS['second']}\n", found.stderr


def test_path_tells_notes_on_stderr(project: Path) -> None:
    """A script gets the path alone; what the user should know goes beside."""
    put("first", "a")
    put("second", "b")
    loops = ((IDS["first"], ("a",), True), (IDS["second"], ("b",), True))
    logs.write_run(Path("log/run"), project / ROOT, *loops)
    result = command("path", "latest")
    assert result.stdout == f"{project / ROOT / IDS['second']}\n"
    assert result.stderr.startswith("note: loop 0 was accepted too")


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", "No factor set is named"),
        ("latest", "No log accepted a factor loop"),
        ("log/absent", "Neither a factor workspace nor a run's log: log/absent"),
        ("log", "Neither a factor workspace nor a run's log: log"),
        ("~nobody-here/x", "Neither a factor workspace nor a run's log: ~nobody-here/x"),
        ("x" * 300, "File name too long"),
        ("variable", "SOTA_WORKSPACE_PATH has an unknown value"),
    ],
    ids=lambda text: text[:20] or "none",
)
def test_path_without_a_set(
    project: Path, argument: str, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No set: the message of a run on stderr, nothing on stdout, status 1, no traceback."""
    if argument == "variable":
        monkeypatch.setenv("SOTA_WORKSPACE_PATH", f"a{os.pathsep}{os.pathsep}b")
        argument = ""
    result = command("path", *([argument] if argument else []))
    assert result.exit_code == 1
    assert result.stdout == ""
    assert expected in result.stderr
    assert isinstance(result.exception, SystemExit)

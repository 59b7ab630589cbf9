"""`rdagent-sota list`: what the files and the logs say of each factor set, on screen and as JSON."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.cli.list import SORT_FIELDS
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
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


def put(name: str, *columns: str, metrics: str = METRICS) -> Path:
    """Make a workspace below the current folder, with a factor file and its metrics; return the folder."""
    folder = ROOT / IDS.get(name, name)
    folder.mkdir(parents=True)
    write(nested(factor_frame(columns)), folder)
    if metrics:
        (folder / RESULT_FILE).write_text(metrics, encoding="utf-8")
    return folder


def command(*arguments: str, columns: int = 80) -> Result:
    """Run `rdagent-sota list` in the current folder."""
    return CliRunner().invoke(app, ["list", *arguments], env={"COLUMNS": str(columns)})


def rows(*arguments: str) -> list[dict[str, Any]]:
    """Return what is listed in the current folder, as JSON without NaN."""
    found: list[dict[str, Any]] = json.loads(command("--json", *arguments).stdout, parse_constant=pytest.fail)
    return found


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


def test_a_row_has_all_that_file_and_log_say(run: Path) -> None:
    """Rows, dates, instruments and names come from the file, metrics from beside, the rest from the log."""
    first, second, third = rows()
    assert [(row["loop"], row["accepted"]) for row in (first, third)] == [(0, True), (2, False)]
    assert second == {
        "when": (logs.BEGIN + timedelta(hours=1)).isoformat(),
        "run": "the run",
        "loop": 1,
        "accepted": True,
        "factors": ["momentum", "因子[b]"],
        "rows": 12,
        "start": "2020-01-02",
        "end": "2020-01-07",
        "instruments": len(INSTRUMENTS),
        "ic": 0.0521,
        "rank_ic": 0.0498,
        "annualized_return": 0.1234,
        "max_drawdown": -0.0876,
        "size": (ROOT / IDS["second"] / FACTOR_FILE).stat().st_size,
        "id": IDS["second"],
        "path": str(Path.cwd() / ROOT / IDS["second"]),
        "trouble": None,
        "latest": True,
    }


def test_a_set_without_a_log(project: Path) -> None:
    """Without a log run, loop and verdict are null, and the file's time stands for the loop's end."""
    folder = put("alone", "a", metrics="")
    os.utime(folder / FACTOR_FILE, (1_600_000_000, 1_600_000_000))
    (row,) = rows()
    assert row["when"] == "2020-09-13T12:26:40+00:00"
    unknown = {name for name, value in row.items() if value is None}
    metrics = {"ic", "rank_ic", "annualized_return", "max_drawdown"}
    assert unknown == {"run", "loop", "accepted", "trouble", *metrics}


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
    assert [row["id"] for row in rows()] == [IDS["first"]]


def _data_spoilt(content: bytes) -> bytes:
    footer = int.from_bytes(content[-8:-4], "little") + 8
    return content[:4] + bytes(len(content) - footer - 4) + content[-footer:]


@pytest.mark.parametrize(
    ("damage", "trouble", "known"),
    [
        (lambda content: b"", "the file is not parquet", ([], None)),
        (lambda content: b"no parquet", "the file is not parquet", ([], None)),
        (lambda content: content[: len(content) // 2], "the file is damaged or cut off", ([], None)),
        (_data_spoilt, "the file is damaged or cut off [instrument]", (["a"], 12)),
        (None, "the file can't be read", ([], None)),
    ],
    ids=["empty", "no parquet", "cut off", "spoilt below its footer", "a link to nowhere"],
)
def test_a_damaged_file_is_a_row_that_says_so(project: Path, damage: Any, trouble: str, known: Any) -> None:
    """One bad file leaves the rest of the list as it is, and its row says what is known of it."""
    put("first", "a")
    file = put("second", "a") / FACTOR_FILE
    if damage is None:
        file.unlink()
        file.symlink_to("gone")
    else:
        file.write_bytes(damage(file.read_bytes()))
    bad, good = sorted(rows(), key=lambda row: row["trouble"] is None)
    assert bad["trouble"].startswith(trouble)
    assert (bad["factors"], bad["rows"], bad["instruments"]) == (*known, None)
    assert bad["ic"] == 0.0521
    assert good["trouble"] is None
    assert trouble[:20] in command().stdout


@pytest.mark.parametrize(
    ("content", "ic", "trouble"),
    [
        (b",0\nIC,nonsense\n", None, False),
        (b",0\nIC,inf\n", None, False),
        (b",0\nIC,0.1\n", 0.1, False),
        (b"\xff\xfe\x00", None, True),
    ],
    ids=["no number", "infinite", "a number", "no text"],
)
def test_metrics(project: Path, content: bytes, ic: float | None, trouble: bool) -> None:
    """A metric that is no finite number is not known; metrics that are no text are trouble of their own."""
    (put("first", "a") / RESULT_FILE).write_bytes(content)
    (row,) = rows()
    assert (row["ic"], row["rows"]) == (ic, 12)
    assert (RESULT_FILE in (row["trouble"] or "")) is trouble


def test_a_log_that_can_not_be_read(run: Path) -> None:
    """It may know more of the sets: its reason goes to stderr, and the other logs are used."""
    logs.dump_object(None, Path("log") / "damaged" / "__session__" / "0" / "0_step")
    result = command("--json")
    assert len(json.loads(result.stdout)) == 3
    assert result.stderr.startswith("note: damaged is left out: The file is no session of RD-Agent's")


def test_every_field_sorts(run: Path) -> None:
    """Each field that is offered sorts ascending, the unknown first; another is a mistake that lists them."""
    put("alone", "z", metrics="")
    for name in SORT_FIELDS:
        found = rows("--sort", name)
        values = [len(row["factors"]) if name == "factors" else row[name] for row in found]
        known = [value for value in values if value is not None]
        assert values == [None] * (4 - len(known)) + sorted(known), name
    result = command("--sort", "nonsense")
    assert result.exit_code == 2
    assert "rank_ic" in result.stderr


@pytest.mark.parametrize("columns", [80, 160])
def test_the_table_fits(run: Path, columns: int) -> None:
    """At the usual widths no line is too long, and id, number of factors and figures are whole."""
    names = [f"a_factor_with_a_long_name_{number}" for number in range(12)]
    put("alone", *names)
    text = command(columns=columns).stdout
    lines = text.splitlines()
    assert max(len(line) for line in lines) <= columns
    whole = ("the run", "* accepted", "rejected", "no log", "+12.3%", "-8.8%", "0.0521", "因子[b]")
    for part in (*list(IDS.values())[:3], *whole):
        assert part in text, part
    (line,) = [line for line in lines if names[0] in line]
    assert "…" in line
    assert any(line.split()[-2:-1] == ["12"] for line in lines)


def test_what_to_do_next(run: Path) -> None:
    """The set that `latest` takes is marked, and the last line names the next command; a path is whole."""
    assert [row["latest"] for row in rows()] == [False, True, False]
    text = command(columns=200).stdout
    assert (text.count("= latest"), text.splitlines()[-1].startswith("Next: ")) == (1, True)
    assert "`latest` is that of loop 1 of the run." in text
    shutil.rmtree("log")
    text = command().stdout
    assert ("= latest" in text, "`latest` is none of them" in text) == (False, True)
    assert text.splitlines()[-1].startswith("Next: ")


def test_a_wide_screen_stretches_no_line(run: Path) -> None:
    """The columns are as wide as what they hold: at 300 columns what they are at 200."""
    assert command(columns=300).stdout == command(columns=200).stdout
    assert max(map(len, command(columns=300).stdout.splitlines())) < 120


def test_nothing_found(project: Path) -> None:
    """One sentence says where was looked, and JSON stays JSON."""
    result = command("--json")
    assert (json.loads(result.stdout), result.exit_code) == ([], 0)
    assert result.stderr == (
        f"No factor set: none was found. Looked at {project / ROOT}/*/{FACTOR_FILE}, and 0 log folders "
        f"below {project / 'log'}\n"
    )


def test_accepted_ones_alone(run: Path) -> None:
    """--accepted leaves out rejected sets and those without a log; of none left, a sentence says so."""
    put("alone", "z")
    assert [row["loop"] for row in rows("--accepted")] == [0, 1]
    shutil.rmtree("log")
    assert "none of 4 sets is known to be accepted" in command("--accepted").stderr


def test_a_second_listing_opens_no_file(run: Path) -> None:
    """Once seen, sets and logs are listed without pandas, pyarrow and RD-Agent, to the same answer."""
    first = command("--json").stdout
    code = (
        "from rdagent_sota_bridge.system import cache; cache._COARSE_CLOCK = -(10**12)\n"
        "import sys; from rdagent_sota_bridge.cli import app\n"
        "app(['list', '--json'], standalone_mode=False)\n"
        "heavy = ('pandas', 'pyarrow', 'rdagent.core')\n"
        "print(*(name for name in heavy if name in sys.modules), file=sys.stderr)"
    )
    second = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (second.stdout, second.stderr.split()) == (first, [])


def test_a_set_in_parts(project: Path) -> None:
    """A folder of parts is a row with the size of all; a part that is written again is looked at anew."""
    folder = put("first", "a") / FACTOR_FILE
    folder.unlink()
    folder.mkdir()
    for number, frame in enumerate((factor_frame(("a",)).iloc[:5], factor_frame(("a",)).iloc[5:])):
        write(frame.reset_index(), folder, f"part-{number}.parquet")
    (row,) = rows()
    assert (row["factors"], row["rows"], row["instruments"], row["trouble"]) == (["a"], 12, 3, None)
    assert (row["start"], row["end"]) == ("2020-01-02", "2020-01-07")
    assert row["size"] == sum(part.stat().st_size for part in folder.iterdir())
    write(factor_frame(("b",)).reset_index(), folder, "part-1.parquet")
    assert "other columns or types in part-1.parquet" in rows()[0]["trouble"]
    for part in folder.iterdir():
        part.unlink()
    assert "no rows" in rows()[0]["trouble"]


@pytest.mark.parametrize("what", ["set", "metrics", "metrics come", "metrics go"])
def test_the_cache_forgets_a_changed_file(project: Path, what: str) -> None:
    """A changed file is looked at anew, and so are its metrics."""
    folder = put("first", "a", metrics="" if what == "metrics come" else METRICS)
    rows()
    if what == "set":
        write(factor_frame(("b", "c")), folder)
    elif what == "metrics go":
        (folder / RESULT_FILE).unlink()
    else:
        (folder / RESULT_FILE).write_text(",0\nIC,0.9\n", encoding="utf-8")
    (row,) = rows()
    expected = {"set": (["b", "c"], 0.0521), "metrics go": (["a"], None)}
    assert (row["factors"], row["ic"]) == expected.get(what, (["a"], 0.9))

"""What `rdagent-sota check` prints: a line a check on screen, or all of them as JSON."""

from __future__ import annotations

import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.cli import check
from rdagent_sota_bridge.cli.lines import show
from rdagent_sota_bridge.cli.output import print_json
from rdagent_sota_bridge.doctor import machine
from tests import logs
from tests.frames import factor_frame, write

PATH = (
    "/data/git_ignore_folder/RD-Agent_workspace/9f0c2d7e5b6a4f2c8d1e3a5b7c9d1f20/combined_factors_df.parquet"
)
NAMES = ", ".join(f"动量_{number}日" for number in range(1, 31))

PASSED = Line("rdagent", "pass", "RD-Agent 1.0.0, a tested release", figures={"version": "1.0.0"})
WARNED = Line("coverage", "warn", f"30 factors cover less than half of the market: {NAMES}", "leave them out")
FAILED = Line(
    "set", "fail", f"the file can't be read: {PATH}", f"make {PATH} readable, or name another file: chmod +r"
)


def printed(lines: list[Line], *, width: int = 80, **options: Any) -> tuple[int, str]:
    """Return the exit status and what was printed, into a stream that is no terminal."""
    stream = io.StringIO()
    status = show([lines], "Factor set sha256:ab", Console(file=stream, width=width, **options))
    return status, stream.getvalue()


def test_text_in_whole() -> None:
    """Heading, a line per check with its state in words, the fix below its check, and the counts."""
    warned = Line("disk", "warn", "8.0 GB free", "make room")
    assert printed([PASSED, warned])[1] == (
        "Factor set sha256:ab\n"
        "✓ pass  rdagent  RD-Agent 1.0.0, a tested release\n"
        "! warn  disk     8.0 GB free\n"
        "                 fix: make room\n"
        "2 checks: 1 pass, 1 warn, 0 fail\n"
    )


def test_troubles_once_more_at_the_end() -> None:
    """What does not pass and would scroll away stands at the end too, in the order of the checks."""
    _, text = printed([FAILED, WARNED, PASSED])
    shown = [line.split()[1] for line in text.splitlines() if line[:1] in "✓!✗"]
    assert shown == ["fail", "warn", "pass", "fail", "warn"]
    assert "What does not pass:" in text
    assert "What does not pass:" not in printed([PASSED, WARNED, FAILED])[1]


@pytest.mark.parametrize(
    ("lines", "status"),
    [([], 0), ([PASSED], 0), ([PASSED, WARNED], 0), ([FAILED, PASSED], 1), ([WARNED, FAILED], 1)],
)
def test_exit_status(lines: list[Line], status: int) -> None:
    """A failed check makes the status 1; a warning does not."""
    assert printed(lines)[0] == status


@pytest.mark.parametrize("width", [80, 160])
def test_long_texts_wrap_below_their_beginning(width: int) -> None:
    """Wide characters count as two columns, no line is wider than the screen, and all names stand."""
    _, text = printed([WARNED], width=width)
    _, first, *rest, fix, _ = text.splitlines()
    begin = first.index("30 factors")
    assert rest
    assert all(line.startswith(" " * begin) and line[begin] != " " for line in rest)
    assert all(cell_len(line) <= width for line in text.splitlines())
    assert " ".join([first[begin:], *(line.strip() for line in rest)]) == WARNED.text
    assert fix == " " * begin + "fix: leave them out"


@pytest.mark.parametrize("width", [20, 80, 160])
def test_a_path_stays_in_one_piece(width: int) -> None:
    """A path longer than the screen is not cut, so that it can be copied, and a fix hangs below itself."""
    _, text = printed([FAILED], width=width)
    assert text.count(PATH) == 2
    assert not any(line.endswith(" ") for line in text.splitlines())


def test_colours_and_marks() -> None:
    """A terminal gets colours, a pipe none, a stream of ASCII alone other marks; brackets are text."""
    line = Line("set", "fail", "a column [red]has[/red] :smile:", "drop [b]it")
    _, text = printed([PASSED, WARNED, line])
    assert "\x1b" not in text
    assert [one.split()[1] for one in text.splitlines() if one[:1] in "✓!✗"] == ["pass", "warn", "fail"]
    assert "a column [red]has[/red] :smile:" in text and "fix: drop [b]it" in text
    _, text = printed([line], force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[1;31m✗ fail\x1b[0m" in text
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    show([[PASSED, line]], "h", Console(file=stream, width=80))
    stream.seek(0)
    assert [one.split()[0] for one in stream.read().splitlines()[1:3]] == ["+", "x"]


@pytest.mark.parametrize(
    ("named", "variables", "of_machine"),
    [
        ("nowhere", {}, False),
        (None, {"SOTA_WORKSPACE_PATH": "nowhere"}, False),
        (None, {"SOTA_LOG_PATH": "nowhere"}, False),
        (None, {}, True),
    ],
)
def test_json_of_a_set_that_is_not_there(
    named: str | None,
    variables: dict[str, str],
    of_machine: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """What is wrong with a path stands alone, as JSON; where none is named, the machine is looked at."""
    monkeypatch.setattr(machine, "lines", lambda: [PASSED])
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert check.run(named, False, True) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    document = json.loads(captured.out)
    failed, *others = document.pop("checks")
    assert document == {"state": "fail", "set": {}}
    assert (failed["name"], failed["state"], failed["figures"]) == ("set", "fail", {})
    assert ("nowhere" in failed["text"]) is not of_machine and failed["fix"]
    figures = {"version": "1.0.0"}
    text = "RD-Agent 1.0.0, a tested release"
    passed = {"name": "rdagent", "state": "pass", "text": text, "fix": "", "figures": figures}
    machine_ok = {"name": "machine", "state": "pass", "text": "ok", "fix": "", "figures": {}}
    assert others == [passed, machine_ok] * of_machine


@pytest.mark.parametrize(
    "command",
    [
        ("path", "nowhere"),
        ("path", "log/run"),
        ("check", "nowhere"),
        ("check", "nowhere", "--json"),
        ("check", "log/nowhere"),
        ("list",),
        ("run", "--resume", "--log-dir", "nowhere"),
    ],
    ids=" ".join,
)
def test_nothing_heavy_is_loaded_for_what_needs_no_values(command: tuple[str, ...], tmp_path: Path) -> None:
    """A path, a listing, and what is not there load no pandas, pyarrow or RD-Agent."""
    root = tmp_path / "git_ignore_folder" / "RD-Agent_workspace"
    for name in ("first", "second"):
        (root / name).mkdir(parents=True)
        write(factor_frame((name,)), root / name)
    logs.write_run(tmp_path / "log" / "run", root, *((name, (name,), True) for name in ("first", "second")))
    # Of a file that was written just now nothing is remembered, for it may change again.
    for file in filter(Path.is_file, tmp_path.rglob("*")):
        os.utime(file, (1_700_000_000, 1_700_000_000))
    code = "import sys\nfrom rdagent_sota_bridge.cli import app\ntry:\n    app()\nfinally:\n"
    code += "    heavy = [name for name in ('pandas', 'pyarrow', 'rdagent.core') if name in sys.modules]\n"
    code += "    print(len(heavy), *heavy, file=sys.stderr)"
    said = [
        subprocess.run(
            [sys.executable, "-c", code, *command],
            cwd=tmp_path,
            env={**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache"), "WORKSPACE_PATH": str(root)},
            capture_output=True,
            text=True,
        )
        for _ in range(2)
    ]
    assert [done.returncode for done in said] == [int("nowhere" in " ".join(command))] * 2
    assert said[1].stderr.splitlines()[-1] == "0", said[1].stderr
    if said[1].returncode:  # nothing has to be remembered first
        assert said[0].stderr.splitlines()[-1] == "0", said[0].stderr


@pytest.mark.parametrize(
    ("figure", "expected"),
    [
        (math.nan, None),
        (-math.inf, None),
        (np.float64("nan"), None),
        (np.float32(0.5), 0.5),
        (np.int64(7), 7),
        (True, True),
        (("动量", [math.nan, {"因子": math.inf}]), ["动量", [None, {"因子": None}]]),
    ],
)
def test_figures_in_json(figure: Any, expected: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """No NaN and no infinity reaches the JSON, at any depth, and numpy's numbers are numbers."""
    print_json({"checks": [Line("x", "pass", "t", figures={"value": figure})]})
    document = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert document["checks"][0]["figures"] == {"value": expected}


@pytest.mark.parametrize(("encoding", "readable"), [("utf-8", True), ("ascii", False)])
def test_json_of_names_in_chinese(encoding: str, readable: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Names are written as they are where the stream can hold them, and as escapes where it can't."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    monkeypatch.setattr("sys.stdout", stream)
    print_json([WARNED])
    stream.seek(0)
    text = stream.read()
    assert ("动量_1日" in text) is readable
    assert json.loads(text)[0]["text"] == WARNED.text

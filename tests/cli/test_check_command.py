"""What `rdagent-sota check` prints: a line per check on screen, or all of them as JSON."""

from __future__ import annotations

import io
import json
import math
from typing import Any

import numpy as np
import pytest
from rich.cells import cell_len
from rich.console import Console

from rdagent_sota_bridge.check.lines import Line
from rdagent_sota_bridge.cli.check import show

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
    console = Console(file=stream, width=width, **options)
    return show([lines], "Factor set sha256:ab", False, {}, console), stream.getvalue()


def printed_json(lines: list[Line], factor_set: dict[str, Any] | None = None) -> dict[str, Any]:
    """Return the JSON that was printed, parsed as strictly as JSON is defined."""
    stream = io.StringIO()
    show([lines], "Factor set sha256:ab", True, factor_set or {}, Console(file=stream, width=80))

    def refuse(constant: str) -> None:
        pytest.fail(f"{constant} is no JSON")

    document: dict[str, Any] = json.loads(stream.getvalue(), parse_constant=refuse)
    return document


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


@pytest.mark.parametrize(
    ("lines", "status"),
    [([], 0), ([PASSED], 0), ([PASSED, WARNED], 0), ([FAILED, PASSED], 1), ([WARNED, FAILED], 1)],
)
@pytest.mark.parametrize("as_json", [False, True])
def test_exit_status(lines: list[Line], status: int, as_json: bool) -> None:
    """A failed check makes the status 1 in both forms; a warning does not."""
    assert show([lines], "h", as_json, {}, Console(file=io.StringIO())) == status


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


def test_colours() -> None:
    """On a terminal the states are coloured; into a pipe no escape code is written, and the words stay."""
    _, text = printed([PASSED, WARNED, FAILED])
    assert "\x1b" not in text
    assert [line.split()[1] for line in text.splitlines() if line[:1] in "✓!✗"] == ["pass", "warn", "fail"]
    _, text = printed([FAILED], force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[1;31m✗ fail\x1b[0m" in text


def test_marks_of_a_stream_without_them() -> None:
    """A stream that holds ASCII alone gets other marks, and no error."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    failed = Line("disk", "fail", "1.0 kB free", "make room")
    show([[PASSED, failed]], "h", False, {}, Console(file=stream, width=80))
    stream.seek(0)
    assert [line.split()[0] for line in stream.read().splitlines()[1:3]] == ["+", "x"]


def test_square_brackets_are_text() -> None:
    """Brackets in a text are no markup: a factor may have them in its name."""
    line = Line("set", "warn", "a column [red]has[/red] :smile:", "drop [b]it")
    _, text = printed([line])
    assert "a column [red]has[/red] :smile:" in text
    assert "fix: drop [b]it" in text


def test_json_in_whole(capsys: pytest.CaptureFixture[str]) -> None:
    """The JSON stands alone on stdout, with the worst state, the set and every check's five fields."""
    failed = Line("disk", "fail", "1.0 kB free", "make room", {"free": 1000})
    assert show([[PASSED, failed]], "h", True, {"digest": "sha256:ab"}) == 1
    captured = capsys.readouterr()
    assert captured.err == ""
    assert json.loads(captured.out) == {
        "state": "fail",
        "set": {"digest": "sha256:ab"},
        "checks": [
            {
                "name": "rdagent",
                "state": "pass",
                "text": "RD-Agent 1.0.0, a tested release",
                "fix": "",
                "figures": {"version": "1.0.0"},
            },
            {
                "name": "disk",
                "state": "fail",
                "text": "1.0 kB free",
                "fix": "make room",
                "figures": {"free": 1000},
            },
        ],
    }


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
def test_figures_in_json(figure: Any, expected: Any) -> None:
    """No NaN and no infinity reaches the JSON, at any depth, and numpy's numbers are numbers."""
    document = printed_json([Line("x", "pass", "t", figures={"value": figure})], factor_set={"v": figure})
    assert document["checks"][0]["figures"] == {"value": expected}
    assert document["set"] == {"v": expected}


@pytest.mark.parametrize(("encoding", "readable"), [("utf-8", True), ("ascii", False)])
def test_json_of_names_in_chinese(encoding: str, readable: bool) -> None:
    """Names are written as they are where the stream can hold them, and as escapes where it can't."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    show([[WARNED]], "h", True, {}, Console(file=stream, width=80))
    stream.seek(0)
    text = stream.read()
    assert ("动量_1日" in text) is readable
    assert json.loads(text)["checks"][0]["text"] == WARNED.text

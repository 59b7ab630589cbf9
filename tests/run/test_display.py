"""What a stage shows on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from rdagent_sota_bridge.run import display
from rdagent_sota_bridge.run.display import Screen
from rdagent_sota_bridge.run.progress import Position

AT = Position(2, "coding", 2, 2)


def terminal() -> tuple[Console, io.StringIO]:
    """Return a terminal of 60 columns, and what it gets."""
    file = io.StringIO()
    return Console(file=file, force_terminal=True, width=60, color_system=None), file


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\ntw", b"o\nth"], ["one", "two", "th"]),
        ([b"0%\r50%\r100%\n"], ["100%"]),
        ([b"0%\r", b"50%", b"\r100%"], ["100%"]),
        ([b"windows\r", b"\nline\r\n"], ["windows", "line"]),
        ([b"\xe5\x8f", b"\xa0\n\xff\n"], ["叠", "\ufffd"]),
        ([b"[red]x[/red]\n\n"], ["[red]x[/red]", ""]),
        ([b"x" * 1000 + b"\n"], ["x" * 1000]),
        ([b"[bold]y\n\x1b[31mred\x1b[0m\nunfinished"], ["[bold]y", "red", "unfinished"]),
    ],
)
def test_on_a_terminal(pieces: list[bytes], lines: list[str]) -> None:
    """Output stands above the status: overwritten lines once, letters whole, markup as it is."""
    console, file = terminal()
    with Screen(console).shown() as screen:
        for piece in pieces:
            screen.write(piece)
        screen.show(AT, "the status")
    output = file.getvalue()
    assert "the status" in output
    places = [output.find(f"{line}\n") for line in lines]
    assert -1 not in places
    assert places == sorted(places)
    assert "[bold]" not in output or "[bold]y" in output


def test_a_bar_of_hours_is_not_kept() -> None:
    """What carriage returns overwrite takes no memory; a bar stands above the panel, not in it."""
    console, file = terminal()
    screen = Screen(console)
    with screen.shown():
        for number in range(1000):
            screen.write(b"\r" + str(number).encode() * 100)
        assert len(screen._rest) < 1000
        screen.write(b"\r80%")
        file.truncate(0)
        console.print(screen._panel())
        first, *panel = file.getvalue().lstrip("\0").splitlines()[-4:]
    assert "80%" in first
    assert len(panel) == 3


@pytest.mark.parametrize(
    ("at", "loops", "used", "at_finish", "best_ic", "text"),
    [
        (Position(0, "", 0, 0), 2, 1, 0, None, "stage: loop 1 of 2; 1 s used"),
        (Position(0, "coding", 0, 0), 2, 59.4, 0, None, "stage: loop 1 of 2, coding; 59 s used"),
        (AT, 4, 250, 200, None, "stage: loop 3 of 4, coding; 4 min used, about 2 min to go"),
        (
            AT,
            4,
            900,
            200,
            0.04213,
            "stage: loop 3 of 4, coding; 15 min used, about 0 s to go; best IC so far 0.0421",
        ),
        (AT, 10, 3700, 2960, None, "stage: loop 3 of 10, coding; 1 h 02 min used, about 3 h 05 min to go"),
        (Position(1, "x", 1, 1), 1, 60, 60, None, "stage: the loop is done; 1 min used"),
        (Position(2, "x", 2, 2), 2, 3599, 3599, None, "stage: all 2 loops done; 1 h 00 min used"),
    ],
)
def test_status(
    at: Position, loops: int, used: float, at_finish: float, best_ic: float | None, text: str
) -> None:
    """Loop, step, time used, time to go by the mean of the finished loops, and best IC, as far as known."""
    assert display.status("stage", at, loops, used, at_finish, best_ic) == text


def test_elsewhere_than_on_a_terminal() -> None:
    """Bytes pass as they are; a status is a line of its own when a loop or step begins, and no other time."""
    below = io.BytesIO()
    console = Console(file=io.TextIOWrapper(below, encoding="ascii", write_through=True))
    with Screen(console).shown() as screen:
        screen.show(AT, "coding")
        screen.write(b"\xff[b]\r\x1b[0m")
        screen.show(AT, "coding, later")
        screen.show(AT._replace(step="running"), "running")
        screen.write(b"end\n")
    expected = b"rdagent-sota: coding\n\xff[b]\r\x1b[0m\nrdagent-sota: running\nend\n"
    assert below.getvalue() == expected


class Gone(io.RawIOBase):
    """A stream whose reader is gone."""

    def writable(self) -> bool:
        """Return that it can be written to, as such a stream does."""
        return True

    def write(self, data: object) -> int:
        """Fail, as a closed pipe does."""
        raise BrokenPipeError


@pytest.mark.parametrize("is_terminal", [True, False])
def test_a_screen_that_is_gone(is_terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody to look ends nothing, and nothing more is written."""
    given_up = list[bool]()
    monkeypatch.setattr(display, "write_nothing_more", lambda: given_up.append(True))
    file = io.TextIOWrapper(Gone(), write_through=True)
    with Screen(display.LastingConsole(file=file, force_terminal=is_terminal)).shown() as screen:
        screen.write(b"text\n")
        screen.show(AT, "coding")
        screen.write(b"text\n")
    assert given_up

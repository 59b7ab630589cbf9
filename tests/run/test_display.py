"""What a stage shows on a terminal and elsewhere."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.text import Text

from rdagent_sota_bridge.run import display
from rdagent_sota_bridge.run.display import Screen, Status, to_go
from rdagent_sota_bridge.run.progress import Position

AT = Position(2, "coding", 2, 2)


@pytest.mark.parametrize(
    ("pieces", "lines"),
    [
        ([b"one\ntw", b"o\nth"], ["one", "two", "th"]),
        ([b"0%\r50%\r100%\n"], ["100%"]),
        ([b"0%\r", b"50%", b"\r100%"], ["100%"]),
        ([b"windows\r", b"\nline\r\n"], ["windows", "line"]),
        ([b"\xe5\x8f", b"\xa0\n\xff\n"], ["叠", "\ufffd"]),
        ([b"[red]x[/red]\n\n"], ["[red]x[/red]", ""]),
        ([b"x" * 100_000 + b"\n"], ["x" * 100_000]),
        ([b"[bold]y\n\x1b[31mred\x1b[0m\n"], ["[bold]y", "red"]),
    ],
)
def test_lines(pieces: list[bytes], lines: list[str]) -> None:
    """Lines stay on a terminal as it shows them: overwritten ones once, letters whole, markup as it is."""
    printed = list[object]()
    screen = Screen(Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None))
    with screen.shown(), pytest.MonkeyPatch.context() as patched:
        patched.setattr(screen._console, "print", lambda text, **_: printed.append(text))
        for piece in pieces:
            screen.write(piece)
        screen._print([screen._unfinished])
    texts = [text.plain for text in printed if isinstance(text, Text)]  # the others are the panel's
    assert "\n".join(texts).split("\n")[: len(lines)] == lines


def test_a_bar_of_hours_is_not_kept() -> None:
    """What carriage returns overwrite takes no memory."""
    screen = Screen(Console(file=io.StringIO(), force_terminal=True))
    with screen.shown():
        for number in range(1000):
            screen.write(b"\r" + str(number).encode() * 100)
        assert len(screen._unfinished) < 1000


@pytest.mark.parametrize(
    ("status", "text"),
    [
        (Status("factor stage", AT, 10, 65), "factor stage: loop 3 of 10, coding; 1 min used"),
        (
            Status("model stage", AT, 10, 4000, 7300, 0.04213),
            "model stage: loop 3 of 10, coding; 1 h 07 min used, about 2 h 02 min to go; "
            "best IC so far 0.0421",
        ),
        (Status("model stage", Position(2, "x", 2, 2), 2, 1), "model stage: all 2 loops done; 1 s used"),
        (Status("model stage", Position(0, "", 0, 0), 2, 1), "model stage: loop 1 of 2; 1 s used"),
    ],
)
def test_status(status: Status, text: str) -> None:
    """Stage, loop, step, time used and expected, and the best IC, as far as they are known."""
    assert str(status) == text


@pytest.mark.parametrize(
    ("used", "at_last_finish", "finished", "seconds"),
    [(50, 0, 0, None), (130, 100, 1, 270), (250, 200, 2, 150), (900, 300, 3, 0)],
)
def test_to_go(used: float, at_last_finish: float, finished: int, seconds: float | None) -> None:
    """What is to go follows from the mean time of the finished loops; there is none before the first."""
    assert to_go(used, at_last_finish, finished, 4) == seconds


@pytest.mark.parametrize(("piece", "lines"), [("80%", 4), ("", 3)])
def test_the_panel_has_lines_of_its_own(piece: str, lines: int) -> None:
    """The line that is not finished, such as a progress bar, stands above the panel, not in it."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, color_system=None)
    screen = Screen(console)
    screen._unfinished = piece
    console.print(screen._panel())
    shown = file.getvalue().splitlines()
    assert len(shown) == lines
    assert {len(line) for line in shown[-3:]} == {60}


def bytes_console() -> tuple[Console, io.BytesIO]:
    """Return a console that is no terminal, and what is below it."""
    below = io.BytesIO()
    return Console(file=io.TextIOWrapper(below, encoding="ascii", write_through=True)), below


def test_elsewhere_than_on_a_terminal() -> None:
    """Bytes pass as they are; a status is a line of its own when a loop or step begins, and no other time."""
    console, below = bytes_console()
    with Screen(console).shown() as screen:
        screen.show(Status("s", AT, 4, 1))
        screen.write(b"\xff[b]\r\x1b[0m")
        screen.show(Status("s", AT, 4, 70))
        screen.show(Status("s", Position(2, "running", 2, 2), 4, 80))
        screen.write(b"end\n")
    assert below.getvalue() == (
        b"rdagent-sota: s: loop 3 of 4, coding; 1 s used\n\xff[b]\r\x1b[0m\n"
        b"rdagent-sota: s: loop 3 of 4, running; 1 min used\nend\n"
    )


def test_on_a_terminal() -> None:
    """Output stands above the status, whole and without markup; the status does not stay."""
    file = io.StringIO()
    console = Console(file=file, force_terminal=True, width=60, color_system=None)
    with Screen(console).shown() as screen:
        screen.show(Status("the stage", AT, 4, 1))
        screen.write(b"[bold]" + b"x" * 200 + b"\n\x1b[31mred\x1b[0m\nunfinished")
    output = file.getvalue()
    assert "[bold]" + "x" * 200 in output
    assert "red" in output
    assert "the stage: loop 3 of 4" in output
    assert output.rindex("[bold]") < output.rindex("the stage")
    assert output.endswith("unfinished\n")


class Gone(io.RawIOBase):
    """A stream whose reader is gone."""

    def writable(self) -> bool:
        """Return that it can be written to, as such a stream does."""
        return True

    def write(self, data: object) -> int:
        """Fail, as a closed pipe does."""
        raise BrokenPipeError


@pytest.mark.parametrize("terminal", [True, False])
def test_a_screen_that_is_gone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody to look ends nothing, and nothing more is written."""
    given_up = list[bool]()
    monkeypatch.setattr(display, "write_nothing_more", lambda: given_up.append(True))
    console = display.LastingConsole(
        file=io.TextIOWrapper(Gone(), write_through=True), force_terminal=terminal
    )
    with Screen(console).shown() as screen:
        screen.write(b"text\n")
        screen.show(Status("s", AT, 4, 1))
        screen.write(b"text\n")
    assert given_up

"""What a stage shows: RD-Agent's own output, and a status of loop, step, time and the best IC so far."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from typing import BinaryIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from rdagent_sota_bridge.errors import plural
from rdagent_sota_bridge.run.progress import Position


class LastingConsole(Console):
    """A console whose end, such as that of a pipe below it, does not end a job (Rich's own would)."""

    def on_broken_pipe(self) -> None:
        """Write nothing any more."""
        write_nothing_more()


def open_console() -> LastingConsole:
    """Return the console of the standard output; what it has no bytes for is a question mark there."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # not where there is none
        sys.stdout.reconfigure(errors="replace")  # an LLM writes what it likes, whatever the terminal
    return LastingConsole()


def write_nothing_more() -> None:
    """Let what this process still writes go nowhere: nobody reads it any more, and the run continues."""
    with contextlib.suppress(OSError, ValueError):  # no file below: there is nothing to replace
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


def shown(seconds: float) -> str:
    """Return a time as people read it: `45 s`, `12 min`, `3 h 05 min`."""
    if seconds < 60:
        return f"{max(seconds, 0):.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def status(title: str, at: Position, loops: int, used: float, at_finish: float, best_ic: float | None) -> str:
    """Return the line that says where a stage is.

    Args:
        title: The name of the stage.
        at: Its loop and step.
        loops: How many loops it is to do in all.
        used: The seconds that it has run.
        at_finish: The same when its last finished loop was; side by side loops take less each.
        best_ic: The highest IC of its back-tests; None before the first.
    """
    if at.finished >= loops:
        where = f"all {plural(loops, 'loop')} done" if loops > 1 else "the loop is done"
    else:
        where = f"loop {min(at.loop + 1, loops)} of {loops}{', ' if at.step else ''}{at.step}"
    to_go = max(at_finish / at.finished * loops - used, 0) if at.finished else 0
    expected = f", about {shown(to_go)} to go" if at.finished and at.finished < loops else ""
    best = "" if best_ic is None else f"; best IC so far {best_ic:.4f}"
    return f"{title}: {where}; {shown(used)} used{expected}{best}"


class Screen:
    """Shows a stage. A screen that is gone, such as a closed pipe or terminal, does not end a run of hours.

    Args:
        console: The terminal; or a file or a pipe, which gets the bytes as they are, and a line of status
            when a loop or a step begins.
    """

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live: Live | None = None
        self._decoder = codecs.getincrementaldecoder("utf-8")(errors="replace")
        self._rest = ""  # the line that is not finished: a progress bar, or an LLM's answer
        self._inside_line = False
        self._at: Position | None = None
        self._status = ""

    def write(self, piece: bytes) -> None:
        """Show what the stage's command wrote."""
        if not piece:
            return
        with self._while_there():
            if self._live is None:
                self._inside_line = not piece.endswith(b"\n")
                self._write_through(piece)
                return
            *lines, rest = (self._rest + self._decoder.decode(piece)).replace("\r\n", "\n").split("\n")
            # What a bar overwrites is not kept.
            self._rest = _overwritten(rest) + "\r" * rest.endswith("\r")
            if lines:
                self._print(lines)
            self._live.update(self._panel())

    def show(self, at: Position, text: str) -> None:
        """Show where the stage is, and its status."""
        is_new, self._at, self._status = at != self._at, at, text
        with self._while_there():
            if self._live is not None:
                self._live.update(self._panel())
            elif is_new:
                start, self._inside_line = "\n" * self._inside_line, False
                self._write_through(f"{start}rdagent-sota: {text}\n".encode())

    @contextlib.contextmanager
    def shown(self) -> Iterator[Screen]:
        """Show a panel at the foot of a terminal for the block; nothing of it stays."""
        if not self._console.is_terminal:
            yield self
            return
        self._live = Live(console=self._console, refresh_per_second=4, transient=True)
        with self._while_there():
            self._live.start()
        try:
            yield self
        finally:
            with self._while_there():
                self._live.stop()
                if self._rest:  # last words without an end of line
                    self._print([self._rest])
            self._live = None

    def _print(self, lines: list[str]) -> None:
        # Text, not markup: an LLM's words may look like it.
        text = Text("\n").join(Text.from_ansi(_overwritten(line)) for line in lines)
        self._console.print(text, soft_wrap=True, highlight=False)

    def _panel(self) -> Group:
        last = _overwritten(self._rest)[-500:]
        above = [Text.from_ansi(last, no_wrap=True, overflow="ellipsis")] if last else []
        return Group(*above, Panel(Text(self._status), title="rdagent-sota run", title_align="left"))

    def _write_through(self, piece: bytes) -> None:
        file = self._console.file
        file.flush()
        stream: BinaryIO | None = getattr(file, "buffer", None)
        if stream is None:
            file.write(piece.decode("utf-8", "replace"))
        else:
            stream.write(piece)
            stream.flush()
        file.flush()

    @contextlib.contextmanager
    def _while_there(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # nobody looks any more; the stage's text log has it all
            write_nothing_more()


def _overwritten(line: str) -> str:
    """Return what is left of a line when each carriage return starts it anew."""
    return line.rstrip("\r").rpartition("\r")[2]

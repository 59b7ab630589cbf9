"""What a stage shows: RD-Agent's own output, and a status of loop, step, time and the best IC so far."""

from __future__ import annotations

import codecs
import contextlib
import io
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from rich.console import Console, Group
from rich.live import Live
from rich.panel import Panel
from rich.text import Text

from rdagent_sota_bridge.run.progress import Position
from rdagent_sota_bridge.run.stages import shown


@dataclass(frozen=True)
class Status:
    """Where a stage is.

    Attributes:
        title: The name of the stage.
        position: Its loop and step.
        loops: How many loops it is to do in all.
        used: The seconds that it has run, without pauses.
        to_go: The seconds that it is expected to take still; None where that is not known yet.
        best_ic: The highest IC of its back-tests; None before the first.
    """

    title: str
    position: Position
    loops: int
    used: float
    to_go: float | None = None
    best_ic: float | None = None

    def __str__(self) -> str:
        at = self.position
        if at.finished >= self.loops:
            where = f"all {self.loops} loops done"
        else:
            step = f", {at.step}" if at.step else ""
            where = f"loop {min(at.loop + 1, self.loops)} of {self.loops}{step}"
        to_go = "" if self.to_go is None else f", about {shown(self.to_go)} to go"
        best = "" if self.best_ic is None else f"; best IC so far {self.best_ic:.4f}"
        return f"{self.title}: {where}; {shown(self.used)} used{to_go}{best}"


def to_go(used: float, used_at_last_finish: float, finished: int, loops: int) -> float | None:
    """Return the seconds that a stage will still take, by the mean time of its loops; None before one is
    finished.

    Args:
        used: How long it has run.
        used_at_last_finish: How long it had run when the last of them was finished.
        finished: How many loops are finished; side by side they take less each, and are counted so.
        loops: How many it is to do in all.
    """
    if finished == 0:
        return None
    return max(used_at_last_finish / finished * loops - used, 0.0)


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
    """Let what this process still writes go nowhere: nobody reads it any more, and the run goes on."""
    with contextlib.suppress(OSError, ValueError):  # no file below: there is nothing to replace
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.close(nowhere)


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
        self._unfinished = ""  # the line that is not finished: a progress bar, or an LLM's answer
        self._inside_line = False
        self._status: Status | None = None
        self._gone = False

    def write(self, piece: bytes) -> None:
        """Show what the stage's command wrote."""
        if not piece or self._gone:
            return
        with self._while_there():
            if self._live is None:
                self._inside_line = not piece.endswith(b"\n")
                _write_through(self._console, piece)
                return
            text = self._unfinished + self._decoder.decode(piece)
            *lines, self._unfinished = text.replace("\r\n", "\n").split("\n")
            if "\r" in self._unfinished[:-1]:  # what a bar overwrites need not be kept
                self._unfinished = _overwritten(self._unfinished) + "\r" * self._unfinished.endswith("\r")
            if lines:
                self._print(lines)
            self._live.update(self._panel())

    def _print(self, lines: list[str]) -> None:
        # Text, not markup: an LLM's words may look like it.
        text = Text("\n").join(Text.from_ansi(_overwritten(line)) for line in lines)
        self._console.print(text, soft_wrap=True, highlight=False)

    def show(self, status: Status) -> None:
        """Show where the stage is."""
        before, self._status = self._status, status
        if self._gone:
            return
        with self._while_there():
            if self._live is not None:
                self._live.update(self._panel())
            elif before is None or before.position != status.position:
                start = "\n" if self._inside_line else ""
                self._inside_line = False
                _write_through(self._console, f"{start}rdagent-sota: {status}\n".encode())

    def _panel(self) -> Group:
        status = Text("" if self._status is None else str(self._status))
        panel = Panel(status, title="rdagent-sota run", title_align="left")
        last = _overwritten(self._unfinished)[-500:]
        above = [Text.from_ansi(last, no_wrap=True, overflow="ellipsis")] if last else []
        return Group(*above, panel)

    @contextlib.contextmanager
    def _while_there(self) -> Iterator[None]:
        try:
            yield
        except OSError:  # nobody looks any more; RD-Agent's log/latest.log has it all
            self._gone = True
            write_nothing_more()

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
                if self._unfinished:  # last words without an end of line
                    self._print([self._unfinished])
            self._live = None


def _overwritten(line: str) -> str:
    """Return what is left of a line when each carriage return starts it anew."""
    return line.rstrip("\r").rpartition("\r")[2]


def _write_through(console: Console, piece: bytes) -> None:
    console.file.flush()
    stream: BinaryIO | None = getattr(console.file, "buffer", None)
    if stream is None:
        console.file.write(piece.decode("utf-8", "replace"))
    else:
        stream.write(piece)
        stream.flush()
    console.file.flush()

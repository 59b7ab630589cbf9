"""Unified diffs of one file: where their hunks fit, exactly, and what the file is with them or without."""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass

_HEADER = re.compile(rb"@@ -(\d+),\d+ \+(\d+),\d+ @@")


@dataclass(frozen=True)
class Hunk:
    """One place of a diff.

    Attributes:
        start: The line, from 1, at which its old lines began in the file that the diff was made of.
        new_start: The line at which its new lines begin.
        lines: Sign (` `, `-` or `+`) and text of each line, without the line's end.
    """

    start: int
    new_start: int
    lines: tuple[tuple[bytes, bytes], ...]

    @property
    def old(self) -> tuple[bytes, ...]:
        """The lines that a file has to have there."""
        return tuple(text for sign, text in self.lines if sign != b"+")

    @property
    def reversed(self) -> Hunk:
        """The hunk that takes this one out again."""
        other = {b"+": b"-", b"-": b"+"}
        lines = tuple((other.get(sign, sign), text) for sign, text in self.lines)
        return Hunk(self.new_start, self.start, lines)

    @property
    def is_at_end(self) -> bool:
        """True for a hunk without context after it: it fits at the end of a file alone, as in `git apply`."""
        return self.lines[-1][0] != b" "


@dataclass(frozen=True)
class Misfit:
    """A hunk that fits nowhere, and what stands in its place.

    Attributes:
        hunk: The hunk.
        line: The first line of `found`, from 1.
        found: As many lines of the file as the hunk expects: those that are most like them.
        alike: How many of them are as expected.
    """

    hunk: Hunk
    line: int
    found: tuple[bytes, ...]
    alike: int


def hunks(text: bytes) -> tuple[Hunk, ...]:
    """Return the hunks of a unified diff of one file. Its own ends of lines don't count."""
    lines = [_bare(line) for line in text.split(b"\n")]
    found = []
    for number, line in enumerate(lines):
        if header := _HEADER.match(line):
            body = itertools.takewhile(lambda line: line[:1] in (b" ", b"+", b"-"), lines[number + 1 :])
            start, new_start = map(int, header.groups())
            found.append(Hunk(start, new_start, tuple((line[:1], line[1:]) for line in body)))
    return tuple(found)


def apply(parts: tuple[Hunk, ...], content: bytes) -> tuple[bytes, tuple[Misfit, ...]]:
    """Apply the hunks that fit: with all their context, at the nearest place, which may be another line.

    Ends of lines don't count, and lines that stay keep theirs. New ones get that of the file's first line,
    and a file whose last line has no end has none afterwards. So where a diff only adds lines, its reversed
    hunks give back the file to the byte.

    Returns:
        What the file is then, and the hunks that do not fit.
    """
    end = b"\r\n" if content.partition(b"\n")[0].endswith(b"\r") else b"\n"
    is_ended = content.endswith(b"\n")
    lines = (content if is_ended else content + end).split(b"\n")[:-1]
    misfits = []
    after = 0  # hunks follow each other
    for hunk in parts:
        at = _place(hunk, [_bare(line) for line in lines], after)
        if at is None:
            misfits.append(_misfit(hunk, [_bare(line) for line in lines]))
            continue
        changed, old = [], at
        for sign, text in hunk.lines:
            if sign == b"+":
                changed.append(text + end[:-1])
                continue
            if sign == b" ":
                changed.append(lines[old])
            old += 1
        lines[at:old] = changed
        after = at + len(changed)
    result = b"".join(line + b"\n" for line in lines)
    if not is_ended:
        result = result.removesuffix(end if result.endswith(end) else b"\n")
    return result, tuple(misfits)


def _bare(line: bytes) -> bytes:
    return line.removesuffix(b"\r")


def _place(hunk: Hunk, lines: list[bytes], after: int) -> int | None:
    """Return the index of the line at which a hunk's old lines stand; the nearest to where they should."""
    old = list(hunk.old)
    last = len(lines) - len(old)
    places = [at for at in range(after, last + 1) if lines[at : at + len(old)] == old]
    if hunk.is_at_end:
        places = [at for at in places if at == last]
    return min(places, key=lambda at: abs(at + 1 - hunk.new_start), default=None)


def _misfit(hunk: Hunk, lines: list[bytes]) -> Misfit:
    """Return a hunk with the lines of the file that are most like its old ones, blank lines aside."""
    old = hunk.old
    last = max(len(lines) - len(old), 0)

    def alike(at: int) -> int:
        pairs = zip(old, lines[at : at + len(old)], strict=False)
        return sum(bool(expected.strip()) and expected == found for expected, found in pairs)

    places = [last] if hunk.is_at_end else range(last + 1)
    at = max(places, key=lambda at: (alike(at), -abs(at + 1 - hunk.start)))
    return Misfit(hunk, at + 1, tuple(lines[at : at + len(old)]), alike(at))

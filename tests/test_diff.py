"""Unified diffs against lines: what fits where, what comes out, and back to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdagent_sota_bridge import diff, source_file

TEXT = b"""\
Words before it.

--- a/file
+++ b/file
@@ -2,3 +2,4 @@
+import ours
\x20
 import one
 import two
@@ -7,2 +8,4 @@
 last
 end
+
+ours()
"""
HUNKS = diff.hunks(TEXT)
BACK = tuple(hunk.reversed for hunk in HUNKS)
FILE = b"import pandas\n\nimport one\nimport two\nbody\nbody\nlast\nend\n"
PATCHED = b"import pandas\nimport ours\n\nimport one\nimport two\nbody\nbody\nlast\nend\n\nours()\n"


def test_hunks_are_read() -> None:
    """Places and lines are those of the text; what stands before the first hunk is none of it."""
    first, last = HUNKS
    assert (first.start, first.new_start, last.start, last.new_start) == (2, 2, 7, 8)
    assert first.old == (b"", b"import one", b"import two")
    assert first.reversed.old == (b"import ours", b"", b"import one", b"import two")
    assert first.reversed.reversed == first
    assert (first.is_at_end, last.is_at_end) == (False, True)
    assert diff.hunks(TEXT.replace(b"\n", b"\r\n")) == HUNKS, "as git writes text files on Windows"


def test_apply_and_back() -> None:
    """The hunks give the patched file, the reversed ones the file."""
    assert diff.apply(HUNKS, FILE) == (PATCHED, ())
    assert diff.apply(BACK, PATCHED) == (FILE, ())


@pytest.mark.parametrize("path", source_file.diffs(), ids=lambda path: path.name)
def test_our_diffs_may_move_and_only_add(path: Path) -> None:
    """A line that goes could not come back to the byte; a hunk at line 1 would fit at the start alone."""
    hunks = diff.hunks(path.read_bytes())
    assert len(hunks) == 2
    for hunk in hunks:
        assert {sign for sign, _ in hunk.lines} == {b" ", b"+"}
        assert hunk.start > 1


def test_lines_are_taken_away_too() -> None:
    """A line with a minus goes."""
    hunks = diff.hunks(b"@@ -1,3 +1,2 @@\n a\n-b\n c\n")
    assert diff.apply(hunks, b"a\nb\nc\n") == (b"a\nc\n", ())


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
@pytest.mark.parametrize("is_ended", [True, False])
@pytest.mark.parametrize("start", [b"", b"\xef\xbb\xbf", b"# a licence\n# of two lines\n"])
def test_files_as_editors_write_them(end: bytes, is_ended: bool, start: bytes) -> None:
    """Line ends, a byte order mark and a missing last end stay; new lines have the ends of the file."""
    before, after = (
        (start + text).replace(b"\n", end).removesuffix(b"" if is_ended else end) for text in (FILE, PATCHED)
    )
    assert diff.apply(HUNKS, before) == (after, ())
    assert diff.apply(BACK, after) == (before, ())


LINES = st.lists(st.sampled_from([b"body", b"", b"import one", b"end", b"\xff\x0c\x1c", b"last"]), max_size=4)
ENDS = st.sampled_from([b"\n", b"\r\n"])


@settings(max_examples=300, deadline=None)
@given(LINES, LINES, st.lists(ENDS, min_size=16, max_size=16), st.booleans())
def test_any_file_comes_back_to_the_byte(
    before: list[bytes], between: list[bytes], ends: list[bytes], is_ended: bool
) -> None:
    """Whatever stands around the hunks, and however the lines of one file end, mixed too."""
    lines = [*before, b"", b"import one", b"import two", *between, b"last", b"end"]
    content = b"".join(line + end for line, end in zip(lines, ends, strict=False))
    if not is_ended:
        content = content.removesuffix(b"\n").removesuffix(b"\r")
    patched, misfits = diff.apply(HUNKS, content)
    assert misfits == ()
    bare = patched.replace(b"\r", b"").split(b"\n")
    assert (bare.count(b"import ours"), bare.count(b"ours()")) == (1, 1)
    assert diff.apply(BACK, patched) == (content, ())


def test_an_end_that_was_taken_away_afterwards() -> None:
    """Somebody's editor cut the last end of a patched file whose lines end in two ways: no letter is lost."""
    mixed = b"import pandas\r\n" + PATCHED.partition(b"\n")[2].removesuffix(b"\n")
    back, misfits = diff.apply(BACK, mixed)
    assert misfits == ()
    assert back == b"import pandas\r\n" + FILE.partition(b"\n")[2].removesuffix(b"\n")


def test_the_nearest_place_is_taken() -> None:
    """Where a hunk fits twice it goes where its diff says, or nearest to it."""
    (hunk,) = diff.hunks(b"@@ -4,1 +4,2 @@\n x\n+y\n z\n")
    twice = b"x\nz\na\nx\nz\nb\n"
    assert diff.apply((hunk,), twice) == (b"x\nz\na\nx\ny\nz\nb\n", ())


@pytest.mark.parametrize("content", [b"", b"\n", b"one line", FILE.replace(b"\n", b"\r")])
def test_files_that_are_too_short(content: bytes) -> None:
    """A file without the lines, were it empty, fits no hunk and stays."""
    result, misfits = diff.apply(HUNKS, content)
    assert result == content
    assert [misfit.hunk for misfit in misfits] == list(HUNKS)


def test_what_stands_in_the_place_is_shown() -> None:
    """A hunk that does not fit comes with the lines that are most like its own; the other one is applied."""
    result, (misfit,) = diff.apply(HUNKS, FILE.replace(b"import one", b"import other"))
    assert (misfit.hunk, misfit.line, misfit.alike) == (HUNKS[0], 2, 1)
    assert misfit.found == (b"", b"import other", b"import two")
    assert b"ours()" in result


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (FILE + b"more\n", (b"end", b"more")),
        (FILE.replace(b"last\n", b"last  \n"), (b"last  ", b"end")),
        (FILE.replace(b"end", b"END"), (b"last", b"END")),
        # A hunk after which nothing stands belongs to the end of the file, as in git apply.
        (FILE + b"\n", (b"end", b"")),
    ],
)
def test_the_end_has_to_be_the_end(content: bytes, found: tuple[bytes, ...]) -> None:
    """Spaces, letters and further lines count: nothing is taken for nearly fitting."""
    _, (misfit,) = diff.apply(HUNKS, content)
    assert (misfit.hunk, misfit.found) == (HUNKS[1], found)


def test_hunks_keep_their_order() -> None:
    """A hunk does not fit before the one that it follows."""
    hunks = diff.hunks(b"@@ -5,1 +5,2 @@\n a\n+b\n c\n@@ -9,1 +10,2 @@\n x\n+y\n z\n")
    assert diff.apply(hunks, b"a\nc\nx\nz\n") == (b"a\nb\nc\nx\ny\nz\n", ())
    _, misfits = diff.apply(hunks, b"x\nz\na\nc\n")
    assert [misfit.hunk for misfit in misfits] == [hunks[1]]

"""The block of `patches/` in the model runner of the installed RD-Agent, and the diff of release 0.1.0."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import shlex
import stat
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rdagent_sota_bridge.bridge import source_patch
from rdagent_sota_bridge.errors import SourceError
from tests.frames import NOBODY, public_folder, without_privileges

RUNNER = Path("rdagent") / source_patch.RUNNER_FILE
PATCHES = Path(__file__).parents[2] / "patches"
BLOCK = (PATCHES / "block.txt").read_bytes()
OLD_IMPORT, OLD_CALL = (PATCHES / "old.txt").read_bytes().split(b"\n", 1)


def installed() -> bytes:
    """Return the model runner of the RD-Agent of this environment."""
    spec = importlib.util.find_spec("rdagent")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], source_patch.RUNNER_FILE).read_bytes()


def with_block(text: bytes) -> bytes:
    """Return a model runner, of lines that end in LF, with the block."""
    return text + BLOCK


def with_old_diff(text: bytes) -> bytes:
    """Return a model runner with the two hunks of the diff of release 0.1.0."""
    return text.replace(b"import pandas as pd\n", b"import pandas as pd\n" + OLD_IMPORT + b"\n") + OLD_CALL


PATCHED = {"applied": with_block, "old": with_old_diff}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """Return the model runner in a checkout, with a space in its name, that holds nothing else."""
    return checkout(tmp_path / "a checkout")


def checkout(root: Path) -> Path:
    """Write the model runner alone, and return its file."""
    (root / RUNNER).parent.mkdir(parents=True)
    (root / RUNNER).write_bytes(installed())
    return root / RUNNER


def find(file: Path) -> source_patch.Found:
    """Look at the source that a model runner belongs to."""
    return source_patch.find(file.parents[len(RUNNER.parts) - 1])


def apply(file: Path) -> None:
    """Put the block in."""
    found = find(file)
    source_patch.write(found.file, source_patch.with_block(found.bare))


def revert(file: Path) -> None:
    """Take the patch out."""
    found = find(file)
    source_patch.write(found.file, found.bare)


def test_apply_and_revert(file: Path, tmp_path: Path) -> None:
    """The four lines come to the file's end; what comes back is the file, with its mode and owner, and alone.

    A link to the file stays a link; a hard link, as of uv's cache, is not written through.
    """
    assert BLOCK.splitlines()[1:3] == [OLD_IMPORT, b"sota_bridge.apply(__name__)"]
    assert len(BLOCK.splitlines()) == 4
    # What root writes belongs to whom it belonged; another user has only files of his own to write.
    owner, group = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(file, owner, group)
    file.chmod(0o640)
    cached, other = tmp_path / "cached.py", tmp_path / "other" / RUNNER
    os.link(file, cached)
    other.parent.mkdir(parents=True)
    other.symlink_to(file)
    found = find(other)
    assert (found.file, found.state, found.bare) == (file, "none", installed())
    assert file.read_bytes() == installed(), "a look changes nothing"
    for act, content, state in ((apply, with_block(installed()), "applied"), (revert, installed(), "none")):
        act(other)
        assert (file.read_bytes(), find(file).state) == (content, state)
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert (file.stat().st_uid, file.stat().st_gid) == (owner, group)
    assert list(file.parent.iterdir()) == [file]
    assert other.is_symlink()
    assert cached.read_bytes() == installed()
    assert not cached.samefile(file)


def test_the_way_by_hand(file: Path) -> None:
    """The two commands of patches/README.md write what ours do."""
    text = (PATCHES / "README.md").read_text(encoding="utf-8").partition("```bash\n")[2].partition("```")[0]
    apply_line, revert_line = text.replace("path/to/patches", shlex.quote(str(PATCHES))).splitlines()
    for line, expected in ((apply_line, with_block(installed())), (revert_line, installed())):
        subprocess.run(line, shell=True, check=True, cwd=file.parents[len(RUNNER.parts) - 1])
        assert file.read_bytes() == expected


def as_windows(text: bytes) -> bytes:
    """Return a text with CRLF and a byte order mark."""
    return b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n")


EDITORS: dict[str, Callable[[bytes], bytes]] = {
    "LF": lambda text: text,
    "CRLF and a byte order mark": as_windows,
    "no last end": lambda text: text.removesuffix(b"\n"),
    "CRLF, no last end": lambda text: as_windows(text).removesuffix(b"\r\n"),
    "a licence": lambda text: b"# Copyright\n# of a fork\n" + text,
}


@pytest.mark.parametrize("name", EDITORS)
@pytest.mark.parametrize("state", PATCHED)
def test_files_as_editors_write_them(name: str, state: str, file: Path) -> None:
    """Line ends, a byte order mark and a missing last end stay; an old diff is taken out first by `apply`."""
    edit = EDITORS[name]
    for act, expected in ((apply, with_block(installed())), (revert, installed())):
        file.write_bytes(edit(PATCHED[state](installed())))
        assert find(file).state == state
        act(file)
        assert file.read_bytes() == edit(expected)


@settings(deadline=None)
@given(
    st.lists(st.sampled_from([b"body", b"\n", b"\r\n", b"\r", b"\xff\x0c\x1c", b"    ", b"\\"]), max_size=9)
)
def test_any_file_comes_back_to_the_byte(parts: list[bytes]) -> None:
    """However the lines of one file end, mixed too, and were it empty."""
    content = b"".join(parts)
    with public_folder() as folder:
        file = folder / RUNNER
        file.parent.mkdir(parents=True)
        file.write_bytes(content)
        assert find(file).state == "none"
        apply(file)
        assert find(file).state == "applied"
        revert(file)
        assert file.read_bytes() == content


def cut(text: bytes) -> bytes:
    """Return a text whose first line ends in CRLF, and whose last end an editor took away."""
    return text.replace(b"\n", b"\r\n", 1).removesuffix(b"\n")


MORE = b"print('imported')"
FOUND = {
    "a formatter's blank line": (
        "applied",
        with_block(installed()).replace(OLD_IMPORT, OLD_IMPORT + b"\n"),
        installed(),
    ),
    "code after the block": ("applied", with_block(installed()) + MORE, installed() + MORE),
    "an end cut from the block": ("applied", cut(with_block(installed())), cut(installed())),
    "an end cut from the old diff": ("old", cut(with_old_diff(installed())), cut(installed())),
}


@pytest.mark.parametrize("name", FOUND)
def test_what_came_to_a_patched_file_stays(name: str, file: Path) -> None:
    """What others wrote around the patch is theirs, and no letter of it is lost."""
    state, content, bare = FOUND[name]
    file.write_bytes(content)
    assert (find(file).state, find(file).bare) == (state, bare)


def without_line(state: str, number: int) -> bytes:
    """Return a patched model runner that lacks a line of the patch."""
    lines = PATCHED[state](installed()).splitlines(keepends=True)
    del lines[number]
    return b"".join(lines)


HALVES = {
    **{f"the block without line {at}": without_line("applied", at) for at in (-4, -3, -2, -1)},
    **{f"the old diff without line {at}": without_line("old", at) for at in (1, 2, -2, -1)},
    "another call": with_block(installed()).replace(b"(__name__)", b"(__name__, fast=True)"),
    "twice": with_block(with_block(installed())),
    "code after the old call": with_old_diff(installed()) + MORE,
}


@pytest.mark.parametrize("name", HALVES)
def test_half_a_patch_is_refused(name: str, file: Path) -> None:
    """What is patched in part, or was edited, is neither patched nor unpatched; its lines are named."""
    file.write_bytes(HALVES[name])
    with pytest.raises(SourceError, match="a part of the patch, or an edited one") as raised:
        find(file)
    lines = [str(at) for at, line in enumerate(HALVES[name].splitlines(), 1) if b"sota_bridge" in line]
    assert raised.value.place == f"{file}, line {', '.join(lines)}"
    assert f"git checkout {file} takes them out too" in " ".join(raised.value.fix.split())


def test_what_is_a_source(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DIR is a repository's root or its package, absolute or not; without it the installed one counts."""
    root = file.parents[len(RUNNER.parts) - 1]
    monkeypatch.chdir(root)
    for source in (root, root / "rdagent", Path(), Path("rdagent")):
        assert source_patch.find(source).file == file
    code = (
        "import sys; from rdagent_sota_bridge.bridge import source_patch; found = source_patch.find(None);"
        "print(found.file, found.state, 'rdagent' in sys.modules, sep='|')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    place, state, imported = said.stdout.strip().split("|")
    assert Path(place).read_bytes() == installed()
    assert (state, imported) == ("none", "False")


@pytest.mark.parametrize("place", [None, "nowhere", "a file", "empty", "old"])
def test_no_rdagent_is_there(place: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is installed; or a DIR that is missing, a file, no RD-Agent, or one without the model runner."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    (tmp_path / "a file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "old" / "rdagent").mkdir(parents=True)
    with pytest.raises(SourceError, match="no RD-Agent with a model runner for Qlib") as raised:
        source_patch.find(place and tmp_path / place)
    shown = ["beside this package"] if place is None else [str(RUNNER), place]
    assert all(text in raised.value.place for text in shown)
    assert "--source DIR" in raised.value.fix


CLOSED = {
    "a read-only file": (apply, RUNNER, 0o444),
    "a file of somebody else": (apply, RUNNER, 0o644 if os.geteuid() == 0 else 0o444),
    "a folder of somebody else": (revert, RUNNER.parent, 0o555),
    "an unreadable file": (find, RUNNER, 0o000),
    **{f"an unreadable {place}": (find, Path(place), 0o000) for place in (RUNNER.parent, "rdagent", ".")},
}


@pytest.mark.parametrize("name", CLOSED)
def test_what_can_not_be_read_or_written(name: str) -> None:
    """It is a message with the file, which is as it was; root does not replace a read-only file either."""
    act, closed, mode = CLOSED[name]
    with public_folder() as folder:
        file = checkout(folder / "source")
        file.chmod(0o666)
        apply(file)
        before = file.read_bytes()
        file.parent.chmod(0o777)
        (folder / "source" / closed).chmod(mode)
        said = "can't be read: Permission den" if act is find else "can't be written, and was not changed"
        as_other = contextlib.nullcontext() if name == "a read-only file" else without_privileges()
        with as_other, pytest.raises(SourceError, match=said) as caught:
            act(file)
        (folder / "source" / closed).chmod(0o755)
        assert caught.value.place == str(file)
        assert file.read_bytes() == before
        assert list(file.parent.iterdir()) == [file]


def test_lines_that_are_missing(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the lines of the patch says so."""
    monkeypatch.setattr(source_patch, "__file__", str(tmp_path / "a" / "b" / "c.py"))
    with pytest.raises(SourceError, match="lines of the patch are missing"):
        find(file)

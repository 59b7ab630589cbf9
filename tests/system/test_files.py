"""A file is written whole or not at all, and put under another name as a clone, a link or a copy."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import stat
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.system import files
from tests.faults import (
    FICLONE,
    can_clone,
    elsewhere,
    forked,
    other_file_system,
    spread,
    state,
)
from tests.frames import public_folder, without_privileges

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a file as the store has them: read-only."""
    path = tmp_path / "store" / "stored.parquet"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    path.chmod(0o444)
    return path


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Return a name in a folder that stands for a model's workspace."""
    folder = tmp_path / "workspace"
    folder.mkdir()
    return folder / "combined_factors_df.parquet"


def saying(code: str) -> Any:
    """Return a function that fails with an error of the system, as another file system than ours would."""

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))

    return fail


# --- written whole ---


@pytest.mark.parametrize("content", ["", "因子 é\r\n\0", "x" * 3_000_000, b"\r\n\xff\n"])
@pytest.mark.parametrize("old", [None, 0o600, 0o664])
@pytest.mark.parametrize("umask", [0o077, 0o002])
def test_write_whole(tmp_path: Path, content: str | bytes, old: int | None, umask: int) -> None:
    """Any content takes an old file's place, not its other names'; the mode is the umask's or that file's."""
    path, link = tmp_path / "a.json", tmp_path / "link.json"
    mode = 0o666 & ~umask
    if old is not None:
        path.write_text("something longer than the new one")
        path.chmod(old)
        os.link(path, link)
        mode = old if isinstance(content, bytes) else mode
    before = os.umask(umask)
    try:
        like = path.stat() if old is not None and isinstance(content, bytes) else None
        files.write_whole(path, content, like=like)
    finally:
        os.umask(before)
    assert path.read_bytes() == (content if isinstance(content, bytes) else content.encode())
    assert stat.S_IMODE(path.stat().st_mode) == mode
    assert old is None or link.read_text() == "something longer than the new one"
    assert set(tmp_path.iterdir()) == ({path} if old is None else {path, link})


@pytest.mark.parametrize("trouble", ["no folder", "a file is the folder", "a folder is there", "no text"])
def test_write_whole_that_fails(tmp_path: Path, trouble: str) -> None:
    """What can't be written is an error of the system's, and nothing else has changed."""
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder" / "inner").mkdir(parents=True)
    path, text = {
        "no folder": (tmp_path / "absent" / "a.json", "new"),
        "a file is the folder": (tmp_path / "file" / "a.json", "new"),
        "a folder is there": (tmp_path / "folder", "new"),
        "no text": (tmp_path / "file", "x" * 100_000 + "\udcff"),
    }[trouble]
    with pytest.raises((OSError, UnicodeEncodeError)):
        files.write_whole(path, text)
    assert sorted(found.name for found in tmp_path.rglob("*")) == ["file", "folder", "inner"]
    assert (tmp_path / "file").read_text() == "old"


def write_and_be_killed(folder: str) -> list[str]:
    """Write over a file, killed a moment later every time; return what was there after each."""
    path = Path(folder) / "a.json"

    def run() -> None:
        files.write_whole(path, "new" * 100_000)

    moments = forked(run)[1][0]
    states = set()
    for tried in [*spread(moments, 30), *(-size for size in spread(300_000, 6))]:
        path.write_text("old" * 100_000)
        forked(run, moment=max(tried, 0), bytes_written=max(-tried, 0))
        text = path.read_text()
        assert text == text[:3] * 100_000, tried
        states.add(text[:3])
    return sorted(states)


def test_killed_while_it_writes(tmp_path: Path) -> None:
    """Whenever a writer is killed, the file is one whole text: the old one or the new one."""
    assert elsewhere(write_and_be_killed, tmp_path) == ["new", "old"]


# --- put under another name ---


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize(
    "there",
    [
        "nothing", "file", "read-only", "hard link", "link", "link to nowhere", "link to the stored file",
        "the stored file",
    ],
)  # fmt: skip
def test_place(source: Path, target: Path, tmp_path: Path, there: str, link: bool) -> None:
    """A clone where there are clones, else a link where one will do, else a copy.

    Whatever has the name is replaced, and a precious file that it is another name of stays as it was.
    """
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    if there in ("file", "read-only"):
        target.write_bytes(b"old" * 100_000)
        target.chmod(0o444 if there == "read-only" else 0o644)
    elif there == "hard link":
        os.link(precious, target)
    elif there == "the stored file":  # where a rename does nothing (POSIX)
        os.link(source, target)
    elif there != "nothing":
        target.symlink_to({"link": precious, "link to nowhere": tmp_path / "gone"}.get(there, source))
    before, precious_before = state(source), state(precious)
    how = files.place(source, target, link=link)
    assert how == ("clone" if can_clone(target.parent) else "link" if link else "copy")
    assert not target.is_symlink()
    assert target.read_bytes() == CONTENT
    assert target.samefile(source) == (how == "link")
    assert source.stat().st_nlink == (2 if how == "link" else 1)
    assert (state(source), state(precious)) == (before, precious_before)
    assert precious.stat().st_nlink == 1
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("link", [True, False])
def test_place_on_another_file_system(source: Path, link: bool) -> None:
    """Where the store is on another disk than the workspace it is a copy: a file of its own, writable."""
    with other_file_system(source.parent) as folder:
        target = folder / "combined_factors_df.parquet"
        assert files.place(source, target, link=link) == "copy"
        assert target.stat().st_dev != source.stat().st_dev
        assert source.stat().st_nlink == 1
        with target.open("ab") as file:
            file.write(b"more")
        assert (source.read_bytes(), target.read_bytes()) == (CONTENT, CONTENT + b"more")
        assert list(folder.iterdir()) == [target]


def test_copy_is_flushed(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is on the disk, whole, before it takes the old file's name."""
    flushed, fsync = {}, os.fsync
    target.write_text("old")

    def watch(file: int) -> None:
        fsync(file)
        assert target.read_text() == "old"
        flushed[os.fstat(file).st_ino] = os.fstat(file).st_size

    monkeypatch.setattr(os, "fsync", watch)
    monkeypatch.setattr(fcntl, "ioctl", saying("EOPNOTSUPP"))  # as on a file system without clones
    assert files.place(source, target, link=False) == "copy"
    assert flushed == {target.stat().st_ino: len(CONTENT)}


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("trouble", ["folder there", "no source", "no folder"])
def test_place_that_fails(source: Path, target: Path, link: bool, trouble: str) -> None:
    """What can't be placed is an error; folder, old file and source are as they were."""
    if trouble == "folder there":
        (target / "a user's file").mkdir(parents=True)
    elif trouble == "no source":
        source.unlink()
        target.write_text("old")
    else:
        target.parent.rmdir()
    with pytest.raises(IsADirectoryError if trouble == "folder there" else FileNotFoundError):
        files.place(source, target, link=link)
    left = {"folder there": [target, target / "a user's file"], "no source": [target], "no folder": []}
    assert sorted(target.parent.rglob("*")) == left[trouble]
    assert trouble == "no source" or source.stat().st_nlink == 1


def test_what_killed_processes_left_is_removed(source: Path, target: Path) -> None:
    """A temporary file of an earlier process goes; other files of the workspace stay, of whatever name."""
    os.link(source, target.with_name(f".{target.name}.{'0' * 32}.tmp"))
    others = [
        ".hidden.tmp",
        f"{target.name}.tmp",
        f".{target.name}.backup.tmp",
        f".{target.name}.{'a' * 33}.tmp",
    ]
    for name in others:
        (target.parent / name).write_text("a user's")
    files.place(source, target, link=True)
    assert {file.name for file in target.parent.iterdir()} == {target.name, *others}
    assert all((target.parent / name).read_text() == "a user's" for name in others)


@pytest.mark.parametrize("writable", [True, False])
def test_without_privileges(writable: bool) -> None:
    """Another user's file is placed, linked or not; in a folder that may not be written, an error."""
    with public_folder() as folder:
        source, target = folder / "stored.parquet", folder / "workspace" / "file.parquet"
        source.write_bytes(CONTENT)
        source.chmod(0o444)
        target.parent.mkdir()
        target.write_text("old")
        target.parent.chmod(0o777 if writable else 0o555)
        with without_privileges():
            if writable:
                how = files.place(source, target, link=True)
                assert target.samefile(source) == (how == "link")
            else:
                for write in (
                    lambda: files.place(source, target, link=True),
                    lambda: files.write_whole(target, "new"),
                ):
                    with pytest.raises(PermissionError):
                        write()
        target.parent.chmod(0o755)
        assert target.read_bytes() == (CONTENT if writable else b"old")
        assert list(target.parent.iterdir()) == [target]
        assert stat.S_IMODE(source.stat().st_mode) == 0o444


# --- what file systems say (made up: this machine has one kind of them) ---


@pytest.mark.parametrize(
    "says",
    ["EXDEV", "EPERM", "EACCES", "EMLINK", "EOPNOTSUPP", "ENOSYS", "ENOTTY", "EINVAL", "ETXTBSY", "EAGAIN"],
)
def test_no_clone_or_link_is_possible(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, says: str
) -> None:
    """Whatever a file system says that has no clones it is a link, and one without links too gets a copy."""
    monkeypatch.setattr(fcntl, "ioctl", saying(says))
    assert files.place(source, target, link=True) == "link"
    monkeypatch.setattr(os, "link", saying(says))
    assert files.place(source, target, link=True) == "copy"
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("says", ["EIO", "ENOSPC", "EDQUOT"])
@pytest.mark.parametrize("call", ["clone", "link"])
def test_clone_or_link_that_fails(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, says: str, call: str
) -> None:
    """An error of the disk is not answered with a copy: it is raised, and the old file stays."""
    target.write_text("old")
    monkeypatch.setattr(fcntl, "ioctl", saying(says if call == "clone" else "EOPNOTSUPP"))
    monkeypatch.setattr(os, "link", saying(says))
    with pytest.raises(OSError, match=os.strerror(getattr(errno, says))):
        files.place(source, target, link=True)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("part", [False, True])
def test_clone(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, part: bool) -> None:
    """Where the kernel says yes to FICLONE it is a clone, a file of its own; of a part it is not believed."""
    asked = []

    def ioctl(to: int, request: int, origin: int) -> int:
        asked.append((request, os.fstat(origin).st_ino, os.fstat(to).st_size))
        os.write(to, os.pread(origin, 100 if part else len(CONTENT), 0))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    assert files.place(source, target, link=False) == ("copy" if part else "clone")
    assert asked == [(FICLONE, source.stat().st_ino, 0)]
    assert target.read_bytes() == CONTENT
    assert not target.samefile(source)
    assert os.access(target, os.W_OK)


# --- detach ---


@pytest.mark.parametrize(
    ("there", "stays"),
    [("hard link", False), ("link", False), ("link to nowhere", False), ("file", True), ("folder", True)],
)
def test_detach(tmp_path: Path, target: Path, there: str, stays: bool) -> None:
    """Who opens the name for writing after it begins a file of its own; what is no link stays."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    if there == "hard link":
        os.link(precious, target)
    elif there == "file":
        target.write_text("kept")
    elif there == "folder":
        (target / "below").mkdir(parents=True)
    else:
        target.symlink_to(precious if there == "link" else tmp_path / "gone")
    files.detach(target)
    files.detach(tmp_path / "nothing is there")
    assert os.path.lexists(target) == stays
    assert precious.read_bytes() == b"precious"


# --- killed ---


def place_and_be_killed(folder: str, link: str) -> dict[str, Any]:
    """Place over an existing file again and again, killed a moment later every time; return how it went."""
    place = Path(folder)
    source, precious = place / "stored.parquet", place / "precious"
    source.write_bytes(CONTENT)
    source.chmod(0o444)
    precious.write_bytes(b"precious" * 100)
    before = state(source), state(precious)
    workspace = place / "workspace"
    target = workspace / "combined_factors_df.parquet"
    killed, states = 0, set()

    def again() -> None:
        shutil.rmtree(workspace, ignore_errors=True)
        workspace.mkdir()
        os.link(precious, target)

    def run() -> str:
        return files.place(source, target, link=link == "link")

    again()
    _, (moments, how) = forked(run)
    for tried in [*spread(moments, 40), *(-size for size in spread(len(CONTENT), 10))]:
        again()
        status, seen = forked(run, moment=max(tried, 0), bytes_written=max(-tried, 0))
        killed += status in (-signal.SIGKILL, -signal.SIGXFSZ)
        # A clone is refused under a limit of the size, where there are clones: then it is a link.
        assert status < 0 or tried < 0 or seen[1] == how, seen
        states.add({CONTENT: "new", b"precious" * 100: "old"}[target.read_bytes()])
        assert (state(source), state(precious)) == before, tried
        status, seen = forked(run, moment=None)
        assert (status, seen[1]) == (0, how), (tried, seen)
        assert target.read_bytes() == CONTENT
        assert list(workspace.iterdir()) == [target], tried
        assert precious.stat().st_nlink == 1
    return {"how": how, "killed": killed, "states": sorted(states)}


@pytest.mark.parametrize("link", ["link", "copy"])
def test_killed_at_any_moment(tmp_path: Path, link: str) -> None:
    """Killed at 40 moments, or at a size of the copy: the old file or the new, and the next run works."""
    seen = elsewhere(place_and_be_killed, tmp_path, link)
    assert seen["how"] == ("clone" if can_clone(tmp_path) else link)
    assert seen["killed"] >= 40
    assert seen["states"] == ["new", "old"]

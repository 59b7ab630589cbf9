"""A file's content under another name: as a clone, a hard link or a copy, and whole or not at all."""

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

from rdagent_sota_bridge import filesystem, placing
from tests.faults import can_mount, elsewhere, forked, other_file_system, small_disk, spread
from tests.frames import public_folder, without_privileges

FICLONE = 0x40049409  # linux/fs.h
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


def state(path: Path) -> tuple[Any, ...]:
    """Return all that must not change of a file, but the count of its links."""
    status = path.stat()
    return path.read_bytes(), stat.S_IMODE(status.st_mode), status.st_ino, status.st_mtime_ns


def can_clone(folder: Path) -> bool:
    """Return True where this file system has clones: asked of the kernel, not of the package."""
    with (folder / "a").open("wb+") as one, (folder / "b").open("wb+") as other:
        one.write(b"x" * 4096)
        one.flush()
        try:
            fcntl.ioctl(other.fileno(), FICLONE, one.fileno())
        except OSError:
            return False
        finally:
            (folder / "a").unlink()
            (folder / "b").unlink()
    return True


@pytest.mark.parametrize("link", [True, False])
def test_clone_where_it_can_else_link_else_copy(source: Path, target: Path, link: bool) -> None:
    """Here, on this file system: a clone if it has them, else a link where one will do, else a copy."""
    before = state(source)
    how = placing.place(source, target, link=link)
    assert how == ("clone" if can_clone(target.parent) else "link" if link else "copy")
    assert target.read_bytes() == CONTENT
    assert target.samefile(source) == (how == "link")
    assert source.stat().st_nlink == (2 if how == "link" else 1)
    assert state(source) == before
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("link", [True, False])
def test_to_another_file_system(source: Path, link: bool) -> None:
    """Where the store is on another disk than the workspace it is a copy: a file of its own, writable."""
    with other_file_system(source.parent) as folder:
        target = folder / "combined_factors_df.parquet"
        assert placing.place(source, target, link=link) == "copy"
        assert target.stat().st_dev != source.stat().st_dev
        assert target.read_bytes() == CONTENT
        assert source.stat().st_nlink == 1
        with target.open("ab") as file:
            file.write(b"more")
        assert source.read_bytes() == CONTENT
        assert list(folder.iterdir()) == [target]


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize(
    "there", ["file", "empty", "read-only", "hard link", "link", "link to nowhere", "link to the stored file"]
)
def test_what_is_there_is_replaced_and_not_written_to(
    source: Path, target: Path, tmp_path: Path, there: str, link: bool
) -> None:
    """Whatever has the name gives way; a precious file that it is another name of stays as it was."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    if there in ("file", "empty", "read-only"):
        target.write_bytes(b"" if there == "empty" else b"old" * 100_000)
        if there == "read-only":
            target.chmod(0o444)
    elif there == "hard link":
        os.link(precious, target)
    else:
        leads_to = {"link": precious, "link to nowhere": tmp_path / "gone"}.get(there, source)
        target.symlink_to(leads_to)
    before, precious_before = state(source), state(precious)
    how = placing.place(source, target, link=link)
    assert not target.is_symlink()
    assert target.read_bytes() == CONTENT
    assert target.samefile(source) == (how == "link")
    assert state(source) == before
    assert state(precious) == precious_before
    assert precious.stat().st_nlink == 1
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("link", [True, False])
def test_the_same_file_again(source: Path, target: Path, link: bool) -> None:
    """Over a link of the stored file itself, where a rename does nothing (POSIX), nothing is left behind."""
    os.link(source, target)
    before = state(source)
    how = placing.place(source, target, link=link)
    assert target.read_bytes() == CONTENT
    assert target.samefile(source) == (how == "link")
    assert source.stat().st_nlink == (2 if how == "link" else 1)
    assert state(source) == before
    assert list(target.parent.iterdir()) == [target]


def test_copy_is_flushed(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A copy is on the disk, whole, before it takes the old file's name."""
    flushed, fsync = {}, os.fsync
    target.write_text("old")

    def watch(file: int) -> None:
        fsync(file)
        assert target.read_text() == "old"
        flushed[os.fstat(file).st_ino] = os.fstat(file).st_size

    monkeypatch.setattr(os, "fsync", watch)
    monkeypatch.setattr(filesystem, "clone", lambda *_: False)  # as on a file system without clones
    assert placing.place(source, target, link=False) == "copy"
    assert flushed == {target.stat().st_ino: len(CONTENT)}


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("inside", [None, "a user's file"])
def test_a_folder_of_that_name(source: Path, target: Path, link: bool, inside: str | None) -> None:
    """A folder is not replaced: an error, and folder, source and neighbours are as they were."""
    target.mkdir()
    if inside is not None:
        (target / inside).write_text("kept")
    with pytest.raises(IsADirectoryError):
        placing.place(source, target, link=link)
    assert [found.name for found in target.iterdir()] == ([] if inside is None else [inside])
    assert list(target.parent.iterdir()) == [target]
    assert source.stat().st_nlink == 1


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("missing", ["source", "folder"])
def test_nothing_to_place(source: Path, target: Path, link: bool, missing: str) -> None:
    """Without a source, or a folder for it, there is an error, and an old file stays."""
    if missing == "source":
        source.unlink()
        target.write_text("old")
    else:
        target.parent.rmdir()
    with pytest.raises(FileNotFoundError):
        placing.place(source, target, link=link)
    if missing == "source":
        assert target.read_text() == "old"
        assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("link", [True, False])
def test_what_killed_processes_left_is_removed(source: Path, target: Path, link: bool) -> None:
    """A temporary file of an earlier process goes; other files of the workspace stay, of whatever name."""
    left = target.with_name(f".{target.name}.{'0' * 32}.tmp")
    os.link(source, left)
    others = [".hidden.tmp", f"{target.name}.tmp", f".{target.name}", "model.py"]
    for name in others:
        (target.parent / name).write_text("a user's")
    placing.place(source, target, link=link)
    assert {file.name for file in target.parent.iterdir()} == {target.name, *others}
    assert all((target.parent / name).read_text() == "a user's" for name in others)
    assert source.read_bytes() == CONTENT


def test_folder_that_may_not_be_written() -> None:
    """In a workspace without the right to write, an error, and the old file stays."""
    with public_folder() as folder:
        source, target = folder / "stored.parquet", folder / "workspace" / "file.parquet"
        source.write_bytes(CONTENT)
        target.parent.mkdir()
        target.write_text("old")
        target.parent.chmod(0o555)
        with without_privileges(), pytest.raises(PermissionError):
            placing.place(source, target, link=True)
        assert target.read_text() == "old"
        assert list(target.parent.iterdir()) == [target]
        target.parent.chmod(0o755)


def test_file_of_another_user() -> None:
    """Where the kernel lets nobody link another user's read-only file, or does, the content is placed."""
    with public_folder() as folder:
        source, target = folder / "stored.parquet", folder / "workspace" / "file.parquet"
        source.write_bytes(CONTENT)
        source.chmod(0o444)
        target.parent.mkdir()
        target.parent.chmod(0o777)
        with without_privileges():
            how = placing.place(source, target, link=True)
        assert how in ("link", "copy", "clone")
        assert target.samefile(source) == (how == "link")
        assert target.read_bytes() == CONTENT
        assert stat.S_IMODE(source.stat().st_mode) == 0o444


# --- what file systems say ---


@pytest.mark.parametrize(
    "says",
    ["EXDEV", "EPERM", "EACCES", "EMLINK", "ENOTSUP", "EOPNOTSUPP", "ENOSYS"],
)
def test_no_link_is_possible(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """Whatever a file system says that has no links (FAT, a full count of links), it is a copy.

    The answer of `os.link` is made up: this machine has no such file systems.
    """

    def refuse(*_: Any, **__: Any) -> None:
        raise OSError(getattr(errno, says), os.strerror(getattr(errno, says)))

    monkeypatch.setattr(os, "link", refuse)
    assert placing.place(source, target, link=True) == ("clone" if can_clone(target.parent) else "copy")
    assert target.read_bytes() == CONTENT
    assert list(target.parent.iterdir()) == [target]


def test_link_that_fails(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error of the disk is not answered with a copy: it is told, and the old file stays."""
    if can_clone(target.parent):
        pytest.skip("no link is made where there are clones")
    target.write_text("old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "link", fail)
    with pytest.raises(OSError, match=os.strerror(errno.EIO)):
        placing.place(source, target, link=True)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize("link", [True, False])
def test_clone(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, link: bool) -> None:
    """Where the file system can, it is a clone, even if a link would do: a file of its own.

    The kernel's answer to FICLONE is made up, by a copy, for few machines have btrfs or XFS; that number and
    files are the right ones is looked at.
    """
    asked = []

    def ioctl(to: int, request: int, origin: int) -> int:
        asked.append((request, os.fstat(origin).st_ino))
        assert os.fstat(to).st_size == 0
        os.write(to, os.pread(origin, len(CONTENT) + 1, 0))
        return 0

    monkeypatch.setattr(fcntl, "ioctl", ioctl)
    target.write_text("old")
    assert placing.place(source, target, link=link) == "clone"
    assert asked == [(FICLONE, source.stat().st_ino)]
    assert target.read_bytes() == CONTENT
    assert not target.samefile(source)
    assert source.stat().st_nlink == 1
    assert os.access(target, os.W_OK)
    assert list(target.parent.iterdir()) == [target]


@pytest.mark.parametrize(
    "says", ["EOPNOTSUPP", "ENOTTY", "EXDEV", "EINVAL", "EPERM", "ENOSYS", "ETXTBSY", "EAGAIN"]
)
def test_no_clone_is_possible(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """Whatever a file system says that has no clones, it is a link where one will do, and else a copy.

    The kernel's answer is made up: each file system has its own.
    """

    def refuse(*_: Any) -> None:
        raise OSError(getattr(errno, says), os.strerror(getattr(errno, says)))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    assert placing.place(source, target, link=False) == "copy"
    assert placing.place(source, target, link=True) == "link"
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("link", [True, False])
@pytest.mark.parametrize("says", ["EIO", "ENOSPC", "EDQUOT"])
def test_clone_that_fails(
    source: Path, target: Path, monkeypatch: pytest.MonkeyPatch, says: str, link: bool
) -> None:
    """A file system that has clones and fails is told; the old file stays. The kernel's answer is made up."""
    target.write_text("old")

    def fail(*_: Any) -> None:
        raise OSError(getattr(errno, says), os.strerror(getattr(errno, says)))

    monkeypatch.setattr(fcntl, "ioctl", fail)
    with pytest.raises(OSError, match=os.strerror(getattr(errno, says))):
        placing.place(source, target, link=link)
    assert target.read_text() == "old"
    assert list(target.parent.iterdir()) == [target]


def test_clone_of_a_part_is_none(source: Path, target: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file system that says it has cloned, and has cloned a part, is not believed (made up)."""

    def half(number: int, _: int, __: int) -> None:
        os.write(number, CONTENT[:100])

    monkeypatch.setattr(fcntl, "ioctl", half)
    assert placing.place(source, target, link=False) == "copy"
    assert target.read_bytes() == CONTENT


def test_a_users_hidden_file_stays(source: Path, target: Path) -> None:
    """Beside the target only what has the form of our own temporary names is taken for a leftover."""
    others = [target.with_name(f".{target.name}.{end}") for end in ("backup.tmp", f"{'a' * 33}.tmp", "tmp")]
    left = target.with_name(f".{target.name}.{'a' * 32}.tmp")
    for file in (*others, left):
        file.touch()
    placing.place(source, target, link=True)
    assert sorted(target.parent.iterdir()) == sorted([target, *others])


# --- detach ---


@pytest.mark.parametrize("there", ["hard link", "link", "link to nowhere"])
def test_detach_takes_a_link_away(tmp_path: Path, target: Path, there: str) -> None:
    """Who opens the name for writing after it begins a file of its own."""
    precious = tmp_path / "precious"
    precious.write_bytes(b"precious")
    if there == "hard link":
        os.link(precious, target)
    else:
        target.symlink_to(precious if there == "link" else tmp_path / "gone")
    placing.detach(target)
    assert not os.path.lexists(target)
    assert precious.read_bytes() == b"precious"


@pytest.mark.parametrize("there", ["file", "folder", "nothing"])
def test_detach_leaves_what_is_no_link(target: Path, there: str) -> None:
    """A file with one name stays, and so does a folder (which has several names); nothing is fine too."""
    if there == "file":
        target.write_text("kept")
    elif there == "folder":
        (target / "below").mkdir(parents=True)
    placing.detach(target)
    assert target.exists() == (there != "nothing")
    if there == "file":
        assert target.read_text() == "kept"


# --- killed, and a full disk ---


def place_and_be_killed(folder: str, link: str) -> dict[str, Any]:
    """Place over an existing file again and again, killed a moment later every time; tell how it went."""
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
        return placing.place(source, target, link=link == "link")

    again()
    _, (moments, how) = forked(run)
    for tried in [*spread(moments, 40), *(-size for size in spread(len(CONTENT), 10))]:
        again()
        status, told = forked(run, moment=max(tried, 0), bytes_written=max(-tried, 0))
        killed += status in (-signal.SIGKILL, -signal.SIGXFSZ)
        # A clone is refused under a limit of the size, where there are clones: then it is a link.
        assert status < 0 or tried < 0 or told[1] == how, told
        states.add({CONTENT: "new", b"precious" * 100: "old"}[target.read_bytes()])
        assert (state(source), state(precious)) == before, tried
        status, told = forked(run)
        assert (status, told[1]) == (0, how), (tried, told)
        assert target.read_bytes() == CONTENT
        assert list(workspace.iterdir()) == [target], tried
        assert precious.stat().st_nlink == 1
        assert (state(source), state(precious)) == before, tried
    return {"how": how, "killed": killed, "states": sorted(states)}


@pytest.mark.parametrize("link", ["link", "copy"])
def test_killed_at_any_moment(tmp_path: Path, link: str) -> None:
    """Killed at 40 moments, or at a size of the copy: the old file or the new, and the next run works."""
    told = elsewhere(place_and_be_killed, tmp_path, link)
    assert told["how"] == ("clone" if can_clone(tmp_path) else link)
    assert told["killed"] >= 40
    assert told["states"] == ["new", "old"]


def place_on_a_full_disk(folder: str, link: str) -> list[Any]:
    """Place onto disks of several sizes, and tell of each what came of it."""
    source, workspace = Path(folder) / "stored.parquet", Path(folder) / "workspace"
    source.write_bytes(CONTENT * 10)
    workspace.mkdir()
    told: list[Any] = []
    for size in (4096, 16 * 4096, 32 * 4096):
        with small_disk(workspace, size):
            target = workspace / "combined_factors_df.parquet"
            target.write_bytes(b"old")
            try:
                outcome = placing.place(source, target, link=link == "link")
                assert target.read_bytes() == CONTENT * 10
            except OSError as error:
                outcome = errno.errorcode[error.errno]
                assert target.read_bytes() == b"old"
            assert list(workspace.iterdir()) == [target]
            told.append(outcome)
    return told


@pytest.mark.parametrize("link", ["link", "copy"])
def test_full_disk(tmp_path: Path, link: str) -> None:
    """On a disk without room for the copy: an error, the old file as it was, and no half of the new one."""
    told = elsewhere(place_on_a_full_disk, tmp_path, link, mounts=True)
    if can_mount():
        assert told == ["ENOSPC", "ENOSPC", "copy"]
    else:
        assert told == (["link"] * 3 if link == "link" else ["EFBIG", "EFBIG", "copy"])

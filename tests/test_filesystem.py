"""The rules of platforms, each with the platform passed in: Windows itself is not run here."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge import filesystem, store
from rdagent_sota_bridge.writing import write_whole
from tests import frames

WINDOWS, LINUX, MAC = "win32", "linux", "darwin"

# What Windows refuses in a name (learn.microsoft.com, "Naming Files, Paths, and Namespaces").
_REFUSED = re.compile(r'[<>:"/\\|?*\x00-\x1f]|[. ]\Z')
_DEVICES = {"CON", "PRN", "AUX", "NUL", *(f"{port}{n}" for port in ("COM", "LPT") for n in range(1, 10))}


class Held:
    """A file that another program has open on Windows, for as many tries as it says."""

    def __init__(self, tries: int) -> None:
        self.tries = tries
        self.asked = 0

    def __call__(self, *_: Any, **__: Any) -> None:
        """Refuse as Python does there, as long as it is held."""
        self.asked += 1
        if self.asked <= self.tries:
            raise PermissionError(errno.EACCES, "The process cannot access the file")


@pytest.fixture
def two(tmp_path: Path) -> tuple[Path, Path]:
    """Return a new file and the old one that has its name."""
    for name in ("new", "old"):
        (tmp_path / name).write_text(name)
    return tmp_path / "new", tmp_path / "old"


@pytest.mark.parametrize("platform", [WINDOWS, LINUX, MAC])
def test_replace_and_remove(two: tuple[Path, Path], platform: str) -> None:
    """The new file takes the old one's name; removing what is not there is no error."""
    new, old = two
    filesystem.replace(new, old, platform)
    assert old.read_text() == "new"
    assert not new.exists()
    for _ in range(2):
        filesystem.remove(old, platform)
        assert not old.exists()


@pytest.mark.parametrize("act", ["replace", "unlink"])
def test_a_file_that_is_open_is_waited_for_on_windows(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, act: str
) -> None:
    """A scanner that lets go in time is waited for there; elsewhere a refusal is one of rights."""
    monkeypatch.setattr(filesystem, "_PAUSES", (0.0, 0.0, 0.0))

    def run(platform: str) -> None:
        filesystem.replace(*two, platform) if act == "replace" else filesystem.remove(two[1], platform)

    for platform, tries, asked, refused in (
        (WINDOWS, 2, 3, False),
        (WINDOWS, 9, 4, True),
        (LINUX, 1, 1, True),
    ):
        held = Held(tries)
        monkeypatch.setattr(Path, act, held)
        if refused:
            with pytest.raises(PermissionError):
                run(platform)
        else:
            run(platform)
        assert held.asked == asked


def test_another_error_is_told_at_once_on_windows(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk is no file that is open: nobody waits for it."""

    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Path, "replace", full)
    monkeypatch.setattr(time, "sleep", None)
    with pytest.raises(OSError, match=os.strerror(errno.ENOSPC)):
        filesystem.replace(*two, WINDOWS)


@pytest.mark.parametrize(("platform", "mode"), [(LINUX, 0o444), (MAC, 0o444), (WINDOWS, 0o644)])
def test_protect(two: tuple[Path, Path], platform: str, mode: int) -> None:
    """A stored file is read-only, but on Windows, where such a file can be neither replaced nor removed."""
    two[0].chmod(0o644)
    filesystem.protect(two[0], platform)
    assert two[0].stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("platform", [WINDOWS, MAC])
def test_only_linux_is_asked_for_a_clone(
    two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, platform: str
) -> None:
    """The kernel of another platform is not asked: there the number means something else, or is no fcntl."""
    monkeypatch.setitem(sys.modules, "fcntl", None)  # as on Windows: its import fails
    with two[0].open("rb") as source, two[1].open("wb") as target:
        assert filesystem.clone(source, target, platform) is False


@pytest.mark.parametrize("says", ["EINVAL", "EXDEV", "EMLINK", "EACCES", "ENOSYS"])
def test_links_may_be_refused(two: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """Whatever means that there are no links here is no error; Windows' own are EINVAL in Python."""

    def refuse(*_: Any) -> None:
        raise OSError(getattr(errno, says), "refused")

    monkeypatch.setattr(os, "link", refuse)
    assert filesystem.link(two[0], two[0].with_name("link")) is False


def test_the_store_as_on_windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With Windows' rules a set is stored, placed and pruned: no clone, no link, files open for a moment."""
    monkeypatch.setattr(filesystem, "protect", lambda file: None)
    monkeypatch.setattr(filesystem, "clone", lambda source, target: False)
    monkeypatch.setattr(filesystem, "link", lambda source, target: False)
    source = frames.write(frames.nested(frames.factor_frame()), tmp_path)
    digest = "sha256:" + hashlib.sha256(source.read_bytes()).hexdigest()
    wanted = store.Wanted(digest, ("momentum", "turnover"), ((source, digest),), is_normal=True)
    stored = store.keep(wanted, tmp_path / "store")
    target = tmp_path / "placed.parquet"
    target.write_text("old")
    assert store.hand_out(stored, target, link=True) == "copy"
    assert target.read_bytes() == stored.path.read_bytes()
    assert store.find(wanted.digest, tmp_path / "store") is not None
    names = [file.name for file in (tmp_path / "store").iterdir()]
    assert len(names) >= 2
    for name in (*names, "sota_manifest.json", "latest.log", "2026-01-09_09-30-00_run.json"):
        assert not _REFUSED.search(name), name
        assert name.partition(".")[0].upper() not in _DEVICES


@pytest.mark.parametrize("text", ["one\n", "one\r\n因子\n"])
def test_text_has_the_same_bytes_on_all_platforms(tmp_path: Path, text: str) -> None:
    """No line's end is made another, as Windows' text mode would: digests of such files travel."""
    write_whole(tmp_path / "a.json", text)
    assert (tmp_path / "a.json").read_bytes() == text.encode()

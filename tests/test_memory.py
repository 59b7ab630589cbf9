"""What is remembered between commands, and that nothing bad comes of a memory that is spoilt."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge import memory
from rdagent_sota_bridge.memory import identity, recall, remember
from tests.frames import public_folder, without_privileges

KEY = ["sha256:12", [1, 2.5, None], {"名": True}]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the memory into a folder of the test's own, and return it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return memory.folder()


def entries(cache: Path) -> list[Path]:
    """Return all files of the memory."""
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_folder(cache: Path, tmp_path: Path) -> None:
    """The memory is in the user's cache folder, under the package's name; asking makes no folder."""
    assert cache == tmp_path / "cache" / "rdagent-sota-bridge"
    assert not cache.exists()


@pytest.mark.parametrize(
    "content", ["text", 0, False, [], {"a": [1, None]}, 0.1 + 0.2, float("inf"), "名 \udcff\n\0", "x" * 10**6]
)
def test_remembered_is_recalled(cache: Path, content: object) -> None:
    """Whatever JSON can hold comes back as it was, from a file that lies in the folder of its kind."""
    remember("kind-1", KEY, content)
    assert recall("kind-1", KEY) == content
    (file,) = entries(cache)
    assert file.parent == cache / "kind-1"
    assert json.loads(file.read_text(encoding="utf-8"))["key"] == KEY


def test_the_last_one_counts() -> None:
    """A key that is remembered again has the new content."""
    remember("kind-1", KEY, 1)
    remember("kind-1", KEY, 2)
    assert recall("kind-1", KEY) == 2


@pytest.mark.parametrize(
    ("kind", "key"),
    [
        ("kind-2", KEY),
        ("kind-1", KEY[:2]),
        ("kind-1", [*KEY, None]),
        ("kind-1", KEY[::-1]),
        ("kind-1", ["sha256:13", *KEY[1:]]),
    ],
)
def test_another_key_is_not_known(kind: str, key: list[Any]) -> None:
    """Another kind, or a key that differs anywhere, has no answer."""
    remember("kind-1", KEY, "content")
    assert recall(kind, key) is None


def test_key_of_tuples() -> None:
    """A key is what JSON makes of it: tuples are lists."""
    remember("kind-1", ["a", (1, 2)], "content")
    assert recall("kind-1", ["a", [1, 2]]) == recall("kind-1", ["a", (1, 2)]) == "content"


def test_path_that_is_no_text() -> None:
    """A path with bytes that are no UTF-8 is a key like any other."""
    key = [os.fsdecode(b"/sets/\xff\xfe.parquet"), [1]]
    remember("digests-1", key, "content")
    assert recall("digests-1", key) == "content"


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"null",
        b"5",
        b"[]",
        b"{}",
        b'{"content": 1}',
        b'{"key": ["another"], "content": 1}',
        b'{"key": null, "content": 1}',
    ],
)
def test_damaged_entry_is_found_out_anew(cache: Path, damage: bytes) -> None:
    """An entry that is cut off, no JSON, or of another key is no answer, and is replaced by the next one."""
    remember("kind-1", KEY, "content")
    (file,) = entries(cache)
    file.write_bytes(damage)
    assert recall("kind-1", KEY) is None
    remember("kind-1", KEY, "new")
    assert recall("kind-1", KEY) == "new"
    assert entries(cache) == [file]


def test_cut_off_anywhere(cache: Path) -> None:
    """However much of an entry is left, it is the whole answer or none."""
    remember("kind-1", KEY, {"a": [1, 2]})
    (file,) = entries(cache)
    text = file.read_bytes()
    for length in range(len(text)):
        file.write_bytes(text[:length])
        assert recall("kind-1", KEY) is None


def test_folder_in_the_place_of_an_entry(cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    """What can be neither read nor replaced is no answer, and a warning."""
    remember("kind-1", KEY, "content")
    (file,) = entries(cache)
    file.unlink()
    file.mkdir()
    assert recall("kind-1", KEY) is None
    remember("kind-1", KEY, "content")
    assert len(caplog.records) == 1
    assert entries(cache) == []


@pytest.mark.parametrize("obstacle", ["file in its place", "read-only"])
def test_folder_that_can_not_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, obstacle: str
) -> None:
    """Without a folder to write to, nothing is remembered: one warning with the reason, and no exception."""
    with public_folder() as folder:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        if obstacle == "file in its place":
            (folder / "cache").write_text("")
        else:
            (folder / "cache").mkdir(mode=0o555)
        with without_privileges():
            remember("kind-1", KEY, "content")
            assert recall("kind-1", KEY) is None
        assert list(folder.rglob("*")) == [folder / "cache"]
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "rdagent_sota_bridge.memory")
    assert record.getMessage().startswith(f"What was found out can't be remembered in {folder / 'cache'}")


def test_what_is_old_is_forgotten(cache: Path) -> None:
    """An entry of three months ago goes when a process first writes one of its kind; no other file does."""
    remember("kind-1", ["old"], 1)
    remember("kind-1", ["young"], 2)
    remember("kind-2", ["other"], 3)
    (cache / "kind-1" / "note.txt").write_text("mine")
    for file in (*entries(cache), cache / "kind-1" / "note.txt"):
        old = not file.name.endswith("json") or json.loads(file.read_text())["key"] != ["young"]
        days = 91 if old else 89
        os.utime(file, (time.time() - days * 86400,) * 2)
    code = "from rdagent_sota_bridge.memory import remember; remember('kind-1', ['new'], 4)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [recall("kind-1", [key]) for key in ("old", "young", "new")] == [None, 2, 4]
    assert recall("kind-2", ["other"]) == 3
    assert (cache / "kind-1" / "note.txt").is_file()


def test_several_processes_write_at_once(cache: Path) -> None:
    """Under writers of one key a reader sees a whole answer at any time, and no stray file is left."""
    remember("kind-1", KEY, ["a"] * 20000)
    code = (
        "import sys\nfrom rdagent_sota_bridge.memory import remember\n"
        f"for _ in range(40): remember('kind-1', {KEY!r}, [sys.argv[1]] * 20000)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, letter], stderr=subprocess.PIPE) for letter in "bcd"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        found = recall("kind-1", KEY)
        assert found == [found[0]] * 20000
        seen.add(found[0])
    assert [(writer.returncode, writer.communicate()[1]) for writer in writers] == [(0, b"")] * 3
    assert len(seen) > 1
    assert len(entries(cache)) == 1


# --- identity ---


def aged(file: Path, seconds: float) -> list[int] | None:
    """Return the identity of a file that was last written so long ago."""
    then = time.time_ns() - int(seconds * 1e9)
    os.utime(file, ns=(then, then))
    return identity(file.stat())


@pytest.mark.parametrize("age", [0, 1.5, -1.5, -3600])
def test_file_that_was_just_written_has_no_identity(tmp_path: Path, age: float) -> None:
    """A file whose time is now, or in the future, may change once more without a new time."""
    file = tmp_path / "a"
    file.write_text("one")
    assert aged(file, age) is None


def test_identity_changes_with_the_file(tmp_path: Path) -> None:
    """Size, time, file and content each change the identity; reading the file does not."""
    file = tmp_path / "a"
    file.write_text("one")
    first = aged(file, 10)
    assert first is not None
    assert json.loads(json.dumps(first)) == first
    file.read_text()
    assert identity(file.stat()) == first
    status = file.stat()
    time.sleep(0.05)  # longer than a tick of the file system's clock
    file.write_text("two")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))  # a content with the time put back
    second = identity(file.stat())
    other = tmp_path / "b"
    other.write_text("two")
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(file)
    third = identity(file.stat())
    file.write_text("three")
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    fourth = identity(file.stat())
    found = [first, second, third, fourth, aged(file, 20)]
    assert None not in found
    assert all(one != other for number, one in enumerate(found) for other in found[:number])

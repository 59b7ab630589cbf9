"""What is kept between commands, and that nothing bad comes of a cache that is spoilt."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.system import cache
from rdagent_sota_bridge.system.cache import find_once, get, identity, put
from tests.frames import public_folder, without_privileges

KEY = ["sha256:12", [1, 2.5, None], {"名": True}]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the cache into a folder of the test's own, and return it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return cache.folder()


def entries(folder: Path) -> list[Path]:
    """Return all files below a folder."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "content", ["text", 0, False, [], {"a": [1, None]}, 0.1 + 0.2, float("inf"), "名 \udcff\n\0", "x" * 10**6]
)
def test_what_is_kept_comes_back(folder: Path, tmp_path: Path, content: object) -> None:
    """Whatever JSON can hold comes back as it was, the last of a key; asking makes no folder."""
    assert folder == tmp_path / "cache" / "rdagent-sota-bridge"
    assert get("kind-1", KEY) is None
    assert not folder.exists()
    put("kind-1", KEY, "earlier")
    put("kind-1", KEY, content)
    assert get("kind-1", KEY) == content
    (file,) = entries(folder)
    assert file.parent == folder / "kind-1"
    assert json.loads(file.read_text(encoding="utf-8"))["key"] == KEY


def test_keys() -> None:
    """Another kind, or a key that differs anywhere, has no answer; tuples are lists, and a path any bytes."""
    put("kind-1", KEY, "content")
    for other in (KEY[:2], [*KEY, None], KEY[::-1], ["sha256:13", *KEY[1:]]):
        assert get("kind-1", other) is None
    assert get("kind-2", KEY) is None
    key: list[Any] = [os.fsdecode(b"/sets/\xff\xfe.parquet"), (1, 2)]
    put("kind-1", key, "content")
    assert get("kind-1", [key[0], [1, 2]]) == get("kind-1", key) == "content"


def test_found_once() -> None:
    """An answer is looked for once; with a file that was written just now in the key, each time."""
    found = iter(range(9))
    assert [find_once("kind-1", ["a", [1]], lambda: next(found)) for _ in range(2)] == [0, 0]
    assert [find_once("kind-1", ["a", None], lambda: next(found)) for _ in range(2)] == [1, 2]


def test_a_damaged_entry_is_found_out_anew(folder: Path) -> None:
    """An entry that is cut off anywhere, no JSON, or of another key is no answer, and is replaced."""
    put("kind-1", KEY, {"a": [1, 2]})
    (file,) = entries(folder)
    text = file.read_bytes()
    damaged = [b"{", b"\xff\xfe", b"null", b"5", b"[]", b"{}", b'{"content": 1}']
    damaged += [b'{"key": ["another"], "content": 1}', b'{"key": null, "content": 1}']
    for content in damaged + [text[:length] for length in range(len(text))]:
        file.write_bytes(content)
        assert get("kind-1", KEY) is None, content
    put("kind-1", KEY, "new")
    assert get("kind-1", KEY) == "new"
    assert entries(folder) == [file]


@pytest.mark.parametrize("obstacle", ["file in its place", "read-only", "folder in the place of an entry"])
def test_what_can_not_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, obstacle: str
) -> None:
    """Nothing is kept then: one warning with the reason, and no exception."""
    with public_folder() as place:
        monkeypatch.setenv("XDG_CACHE_HOME", str(place / "cache"))
        if obstacle == "file in its place":
            (place / "cache").write_text("")
        elif obstacle == "read-only":
            (place / "cache").mkdir(mode=0o555)
        else:
            put("kind-1", KEY, "content")
            (file,) = entries(place)
            file.unlink()
            file.mkdir()
        before = sorted(place.rglob("*"))
        with without_privileges() if obstacle == "read-only" else nullcontext():
            put("kind-1", KEY, "content")
            assert get("kind-1", KEY) is None
        assert sorted(place.rglob("*")) == before
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "rdagent_sota_bridge.system.cache")
    assert record.getMessage().startswith(f"Nothing can be kept in {place / 'cache'}")


def test_what_is_old_is_removed(folder: Path) -> None:
    """An entry of three months ago goes when a process first writes one of its kind; no other file does."""
    put("kind-1", ["old"], 1)
    put("kind-1", ["young"], 2)
    put("kind-2", ["other"], 3)
    (folder / "kind-1" / "note.txt").write_text("mine")
    for file in entries(folder):
        old = not file.name.endswith("json") or json.loads(file.read_text())["key"] != ["young"]
        os.utime(file, (time.time() - (91 if old else 89) * 86400,) * 2)
    code = "from rdagent_sota_bridge.system.cache import put; put('kind-1', ['new'], 4)"
    subprocess.run([sys.executable, "-c", code], check=True)
    assert [get("kind-1", [key]) for key in ("old", "young", "new")] == [None, 2, 4]
    assert get("kind-2", ["other"]) == 3
    assert (folder / "kind-1" / "note.txt").is_file()


def test_several_processes_write_at_once(folder: Path) -> None:
    """Under writers of one key a reader sees a whole answer at any time, and no stray file is left."""
    put("kind-1", KEY, ["a"] * 20000)
    code = (
        "import sys\nfrom rdagent_sota_bridge.system.cache import put\n"
        f"for _ in range(40): put('kind-1', {KEY!r}, [sys.argv[1]] * 20000)"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", code, letter], stderr=subprocess.PIPE) for letter in "bcd"
    ]
    seen = set()
    while any(writer.poll() is None for writer in writers):
        found = get("kind-1", KEY)
        assert found == [found[0]] * 20000
        seen.add(found[0])
    assert [(writer.returncode, writer.communicate()[1]) for writer in writers] == [(0, b"")] * 3
    assert len(seen) > 1
    assert len(entries(folder)) == 1


def test_identity_changes_with_the_file(tmp_path: Path) -> None:
    """Size, time, file and content each change it; a file written just now, or in the future, has none."""
    file, other = tmp_path / "a", tmp_path / "b"
    then = time.time_ns() - 10 * 10**9

    def written(target: Path, text: str, moment: int = then) -> list[int] | None:
        target.write_text(text)
        os.utime(target, ns=(moment, moment))  # the time is put back
        return identity(target.stat())

    for age in (0, 1.5, -1.5, -3600):
        assert written(file, "one", int((time.time() - age) * 10**9)) is None
    found = [written(file, "one")]
    file.read_text()
    assert identity(file.stat()) == found[0]
    time.sleep(0.05)  # longer than a tick of the file system's clock
    found.append(written(file, "two"))
    written(other, "two")
    other.replace(file)
    found += [identity(file.stat()), written(file, "three"), written(file, "three", then - 10**10)]
    assert None not in found
    assert json.loads(json.dumps(found)) == found
    assert len({str(one) for one in found}) == len(found)

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

from rdagent_sota_bridge.system import cache as memory
from rdagent_sota_bridge.system.cache import find_once, get, identity, put
from tests.frames import public_folder, without_privileges

KEY = ["sha256:12", [1, 2.5, None], {"名": True}]


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put the cache into a folder of the test's own, and return it."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return memory.folder()


def entries(cache: Path) -> list[Path]:
    """Return all files of the cache."""
    return sorted(path for path in cache.rglob("*") if path.is_file())


def test_folder(cache: Path, tmp_path: Path) -> None:
    """It is in the user's cache folder, under the package's name; asking makes no folder."""
    assert cache == tmp_path / "cache" / "rdagent-sota-bridge"
    assert get("kind-1", KEY) is None
    assert not cache.exists()


@pytest.mark.parametrize(
    "content", ["text", 0, False, [], {"a": [1, None]}, 0.1 + 0.2, float("inf"), "名 \udcff\n\0", "x" * 10**6]
)
def test_what_is_kept_comes_back(cache: Path, content: object) -> None:
    """Whatever JSON can hold comes back as it was, the last of a key, from a file in its kind's folder."""
    put("kind-1", KEY, "earlier")
    put("kind-1", KEY, content)
    assert get("kind-1", KEY) == content
    (file,) = entries(cache)
    assert file.parent == cache / "kind-1"
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


@pytest.mark.parametrize(
    "damage",
    [
        *(b"", b"{", b"\xff\xfe", b"null", b"5", b"[]", b"{}", b'{"content": 1}'),
        b'{"key": ["another"], "content": 1}',
        b'{"key": null, "content": 1}',
        None,
    ],
    ids=lambda damage: "cut off anywhere" if damage is None else damage.decode("latin-1") or "empty",
)
def test_a_damaged_entry_is_found_out_anew(cache: Path, damage: bytes | None) -> None:
    """An entry that is cut off, no JSON, or of another key is no answer; the next one replaces it."""
    put("kind-1", KEY, {"a": [1, 2]})
    (file,) = entries(cache)
    text = file.read_bytes()
    for content in [text[:length] for length in range(len(text))] if damage is None else [damage]:
        file.write_bytes(content)
        assert get("kind-1", KEY) is None
    put("kind-1", KEY, "new")
    assert get("kind-1", KEY) == "new"
    assert entries(cache) == [file]


@pytest.mark.parametrize("obstacle", ["file in its place", "read-only", "folder in the place of an entry"])
def test_what_can_not_be_written(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, obstacle: str
) -> None:
    """Nothing is kept then: one warning with the reason, and no exception."""
    with public_folder() as folder:
        monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        if obstacle == "file in its place":
            (folder / "cache").write_text("")
        elif obstacle == "read-only":
            (folder / "cache").mkdir(mode=0o555)
        else:
            put("kind-1", KEY, "content")
            (file,) = entries(folder)
            file.unlink()
            file.mkdir()
        before = sorted(folder.rglob("*"))
        with without_privileges() if obstacle == "read-only" else nullcontext():
            put("kind-1", KEY, "content")
            assert get("kind-1", KEY) is None
        assert sorted(folder.rglob("*")) == before
    (record,) = caplog.records
    assert (record.levelno, record.name) == (logging.WARNING, "rdagent_sota_bridge.system.cache")
    assert record.getMessage().startswith(f"Nothing can be kept in {folder / 'cache'}")


def test_what_is_old_is_removed(cache: Path) -> None:
    """An entry of three months ago goes when a process first writes one of its kind; no other file does."""
    put("kind-1", ["old"], 1)
    put("kind-1", ["young"], 2)
    put("kind-2", ["other"], 3)
    (cache / "kind-1" / "note.txt").write_text("mine")
    for file in (*entries(cache), cache / "kind-1" / "note.txt"):
        old = not file.name.endswith("json") or json.loads(file.read_text())["key"] != ["young"]
        os.utime(file, (time.time() - (91 if old else 89) * 86400,) * 2)
    subprocess.run(
        [sys.executable, "-c", "from rdagent_sota_bridge.system.cache import put; put('kind-1', ['new'], 4)"],
        check=True,
    )
    assert [get("kind-1", [key]) for key in ("old", "young", "new")] == [None, 2, 4]
    assert get("kind-2", ["other"]) == 3
    assert (cache / "kind-1" / "note.txt").is_file()


def test_several_processes_write_at_once(cache: Path) -> None:
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
    assert len(entries(cache)) == 1


# --- identity ---


@pytest.mark.parametrize("age", [0, 1.5, -1.5, -3600])
def test_a_file_that_was_just_written_has_no_identity(tmp_path: Path, age: float) -> None:
    """A file whose time is now, or in the future, may change once more without a new time."""
    file = tmp_path / "a"
    file.write_text("one")
    os.utime(file, (time.time() - age,) * 2)
    assert identity(file.stat()) is None


def test_identity_changes_with_the_file(tmp_path: Path) -> None:
    """Size, time, file and content each change the identity; reading the file does not."""
    file, other = tmp_path / "a", tmp_path / "b"
    then = time.time_ns() - 10 * 10**9

    def written(target: Path, text: str, moment: int = then) -> list[int] | None:
        target.write_text(text)
        os.utime(target, ns=(moment, moment))  # the time is put back
        return identity(target.stat())

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

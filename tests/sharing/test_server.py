"""Servers that give more than was asked for, or nothing for a long time, or say what nobody expects."""

from __future__ import annotations

import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import pytest

from rdagent_sota_bridge.cli.fetching import progress_bar
from rdagent_sota_bridge.errors import RemoteError, StoreError
from rdagent_sota_bridge.factor_set import locate, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.sharing import fetch, fetched, push, remote
from rdagent_sota_bridge.sharing.remote import MANIFEST
from tests import servers, storage
from tests.storage import get, left, manifest_of, serve


@pytest.mark.parametrize("total", [10**10, 10**13], ids=["5 %", "1 GB"])
@pytest.mark.parametrize("says", ["a length", "no length"])
def test_a_set_that_would_fill_the_disk(
    files: servers.Files, place: Path, source: Path, monkeypatch: pytest.MonkeyPatch, says: str, total: int
) -> None:
    """It is one message while 1 GB, or 5 % of a small disk, are free yet; and nothing of it stays."""
    files.lengths = says == "a length"
    size, reserve = source.stat().st_size, min(total // 20, 10**9)
    free = reserve + size - 1

    def usage(folder: Path) -> SimpleNamespace:
        written = sum(file.stat().st_size for file in folder.glob(".*.part"))
        return SimpleNamespace(total=total, free=free - written)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    url = serve(files, source)
    with pytest.raises(StoreError, match="can't be copied into the store: no room") as caught:
        get(url, place)
    assert f"{'1.0 GB' if total > 10**11 else '500.0 MB'} stay free" in caught.value.fact
    assert caught.value.place == str(place / store.FETCHED)
    assert (left(place), fetched.entries(place)) == ([], [])
    asked = [method for method, path, _ in files.log if path.endswith(FACTOR_FILE)]
    assert ("GET" in asked) == (says == "no length")
    free += 1
    assert get(url, place).path.read_bytes() == source.read_bytes()


def test_a_manifest_without_end(
    files: servers.Files, place: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is one message, long before it fills the memory."""
    monkeypatch.setattr(remote, "_LARGEST_MANIFEST", 100_000)
    files.lengths = False
    url = serve(files, source)
    files.contents[f"/run/{MANIFEST}"] = bytes(10_000_000)
    with pytest.raises(RemoteError, match=r"is more than 100\.0 kB") as caught:
        get(url, place)
    assert caught.value.place == f"{url}/{MANIFEST}"


@pytest.mark.parametrize("when", ["before the first byte", "after it"])
def test_a_silent_server(
    files: servers.Files, place: Path, source: Path, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """A line says that nothing comes, and from where."""
    monkeypatch.setattr(remote, "SILENCE", 0.05)
    url, lines = f"{serve(files, source)}/{FACTOR_FILE}", list[str]()
    if when == "after it":
        files.stalls = 1
        monkeypatch.setattr(remote, "STALL", 1.0)
    else:
        files.silent = threading.Event()

    def say(line: str) -> None:
        lines.append(line)
        if files.silent is not None:
            files.silent.set()

    assert fetch.fetch(f"{url}?v=1", place, say).path.read_bytes() == source.read_bytes()
    assert [line for line in lines if line.startswith(f"{url}?***: the server has been silent for")]


def test_a_slow_server_where_no_bar_is_drawn(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command whose output is no terminal says now and then how much is there."""
    monkeypatch.setattr(fetch, "_LINE_SECONDS", 0.0)
    with progress_bar() as show:
        show("s3://bucket/run", 50, None)
    assert capsys.readouterr().err == "s3://bucket/run: 50 bytes\n"


def test_a_path_that_is_no_text(place: Path, tmp_path: Path) -> None:
    """A share whose name is no UTF-8 is fetched once; its record and the list show the name."""
    share = tmp_path / os.fsdecode(b"caf\xe9")
    storage.factor_file(tmp_path / "plain").parent.rename(share)
    url, lines = f"file://{share}", list[str]()
    assert get(url, place, lines) == get(url, place, lines)
    assert sum("is fetched into" in line for line in lines) == 1
    (copy,) = fetched.entries(place)
    assert copy.urls == (f"file://{tmp_path}/caf\\udce9/{FACTOR_FILE}",)


def test_metrics_that_are_not_known(files: servers.Files, place: Path, source: Path) -> None:
    """A manifest whose metrics are all null writes no file of them."""
    url = serve(files, source)
    files.contents[f"/run/{MANIFEST}"] = manifest_of(source, metrics={"IC": None, "ICIR": None})
    assert not (get(url, place).path.parent / RESULT_FILE).exists()


def test_a_push_of_which_half_arrives(tmp_path: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is one message, and what is there is never called complete; pushed again, it is."""
    url = f"file://{tmp_path}/shared/run"

    def push_it() -> bool:
        return push.push(locate.Located(source), url, overwrite=False, progress=lambda *_: None)[1]

    with monkeypatch.context() as patched:
        put = remote.Remote.put

        def put_half(thing: remote.Remote, file: Path, progress: remote.Progress) -> None:
            half = tmp_path / "half"
            half.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
            put(thing, half, progress)

        patched.setattr(remote.Remote, "put", put_half)
        with pytest.raises(RemoteError, match=r"The server holds .* bytes of the .* that were pushed"):
            push_it()
    assert push_it()
    assert not push_it()

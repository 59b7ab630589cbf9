"""Everything that is written has the mode that the user's umask leaves: a group's folder is the group's."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from rdagent_sota_bridge.bridge import text_log
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.qlib_files import manifest
from rdagent_sota_bridge.run import job, locks
from rdagent_sota_bridge.sharing import fetch
from rdagent_sota_bridge.system import cache, files
from tests.factor_set.test_store import normal_source, unsorted_source, wanted_of


def _locks(folder: Path) -> None:
    with locks.held(folder, str):
        pass


def _lock(folder: Path) -> None:
    with files.held(folder / "a.lock", str, "works"):
        pass


def _text_log(folder: Path) -> None:
    text_log._TextLog().start(folder / "run", anew=False)


def _store(source_of: Callable[[Path], Path]) -> Callable[[Path], object]:
    return lambda folder: store.keep(wanted_of(source_of(folder.with_name("source"))), folder)


def _fetched(folder: Path) -> None:
    source = normal_source(folder.with_name("source"))
    fetch.fetch(f"file://{source.parent}", folder, str)


def _placed(folder: Path) -> None:
    stored = store.keep(wanted_of(normal_source(folder.with_name("source"))), folder.with_name("store"))
    store.hand_out(stored, folder / "placed.parquet", link=False)


WRITERS: dict[str, Callable[[Path], object]] = {
    "a report": lambda folder: files.write_whole(folder / "report.html", "page"),
    "a manifest": lambda folder: manifest.write_manifest(folder, {"a": 1}),
    "the state of a job": lambda folder: job.write(job.new(job.Options(), folder)),
    "an entry of the cache": lambda folder: cache.put("kind-1", [1], "content"),
    "the locks of a job": _locks,
    "another lock": _lock,
    "the text log": _text_log,
    "a stored copy": _store(normal_source),
    "a stored set in another form": _store(unsorted_source),
    "a fetched set": _fetched,
    "a set in a workspace": _placed,
}


@pytest.fixture(params=[0o002, 0o027, 0o077], ids=oct)
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    """Set a umask, and the old one after."""
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


@pytest.mark.parametrize("what", WRITERS)
def test_modes(what: str, umask: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files are for all to read and write, but for what the umask takes; stored sets are read-only."""
    folder = tmp_path / "folder"
    folder.mkdir()
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    WRITERS[what](folder)
    written = [file for file in folder.rglob("*") if file.is_file() and "digests-1" not in file.parts]
    assert written
    for file in written:
        is_stored = file.suffix == ".parquet" and what != "a set in a workspace"
        assert stat.S_IMODE(file.stat().st_mode) == (0o444 if is_stored else 0o666) & ~umask, file

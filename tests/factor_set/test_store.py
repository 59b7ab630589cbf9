"""One copy of each factor set: right, written once, and whole whatever happens meanwhile."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import filelock
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdagent_sota_bridge.errors import StoreError
from rdagent_sota_bridge.factor_set import panel, store
from rdagent_sota_bridge.factor_set.names import workspace_root
from rdagent_sota_bridge.system import files
from tests.faults import elsewhere, state
from tests.stored import (
    days_ago,
    digest_of,
    listing,
    longer,
    message_of,
    names_of,
    normal_source,
    same,
    stored_names,
    stored_over,
    unsorted_source,
    used_at,
    wanted_of,
)

# --- what is written ---


def test_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The store is beside RD-Agent's folder of workspaces, or where SOTA_STORE_PATH says."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert store.folder(None) == workspace_root().parent / "sota_store"
    assert store.folder("~/s") == tmp_path / "home" / "s"
    assert store.folder("a/b") == tmp_path / "a" / "b"


@pytest.mark.parametrize("known", [False, True])
def test_normal_source_is_copied_as_bytes(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, known: bool
) -> None:
    """A file in normal form is copied as bytes, one whose factor can't be decoded too; if known, unopened."""
    source = normal_source(tmp_path)
    chunk = pq.read_metadata(source).row_group(0).column(0)
    content = bytearray(source.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    source.write_bytes(content)
    with pytest.raises(OSError):
        pq.read_table(source)
    if known:
        monkeypatch.setattr(panel, "opened", None)  # called, it fails
    before = state(source)
    wanted = dataclasses.replace(wanted_of(source), is_normal=known)
    stored = store.keep(wanted, place)
    assert stored.path == place / names_of(wanted)[1]
    assert stored.path.read_bytes() == content
    assert stored.content == wanted.digest
    assert state(source) == before
    assert source.stat().st_nlink == 1
    assert not stored.path.samefile(source)


@pytest.mark.parametrize("source_of", [normal_source, unsorted_source])
def test_what_keep_returns(tmp_path: Path, place: Path, source_of: Callable[[Path], Path]) -> None:
    """What is said of a copy is so, and stands in its entry; links are counted; the copy may only be read."""
    source = source_of(tmp_path)
    wanted = wanted_of(source)
    begin = datetime.now(timezone.utc)
    stored = store.keep(wanted, place)
    status = stored.path.stat()
    assert stat.S_IMODE(status.st_mode) == 0o444
    assert (stored.digest, stored.columns, stored.rows) == (wanted.digest, wanted.columns, 120)
    assert stored.size == status.st_size
    assert stored.content == digest_of(stored.path)
    assert stored.sources == ((str(source), digest_of(source)),)
    assert begin <= stored.written <= datetime.now(timezone.utc)
    assert stored.identity == (status.st_size, status.st_mtime_ns, status.st_ino)
    assert (stored.note, stored.links) == ("", 0)
    assert abs(stored.used - begin) < timedelta(seconds=60)
    found, troubles = store.entries(place)
    assert (same(*found), troubles) == (same(stored), [])
    assert store.trouble_of(stored) == ""
    for count in (1, 2):
        os.link(stored.path, tmp_path / f"link{count}")
        again = store.keep(wanted, place)
        assert (again.links, same(again)) == (count, same(stored))


def test_second_keep_writes_nothing(tmp_path: Path, place: Path) -> None:
    """A set that is there is not written again, nor its source looked at; the time of its use is new."""
    source = normal_source(tmp_path)
    wanted = wanted_of(source)
    first = store.keep(wanted, place)
    long_ago = time.time() - 10_000
    os.utime(place / names_of(wanted)[0], (long_ago, long_ago))
    before = state(first.path), place.stat().st_mtime_ns
    source.unlink()
    second = store.keep(wanted, place)
    assert same(second) == same(first)
    assert (state(first.path), place.stat().st_mtime_ns) == before
    assert datetime.now(timezone.utc) - store.entries(place)[0][0].used < timedelta(seconds=60)


@pytest.mark.parametrize("source_of", [normal_source, unsorted_source])
def test_flushed_before_it_has_its_name(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, source_of: Callable[[Path], Path]
) -> None:
    """Copy and entry are on the disk, whole, before they get their names: power may fail at any moment."""
    flushed, fsync = {}, os.fsync

    def watch(file: int) -> None:
        fsync(file)
        assert not any(name in names_of(wanted) for name in stored_names(place))
        flushed[os.fstat(file).st_ino] = os.fstat(file).st_size

    wanted = wanted_of(source_of(tmp_path))
    monkeypatch.setattr(os, "fsync", watch)
    stored = store.keep(wanted, place)
    for path in (stored.path, stored.path.with_suffix(".json")):
        assert flushed[path.stat().st_ino] == path.stat().st_size


# --- a copy that is not what it was ---


def replaced(path: Path, record: Path) -> None:
    """Put another file of the same content and time in the place of a copy."""
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def dangling(path: Path, record: Path) -> None:
    """Put a link to nowhere in the place of a copy."""
    path.unlink()
    path.symlink_to("gone")


def of_another_form(path: Path, record: Path) -> None:
    """Let the entry be of another release's form."""
    record.write_text(json.dumps({**json.loads(record.read_text()), "form": 2}))


COPY = "was changed: size, time, inode"
GONE = "is missing, and its entry is there"
UNCLEAR = "does not say what"
CHANGES: dict[str, tuple[Callable[[Path, Path], object], str]] = {
    "longer": (lambda path, record: longer(path), COPY),
    "cut off": (lambda path, record: stored_over(path, path.read_bytes()[:100]), COPY),
    "emptied": (lambda path, record: stored_over(path, b""), COPY),
    "touched": (lambda path, record: os.utime(path, (1, 1)), COPY),
    "replaced": (replaced, COPY),
    "deleted": (lambda path, record: path.unlink(), GONE),
    "a link to nowhere": (dangling, GONE),
    "entry deleted": (lambda path, record: record.unlink(), "is missing"),
    "entry cut off": (lambda path, record: os.truncate(record, 50), UNCLEAR),
    "entry no text": (lambda path, record: record.write_bytes(b"\xff\xfe"), UNCLEAR),
    "entry a list": (lambda path, record: record.write_text("[]"), UNCLEAR),
    "entry of another form": (of_another_form, "was written in form 2, by another release"),
}


@pytest.mark.parametrize("what", CHANGES)
def test_what_does_not_fit_is_written_anew(tmp_path: Path, place: Path, what: str) -> None:
    """A copy or an entry that was changed is noticed in the same process, and written anew with one note."""
    change, note = CHANGES[what]
    wanted = wanted_of(normal_source(tmp_path))
    first = store.keep(wanted, place)
    right = first.path.read_bytes()
    change(first.path, first.path.with_suffix(".json"))
    before = listing(place)
    assert store.find(wanted.digest, place) is None
    assert listing(place) == before
    second = store.keep(wanted, place)
    assert note in second.note
    assert str(place) in second.note
    assert second.path == first.path
    assert not second.path.is_symlink()
    assert second.path.read_bytes() == right
    assert stat.S_IMODE(second.path.stat().st_mode) == 0o444
    assert same(store.keep(wanted, place), *store.entries(place)[0]) == same(second, second)
    assert store.keep(wanted, place).note == ""
    assert store.trouble_of(second) == ""
    assert [name for name in stored_names(place) if name != "gone"] == names_of(wanted)


def other_bytes(path: Path) -> None:
    """Change one byte of a file, and give it its time again."""
    status = path.stat()
    path.chmod(0o644)
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)
        file.seek(status.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    path.chmod(0o444)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def keep_for(source: str, place: str) -> list[Any]:
    """Keep a set twice in this process, changed between; return both notes, inode and digest at first."""
    wanted = wanted_of(Path(source))
    stored = store.keep(wanted, Path(place))
    answer = [stored.note, stored.path.stat().st_ino, digest_of(stored.path)]
    other_bytes(stored.path)
    return [*answer, store.keep(wanted, Path(place)).note]


def test_other_bytes_with_the_same_time_are_noticed_by_the_next_process(tmp_path: Path, place: Path) -> None:
    """The digest is compared once a process: a copy changed behind its time is written anew by the next."""
    source = normal_source(tmp_path)
    wanted = wanted_of(source)
    stored = store.keep(wanted, place)
    other_bytes(stored.path)
    assert "was changed: sha256:" in store.trouble_of(stored)  # who asks for the whole file gets an answer
    assert store.keep(wanted, place).note == ""
    note, inode, content, later = elsewhere(keep_for, source, place)
    assert "was changed: sha256:" in note
    assert note.endswith(f" in place of {wanted.digest}")
    assert (content, later) == (wanted.digest, "")
    here = store.keep(wanted, place)  # another file than this process wrote is read whole here as well
    assert "was changed: sha256:" in here.note
    assert digest_of(here.path) == wanted.digest
    note, again, content, later = elsewhere(keep_for, source, place)
    assert (note, again, content, later) == ("", here.path.stat().st_ino, wanted.digest, "")
    assert again != inode


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
KEYS = ["form", "digest", "columns", "content", "identity", "sources", "written"]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(key=st.sampled_from(KEYS), value=JSON)
def test_damaged_entry(tmp_path: Path, key: str, value: Any) -> None:
    """Whatever an entry says in place of what it should, the right frame is kept, without an error."""
    place = tmp_path / "store"
    source = tmp_path / "combined_factors_df.parquet"
    if not source.exists():
        normal_source(tmp_path)
    wanted = wanted_of(source)
    stored = store.keep(wanted, place)
    record = stored.path.with_suffix(".json")
    record.write_text(json.dumps({**json.loads(record.read_text()), key: value}))
    store.entries(place)
    kept = store.keep(wanted, place)
    assert kept.path.read_bytes() == source.read_bytes()
    assert kept.columns == wanted.columns


def test_what_takes_time_is_said(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for another says so, and one that writes a set does; one that links says nothing."""
    wanted = wanted_of(normal_source(tmp_path))
    place.mkdir(parents=True)
    held = filelock.FileLock(place / f".{wanted.digest.removeprefix('sha256:')}.sota.lock")
    held.acquire()
    said: list[str] = []

    def say(text: str) -> None:
        said.append(text)
        held.release()

    monkeypatch.setattr(files, "_LOCK_SECONDS", 0.05)
    store.keep(wanted, place, say)
    assert said[0].startswith("waiting for another process that writes the set")
    assert said[-1] == f"one copy of the set is written into {place}"
    count = len(said)
    store.keep(wanted, place, say)
    assert len(said) == count


def test_the_umask_is_kept(tmp_path: Path, place: Path) -> None:
    """What a user keeps to himself is kept to himself in the store."""
    before = os.umask(0o077)
    try:
        stored = store.keep(wanted_of(normal_source(tmp_path)), place)
    finally:
        os.umask(before)
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o400


# --- handing out, and finding ---


@pytest.mark.parametrize("trouble", ["folder there", "no workspace", "no stored file"])
def test_hand_out_that_fails(tmp_path: Path, place: Path, trouble: str) -> None:
    """What can't be placed is one error that names what is in the way; nothing is left of the try."""
    stored = store.keep(wanted_of(normal_source(tmp_path)), place)
    target = tmp_path / "workspace" / "combined_factors_df.parquet"
    if trouble != "no workspace":
        target.parent.mkdir()
    if trouble == "folder there":
        target.mkdir()
    if trouble == "no stored file":
        stored.path.unlink()
    before = listing(tmp_path)
    with pytest.raises(StoreError) as caught:
        store.hand_out(stored, target, link=True)
    message_of(caught.value)
    assert "SOTA_STORE_PATH" not in caught.value.fix
    in_the_way = {"folder there": target, "no workspace": target.parent, "no stored file": stored.path}
    assert caught.value.place.startswith(str(in_the_way[trouble]))
    assert listing(tmp_path) == before


def test_find(tmp_path: Path, place: Path) -> None:
    """A copy is found by size, time and inode alone; nothing is written, and the time of its use stays."""
    wanted = wanted_of(normal_source(tmp_path))
    assert store.find(wanted.digest, place) is None
    assert not place.exists()
    stored = store.keep(wanted, place)
    used_at(stored, 5)
    other_bytes(stored.path)
    before = listing(place)
    found = store.find(wanted.digest, place)
    assert listing(place) == before
    assert found is not None
    assert same(found) == same(stored)
    assert found.used < days_ago(4)


def test_files_under_the_name_of_another_set(tmp_path: Path, place: Path) -> None:
    """Copy and entry that a user gave the names of another set are not taken for it."""
    one, other = (wanted_of(normal_source(tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    store.keep(one, place)
    for mine, its in zip(names_of(one), names_of(other), strict=True):
        (place / mine).rename(place / its)
    assert digest_of(store.keep(other, place).path) == other.digest

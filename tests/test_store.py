"""One copy of each factor set: right, written once, and whole whatever happens meanwhile."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import os
import resource
import signal
import stat
import tempfile
import time
import traceback
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import filelock
import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rdagent_sota_bridge import locking, normal, store
from rdagent_sota_bridge.errors import FactorFileError, SetChangedError, StoreError, UnequalFactorError
from rdagent_sota_bridge.factors import FactorFile
from rdagent_sota_bridge.names import workspace_root
from rdagent_sota_bridge.panel import Panel
from tests.faults import (
    ROOMS,
    can_mount,
    elsewhere,
    forked,
    mounted,
    other_file_system,
    remount,
    small_disk,
    spread,
    survived,
)
from tests.frames import (
    assert_survives_pickling,
    factor_frame,
    nested,
    public_folder,
    with_level,
    without_privileges,
    write,
)
from tests.test_placing import state

DAYS = pd.bdate_range("2020-01-01", periods=40)


def digest_of(path: Path) -> str:
    """Return what names a file's content, worked out here and not by the package."""
    return f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}"


def wanted_of(*sources: Path, columns: tuple[str, ...] = ("momentum", "turnover")) -> store.Wanted:
    """Return what asks for files as they are now; a file taken whole has the digest of its bytes."""
    sums = tuple((source, digest_of(source)) for source in sources)
    if len(sources) == 1 and columns == ("momentum", "turnover"):
        return store.Wanted(sums[0][1], columns, sums)
    name = hashlib.sha256(repr((sums, columns)).encode()).hexdigest()
    return store.Wanted(f"sha256:{name}", columns, sums)


def normal_source(folder: Path, seed: int = 7, columns: tuple[str, ...] = ("momentum", "turnover")) -> Path:
    """Write a set as RD-Agent writes it, which is in normal form, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    return write(nested(factor_frame(columns, days=DAYS, seed=seed)), folder)


def unsorted_source(folder: Path) -> Path:
    """Write a set that has to be put into normal form, and return the file."""
    folder.mkdir(parents=True, exist_ok=True)
    return write(factor_frame(days=DAYS).sample(frac=1, random_state=1), folder)


def stored_names(place: Path) -> list[str]:
    """Return the names in the store, without the lock's."""
    return sorted(file.name for file in place.iterdir() if not file.name.endswith(".lock"))


def names_of(wanted: store.Wanted) -> list[str]:
    """Return the names that the files of a set have."""
    stem = wanted.digest.removeprefix("sha256:")
    return [f"{stem}.sota.json", f"{stem}.sota.parquet"]


def assert_lock_is_free(place: Path) -> None:
    """Fail where a lock of the store is held."""
    locks = [file for file in place.iterdir() if file.name.endswith(".lock")]
    assert len(locks) == 1
    with filelock.FileLock(locks[0], timeout=0):
        pass


def told_of(error: StoreError) -> str:
    """Return the fact of an error that a user reads; fail unless it is one whole message with a fix."""
    assert_survives_pickling(error)
    assert error.__cause__ is None
    assert error.__suppress_context__
    assert error.fact.startswith(
        (
            "The factor set can't be copied into the store: ",
            "The factor set can't be placed in the model's workspace: ",
        )
    )
    assert error.fix
    return error.fact


def same(*kept: store.Stored) -> list[store.Stored]:
    """Return sets as they were written: without the time of use, which every run changes, links and note."""
    return [dataclasses.replace(stored, used=stored.written, links=0, note="") for stored in kept]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return a folder for the store, not made yet."""
    return tmp_path / "cache" / "sota_store"


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
    """The copy of a file in normal form has its very bytes; no factor is decoded, if it is known no row."""
    source = normal_source(tmp_path)
    monkeypatch.setattr(FactorFile, "read", None)  # called, it fails
    if known:
        monkeypatch.setattr(store.panels, "opened", None)
    before = state(source)
    wanted = dataclasses.replace(wanted_of(source), is_normal=known)
    stored = store.keep(wanted, place)
    assert stored.path == place / names_of(wanted)[1]
    assert stored.path.read_bytes() == source.read_bytes()
    assert stored.content == wanted.digest
    assert state(source) == before
    assert source.stat().st_nlink == 1
    assert not stored.path.samefile(source)


def test_values_of_a_normal_source_need_not_be_readable(tmp_path: Path, place: Path) -> None:
    """Even a factor whose bytes do not decode is copied: the check, not the copy, reads values."""
    source = normal_source(tmp_path)
    chunk = pq.read_metadata(source).row_group(0).column(0)
    content = bytearray(source.read_bytes())
    start = chunk.dictionary_page_offset or chunk.data_page_offset
    content[start : start + 40] = b"\xff" * 40
    source.write_bytes(content)
    with pytest.raises(OSError):
        pq.read_table(source)
    stored = store.keep(wanted_of(source), place)
    assert stored.path.read_bytes() == content


def _flat(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...], pd.DataFrame]:
    frame = factor_frame(days=DAYS)
    return (write(frame, folder),), ("momentum", "turnover"), nested(frame)


def _unsorted(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...], pd.DataFrame]:
    frame = nested(factor_frame(days=DAYS))
    return (write(frame.sample(frac=1, random_state=1), folder),), ("momentum", "turnover"), frame


def _swapped(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...], pd.DataFrame]:
    frame = nested(factor_frame(days=DAYS, dtype="float32"))
    return (write(frame.swaplevel(), folder),), ("momentum", "turnover"), frame


def _chosen(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...], pd.DataFrame]:
    frame = nested(factor_frame(("a", "b", "c"), days=DAYS))
    return (write(frame, folder),), ("c", "a"), frame[[("feature", "c"), ("feature", "a")]]


def _joined(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...], pd.DataFrame]:
    one = factor_frame(("a", "b"), days=DAYS[:30])
    other = factor_frame(("c",), days=DAYS[10:], seed=8)
    paths = write(nested(one), folder, "one.parquet"), write(other, folder, "other.parquet")
    return paths, ("a", "b", "c"), nested(one.join(other, how="outer").sort_index())


def _categories(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...], pd.DataFrame]:
    frame = nested(factor_frame(days=DAYS))
    names = pd.CategoricalIndex(frame.index.get_level_values("instrument"))
    return (write(with_level(frame, "instrument", names), folder),), ("momentum", "turnover"), frame


def _microseconds(folder: Path) -> tuple[tuple[Path, ...], tuple[str, ...], pd.DataFrame]:
    frame = nested(factor_frame(days=DAYS))
    days = frame.index.get_level_values("datetime").astype("datetime64[us]")
    return (write(with_level(frame, "datetime", days), folder),), ("momentum", "turnover"), frame


@pytest.mark.parametrize(
    "form",
    [_flat, _unsorted, _swapped, _chosen, _joined, _categories, _microseconds],
    ids=lambda f: f.__name__,
)
def test_other_sources_are_put_into_normal_form(
    tmp_path: Path, place: Path, form: Callable[[Path], Any]
) -> None:
    """Whatever form a set has, in one file or several, its copy is the frame that the merge path writes."""
    paths, columns, frame = form(tmp_path)
    before = [state(path) for path in paths]
    wanted = wanted_of(*paths, columns=columns)
    stored = store.keep(wanted, place)
    assert stored.content != wanted.sources[0][1]
    pd.testing.assert_frame_equal(pd.read_parquet(stored.path), frame, check_freq=False, check_exact=True)
    assert (stored.columns, stored.rows) == (columns, len(frame))
    assert [state(path) for path in paths] == before
    assert all(path.stat().st_nlink == 1 for path in paths)
    assert stored_names(place) == names_of(wanted)


@pytest.mark.parametrize("source_of", [normal_source, unsorted_source])
def test_what_keep_returns(tmp_path: Path, place: Path, source_of: Callable[[Path], Path]) -> None:
    """What is told of a copy is so, and is told again by the entry; the copy may only be read."""
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
    assert store.spoilt(stored) == ""


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


def test_links_are_counted(tmp_path: Path, place: Path) -> None:
    """`links` is the count of workspaces that hold the very file, and a new link spoils nothing."""
    wanted = wanted_of(normal_source(tmp_path))
    stored = store.keep(wanted, place)
    for count in (1, 2):
        os.link(stored.path, tmp_path / f"link{count}")
        found = store.keep(wanted, place)
        assert (found.links, same(found)) == (count, same(stored))


def test_sets_are_beside_each_other(tmp_path: Path, place: Path) -> None:
    """Another set, or another choice of the same file, has a copy of its own."""
    one = normal_source(tmp_path / "one", columns=("momentum", "turnover"))
    other = normal_source(tmp_path / "other", seed=8)
    wants = [wanted_of(one), wanted_of(other), wanted_of(one, columns=("turnover",))]
    kept = [store.keep(wanted, place) for wanted in wants]
    assert stored_names(place) == sorted(name for wanted in wants for name in names_of(wanted))
    assert len({stored.content for stored in kept}) == 3
    assert same(*(store.keep(wanted, place) for wanted in wants)) == same(*kept)


def test_a_set_that_can_not_be_joined(tmp_path: Path, place: Path) -> None:
    """A factor with other values in two files is told as ever, and nothing is left in the store."""
    one, other = normal_source(tmp_path / "one"), normal_source(tmp_path / "other", seed=8)
    with pytest.raises(UnequalFactorError):
        store.keep(wanted_of(one, other), place)
    assert stored_names(place) == []


# --- a copy that is not what it was ---


def _longer(path: Path, record: Path) -> None:
    path.chmod(0o644)
    with path.open("ab") as file:
        file.write(b"more")


def _cut(path: Path, record: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, 100)


def _emptied(path: Path, record: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(b"")


def _touched(path: Path, record: Path) -> None:
    os.utime(path, (1, 1))


def _replaced(path: Path, record: Path) -> None:
    status = path.stat()
    other = path.with_name("other")
    other.write_bytes(path.read_bytes())
    os.utime(other, ns=(status.st_atime_ns, status.st_mtime_ns))
    other.replace(path)


def _deleted(path: Path, record: Path) -> None:
    path.unlink()


def _entry_deleted(path: Path, record: Path) -> None:
    record.unlink()


def _entry_cut(path: Path, record: Path) -> None:
    os.truncate(record, 50)


def _entry_of_another_form(path: Path, record: Path) -> None:
    record.write_text(json.dumps({**json.loads(record.read_text()), "form": 2}))


def _entry_not_text(path: Path, record: Path) -> None:
    record.write_bytes(b"\xff\xfe")


def _entry_a_list(path: Path, record: Path) -> None:
    record.write_text("[]")


def _dangling(path: Path, record: Path) -> None:
    path.unlink()
    path.symlink_to("gone")


CHANGES = {
    _longer: "was changed: size, time, inode",
    _cut: "was changed: size, time, inode",
    _emptied: "was changed: size, time, inode",
    _touched: "was changed: size, time, inode",
    _replaced: "was changed: size, time, inode",
    _deleted: "is missing, and its entry is there",
    _dangling: "is missing, and its entry is there",
    _entry_deleted: "is missing",
    _entry_cut: "does not say what",
    _entry_not_text: "does not say what",
    _entry_a_list: "does not say what",
    _entry_of_another_form: "was written in form 2, by another release",
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
@pytest.mark.parametrize("source_of", [normal_source, unsorted_source])
def test_what_does_not_fit_is_written_anew(
    tmp_path: Path, place: Path, source_of: Callable[[Path], Path], change: Callable[[Path, Path], None]
) -> None:
    """A copy or an entry that was changed is noticed in the same process, written anew, and told of once."""
    wanted = wanted_of(source_of(tmp_path))
    first = store.keep(wanted, place)
    right = first.path.read_bytes()
    change(first.path, first.path.with_suffix(".json"))
    second = store.keep(wanted, place)
    assert CHANGES[change] in second.note
    assert str(place) in second.note
    assert second.path == first.path
    assert not second.path.is_symlink()
    assert second.path.read_bytes() == right
    assert stat.S_IMODE(second.path.stat().st_mode) == 0o444
    assert same(store.keep(wanted, place), *store.entries(place)[0]) == same(second, second)
    assert store.keep(wanted, place).note == ""
    assert store.spoilt(second) == ""
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


def keep_for(source: str, columns: str, place: str) -> list[Any]:
    """Keep a set in this process, and tell note, inode and digest."""
    stored = store.keep(wanted_of(Path(source), columns=tuple(columns.split(","))), Path(place))
    return [stored.note, stored.path.stat().st_ino, digest_of(stored.path)]


def test_other_bytes_with_the_same_time_are_noticed_by_the_next_process(tmp_path: Path, place: Path) -> None:
    """The digest is compared once a process: a copy changed behind its time is written anew by the next."""
    source = normal_source(tmp_path)
    wanted = wanted_of(source)
    stored = store.keep(wanted, place)
    other_bytes(stored.path)
    assert "was changed: sha256:" in store.spoilt(stored)  # who asks for the whole file gets an answer
    assert store.keep(wanted, place).note == ""
    note, inode, content = elsewhere(keep_for, source, "momentum,turnover", place)
    assert "was changed: sha256:" in note
    assert note.endswith(f" in place of {wanted.digest}")
    assert content == wanted.digest
    assert store.keep(wanted, place).note == ""  # the new file is read whole here as well
    assert elsewhere(keep_for, source, "momentum,turnover", place) == ["", inode, content]


def test_digest_is_compared_once_a_process(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of another run is read whole when it is first asked for, and then no more."""
    wanted = wanted_of(normal_source(tmp_path))
    first = store.keep(wanted, place)
    monkeypatch.setattr(store, "_verified", set())  # as in a new process
    read = []
    monkeypatch.setattr(
        store.factors,
        "content_digest",
        lambda file, whole=store.factors.content_digest: (read.append(file.name), whole(file))[1],
    )
    for _ in range(3):
        store.keep(wanted, place)
    assert read == [str(first.path)]
    _replaced(first.path, first.path)
    read.clear()
    store.keep(wanted, place)
    store.keep(wanted, place)
    assert str(first.path) not in read  # what this process wrote is not read again


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=5,
)
KEYS = ["form", "digest", "columns", "rows", "content", "identity", "sources", "written"]


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
    assert (kept.columns, kept.rows) == (wanted.columns, 120)


def test_what_takes_time_is_told(tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that waits for another says so, and one that writes a set does; one that links says nothing."""
    wanted = wanted_of(normal_source(tmp_path))
    place.mkdir(parents=True)
    held = filelock.FileLock(place / f".{wanted.digest.removeprefix('sha256:')}.sota.lock")
    held.acquire()
    told: list[str] = []

    def tell(text: str) -> None:
        told.append(text)
        held.release()

    monkeypatch.setattr(locking, "_SECONDS", 0.05)
    store.keep(wanted, place, tell)
    assert told[0].startswith("waiting for another process that writes the set")
    assert told[-1] == f"one copy of the set is written into {place}"
    count = len(told)
    store.keep(wanted, place, tell)
    assert len(told) == count


def test_the_umask_is_kept(tmp_path: Path, place: Path) -> None:
    """What a user keeps to himself is kept to himself in the store."""
    before = os.umask(0o077)
    try:
        stored = store.keep(wanted_of(normal_source(tmp_path)), place)
    finally:
        os.umask(before)
    assert stat.S_IMODE(stored.path.stat().st_mode) == 0o400


# --- a source that was changed ---


def _rewritten(source: Path) -> None:
    normal_source(source.parent, seed=8)


def _same_size_and_time(source: Path) -> None:
    status = source.stat()
    content = bytearray(source.read_bytes())
    content[len(content) // 3] ^= 1
    source.write_bytes(content)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [_rewritten, _same_size_and_time], ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    ("columns", "known"),
    [(("momentum", "turnover"), False), (("momentum", "turnover"), True), (("turnover",), False)],
)
def test_source_changed_since_the_check(
    tmp_path: Path, place: Path, change: Callable[[Path], None], columns: tuple[str, ...], known: bool
) -> None:
    """A file with another content than was checked is refused with both digests, and nothing is stored."""
    source = normal_source(tmp_path)
    wanted = dataclasses.replace(wanted_of(source, columns=columns), is_normal=known)
    change(source)
    with pytest.raises(SetChangedError) as caught:
        store.keep(wanted, place)
    assert wanted.sources[0][1] in caught.value.fact
    assert digest_of(source) in caught.value.fact
    assert caught.value.place == str(source)
    assert stored_names(place) == []
    assert_lock_is_free(place)


def test_second_source_changed(tmp_path: Path, place: Path) -> None:
    """Of joined files each is looked at, and the one that was changed is named."""
    one, other = normal_source(tmp_path / "one"), normal_source(tmp_path / "other", columns=("c",))
    wanted = wanted_of(one, other, columns=("momentum", "turnover", "c"))
    normal_source(tmp_path / "other", columns=("c",), seed=8)
    with pytest.raises(SetChangedError) as caught:
        store.keep(wanted, place)
    assert caught.value.place == str(other)
    assert stored_names(place) == []


@pytest.mark.parametrize("how", ["replaced", "same size and time", "rewritten"])
def test_source_changed_while_it_is_copied(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A file that another one takes the place of after its digest was compared is refused, and not stored."""
    source, other = normal_source(tmp_path), normal_source(tmp_path / "other", seed=8)
    wanted, after = wanted_of(source), digest_of(other)
    is_normal = normal.is_normal

    def meanwhile(panel: Any) -> bool:
        answer = is_normal(panel)
        if how == "replaced":
            other.replace(source)
        elif how == "rewritten":
            source.write_bytes(other.read_bytes())
        else:
            _same_size_and_time(source)
        return answer

    monkeypatch.setattr(normal, "is_normal", meanwhile)
    if how == "rewritten":
        with pytest.raises(FactorFileError, match="the file was changed while it was read"):
            store.keep(wanted, place)
    else:
        with pytest.raises(SetChangedError) as caught:
            store.keep(wanted, place)
        assert wanted.digest in caught.value.fact
        assert (after if how == "replaced" else digest_of(source)) in caught.value.fact
    assert stored_names(place) == []
    assert_lock_is_free(place)


def test_source_that_is_gone(tmp_path: Path, place: Path) -> None:
    """Without copy and source there is the error of a file that can't be read, and nothing is left."""
    source = normal_source(tmp_path)
    wanted = wanted_of(source)
    source.unlink()
    with pytest.raises(FactorFileError):
        store.keep(wanted, place)
    assert stored_names(place) == []


def test_changed_source_leaves_the_old_copy(tmp_path: Path, place: Path) -> None:
    """Where copy and source both have changed, the error leaves in the store what was there."""
    source = normal_source(tmp_path)
    wanted = wanted_of(source)
    stored = store.keep(wanted, place)
    _longer(stored.path, stored.path)
    before = state(stored.path)
    _rewritten(source)
    with pytest.raises(SetChangedError):
        store.keep(wanted, place)
    assert state(stored.path) == before
    assert stored_names(place) == names_of(wanted)


# --- killed ---


def keep_and_be_killed(folder: str, case: str, tries: str) -> dict[str, Any]:
    """Keep a set again and again, killed a moment later every time; tell how it went.

    Every try has a store of its own, and the next run is a process of its own.
    """
    root = Path(folder)
    source = (normal_source if case.startswith("copied") else unsorted_source)(root)
    os.utime(source, (1_600_000_000, 1_600_000_000))  # old enough for its digest to be remembered
    rooms, spoilt = ROOMS, case.endswith("spoilt")
    if case.endswith("without unnamed files"):
        # As on NFS and others, which know no O_TMPFILE: the spill file has a name for a moment.
        tempfile._O_TMPFILE_WORKS = False
        rooms = ("tempfile",)
    before = (*state(source), source.stat().st_nlink)
    wanted = wanted_of(source)
    number = itertools.count()
    stores = [root / "first"]

    def place() -> Path:
        return stores[-1]

    def run() -> list[Any]:
        stored = store.keep(wanted, place())
        return [stored.note, digest_of(stored.path)]

    def look_and_run() -> list[Any]:
        # What is there fits its entry, or is not taken for the set.
        found, _ = store.entries(place()) if place().is_dir() else ([], [])
        fits = [stored for stored in found if not store.spoilt(stored)]
        assert all(digest_of(stored.path) == right for stored in fits)
        note, content = run()
        assert content == right
        assert stored_names(place()) == names_of(wanted)
        if not fits:  # else the lock was not asked for
            assert_lock_is_free(place())
        return ["new" if fits else "old", note]

    def begin() -> None:
        stores.append(root / f"store{next(number)}")
        if spoilt:
            place().mkdir()
            for name in names_of(wanted):
                (place() / name).write_bytes((root / "template" / name).read_bytes())

    _, right = survived(run)
    place().rename(root / "template")
    begin()
    moments = forked(run, rooms=rooms)[1][0]
    size = (root / "template" / names_of(wanted)[1]).stat().st_size
    killed, states = 0, set()
    kills = [*spread(moments, int(tries)), *(-at for at in spread(size, int(tries) // 5))]
    for tried in kills:
        begin()
        status, told = forked(run, moment=max(tried, 0), bytes_written=max(-tried, 0), rooms=rooms)
        killed += status in (-signal.SIGKILL, -signal.SIGXFSZ)
        assert status <= 0, told
        assert (*state(source), source.stat().st_nlink) == before, tried
        status, told = forked(look_and_run)
        assert status == 0, (tried, told, list(place().iterdir()))
        state_found, note = told[1]
        states.add(state_found)
        assert not note or (state_found == "old" and (spoilt or "is missing, and its entry is there" in note))
        assert (*state(source), source.stat().st_nlink) == before, tried
    frame = pd.read_parquet(place() / names_of(wanted)[1])
    pd.testing.assert_frame_equal(frame, pd.read_parquet(root / "template" / names_of(wanted)[1]))
    return {"killed": killed, "states": sorted(states), "moments": moments}


@pytest.mark.parametrize(
    "case",
    ["copied", "copied, spoilt", "normalised", "normalised, spoilt", "normalised, without unnamed files"],
)
def test_killed_at_any_moment(tmp_path: Path, case: str) -> None:
    """Killed at 25 moments and 5 sizes: the old state or the new, and the next run puts all in order."""
    told = elsewhere(keep_and_be_killed, tmp_path, case, 25)
    assert told["killed"] >= 25
    assert told["states"] == ["new", "old"]


# --- two at once ---


def keep_at_once(folder: str) -> list[Any]:
    """Let several processes keep the same set and hand it out at once, several times; tell what each got."""
    root = Path(folder)
    source = unsorted_source(root)
    wanted = wanted_of(source)
    told = []
    for turn in range(4):
        place = root / f"store{turn}"
        if turn == 3:  # of a copy that was spoilt
            survived(lambda place=place: store.keep(wanted, place).rows)
            _longer(place / names_of(wanted)[1], place)
        gate_read, gate_write = os.pipe()
        receive, send = os.pipe()
        children = []
        for number in range(5):
            child = os.fork()
            if child == 0:
                os.close(gate_write)
                os.read(gate_read, 1)  # until all are there, and the gate is closed
                target = root / f"workspace{turn}-{number}.parquet"
                try:
                    stored = store.keep(wanted, place)
                    store.hand_out(stored, target, link=True)
                    answer = [stored.written.isoformat(), stored.identity[2], digest_of(target), stored.note]
                except BaseException:
                    answer = [traceback.format_exc()]
                os.write(send, json.dumps(answer).encode() + b"\n")
                os._exit(0)
            children.append(child)
        os.close(gate_read)
        os.close(send)
        os.close(gate_write)
        for child in children:
            os.waitpid(child, 0)
        with os.fdopen(receive) as lines:
            told.append([json.loads(line) for line in lines])
        assert stored_names(place) == names_of(wanted)
    return told


def test_several_at_once(tmp_path: Path) -> None:
    """Of five runs that start at once on a set one writes it, and tells of a spoilt one; all get its file."""
    turns = elsewhere(keep_at_once, tmp_path)
    assert len(turns) == 4
    for number, told in enumerate(turns):
        assert [len(answer) for answer in told] == [4] * 5, told
        assert len({tuple(answer[:3]) for answer in told}) == 1
        assert sum(bool(answer[3]) for answer in told) == (1 if number == 3 else 0)


def keep_while_another_writes(folder: str) -> list[Any]:
    """Let a process hold the lock and be killed while another one waits; tell what the other got."""
    root = Path(folder)
    source, place = unsorted_source(root), root / "store"
    wanted = wanted_of(source)
    receive, send = os.pipe()
    holder = os.fork()
    if holder == 0:

        def stay(*_: Any) -> None:
            os.write(send, b"x")
            time.sleep(600)

        store.normal.write = stay  # it has the lock, and has begun to write
        store.keep(wanted, place)
    os.read(receive, 1)
    waiting_read, waiting_write = os.pipe()
    waiter = os.fork()
    if waiter == 0:
        stored = store.keep(wanted, place)
        os.write(waiting_write, json.dumps([stored.note, digest_of(stored.path)]).encode())
        os._exit(0)
    time.sleep(0.3)
    waited = os.waitpid(waiter, os.WNOHANG) == (0, 0)
    left = stored_names(place)
    os.kill(holder, signal.SIGKILL)
    os.waitpid(holder, 0)
    status = os.waitpid(waiter, 0)[1]
    return [waited, len(left), status, *json.loads(os.read(waiting_read, 1000)), stored_names(place)]


def test_killed_while_it_holds_the_lock(tmp_path: Path) -> None:
    """A run that waits for one that is writing goes on when that one is killed, and removes what it left."""
    waited, left, status, note, content, names = elsewhere(keep_while_another_writes, tmp_path)
    assert (waited, left, status, note) == (True, 1, 0, "")
    stem = names[0].removesuffix(".json")
    assert names == [f"{stem}.json", f"{stem}.parquet"]
    assert content == digest_of(tmp_path / "store" / f"{stem}.parquet")


# --- disks ---


def keep_on_a_full_disk(folder: str, case: str) -> list[Any]:
    """Keep a set on disks of several sizes, and then with room; tell where each failed, and what it said."""
    root = Path(folder)
    days = pd.bdate_range("2015-01-01", periods=1000)
    frame = nested(factor_frame(("momentum", "turnover"), days=days))
    source = write(frame if case == "copied" else frame.swaplevel(), root)
    wanted = wanted_of(source)
    before = state(source)
    size = source.stat().st_size
    pages = -(-size // 4096) * 4096
    spill = 2 * 8 * len(frame)
    sizes = (
        [4096, size // 2, pages] if case == "copied" else [4096, spill // 2, spill + 8192, spill + size // 2]
    )
    told = []
    place = root / "store"
    place.mkdir()
    for at in sizes:
        with small_disk(place, at):
            try:
                store.keep(wanted, place)
                told.append(["worked"])
            except Exception as error:  # told to the test
                context = error.__context__
                steps = [step.name for step in traceback.extract_tb(context and context.__traceback__)]
                stage = [name for name in ("_write_copy", "write", "write_whole", "tofile") if name in steps]
                told.append([type(error).__name__, *error.args[:3], stage])
            assert stored_names(place) == [], at
            assert state(source) == before
            if os.environ["CAN_MOUNT"]:
                remount(place, "size=64m")
                stored = store.keep(wanted, place)
                assert stored.note == ""
                assert pd.read_parquet(stored.path).equals(frame)
                assert stored_names(place) == names_of(wanted)
                assert_lock_is_free(place)
    assert store.keep(wanted, root / "elsewhere").rows == len(frame)
    return told


@pytest.mark.parametrize("case", ["copied", "normalised"])
def test_full_disk(tmp_path: Path, case: str) -> None:
    """Wherever the room ends, in spill file, copy or entry: one error with place and fix, and no half."""
    told = elsewhere(keep_on_a_full_disk, tmp_path, case, mounts=True)
    assert {answer[0] for answer in told} == {"StoreError"}, told
    for _, fact, place, fix, _ in told:
        assert fact in (
            "The factor set can't be copied into the store: No space left on device",
            "The factor set can't be copied into the store: File too large",
        )
        assert place.startswith(str(tmp_path / "store"))
        assert "SOTA_STORE_PATH" in fix
    if can_mount() and case == "copied":
        assert "write_whole" in told[-1][4]  # there was room for the copy, and none for the entry
        assert "write_whole" not in told[0][4]


def keep_with_file_limits(folder: str) -> list[list[Any]]:
    """Keep a set while no file may have more than so many bytes, for many sizes; tell what each came to."""
    root = Path(folder)
    told = []
    for days in (20, 400):  # a factor fits whole into the buffer of a file, or does not
        frame = factor_frame(("a", "b", "c"), days=pd.bdate_range("2020-01-01", periods=days))
        source = write(frame, root, f"{days}.parquet")
        wanted = wanted_of(source, columns=("a", "b", "c"))
        spill = 3 * 8 * len(frame)
        for limit in {1, 100, spill // 3 - 8, spill // 3 + 8, spill // 2, spill - 4096 - 8, spill - 8}:
            if limit <= 0:
                continue

            def run(limit: int = limit, wanted: store.Wanted = wanted, days: int = days) -> list[Any]:
                place = root / f"store-{days}-{limit}"
                with small_disk(place, limit):
                    try:
                        store.keep(wanted, place)
                        answer = ["worked"]
                    except Exception as error:  # told to the test
                        answer = [type(error).__name__, *map(str, error.args)]
                return [days, limit, stored_names(place), *answer]

            told.append(survived(run))
    return told


def test_any_byte_that_finds_no_room(tmp_path: Path) -> None:
    """Wherever in the spill file a write ends short, it is told: no factor is read back cut off."""
    told = elsewhere(keep_with_file_limits, tmp_path)
    assert len(told) >= 12
    for _, _, left, *error in told:
        assert left == []
        assert error[:2] == ["StoreError", "The factor set can't be copied into the store: File too large"], (
            told
        )


def keep_while_room_comes_back(folder: str) -> list[Any]:
    """Keep sets while there is no room for the last bytes of the first factor, and some for the second."""
    root = Path(folder)
    frame = factor_frame(("a", "b"), days=pd.bdate_range("2020-01-01", periods=1000))
    wanted = wanted_of(write(frame, root), columns=("a", "b"))
    read = Panel.read_as_stored
    told = []
    for room in (20480, 22000, 8 * len(frame) - 1):

        def run(room: int = room) -> list[Any]:
            def reads(panel: Panel, column: str) -> Any:
                limit = room if column == "a" else resource.RLIM_INFINITY
                resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
                return read(panel, column)

            Panel.read_as_stored = reads
            place = root / f"store{room}"
            try:
                found = pd.read_parquet(store.keep(wanted, place).path)["feature", "a"]
                answer = f"{(found.to_numpy() != frame['a'].to_numpy()).sum()} values are wrong"
            except StoreError as error:
                answer = error.fact
            return [answer, stored_names(place)]

        told.append(survived(run))
    return told


def test_room_that_comes_back(tmp_path: Path) -> None:
    """Bytes of a factor that found no room are written later or told of, and no others are made up."""
    told = elsewhere(keep_while_room_comes_back, tmp_path)
    assert len(told) == 3
    for answer, left in told:
        failed = ("The factor set can't be copied into the store: File too large", 0)
        assert (answer, len(left)) in (("0 values are wrong", 2), failed)


def hand_out_on_a_full_disk(folder: str) -> list[Any]:
    """Hand a set out into a workspace on a full disk, then with room; tell the error."""
    root = Path(folder)
    workspace = root / "workspace"
    workspace.mkdir()
    stored = store.keep(wanted_of(normal_source(root)), root / "store")
    with small_disk(workspace, 4096):
        target = workspace / "combined_factors_df.parquet"
        target.write_bytes(b"old")
        try:
            store.hand_out(stored, target, link=False)
            told = ["worked"]
        except StoreError as error:
            told = [told_of(error), error.place, error.fix]
        assert target.read_bytes() == b"old"
        assert list(workspace.iterdir()) == [target]
        if os.environ["CAN_MOUNT"]:
            remount(workspace, "size=1m")
            assert store.hand_out(stored, target, link=True) == "copy"
            assert digest_of(target) == stored.content
    return [*told, str(target)]


def test_workspace_on_a_full_disk(tmp_path: Path) -> None:
    """A copy that finds no room in the workspace is one error that names it; what was there stays."""
    fact, place, fix, target = elsewhere(hand_out_on_a_full_disk, tmp_path, mounts=True)
    assert fact.split(": ")[1] in ("No space left on device", "File too large")
    assert place == target
    assert fix == "make room there, or let it be written, and resume the run"


def keep_in_a_read_only_store(folder: str) -> list[Any]:
    """Keep sets in a store that may only be read, one that is there and others; tell the errors."""
    root = Path(folder)
    place, workspace = root / "store", root / "workspace"
    workspace.mkdir()
    one, other, third = (wanted_of(normal_source(root / str(seed), seed=seed)) for seed in (1, 2, 3))
    told = []
    with mounted(place, "size=16m"):
        kept = store.keep(one, place)
        _longer(store.keep(third, place).path, place)
        remount(place, "ro")
        before = sorted((file.name, file.stat().st_mtime_ns) for file in place.iterdir())
        store._verified.clear()  # as in a new process
        assert same(store.keep(one, place)) == same(kept)
        target = workspace / "combined_factors_df.parquet"
        assert store.hand_out(kept, target, link=True) == "copy"
        assert digest_of(target) == kept.content
        for wanted, at in ((other, place), (third, place), (other, place / "below")):
            try:
                store.keep(wanted, at)
                told.append(["worked"])
            except StoreError as error:
                told.append([told_of(error), error.place, error.fix])
        found, troubles = store.entries(place)
        told.append([len(found), len(troubles), [bool(store.spoilt(stored)) for stored in found].count(True)])
        assert sorted((file.name, file.stat().st_mtime_ns) for file in place.iterdir()) == before
    return told


def test_read_only_store(tmp_path: Path) -> None:
    """With a store that may only be read a set in it is used; another, or a spoilt one, is one error."""
    if not can_mount():
        pytest.skip("needs a mount; a folder without the right to write is tested everywhere")
    *errors, entries = elsewhere(keep_in_a_read_only_store, tmp_path, mounts=True)
    assert len(errors) == 3
    for fact, place, fix in errors:
        assert fact == "The factor set can't be copied into the store: Read-only file system"
        assert place.startswith(str(tmp_path / "store"))
        assert "set SOTA_STORE_PATH to a folder that can be written" in fix
    assert entries == [2, 1, 1]


@pytest.mark.parametrize("mode", [0o555, 0o500, 0o000], ids=oct)
def test_store_without_the_right_to_write(mode: int) -> None:
    """In a folder that the user may not write, or enter, a set that can be read is used, else one error."""
    with public_folder() as folder:
        place = folder / "store"
        one, other = (normal_source(folder / str(seed), seed=seed) for seed in (1, 2))
        kept = store.keep(wanted_of(one), place)
        wanted = wanted_of(other)
        place.chmod(mode)
        try:
            with without_privileges():
                if mode & 0o005:
                    assert same(store.keep(wanted_of(one), place)) == same(kept)
                with pytest.raises(StoreError) as caught:
                    store.keep(wanted, place)
        finally:
            place.chmod(0o755)
        assert told_of(caught.value).endswith("Permission denied")
        assert caught.value.place.startswith(str(place))
        assert "SOTA_STORE_PATH" in caught.value.fix
        assert stored_names(place) == names_of(wanted_of(one))


@pytest.mark.parametrize("at", ["file", "file/below"])
def test_store_where_a_file_is(tmp_path: Path, at: str) -> None:
    """A path that is, or leads through, a file is one error that names it, and the file stays."""
    (tmp_path / "file").write_text("a user's")
    with pytest.raises(StoreError) as caught:
        store.keep(wanted_of(normal_source(tmp_path)), tmp_path / at)
    told_of(caught.value)
    assert caught.value.place.startswith(str(tmp_path / "file"))
    assert "SOTA_STORE_PATH" in caught.value.fix
    assert (tmp_path / "file").read_text() == "a user's"


@pytest.mark.parametrize("name", [0, 1])
def test_folder_in_place_of_a_file_of_the_store(tmp_path: Path, place: Path, name: int) -> None:
    """A folder where copy or entry should be is one error that names it, and what is in it stays."""
    wanted = wanted_of(normal_source(tmp_path))
    taken = place / names_of(wanted)[name]
    taken.mkdir(parents=True)
    (taken / "file").write_text("a user's")
    with pytest.raises(StoreError) as caught:
        store.keep(wanted, place)
    assert told_of(caught.value).endswith("Is a directory")
    assert caught.value.place == str(taken)
    assert (taken / "file").read_text() == "a user's"
    assert not [found for found in stored_names(place) if found.startswith(".")]


@pytest.mark.parametrize("link", [True, False])
def test_store_on_another_file_system(tmp_path: Path, link: bool) -> None:
    """From a store on another disk a workspace gets a copy: the right bytes, and a file of its own."""
    with other_file_system(tmp_path) as folder:
        stored = store.keep(wanted_of(normal_source(tmp_path)), folder / "store")
        target = tmp_path / "workspace.parquet"
        assert stored.path.stat().st_dev != tmp_path.stat().st_dev
        assert store.hand_out(stored, target, link=link) == "copy"
        assert digest_of(target) == stored.content
        assert stored.path.stat().st_nlink == 1
        assert os.access(target, os.W_OK)
        assert stat.S_IMODE(target.stat().st_mode) & 0o200


# --- handing out ---


def test_hand_out(tmp_path: Path, place: Path) -> None:
    """The set is placed as asked, and a link is counted."""
    stored = store.keep(wanted_of(normal_source(tmp_path)), place)
    one, other = tmp_path / "one.parquet", tmp_path / "other.parquet"
    ways = [store.hand_out(stored, one, link=False), store.hand_out(stored, other, link=True)]
    assert ways in (["copy", "link"], ["clone", "clone"])
    assert store.entries(place)[0][0].links == ways.count("link")
    assert digest_of(one) == digest_of(other) == stored.content


@pytest.mark.parametrize("trouble", ["folder there", "no workspace", "no stored file"])
@pytest.mark.parametrize("link", [True, False])
def test_hand_out_that_fails(tmp_path: Path, place: Path, trouble: str, link: bool) -> None:
    """What can't be placed is one error that names what is in the way; nothing is left of the try."""
    stored = store.keep(wanted_of(normal_source(tmp_path)), place)
    target = tmp_path / "workspace" / "combined_factors_df.parquet"
    if trouble != "no workspace":
        target.parent.mkdir()
    if trouble == "folder there":
        target.mkdir()
    if trouble == "no stored file":
        stored.path.unlink()
    with pytest.raises(StoreError) as caught:
        store.hand_out(stored, target, link=link)
    told_of(caught.value)
    assert "SOTA_STORE_PATH" not in caught.value.fix
    if trouble == "folder there":
        assert caught.value.place == str(target)
    elif trouble == "no stored file":
        assert caught.value.place == str(stored.path)
    else:
        assert caught.value.place.startswith(str(target.parent))
    if trouble != "no workspace":
        assert list(target.parent.iterdir()) == ([target] if trouble == "folder there" else [])


# --- what is in it, and pruning ---

USERS = (
    "notes.json",
    "combined_factors_df.parquet",
    ".hidden",
    f"{'a' * 63}.parquet",
    f"{'a' * 65}.json",
    f"{'A' * 64}.sota.parquet",
    f"{'a' * 64}.parquet",
    f"{'a' * 64}.json",
    f".{'a' * 64}.partial",
    f"set-{'a' * 64}.parquet",
    "a" * 64,
)
"""Names that are nearly the store's, and not."""


def used_at(stored: store.Stored, days: float) -> None:
    """Let a set have been used so many days ago."""
    at = time.time() - days * 24 * 3600
    os.utime(stored.path.with_suffix(".json"), (at, at))


def days_ago(days: float) -> datetime:
    """Return a time."""
    return datetime.now(timezone.utc) - timedelta(days=days)


def listing(place: Path) -> dict[str, Any]:
    """Return all that is below a folder, with contents, but for locks."""
    return {
        str(file.relative_to(place)): file.read_bytes() if file.is_file() else None
        for file in place.rglob("*")
        if not file.name.endswith(".lock")
    }


def three_sets(tmp_path: Path, place: Path) -> list[store.Stored]:
    """Keep three sets, last used 30, 20 and 10 days ago."""
    kept = []
    for seed, days in ((1, 20), (2, 30), (3, 10)):
        kept.append(store.keep(wanted_of(normal_source(tmp_path / str(seed), seed=seed)), place))
        used_at(kept[-1], days)
    return [kept[1], kept[0], kept[2]]


@pytest.mark.parametrize("there", [False, True])
def test_empty_store(place: Path, there: bool) -> None:
    """Of a store without sets, or that is not there, nothing is listed or pruned, and nothing made."""
    if there:
        place.mkdir(parents=True)
    assert store.entries(place) == ([], [])
    assert store.prune(place, days_ago(0), dry_run=False) == ([], [])
    assert place.exists() == there
    assert not there or list(place.iterdir()) == []


def test_entries(tmp_path: Path, place: Path) -> None:
    """Sets are told in the order of their use, with what is wrong of others; a user's files are neither."""
    kept = three_sets(tmp_path, place)
    for name in USERS:
        (place / name).write_text("a user's")
    (place / f"{'b' * 64}.sota.json").write_text("{}")
    (place / f"{'c' * 64}.sota.parquet").write_text("")
    found, troubles = store.entries(place)
    assert same(*found) == same(*kept)
    assert [found.sources for found in found] == [stored.sources for stored in kept]
    assert len(troubles) == 2
    assert f"{'b' * 64}.sota.parquet is missing, and its entry is there" in troubles[0]
    assert f"its entry {'c' * 64}.sota.json is missing" in troubles[1]


@pytest.mark.parametrize("change", [_longer, _emptied, _touched, _replaced, _deleted, other_bytes])
def test_spoilt(tmp_path: Path, place: Path, change: Callable[..., None]) -> None:
    """Read whole, a copy that was changed in any way is told of, and one that was not is not."""
    stored = store.keep(wanted_of(normal_source(tmp_path)), place)
    assert store.spoilt(stored) == ""
    change(stored.path) if change is other_bytes else change(stored.path, stored.path)
    assert str(stored.path) in store.spoilt(stored)


@pytest.mark.parametrize("dry_run", [True, False])
def test_prune(tmp_path: Path, place: Path, dry_run: bool) -> None:
    """Sets not used since a time go, and what workspaces have of them stays; a dry run removes nothing."""
    oldest, older, newest = three_sets(tmp_path, place)
    ways = {}
    for stored in (oldest, older):
        for link in (True, False):
            target = tmp_path / f"{stored.digest[-8:]}-{link}.parquet"
            store.hand_out(stored, target, link=link)
            ways[target] = stored.content
    before = listing(place)
    sets, others = store.prune(place, days_ago(15), dry_run=dry_run)
    assert (same(*sets), others) == (same(oldest, older), [])
    if dry_run:
        assert listing(place) == before
        assert same(*store.entries(place)[0]) == same(oldest, older, newest)
    else:
        assert stored_names(place) == [newest.path.with_suffix(".json").name, newest.path.name]
        assert same(*store.entries(place)[0]) == same(newest)
        assert store.prune(place, days_ago(15), dry_run=False) == ([], [])
    assert all(digest_of(target) == content for target, content in ways.items())


def test_prune_keeps_what_was_used_since(tmp_path: Path, place: Path) -> None:
    """A set that a run asks for again, without writing it, is not pruned."""
    wanted = wanted_of(normal_source(tmp_path))
    stored = store.keep(wanted, place)
    used_at(stored, 30)
    assert same(*store.prune(place, days_ago(1), dry_run=True)[0]) == same(stored)
    store.keep(wanted, place)
    assert store.prune(place, days_ago(1), dry_run=False) == ([], [])
    assert same(*store.entries(place)[0]) == same(stored)


def test_a_pruned_set_is_written_again(tmp_path: Path, place: Path) -> None:
    """The same process that knew a set writes it anew after it was pruned, and has nothing to warn of."""
    wanted = wanted_of(normal_source(tmp_path))
    first = store.keep(wanted, place)
    store.prune(place, days_ago(-1), dry_run=False)
    assert stored_names(place) == []
    second = store.keep(wanted, place)
    assert (second.note, second.content) == ("", first.content)


@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_leaves_a_users_files(tmp_path: Path, place: Path, dry_run: bool) -> None:
    """Files and folders that are not the store's stay, however old, and however near their names are."""
    place.mkdir(parents=True)
    stored = store.keep(wanted_of(normal_source(tmp_path)), place)
    stem = stored.path.stem
    for name in (*USERS, f"{stem}.parquet.bak", f"{stem}.csv", f"{stem}.txt", f"old {stem}.parquet"):
        (place / name).write_text("a user's")
        os.utime(place / name, (1, 1))
    (place / "folder").mkdir()
    (place / "folder" / f"{'a' * 64}.parquet").write_text("a user's")
    before = listing(place)
    used_at(stored, 30)
    sets, others = store.prune(place, days_ago(1), dry_run=dry_run)
    assert (same(*sets), others) == (same(stored), [])
    if not dry_run:
        del before[stored.path.name], before[f"{stem}.json"]
    assert listing(place) == before


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("used", [0, 30])
def test_prune_takes_what_killed_runs_left(tmp_path: Path, place: Path, dry_run: bool, used: int) -> None:
    """Temporary files of a killed run go, of a set that stays, one that goes, and one that never was."""
    stored = store.keep(wanted_of(normal_source(tmp_path)), place)
    used_at(stored, used)
    lefts = [
        place / f".{stem}.{rest}"
        for stem in (stored.path.stem, f"{'d' * 64}.sota")
        for rest in ("0123456789abcdef.tmp", "json.a1b2c3")
    ]
    for left in lefts:
        left.write_text("half")
    sets, others = store.prune(place, days_ago(1), dry_run=dry_run)
    assert same(*sets) == (same(stored) if used else [])
    assert sorted(others) == ([] if dry_run else sorted(lefts)), (
        "unasked, nobody knows whether a run writes them"
    )
    assert [left.exists() for left in lefts] == [dry_run] * 4
    assert stored.path.exists() == (dry_run or not used)


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize("half", ["parquet", "json", "both, damaged"])
def test_prune_takes_old_halves(tmp_path: Path, place: Path, dry_run: bool, half: str) -> None:
    """A copy without its entry, or the reverse, goes when it is old: a run that writes now has halves too."""
    place.mkdir(parents=True)
    halves = [
        place / f"{'e' * 64}.sota.{end}" for end in ("parquet", "json") if half in (end, "both, damaged")
    ]
    for file in halves:
        file.write_text("half")
    assert store.prune(place, days_ago(1), dry_run=dry_run) == ([], [])
    for file in halves:
        os.utime(file, (1, 1))
    assert store.prune(place, days_ago(1), dry_run=dry_run) == ([], halves)
    assert [file.exists() for file in halves] == [dry_run] * len(halves)


def test_prune_waits_for_a_run_that_writes(tmp_path: Path, place: Path) -> None:
    """The lock of a set is taken before anything of it is removed, and its temporary files then stand."""
    assert elsewhere(prune_while_another_writes, tmp_path) == [True, True, [], 2]


def prune_while_another_writes(folder: str) -> list[Any]:
    """Prune while another process is writing a set; tell whether both waited and worked."""
    root = Path(folder)
    source, place = unsorted_source(root), root / "store"
    wanted = wanted_of(source)
    receive, send = os.pipe()
    go_read, go_write = os.pipe()
    writer = os.fork()
    if writer == 0:
        write_normal = normal.write

        def slowly(*arguments: Any) -> None:
            os.write(send, b"x")
            os.read(go_read, 1)
            write_normal(*arguments)

        store.normal.write = slowly
        store.keep(wanted, place)
        os._exit(0)
    os.read(receive, 1)
    pruner = os.fork()
    if pruner == 0:
        store.prune(place, days_ago(1), dry_run=False)
        os._exit(0)
    time.sleep(0.3)
    waits = os.waitpid(pruner, os.WNOHANG) == (0, 0)
    os.write(go_write, b"x")
    worked = [os.waitpid(child, 0)[1] for child in (writer, pruner)] == [0, 0]
    return [waits, worked, store.entries(place)[1], len(stored_names(place))]


def test_prune_without_the_right_to_write(tmp_path: Path) -> None:
    """Where a file can't be removed there is one error; a dry run needs no right to write."""
    with public_folder() as folder:
        place = folder / "store"
        stored = store.keep(wanted_of(normal_source(tmp_path)), place)
        place.chmod(0o555)
        with without_privileges():
            assert same(*store.prune(place, days_ago(-1), dry_run=True)[0]) == same(stored)
            with pytest.raises(StoreError) as caught:
                store.prune(place, days_ago(-1), dry_run=False)
        place.chmod(0o755)
        assert caught.value.place.startswith(str(place))
        assert_survives_pickling(caught.value)
        assert same(*store.entries(place)[0]) == same(stored)


def test_store_that_may_not_be_read(tmp_path: Path) -> None:
    """A folder that the user may not enter is one error for whoever lists or prunes it."""
    with public_folder() as folder:
        place = folder / "store"
        wanted = wanted_of(normal_source(tmp_path))
        store.keep(wanted, place)
        place.chmod(0o000)
        try:
            with without_privileges():
                with pytest.raises(StoreError) as listed:
                    store.entries(place)
                with pytest.raises(StoreError):
                    store.prune(place, days_ago(1), dry_run=True)
        finally:
            place.chmod(0o755)
        assert listed.value.place == str(place)


@pytest.mark.parametrize(
    "change", [None, *CHANGES, other_bytes], ids=lambda change: getattr(change, "__name__", "")
)
def test_find(tmp_path: Path, place: Path, change: Callable[..., None] | None) -> None:
    """A copy is found that is as it was by size, time and inode; nothing is written, or told of as used."""
    wanted = wanted_of(normal_source(tmp_path))
    assert store.find(wanted.digest, place) is None
    assert not place.exists()
    stored = store.keep(wanted, place)
    used_at(stored, 5)
    if change is other_bytes:
        other_bytes(stored.path)
    elif change is not None:
        change(stored.path, stored.path.with_suffix(".json"))
    before = listing(place)
    found = store.find(wanted.digest, place)
    assert listing(place) == before
    if change in (None, other_bytes):
        assert found is not None
        assert same(found) == same(stored)
        assert found.used < days_ago(4)
    else:
        assert found is None


def test_files_under_the_name_of_another_set(tmp_path: Path, place: Path) -> None:
    """Copy and entry that a user gave the names of another set are not taken for it."""
    one, other = (wanted_of(normal_source(tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    store.keep(one, place)
    for mine, its in zip(names_of(one), names_of(other), strict=True):
        (place / mine).rename(place / its)
    assert digest_of(store.keep(other, place).path) == other.digest

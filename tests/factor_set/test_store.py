"""One copy of each factor set: right, written once, and whole whatever happens meanwhile."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import stat
import time
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

from rdagent_sota_bridge.errors import FactorFileError, SetChangedError, StoreError, UnequalFactorError
from rdagent_sota_bridge.factor_set import panel, store
from rdagent_sota_bridge.factor_set.names import workspace_root
from rdagent_sota_bridge.factor_set.parquet import FactorFile
from rdagent_sota_bridge.factor_set.prune import prune
from rdagent_sota_bridge.system import files
from tests.faults import (
    elsewhere,
)
from tests.frames import (
    assert_survives_pickling,
    factor_frame,
    nested,
    public_folder,
    without_privileges,
    write,
)
from tests.system.test_files import state

DAYS = pd.bdate_range("2020-01-01", periods=40)
LOCKS = (".lock", ".used")


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
    """Return the names in the store, without those of locks."""
    return sorted(file.name for file in place.iterdir() if file.suffix not in LOCKS)


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


def message_of(error: StoreError) -> str:
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
        monkeypatch.setattr(panel, "opened", None)
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


def test_a_set_that_can_not_be_joined(tmp_path: Path, place: Path) -> None:
    """A factor with other values in two files is refused, and nothing is left in the store."""
    one, other = normal_source(tmp_path / "one"), normal_source(tmp_path / "other", seed=8)
    with pytest.raises(UnequalFactorError):
        store.keep(wanted_of(one, other), place)
    assert stored_names(place) == []


# --- a copy that is not what it was ---


def longer(path: Path, record: Path) -> None:
    """Let a copy have bytes too many."""
    rewritten(path, path.read_bytes() + b"more")


def rewritten(path: Path, content: bytes) -> None:
    """Write over a copy that may only be read."""
    path.chmod(0o644)
    path.write_bytes(content)


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
    "longer": (longer, COPY),
    "cut off": (lambda path, record: rewritten(path, path.read_bytes()[:100]), COPY),
    "emptied": (lambda path, record: rewritten(path, b""), COPY),
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
@pytest.mark.parametrize("source_of", [normal_source, unsorted_source])
def test_what_does_not_fit_is_written_anew(
    tmp_path: Path, place: Path, source_of: Callable[[Path], Path], what: str
) -> None:
    """A copy or an entry that was changed is noticed in the same process, and written anew with one note."""
    change, note = CHANGES[what]
    wanted = wanted_of(source_of(tmp_path))
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


def keep_for(source: str, columns: str, place: str) -> list[Any]:
    """Keep a set in this process, and return note, inode and digest."""
    stored = store.keep(wanted_of(Path(source), columns=tuple(columns.split(","))), Path(place))
    return [stored.note, stored.path.stat().st_ino, digest_of(stored.path)]


def test_other_bytes_with_the_same_time_are_noticed_by_the_next_process(tmp_path: Path, place: Path) -> None:
    """The digest is compared once a process: a copy changed behind its time is written anew by the next."""
    source = normal_source(tmp_path)
    wanted = wanted_of(source)
    stored = store.keep(wanted, place)
    other_bytes(stored.path)
    assert "was changed: sha256:" in store.trouble_of(stored)  # who asks for the whole file gets an answer
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
        store.parquet,
        "content_digest",
        lambda file, whole=store.parquet.content_digest: (read.append(file.name), whole(file))[1],
    )
    for _ in range(3):
        store.keep(wanted, place)
    assert read == [str(first.path)]
    replaced(first.path, first.path)
    read.clear()
    store.keep(wanted, place)
    store.keep(wanted, place)
    assert str(first.path) not in read  # what this process wrote is not read again


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
    is_normal = panel.is_normal

    def meanwhile(opened: Any) -> bool:
        answer = is_normal(opened)
        if how == "replaced":
            other.replace(source)
        elif how == "rewritten":
            source.write_bytes(other.read_bytes())
        else:
            _same_size_and_time(source)
        return answer

    monkeypatch.setattr(panel, "is_normal", meanwhile)
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
    longer(stored.path, stored.path)
    before = state(stored.path)
    _rewritten(source)
    with pytest.raises(SetChangedError):
        store.keep(wanted, place)
    assert state(stored.path) == before
    assert stored_names(place) == names_of(wanted)


# --- handing out ---


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
    with pytest.raises(StoreError) as caught:
        store.hand_out(stored, target, link=True)
    message_of(caught.value)
    assert "SOTA_STORE_PATH" not in caught.value.fix
    if trouble == "folder there":
        assert caught.value.place == str(target)
    elif trouble == "no stored file":
        assert caught.value.place == str(stored.path)
    else:
        assert caught.value.place.startswith(str(target.parent))
    if trouble != "no workspace":
        assert list(target.parent.iterdir()) == ([target] if trouble == "folder there" else [])


# --- what is in it ---

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


def pair(stored: store.Stored) -> list[Path]:
    """Return the two files of a set."""
    return [stored.path, stored.path.with_suffix(".json")]


def listing(place: Path) -> dict[str, Any]:
    """Return all that is below a folder, with contents, but for locks."""
    return {
        str(file.relative_to(place)): file.read_bytes() if file.is_file() else None
        for file in place.rglob("*")
        if file.suffix not in LOCKS
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
    assert prune(place, days_ago(0), dry_run=False) == ([], [])
    assert place.exists() == there
    assert not there or list(place.iterdir()) == []


def test_entries(tmp_path: Path, place: Path) -> None:
    """Sets are listed in the order of their use, with what is wrong of others; a user's files are neither."""
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
                    prune(place, days_ago(1), dry_run=True)
        finally:
            place.chmod(0o755)
        assert listed.value.place == str(place)


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

"""The store whatever happens: killed, full and read-only disks."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import tempfile
import traceback
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.errors import StoreError
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.panel import Panel
from tests.faults import (
    ROOMS,
    can_mount,
    elsewhere,
    forked,
    mounted,
    remount,
    small_disk,
    spread,
    state,
    survived,
)
from tests.frames import factor_frame, nested, public_folder, without_privileges, write
from tests.stored import (
    assert_lock_is_free,
    digest_of,
    longer,
    message_of,
    names_of,
    normal_source,
    same,
    stored_names,
    unsorted_source,
    wanted_of,
)

# --- killed ---


def keep_and_be_killed(folder: str, case: str, tries: str) -> dict[str, Any]:
    """Keep a set again and again, killed a moment later every time; return how it went.

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
        fits = [stored for stored in found if not store.trouble_of(stored)]
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
        status, seen = forked(run, moment=max(tried, 0), bytes_written=max(-tried, 0), rooms=rooms)
        killed += status in (-signal.SIGKILL, -signal.SIGXFSZ)
        assert status <= 0, seen
        assert (*state(source), source.stat().st_nlink) == before, tried
        status, seen = forked(look_and_run, moment=None)
        assert status == 0, (tried, seen, list(place().iterdir()))
        state_found, note = seen[1]
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
    seen = elsewhere(keep_and_be_killed, tmp_path, case, 25)
    assert seen["killed"] >= 25
    assert seen["states"] == ["new", "old"]


# --- disks ---


def keep_on_a_full_disk(folder: str, case: str) -> list[Any]:
    """Keep a set on disks of several sizes, then with room; return where each failed, and what it said."""
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
    seen = []
    place = root / "store"
    place.mkdir()
    for at in sizes:
        with small_disk(place, at):
            try:
                store.keep(wanted, place)
                seen.append(["worked"])
            except Exception as error:  # for the test
                context = error.__context__
                steps = [step.name for step in traceback.extract_tb(context and context.__traceback__)]
                stage = [name for name in ("_write_copy", "write_normal", "write_whole") if name in steps]
                seen.append([type(error).__name__, *error.args[:3], stage])
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
    return seen


@pytest.mark.parametrize("case", ["copied", "normalised"])
def test_full_disk(tmp_path: Path, case: str) -> None:
    """Wherever the room ends, in spill file, copy or entry: one error with place and fix, and no half."""
    seen = elsewhere(keep_on_a_full_disk, tmp_path, case, mounts=True)
    assert {answer[0] for answer in seen} == {"StoreError"}, seen
    for _, fact, place, fix, _ in seen:
        assert fact in (
            "The factor set can't be copied into the store: No space left on device",
            "The factor set can't be copied into the store: File too large",
        )
        assert place.startswith(str(tmp_path / "store"))
        assert "SOTA_STORE_PATH" in fix
    if can_mount() and case == "copied":
        assert "write_whole" in seen[-1][4]  # there was room for the copy, and none for the entry
        assert "write_whole" not in seen[0][4]


def keep_with_file_limits(folder: str) -> list[list[Any]]:
    """Keep a set while no file may have more than so many bytes, for many sizes; return what each came to."""
    root = Path(folder)
    seen = []
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
                    except Exception as error:  # for the test
                        answer = [type(error).__name__, *map(str, error.args)]
                return [days, limit, stored_names(place), *answer]

            seen.append(survived(run))
    return seen


def test_any_byte_that_finds_no_room(tmp_path: Path) -> None:
    """Wherever in the spill file a write ends short, it is an error: no factor is read back cut off."""
    seen = elsewhere(keep_with_file_limits, tmp_path)
    assert len(seen) >= 12
    for _, _, left, *error in seen:
        assert left == []
        assert error[:2] == ["StoreError", "The factor set can't be copied into the store: File too large"], (
            seen
        )


def keep_while_room_comes_back(folder: str) -> list[Any]:
    """Keep sets while there is no room for the last bytes of the first factor, and some for the second."""
    root = Path(folder)
    frame = factor_frame(("a", "b"), days=pd.bdate_range("2020-01-01", periods=1000))
    wanted = wanted_of(write(frame, root), columns=("a", "b"))
    read = Panel.read_as_stored
    seen = []
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

        seen.append(survived(run))
    return seen


def test_room_that_comes_back(tmp_path: Path) -> None:
    """Bytes of a factor that found no room are written later, or are an error; none are made up."""
    seen = elsewhere(keep_while_room_comes_back, tmp_path)
    assert len(seen) == 3
    for answer, left in seen:
        failed = ("The factor set can't be copied into the store: File too large", 0)
        assert (answer, len(left)) in (("0 values are wrong", 2), failed)


def hand_out_on_a_full_disk(folder: str) -> list[Any]:
    """Hand a set out into a workspace on a full disk, then with room; return the error."""
    root = Path(folder)
    workspace = root / "workspace"
    workspace.mkdir()
    frame = factor_frame(days=pd.bdate_range("2015-01-01", periods=1000))
    stored = store.keep(wanted_of(write(nested(frame), root)), root / "store")
    with small_disk(workspace, 16384):  # the copy begins, and does not end
        target = workspace / "combined_factors_df.parquet"
        target.write_bytes(b"old")
        try:
            store.hand_out(stored, target, link=False)
            seen = ["worked"]
        except StoreError as error:
            seen = [message_of(error), error.place, error.fix]
        assert target.read_bytes() == b"old"
        assert list(workspace.iterdir()) == [target]
        if os.environ["CAN_MOUNT"]:
            remount(workspace, "size=1m")
            assert store.hand_out(stored, target, link=True) == "copy"
            assert digest_of(target) == stored.content
    return [*seen, str(target)]


def test_workspace_on_a_full_disk(tmp_path: Path) -> None:
    """A copy that finds no room in the workspace is one error that names it; what was there stays."""
    fact, place, fix, target = elsewhere(hand_out_on_a_full_disk, tmp_path, mounts=True)
    assert fact.split(": ")[1] in ("No space left on device", "File too large")
    assert place == target
    assert fix == "make room, or make it writable, and resume"


def keep_in_a_read_only_store(folder: str) -> list[Any]:
    """Keep sets in a store that may only be read, one that is there and others; return the errors."""
    root = Path(folder)
    place, workspace = root / "store", root / "workspace"
    workspace.mkdir()
    one, other, third = (wanted_of(normal_source(root / str(seed), seed=seed)) for seed in (1, 2, 3))
    seen = []
    with mounted(place, "size=16m"):
        kept = store.keep(one, place)
        longer(store.keep(third, place).path)
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
                seen.append(["worked"])
            except StoreError as error:
                seen.append([message_of(error), error.place, error.fix])
        found, troubles = store.entries(place)
        seen.append(
            [len(found), len(troubles), [bool(store.trouble_of(stored)) for stored in found].count(True)]
        )
        assert sorted((file.name, file.stat().st_mtime_ns) for file in place.iterdir()) == before
    return seen


def test_read_only_store(tmp_path: Path) -> None:
    """With a store that may only be read a set in it is used; another, or a spoilt one, is one error."""
    if not can_mount():
        pytest.skip("needs a mount; a folder without the right to write is tested everywhere")
    *errors, entries = elsewhere(keep_in_a_read_only_store, tmp_path, mounts=True)
    assert len(errors) == 3
    for fact, place, fix in errors:
        assert fact == "The factor set can't be copied into the store: Read-only file system"
        assert place.startswith(str(tmp_path / "store"))
        assert "set SOTA_STORE_PATH to a writable folder" in fix
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
        assert message_of(caught.value).endswith("Permission denied")
        assert caught.value.place.startswith(str(place))
        assert "SOTA_STORE_PATH" in caught.value.fix
        assert stored_names(place) == names_of(wanted_of(one))


@pytest.mark.parametrize("at", ["file", "file/below"])
def test_store_where_a_file_is(tmp_path: Path, at: str) -> None:
    """A path that is, or leads through, a file is one error that names it, and the file stays."""
    (tmp_path / "file").write_text("a user's")
    with pytest.raises(StoreError) as caught:
        store.keep(wanted_of(normal_source(tmp_path)), tmp_path / at)
    message_of(caught.value)
    assert caught.value.place.startswith(str(tmp_path / "file"))
    assert "SOTA_STORE_PATH" in caught.value.fix
    assert (tmp_path / "file").read_text() == "a user's"


@pytest.mark.parametrize("name", [0, 1])
def test_folder_in_place_of_a_file_of_the_store(tmp_path: Path, name: int) -> None:
    """A folder where copy or entry should be is one error that names it, and what is in it stays."""
    place = tmp_path / "store"
    wanted = wanted_of(normal_source(tmp_path))
    taken = place / names_of(wanted)[name]
    taken.mkdir(parents=True)
    (taken / "file").write_text("a user's")
    with pytest.raises(StoreError) as caught:
        store.keep(wanted, place)
    assert message_of(caught.value).endswith("Is a directory")
    assert caught.value.place == str(taken)
    assert (taken / "file").read_text() == "a user's"
    assert not [found for found in stored_names(place) if found.startswith(".")]

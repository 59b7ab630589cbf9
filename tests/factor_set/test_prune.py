"""What `prune` takes away of a store, and what it leaves."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path

import pytest

from rdagent_sota_bridge.errors import StoreError
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.prune import prune
from tests.frames import assert_survives_pickling, public_folder, without_privileges
from tests.processes import living
from tests.stored import (
    days_ago,
    digest_of,
    listing,
    normal_source,
    pair,
    same,
    stored_names,
    used_at,
    wanted_of,
)

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


def three_sets(tmp_path: Path, place: Path) -> list[store.Stored]:
    """Keep three sets, last used 30, 20 and 10 days ago."""
    kept = []
    for seed, days in ((1, 20), (2, 30), (3, 10)):
        kept.append(store.keep(wanted_of(normal_source(tmp_path / str(seed), seed=seed)), place))
        used_at(kept[-1], days)
    return [kept[1], kept[0], kept[2]]


def pruned(place: Path, before: datetime, *, dry_run: bool) -> list[Path]:
    """Prune a store that no other process uses, and return what was removed."""
    removed, used = prune(place, before, dry_run=dry_run)
    assert used == []
    return removed


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
    assert set(pruned(place, days_ago(15), dry_run=dry_run)) == {*pair(oldest), *pair(older)}
    if dry_run:
        assert listing(place) == before
        assert same(*store.entries(place)[0]) == same(oldest, older, newest)
    else:
        assert stored_names(place) == [newest.path.with_suffix(".json").name, newest.path.name]
        assert same(*store.entries(place)[0]) == same(newest)
        assert pruned(place, days_ago(15), dry_run=False) == []
    assert all(digest_of(target) == content for target, content in ways.items())


def test_prune_keeps_what_was_used_since(tmp_path: Path, place: Path) -> None:
    """A set that a run asks for again, without writing it, is not pruned."""
    wanted = wanted_of(normal_source(tmp_path))
    stored = store.keep(wanted, place)
    used_at(stored, 30)
    assert pruned(place, days_ago(1), dry_run=True) == pair(stored)
    store.keep(wanted, place)
    assert pruned(place, days_ago(1), dry_run=False) == []
    assert same(*store.entries(place)[0]) == same(stored)
    pruned(place, days_ago(-1), dry_run=False)
    assert stored_names(place) == []
    again = store.keep(wanted, place)  # by the process that knew it; there is nothing to warn of
    assert (again.note, again.content) == ("", stored.content)


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
    assert pruned(place, days_ago(1), dry_run=dry_run) == pair(stored)
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
        for rest in (f"{7:032x}.tmp", "json.a1_2c3d4")
    ]
    for left in lefts:
        left.write_text("half")
    removed = pruned(place, days_ago(1), dry_run=dry_run)
    # Without the lock nobody knows whether a run writes the temporary files.
    assert sorted(removed) == sorted([*(pair(stored) if used else []), *([] if dry_run else lefts)])
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
    assert pruned(place, days_ago(1), dry_run=dry_run) == []
    for file in halves:
        os.utime(file, (1, 1))
    assert pruned(place, days_ago(1), dry_run=dry_run) == halves
    assert [file.exists() for file in halves] == [dry_run] * len(halves)


def test_prune_without_the_right_to_write(tmp_path: Path) -> None:
    """Where a file can't be removed there is one error; a dry run needs no right to write."""
    with public_folder() as folder:
        place = folder / "store"
        stored = store.keep(wanted_of(normal_source(tmp_path)), place)
        place.chmod(0o555)
        with without_privileges():
            assert pruned(place, days_ago(-1), dry_run=True) == pair(stored)
            with pytest.raises(StoreError) as caught:
                pruned(place, days_ago(-1), dry_run=False)
        place.chmod(0o755)
        assert caught.value.place.startswith(str(place))
        assert_survives_pickling(caught.value)
        assert same(*store.entries(place)[0]) == same(stored)


@contextmanager
def living_run(wanted: store.Wanted, place: Path) -> Iterator[subprocess.Popen[str]]:
    """Let another process keep a set, and live for the length of the block."""
    sources = [(str(path), digest) for path, digest in wanted.sources]
    code = f"""
from pathlib import Path
from rdagent_sota_bridge.factor_set import store
sources = tuple((Path(path), digest) for path, digest in {sources!r})
store.keep(store.Wanted({wanted.digest!r}, {wanted.columns!r}, sources), Path({str(place)!r}))
"""
    with living(code) as process:
        yield process


@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_leaves_what_a_living_run_uses(tmp_path: Path, place: Path, dry_run: bool) -> None:
    """A set stays, however old, until the last process that uses it has ended, be it by a kill."""
    wanted = wanted_of(normal_source(tmp_path))
    stored = store.keep(wanted, place)
    other = store.keep(wanted_of(normal_source(tmp_path / "other", seed=9)), place)
    with living_run(wanted, place), living_run(wanted, place) as last:
        used_at(stored, 30)
        assert prune(place, days_ago(-1), dry_run=dry_run) == (pair(other), [stored.path])
        assert same(*store.entries(place)[0])[:1] == same(stored)
        last.kill()
        last.wait()
        assert prune(place, days_ago(-1), dry_run=True)[1] == [stored.path]
    assert prune(place, days_ago(-1), dry_run=dry_run)[1] == []
    assert stored.path.exists() == dry_run


def test_a_store_whose_locks_were_removed(tmp_path: Path, place: Path) -> None:
    """Whoever asks for a set again after `rm -rf` holds the new lock."""
    wanted = wanted_of(normal_source(tmp_path))
    stored = store.keep(wanted, place)
    shutil.rmtree(place)
    store.keep(wanted, place)
    code = (
        "from pathlib import Path; from datetime import datetime, timezone\n"
        "from rdagent_sota_bridge.factor_set.prune import prune\n"
        f"print(prune(Path({str(place)!r}), datetime.now(timezone.utc), dry_run=False)[0])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
    assert stored.path.exists()


@pytest.mark.parametrize("dry_run", [True, False])
def test_prune_follows_no_link(tmp_path: Path, place: Path, dry_run: bool) -> None:
    """No link goes, whatever its name; nothing behind one; no folder, and no file of nearly such a name."""
    place.mkdir(parents=True)
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / f"{'a' * 64}.prepared").write_text("a user's")
    (outside / f"{'a' * 64}.sota.parquet").write_text("a user's")
    (place / "prepared").symlink_to(outside)
    for name in ("parquet", "json"):
        (place / f"{'a' * 64}.sota.{name}").symlink_to(outside / f"{'a' * 64}.sota.parquet")
        (place / f"{'b' * 64}.sota.{name}").mkdir()
    (place / f".{'c' * 64}.sota.{7:032x}.tmp").mkdir()
    for rest in ("backup", "json.bak", "parquet.old", "tmp"):
        (place / f".{'c' * 64}.sota.{rest}").write_text("a user's")
    before = listing(tmp_path)
    assert pruned(place, days_ago(-1), dry_run=dry_run) == []
    assert listing(tmp_path) == before
    (place / "prepared").unlink()
    (place / "prepared").mkdir()
    mine, own = place / "prepared" / "mine.prepared", place / "prepared" / f"{'a' * 64}.prepared"
    mine.write_text("a user's")
    own.touch()
    assert pruned(place, days_ago(-1), dry_run=dry_run) == [own]
    assert (mine.exists(), own.exists()) == (True, dry_run)


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

"""The fetched sets: their list, and what `prune` takes of them and leaves."""

from __future__ import annotations

import os
import time
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.names import RESULT_FILE
from rdagent_sota_bridge.sharing import fetch, fetched
from tests import servers, storage
from tests.processes import living
from tests.sharing.test_fetch import get, left, serve
from tests.storage import Bucket


def test_entries_and_prune(bucket: Bucket, place: Path, source: Path, other: Path, tmp_path: Path) -> None:
    """Fetched sets are listed with their URLs, and go when nobody has asked for them, as do broken parts."""
    assert fetched.entries(place) == []
    old, new = get(bucket.put(source, "old"), place), get(bucket.put(other, "new"), place)
    used = get(bucket.put(storage.factor_file(tmp_path / "c", seed=9), "used"), place)
    then, part = time.time() - 40 * 24 * 3600, place / store.FETCHED / f".{'0' * 64}.part"
    part.write_bytes(b"?")
    for file in [part, *(place / store.FETCHED).glob("*.json"), old.path.parent, used.path.parent]:
        os.utime(file, (then, then))
    fetch.current_digest(used.path)  # a run asks its URL once, and its loops look at the file for weeks
    assert {copy.urls for copy in fetched.entries(place)} == {(old.url,), (new.url,), (used.url,)}
    before = datetime.now(timezone.utc) - timedelta(days=30)
    copies, others, _ = fetched.prune(place, before, dry_run=True)
    assert ([copy.path for copy in copies], others) == ([old.path], [part])
    assert old.path.exists()
    assert fetched.prune(place, before, dry_run=False) == (copies, others, [])
    assert not old.path.parent.exists()
    assert {copy.path for copy in fetched.entries(place)} == {new.path, used.path}
    assert left(place) == []
    assert get(bucket.url("old"), place).path == old.path


@pytest.mark.parametrize("named", ["a URL", "the folder"])
def test_prune_leaves_what_a_living_run_uses(
    files: servers.Files, place: Path, source: Path, named: str
) -> None:
    """A fetched set stays while a process uses it: fetched by its URL, or named by its folder."""
    url, now = serve(files, source), datetime.now(timezone.utc) + timedelta(days=1)
    path = get(url, place).path
    digest = f"sha256:{path.parent.name}"
    assert fetched.prune(place, now, dry_run=True)[2] == []  # this process uses nothing that it prunes
    code = f"""
from pathlib import Path
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.sharing import fetch
path, place = Path({str(path)!r}), Path({str(place)!r})
if {named == "a URL"}:
    fetch.fetch({url!r}, place, print)
else:
    store.keep(store.Wanted({digest!r}, ("momentum", "turnover"), ((path, {digest!r}),)), place)
"""
    with living(code):
        old, others, used = fetched.prune(place, now, dry_run=False)
        assert (old, others, [copy.path for copy in used]) == ([], [], [path])
    assert path.exists()
    copies, _, used = fetched.prune(place, now, dry_run=False)
    assert ([copy.path for copy in copies], used, path.exists()) == ([path], [], False)


def test_prune_leaves_a_fetch_its_part(files: servers.Files, place: Path, source: Path) -> None:
    """What another process fetches now is no broken part."""
    url, now = serve(files, source), datetime.now(timezone.utc) + timedelta(days=1)
    found = list[object]()

    def prune_meanwhile(*_: object) -> None:
        found.append(fetched.prune(place, now, dry_run=False))

    assert fetch.fetch(url, place, lambda _: None, prune_meanwhile).path.read_bytes() == source.read_bytes()
    assert found[0] == ([], [], [])


@pytest.mark.parametrize("dry_run", [True, False])
@pytest.mark.parametrize(
    "what", ["fetched", "the set's folder", "the set's file", "a user's file", "a record"]
)
def test_prune_follows_no_link(
    files: servers.Files, place: Path, tmp_path: Path, source: Path, what: str, dry_run: bool
) -> None:
    """Nothing behind a link goes, and no user's file beside a set."""
    path = get(serve(files, source), place).path
    (record,) = (place / store.FETCHED).glob("*.json")
    (path.parent / RESULT_FILE).write_text(",0\nIC,0.1\n")
    moved, linked = tmp_path / "elsewhere", {"fetched": place / store.FETCHED, "a record": record}
    linked |= {
        "the set's folder": path.parent,
        "the set's file": path,
        "a user's file": path.parent / "notes",
    }
    if what == "a user's file":
        linked[what].write_text("mine")
        kept = [linked[what]]
    else:
        linked[what].rename(moved)
        linked[what].symlink_to(moved)
        kept = [moved, linked[what], *(moved.rglob("*") if moved.is_dir() else [])]
        kept += [] if what == "a record" else [path]
    fetched.prune(place, datetime.now(timezone.utc) + timedelta(days=1), dry_run=dry_run)
    assert [file for file in kept if not file.exists()] == []
    if what == "a user's file" and not dry_run:
        assert list(path.parent.iterdir()) == kept
    assert path.parent.exists() or what == "a record"

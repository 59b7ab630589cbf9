"""Sets behind URLs: fetched once, whole, and never another than was named."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
    StoreError,
)
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.locate import Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.sharing import fetch, fetched, remote
from rdagent_sota_bridge.system import files as written_files
from tests import servers, storage
from tests.frames import assert_survives_pickling, public_folder, without_privileges
from tests.storage import Bucket, get, in_the_middle, left, serve


def child(url: str, place: Path, progress: str = "None") -> subprocess.Popen[str]:
    """Fetch a URL in a process of its own, and print the path."""
    code = (
        "import os; from pathlib import Path; from rdagent_sota_bridge.sharing import fetch\n"
        f"print(fetch.fetch({url!r}, Path({str(place)!r}), lambda _: None, {progress}).path)"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ)


# --- once ---


def test_a_folder_on_s3(bucket: Bucket, place: Path, source: Path, other: Path) -> None:
    """The file comes byte for byte, under its content's name, read-only; asked again, less than 4 kB move.

    A changed object is fetched anew, and what a run began with stays beside it.
    """
    url, lines = bucket.put(source, "team", "run-1"), list[str]()
    found = get(url, place, lines)
    assert found.path == place / "fetched" / hashlib.sha256(source.read_bytes()).hexdigest() / FACTOR_FILE
    assert found.path.read_bytes() == source.read_bytes()
    assert found.path.stat().st_mode & 0o222 == 0
    assert (found.url, found.notes) == (f"{url}/{FACTOR_FILE}", ())
    assert any("is fetched into" in line for line in lines)
    assert left(place) == []
    assert bucket.proxy.count() > source.stat().st_size
    assert get(url, place) == get(f"{url}/{FACTOR_FILE}", place) == found
    assert bucket.proxy.count() < 2 * 4000
    bucket.put(other, "team", "run-1")
    assert get(url, place).path.read_bytes() == other.read_bytes()
    assert found.path.read_bytes() == source.read_bytes()


def test_the_stored_set_is_the_fetched_file(
    bucket: Bucket, place: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetched set in normal form takes its room once, its links are no change, and it is read once."""
    monkeypatch.setattr(written_files, "_clone", lambda *_: False)  # which takes no room either
    found = get(bucket.put(source, "run"), place)
    digest = parquet.current_digest(found.path)
    stored = store.keep(store.Wanted(digest, ("momentum", "turnover"), ((found.path, digest),)), place)
    (copy,) = fetched.entries(place)
    assert copy.stored
    assert stored.path.samefile(found.path)
    fetch.current_digest(found.path)
    monkeypatch.setattr(parquet, "current_digest", None)  # read no more
    store.hand_out(stored, tmp_path / "linked.parquet", link=True)
    linked = store.find(digest, place)
    assert linked is not None
    assert linked.links == 1
    # A link changes the file's ctime, and nothing of its content.
    assert fetch.current_digest(found.path) == digest
    assert get(bucket.url("run"), place).path == found.path


def test_two_processes_fetch_once(bucket: Bucket, place: Path, source: Path) -> None:
    """Runs that start at once on one machine fetch one copy, and all get it."""
    url = bucket.put(source, "run")
    bucket.proxy.count()
    children = [child(url, place) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in children]
    assert [process.returncode for process in children] == [0, 0]
    assert len(set(outputs)) == 1
    assert source.stat().st_size < bucket.proxy.count() < 1.5 * source.stat().st_size


# --- broken ---


def test_a_cut_connection(files: servers.Files, place: Path, source: Path, tmp_path: Path) -> None:
    """A web server whose connection breaks is asked four times; the log says each."""
    serve(files, source)
    proxy, lines = servers.Proxy(files.server_port), list[str]()
    url = f"http://127.0.0.1:{proxy.port}/run"
    proxy.cut_after, proxy.cuts = 1 << 17, 3
    assert get(url, place, lines).path.read_bytes() == source.read_bytes()
    assert sum("again in" in line for line in lines) == 3
    proxy.cut_after, proxy.cuts = 1 << 17, 99
    with pytest.raises(RemoteUnavailableError) as caught:
        get(url, tmp_path / "new")
    assert_survives_pickling(caught.value)
    assert left(tmp_path / "new") == []
    proxy.close()


def test_a_server_that_stalls(
    files: servers.Files, place: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that gives nothing more is given up and made again."""
    monkeypatch.setattr(remote, "STALL", 0.3)
    lines, url = list[str](), f"{serve(files, source)}/{FACTOR_FILE}?v=1"
    files.stalls = 1
    assert get(url, place, lines).path.read_bytes() == source.read_bytes()
    assert sum("again in" in line for line in lines) == 1


def test_a_server_that_goes_away_in_the_middle(
    bucket: Bucket, place: Path, source: Path, other: Path
) -> None:
    """The fetch ends with one message, though an older copy is there; the next one begins anew."""
    url = bucket.put(other, "run")
    copy = get(url, place).path
    bucket.put(source, "run")
    bucket.proxy.cut_after, bucket.proxy.cuts = source.stat().st_size // 2, 1
    with in_the_middle(bucket, source, bucket.proxy.close), pytest.raises(RemoteUnavailableError) as caught:
        get(url, place)
    assert f"SOTA_WORKSPACE_PATH={copy.parent}" in caught.value.fix
    bucket.proxy.open()
    assert get(url, place).path.read_bytes() == source.read_bytes()
    assert left(place) == []


def test_an_object_that_changes_meanwhile(bucket: Bucket, place: Path, source: Path, other: Path) -> None:
    """No file is made of two objects: the fetch ends with one message, and the next one begins anew."""
    url = bucket.put(source, "run")
    with (
        in_the_middle(bucket, source, lambda: bucket.put(other, "run")),
        pytest.raises(RemoteError, match="was changed while it was fetched"),
    ):
        get(url, place)
    assert (left(place), fetched.entries(place)) == ([], [])
    assert get(url, place).path.read_bytes() == other.read_bytes()


def test_a_kill_in_the_middle(bucket: Bucket, place: Path, source: Path) -> None:
    """After a kill -9 there is no copy, and the next process fetches anew and holds no lock of the dead."""
    url = bucket.put(source, "run")
    is_half = f"done > {source.stat().st_size // 2}"
    process = child(url, place, f"lambda _, done, __: {is_half} and os.kill(os.getpid(), {signal.SIGKILL:d})")
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert left(place) != []
    assert not list(place.rglob(FACTOR_FILE))
    assert get(url, place).path.read_bytes() == source.read_bytes()
    assert left(place) == []


@pytest.mark.parametrize(("where", "name"), [(Path, "replace"), (written_files, "write_whole")])
def test_killed_around_the_name(
    files: servers.Files, source: Path, monkeypatch: pytest.MonkeyPatch, where: object, name: str
) -> None:
    """Killed before the bytes have their name, or before the record: the next run, of any user, has both."""
    url = serve(files, source)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with public_folder() as folder:
        folder.chmod(0o777)
        with without_privileges():
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(where, name, die)
                get(url, folder / "store")
            found = get(url, folder / "store")
            assert found.path.stat().st_mode & 0o222 == 0
        assert found.path.read_bytes() == source.read_bytes()
        assert len(fetched.entries(folder / "store")) == 1
        assert left(folder / "store") == []


# --- without a server ---


@pytest.mark.parametrize("kind", ["s3", "http", "status"])
def test_a_server_that_can_not_be_reached(
    bucket: Bucket, files: servers.Files, place: Path, source: Path, tmp_path: Path, kind: str
) -> None:
    """The copy is used, with one note that says why and of when it is; without one there is one message.

    That fsspec's HTTP makes a missing file of a server that is away changes nothing.
    """
    serve(files, source)
    proxy = servers.Proxy(files.server_port)
    url = bucket.put(source, "run") if kind == "s3" else f"http://127.0.0.1:{proxy.port}/run"
    before = get(url, place)
    bucket.proxy.close()
    if kind == "http":
        proxy.close()
    files.status = 503
    after = get(url, place)
    assert after.path == before.path
    (note,) = after.notes
    assert "can't be reached" in note
    assert f"the copy that was fetched at {before.fetched} is used" in note
    with pytest.raises(RemoteUnavailableError, match="can't be reached") as caught:
        get(url, tmp_path / "new")
    assert caught.value.place == f"{url}/{FACTOR_FILE}"
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, RemoteError), (403, RemoteRefusedError), (404, FactorFileNotFoundError)],
)
def test_a_set_that_is_gone_or_closed_is_not_used_unasked(
    files: servers.Files, place: Path, source: Path, status: int, kind: type[Exception]
) -> None:
    """A server that answers is not offline: the message names the copy, for the user to take."""
    url = serve(files, source)
    copy = get(url, place).path
    files.status = status
    with pytest.raises(kind) as caught:
        get(url, place)
    assert f"SOTA_WORKSPACE_PATH={copy.parent}" in str(caught.value)


def test_a_copy_that_was_changed(bucket: Bucket, place: Path, source: Path) -> None:
    """A fetched file that was changed is named, and fetched anew; offline it is no copy."""
    url, content = bucket.put(source, "run"), source.read_bytes()
    path = get(url, place).path
    (copy,) = fetched.entries(place)
    assert fetched.changed(copy) == ""
    for changed in (b"?" + content[1:], content[1:]):
        path.chmod(0o644)
        path.write_bytes(changed)
        assert "was changed" in fetched.changed(copy)
        lines = list[str]()
        assert get(url, place, lines).path.read_bytes() == content
        assert "was changed after it was fetched" in lines[0]
    path.chmod(0o644)
    path.write_bytes(b"??" + content[2:])
    bucket.proxy.close()
    with pytest.raises(RemoteUnavailableError):
        get(url, place)


@pytest.mark.parametrize(
    "change",
    [
        *(b"", b"{", b"[]", b"\xff", {"form": 2}, {"digest": "md5:0"}, {"digest": 7}, {"size": "x"}),
        *({"fetched": "once"}, {"accepted": "yes"}, {"more": 1}),
    ],
    ids=str,
)
def test_a_record_that_means_nothing(
    files: servers.Files, place: Path, tmp_path: Path, change: bytes | dict[str, object]
) -> None:
    """A record that is damaged or of another form is fetched anew, and pruned; offline it is no copy."""
    url = serve(files, storage.factor_file(tmp_path / "small", days=20))
    found = get(url, place)
    (record,) = (place / store.FETCHED).glob("*.json")
    whole = json.loads(record.read_text())
    record.write_bytes(change if isinstance(change, bytes) else json.dumps({**whole, **change}).encode())
    assert fetched.prune(place, datetime.now(timezone.utc) + timedelta(days=1), dry_run=True)[1] == [record]
    files.status = 503
    with pytest.raises(RemoteUnavailableError):
        get(url, place)
    files.status = None
    assert get(url, place).path == found.path
    assert {**json.loads(record.read_text()), "fetched": ""} == {**whole, "fetched": ""}


def test_what_release_0_1_0_left(files: servers.Files, place: Path, source: Path) -> None:
    """Its records and copies are used, its parts are not, and prune removes all of it."""
    url, content, folder = serve(files, source), source.read_bytes(), place / store.FETCHED
    digest = hashlib.sha256(content).hexdigest()
    key = hashlib.sha256(f"{url}/{FACTOR_FILE}?".encode()).hexdigest()
    (folder / digest).mkdir(parents=True)
    (folder / digest / FACTOR_FILE).write_bytes(content)
    record = {
        "form": 1,
        "url": f"{url}/{FACTOR_FILE}",
        "identity": f'ETag="{hashlib.md5(content).hexdigest()}"\nsize={len(content)}',
        "digest": f"sha256:{digest}",
        "size": len(content),
        "fetched": "2026-01-31T09:00:00+00:00",
        "run": "a-run",
        "loop": 3,
        "workspace_id": "w",
        "accepted": True,
    }
    (folder / f"{key}.json").write_text(json.dumps(record, indent=1))
    for name in (f".{'0' * 64}.part", f".{'0' * 64}.part.json", f".{key}.part"):
        (folder / name).write_bytes(b"half")
    found = get(url, place)
    assert [method for method, _, _ in files.log] == ["HEAD"]
    assert (found.path, found.fetched) == (folder / digest / FACTOR_FILE, record["fetched"])
    assert found.origin == Origin("a-run", 3, "w", accepted=True)
    copies, others, _ = fetched.prune(place, datetime.now(timezone.utc) + timedelta(days=1), dry_run=False)
    assert (len(copies), len(others)) == (1, 3)
    assert {file.suffix for file in folder.iterdir()} <= {".lock", ".used"}


# --- who sees it ---


def test_lines_and_bytes(
    files: servers.Files, place: Path, source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log gets lines with the share; whoever draws a bar gets the bytes, and no such lines."""
    monkeypatch.setattr(fetch, "_LINE_SECONDS", 0.0)
    url, lines, moved = serve(files, source), list[str](), list[tuple[str, int, int | None]]()
    get(url, place, lines)
    assert any(line.endswith("(100%)") for line in lines)
    fetch.fetch(url, tmp_path / "new", lambda _: None, lambda *seen: moved.append(seen))
    size = source.stat().st_size
    assert moved[-1] == (f"{url}/{FACTOR_FILE}", size, size)
    assert [done for _, done, _ in moved] == sorted(done for _, done, _ in moved)


# --- the disk ---


def test_no_room(bucket: Bucket, place: Path, source: Path) -> None:
    """A disk that is full is one message, and nothing stays."""
    url = bucket.put(source, "run")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # which fails as a full disk does
    try:
        with pytest.raises(StoreError, match="can't be copied into the store"):
            get(url, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert left(place) == []


def test_a_place_that_is_no_folder(files: servers.Files, place: Path, source: Path) -> None:
    """A file where the store should be is one message."""
    place.write_text("mine")
    with pytest.raises(StoreError):
        get(serve(files, source), place)
    assert place.read_text() == "mine"


def test_a_store_that_may_only_be_read(files: servers.Files, source: Path, other: Path) -> None:
    """Who may not write a store uses what was fetched into it; where that is not enough: one message."""
    url = serve(files, source)
    with public_folder() as folder:
        found = get(url, folder / "store")
        with without_privileges():
            assert get(url, folder / "store") == found
        serve(files, other)
        with without_privileges(), pytest.raises(StoreError, match="can't be copied into the store"):
            get(url, folder / "store")

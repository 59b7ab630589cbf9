"""Sets behind URLs: fetched once, whole, and never another than was named."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.cli.path import progress_bar
from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
    StoreError,
)
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.locate import Located, Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.sharing import fetch, fetched, push, remote
from rdagent_sota_bridge.system import files as written_files
from tests import servers, storage
from tests.frames import assert_survives_pickling, public_folder, without_privileges
from tests.storage import Bucket


@pytest.fixture(scope="module")
def server() -> Iterator[storage.Storage]:
    """Run one S3 server for the module."""
    with storage.running() as made:
        yield made


@pytest.fixture
def bucket(
    server: storage.Storage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """Give a bucket of the test's own."""
    name = hashlib.md5(request.node.nodeid.encode()).hexdigest()
    with storage.new_bucket(server, name, monkeypatch) as made:
        yield made


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Files]:
    """Give an HTTP server, and no waiting."""
    monkeypatch.setattr(remote, "WAITS", (0.0, 0.0, 0.0))
    with servers.http_server() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the folder of a store that is not there yet."""
    return tmp_path / "a store"


def get(url: str, place: Path, lines: list[str] | None = None) -> Located:
    """Fetch a URL."""
    return fetch.fetch(url, place, (lines if lines is not None else []).append)


def parts(place: Path) -> list[Path]:
    """Return what a store holds of fetches that broke off, and temporary files."""
    return [file for file in (place / store.FETCHED).iterdir() if ".part" in file.name or ".tmp" in file.name]


def manifest_of(file: Path, state: str = "complete", **changes: object) -> bytes:
    """Return the manifest that a push of a file writes, or nearly."""
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    content = {
        "set_manifest_version": 1,
        "state": state,
        "digest": digest,
        "size": file.stat().st_size,
        "metrics": {"IC": 0.05, "ICIR": None},
        "origin": {"accepted": True},
    }
    return json.dumps({**content, **changes}).encode()


def pushed(file: Path, url: str) -> str:
    """Push a file, and return the URL of its folder."""
    push.push(Located(file), url, overwrite=False, progress=lambda *_: None)
    return url


def child(url: str, place: Path, progress: str = "None") -> subprocess.Popen[str]:
    """Fetch a URL in a process of its own, and print the path."""
    code = (
        "import os; from pathlib import Path; from rdagent_sota_bridge.sharing import fetch\n"
        f"print(fetch.fetch({url!r}, Path({str(place)!r}), lambda _: None, {progress}).path)"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env=os.environ)


# --- once ---


def test_a_folder_on_s3(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """The file comes byte for byte, under its content's name, read-only; asked again, less than 4 kB move."""
    source = storage.factor_file(tmp_path / "mined")
    url, lines = bucket.put(source, "team", "run 1".replace(" ", "-")), list[str]()
    found = get(url, place, lines)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert found.path == place / "fetched" / digest / FACTOR_FILE
    assert found.path.read_bytes() == source.read_bytes()
    assert found.path.stat().st_mode & 0o222 == 0
    assert (found.url, found.notes) == (f"{url}/{FACTOR_FILE}", ())
    assert any("is fetched into" in line for line in lines)
    assert parts(place) == []
    assert bucket.proxy.count() > source.stat().st_size
    assert get(url, place) == get(f"{url}/{FACTOR_FILE}", place) == found
    assert bucket.proxy.count() < 2 * 4000


def test_another_set_at_the_url(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A changed object is fetched anew, and what a run began with stays beside it."""
    url = bucket.put(storage.factor_file(tmp_path / "a"), "run")
    before = get(url, place)
    content = before.path.read_bytes()
    other = storage.factor_file(tmp_path / "b", seed=8)
    bucket.put(other, "run")
    assert get(url, place).path.read_bytes() == other.read_bytes()
    assert before.path.read_bytes() == content


def test_one_content_at_two_urls(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """Where a manifest names a set that is here, nothing moves; not where its object was written over."""
    source, other = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", seed=8)
    first = get(pushed(source, bucket.url("a")), place)
    url, lines = pushed(source, bucket.url("b")), list[str]()
    bucket.proxy.count()
    assert get(url, place, lines).path == first.path
    assert bucket.proxy.count() < 10_000
    assert "is here already" in lines[0]
    url = pushed(source, bucket.url("c"))
    assert source.stat().st_size == other.stat().st_size
    bucket.put(other, "c")
    with pytest.raises(RemoteError, match="not the set that its manifest names") as caught:
        get(url, place)
    assert parquet.current_digest(other) in caught.value.fact


def test_the_stored_set_is_the_fetched_file(
    bucket: Bucket, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetched set in normal form takes its room once, its links are no change, and it is read once."""
    monkeypatch.setattr(written_files, "clone", lambda *_: False)  # which takes no room either
    found = get(bucket.put(storage.factor_file(tmp_path / "mined"), "run"), place)
    digest = parquet.current_digest(found.path)
    stored = store.keep(store.Wanted(digest, ("momentum", "turnover"), ((found.path, digest),)), place)
    (copy,) = fetched.entries(place)
    assert copy.stored
    assert stored.path.samefile(found.path)
    fetched.current_digest(found.path)
    monkeypatch.setattr(parquet, "current_digest", None)  # read no more
    store.hand_out(stored, tmp_path / "linked.parquet", link=True)
    linked = store.find(digest, place)
    assert linked is not None
    assert linked.links == 1
    # A link changes the file's ctime, and nothing of its content.
    assert fetched.current_digest(found.path) == digest
    assert get(bucket.url("run"), place).path == found.path


def test_two_processes_fetch_once(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """Runs that start at once on one machine fetch one copy, and all get it."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    bucket.proxy.count()
    children = [child(url, place) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in children]
    assert [process.returncode for process in children] == [0, 0]
    assert len(set(outputs)) == 1
    assert source.stat().st_size < bucket.proxy.count() < 1.5 * source.stat().st_size


# --- broken ---


def test_a_cut_connection(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """A web server whose connection breaks, or that stalls, is asked four times; the log says each."""
    content = storage.factor_file(tmp_path / "mined").read_bytes()
    files.contents["/x/set.parquet"] = content
    proxy, lines = servers.Proxy(files.server_port), list[str]()
    url = f"http://127.0.0.1:{proxy.port}/x/set.parquet"
    proxy.cut_after, proxy.cuts = 1 << 17, 3
    assert get(url, place, lines).path.read_bytes() == content
    assert sum("again in" in line for line in lines) == 3
    proxy.cut_after, proxy.cuts = 1 << 17, 99
    with pytest.raises(RemoteUnavailableError) as caught:
        get(url, tmp_path / "other")
    assert_survives_pickling(caught.value)
    assert parts(tmp_path / "other") == []
    proxy.close()


def test_a_server_that_stalls(
    files: servers.Files, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that gives nothing more is given up and made again."""
    monkeypatch.setattr(remote, "STALL", 0.3)
    source, lines = storage.factor_file(tmp_path / "a"), list[str]()
    files.contents["/x/set.parquet"] = source.read_bytes()
    files.stalls = 1
    assert get(f"{files.url}/x/set.parquet", place, lines).path.read_bytes() == source.read_bytes()
    assert sum("again in" in line for line in lines) == 1


def test_a_server_that_goes_away_in_the_middle(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """The fetch ends with one message, though an older copy is there; the next one begins anew."""
    url = bucket.put(storage.factor_file(tmp_path / "a", seed=8), "run")
    copy = get(url, place).path
    source = storage.factor_file(tmp_path / "mined")
    bucket.put(source, "run")
    bucket.proxy.count()
    half = source.stat().st_size // 2
    bucket.proxy.on_bytes = lambda received: bucket.proxy.close() if received > half else None
    bucket.proxy.cut_after, bucket.proxy.cuts = half, 1
    with pytest.raises(RemoteUnavailableError) as caught:
        get(url, place)
    assert f"SOTA_WORKSPACE_PATH={copy.parent}" in caught.value.fix
    bucket.proxy.open()
    assert get(url, place).path.read_bytes() == source.read_bytes()
    assert parts(place) == []


def test_a_kill_in_the_middle(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """After a kill -9 there is no copy, and the next process fetches anew and holds no lock of the dead."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    half = source.stat().st_size // 2
    process = child(
        url, place, f"lambda _, done, __: done > {half} and os.kill(os.getpid(), {signal.SIGKILL:d})"
    )
    process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL
    assert parts(place) != []
    assert not list(place.rglob(FACTOR_FILE))
    assert get(url, place).path.read_bytes() == source.read_bytes()
    assert parts(place) == []


@pytest.mark.parametrize("point", ["replace", "write_whole"])
def test_killed_around_the_name(
    files: servers.Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    """Killed before the bytes have their name, or before the record: the next run, of any user, has both."""
    files.contents["/x/set.parquet"] = storage.factor_file(tmp_path / "a").read_bytes()

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with public_folder() as folder:
        folder.chmod(0o777)
        with without_privileges():
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(Path if point == "replace" else fetch, point, die)
                get(f"{files.url}/x/set.parquet", folder / "store")
            found = get(f"{files.url}/x/set.parquet", folder / "store")
            assert found.path.stat().st_mode & 0o222 == 0
        assert found.path.read_bytes() == files.contents["/x/set.parquet"]
        assert len(fetched.entries(folder / "store")) == 1
        assert parts(folder / "store") == []


def test_an_object_that_changes_meanwhile(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """No file is made of two objects: the fetch begins anew."""
    before, after = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", seed=8)
    url, changed, lines = bucket.put(before, "run"), list[int](), list[str]()

    def change(received: int) -> None:
        if received > before.stat().st_size // 2 and not changed:
            changed.append(received)
            bucket.put(after, "run")

    bucket.proxy.count()
    bucket.proxy.on_bytes = change
    assert get(url, place, lines).path.read_bytes() == after.read_bytes()
    assert changed
    assert any("has changed while it was fetched" in line for line in lines)


def test_an_object_that_never_rests(
    files: servers.Files, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written all the time is given up after three attempts, and nothing of it stays."""
    contents = [storage.factor_file(tmp_path / "a", seed=seed).read_bytes() for seed in range(4)]
    original = remote.Remote.get

    def changing(self: remote.Remote, *arguments: Any) -> None:
        files.contents["/x/set.parquet"] = contents.pop()
        original(self, *arguments)

    files.contents["/x/set.parquet"] = contents.pop()
    monkeypatch.setattr(remote.Remote, "get", changing)
    with pytest.raises(RemoteError, match="has changed 3 times"):
        get(f"{files.url}/x/set.parquet", place)
    assert parts(place) == []


# --- without a server ---


@pytest.mark.parametrize("kind", ["s3", "http", "status"])
def test_a_server_that_can_not_be_reached(
    bucket: Bucket, files: servers.Files, place: Path, tmp_path: Path, kind: str
) -> None:
    """The copy is used, with one note that says why and of when it is; without one there is one message.

    That fsspec's HTTP makes a missing file of a server that is away changes nothing.
    """
    source = storage.factor_file(tmp_path / "mined")
    files.contents[f"/run/{FACTOR_FILE}"] = source.read_bytes()
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
        get(url, tmp_path / "other")
    assert caught.value.place == f"{url}/{FACTOR_FILE}"
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (400, RemoteError),
        (403, RemoteRefusedError),
        (404, FactorFileNotFoundError),
        (410, FactorFileNotFoundError),
    ],
)
def test_a_set_that_is_gone_or_closed_is_not_used_unasked(
    files: servers.Files, place: Path, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    """A server that answers is not offline: the message names the copy, for the user to take."""
    files.contents[f"/run/{FACTOR_FILE}"] = storage.factor_file(tmp_path / "a").read_bytes()
    copy = get(f"{files.url}/run", place).path
    files.status = status
    with pytest.raises(kind) as caught:
        get(f"{files.url}/run", place)
    assert f"SOTA_WORKSPACE_PATH={copy.parent}" in str(caught.value)


def test_a_copy_that_was_changed(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A fetched file that that was changed is named, and fetched anew with a note; offline it is no copy."""
    source = storage.factor_file(tmp_path / "mined").read_bytes()
    url = bucket.put(tmp_path / "mined" / FACTOR_FILE, "run")
    path = get(url, place).path
    (copy,) = fetched.entries(place)
    assert fetched.changed(copy) == ""
    for content in (b"?" + source[1:], source[1:]):
        path.chmod(0o644)
        path.write_bytes(content)
        assert "was changed" in fetched.changed(copy)
        found = get(url, place)
        assert found.path.read_bytes() == source
        assert "was changed after it was fetched" in found.notes[0]
    assert get(url, place).notes == ()
    path.chmod(0o644)
    path.write_bytes(b"??" + source[2:])
    bucket.proxy.close()
    with pytest.raises(RemoteUnavailableError):
        get(url, place)


@pytest.mark.parametrize(
    "change",
    [
        b"",
        b"{",
        b"[]",
        b"\xff",
        {"form": 2},
        {"digest": "md5:0"},
        {"digest": 7},
        {"size": "x"},
        {"fetched": "once"},
        {"accepted": "yes"},
        {"more": 1},
    ],
    ids=str,
)
def test_a_record_that_means_nothing(
    bucket: Bucket, place: Path, tmp_path: Path, change: bytes | dict[str, object]
) -> None:
    """A record that is damaged or of another form is fetched anew, and pruned; offline it is no copy."""
    url = bucket.put(storage.factor_file(tmp_path / "mined", days=20), "run")
    found = get(url, place)
    (record,) = (place / store.FETCHED).glob("*.json")
    whole = json.loads(record.read_text())
    bad = change if isinstance(change, bytes) else json.dumps({**whole, **change}).encode()
    record.write_bytes(bad)
    assert fetched.prune(place, datetime.now(timezone.utc) + timedelta(days=1), dry_run=True)[1] == [record]
    bucket.proxy.close()
    with pytest.raises(RemoteUnavailableError):
        get(url, place)
    bucket.proxy.open()
    assert get(url, place).path == found.path
    assert {**json.loads(record.read_text()), "fetched": ""} == {**whole, "fetched": ""}


def test_what_release_0_1_0_left(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """Its records and copies are used, its parts are not, and prune removes all of it."""
    source = storage.factor_file(tmp_path / "mined")
    content, folder = source.read_bytes(), place / store.FETCHED
    files.contents[f"/run/{FACTOR_FILE}"] = content
    digest, key = (
        hashlib.sha256(content).hexdigest(),
        hashlib.sha256(f"{files.url}/run/{FACTOR_FILE}?".encode()),
    )
    (folder / digest).mkdir(parents=True)
    (folder / digest / FACTOR_FILE).write_bytes(content)
    record = {
        "form": 1,
        "url": f"{files.url}/run/{FACTOR_FILE}",
        "identity": f'ETag="{hashlib.md5(content).hexdigest()}"\nsize={len(content)}',
        "digest": f"sha256:{digest}",
        "size": len(content),
        "fetched": "2026-01-31T09:00:00+00:00",
        "run": "a-run",
        "loop": 3,
        "workspace_id": "w",
        "accepted": True,
    }
    (folder / f"{key.hexdigest()}.json").write_text(json.dumps(record, indent=1))
    for name in (f".{'0' * 64}.part", f".{'0' * 64}.part.json", f".{key.hexdigest()}.part"):
        (folder / name).write_bytes(b"half")
    found = get(f"{files.url}/run", place)
    assert [method for method, _, _ in files.log] == ["HEAD"]
    assert (found.path, found.fetched) == (folder / digest / FACTOR_FILE, record["fetched"])
    assert found.origin == Origin("a-run", 3, "w", accepted=True)
    copies, others = fetched.prune(place, datetime.now(timezone.utc) + timedelta(days=1), dry_run=False)
    assert (len(copies), len(others)) == (1, 3)
    assert {file.suffix for file in folder.iterdir()} <= {".lock"}


# --- the manifest ---


@pytest.mark.parametrize("days", [600, 300], ids=["another digest", "another size"])
def test_a_set_that_does_not_fit(bucket: Bucket, place: Path, tmp_path: Path, days: int) -> None:
    """Other bytes than the manifest's do not stay; another size is told before they move."""
    source, other = (
        storage.factor_file(tmp_path / "a"),
        storage.factor_file(tmp_path / "b", seed=8, days=days),
    )
    url = bucket.put(source, "run")
    bucket.fs.pipe(f"{bucket.name}/run/{fetch.MANIFEST}", manifest_of(other))
    bucket.proxy.count()
    with pytest.raises(RemoteError, match="not the set that its manifest names") as caught:
        get(url, place)
    assert parquet.current_digest(other) in str(caught.value)
    assert parquet.current_digest(source) in caught.value.fact or bucket.proxy.count() < 10_000
    assert parts(place) == []
    assert not list(place.rglob(FACTOR_FILE))


def test_a_set_of_a_rejected_loop(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """The manifest's verdict is a note of every run, also without a server; metrics lie beside the file."""
    source = storage.factor_file(tmp_path / "a")
    url = bucket.put(source, "run")
    text = manifest_of(source, origin={"accepted": False, "run": "a-run", "loop": 3, "workspace_id": "w"})
    bucket.fs.pipe(f"{bucket.name}/run/{fetch.MANIFEST}", text)
    first = get(url, place)
    assert first.origin == Origin("a-run", 3, "w", accepted=False)
    assert parquet.metrics_beside(first.path) == {"IC": 0.05}
    (note,) = first.notes
    assert "is the set of loop 3 of a-run, which its run rejected" in note
    assert get(url, place) == first
    bucket.proxy.close()
    assert note in get(url, place).notes


@pytest.mark.parametrize(
    ("change", "fact"),
    [
        (b"", "says nothing that is known"),
        (b"{", "says nothing that is known"),
        (b"[]", "says nothing that is known"),
        (b"<html>", "says nothing that is known"),
        (b"\xff", "says nothing that is known"),
        (b" " * 1001, "is no manifest"),
        ({"set_manifest_version": 2}, "says nothing that is known"),
        ({"digest": "md5:0"}, "says nothing that is known"),
        ({"digest": 7}, "says nothing that is known"),
        ({"size": "x"}, "says nothing that is known"),
        ({"metrics": []}, "says nothing that is known"),
        ({"origin": None}, "says nothing that is known"),
        ({"state": "half"}, "says nothing that is known"),
        ({"state": "uploading"}, "not whole"),
    ],
    ids=str,
)
def test_a_manifest_that_says_nothing(
    files: servers.Files,
    place: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: bytes | dict[str, object],
    fact: str,
) -> None:
    """A damaged or endless manifest, one of another release, and one of half a push stop with one message."""
    monkeypatch.setattr(remote, "SMALL", 1000)
    files.lengths = False
    source = storage.factor_file(tmp_path, days=2)
    files.contents[f"/x/{FACTOR_FILE}"] = source.read_bytes()
    text = change if isinstance(change, bytes) else manifest_of(source, **change)  # type: ignore[arg-type]
    files.contents[f"/x/{fetch.MANIFEST}"] = text
    with pytest.raises(RemoteError, match=fact) as caught:
        get(f"{files.url}/x", place)
    assert f"{files.url}/x/{fetch.MANIFEST}" in caught.value.place


# --- other servers ---


@pytest.mark.parametrize("tells", ["all", "no ranges", "no length"])
def test_http(files: servers.Files, place: Path, tmp_path: Path, tells: str) -> None:
    """A plain web server will do, and one HEAD for what was fetched before."""
    files.ranges, files.lengths = tells == "all", tells != "no length"
    source = storage.factor_file(tmp_path / "a")
    files.contents[f"/x/{FACTOR_FILE}"] = source.read_bytes()
    found = get(f"{files.url}/x", place)
    assert found.path.read_bytes() == source.read_bytes()
    files.log.clear()
    assert get(f"{files.url}/x/", place) == found
    assert files.log[0] == ("HEAD", f"/x/{FACTOR_FILE}", "")
    assert len(files.log) == 1 or tells == "no length"


def test_http_that_tells_nothing_of_its_files(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """Without ETag and time nothing says that a file is the same: it is fetched each time, and right."""
    files.tags = False
    for seed in (7, 8):
        source = storage.factor_file(tmp_path / "a", seed=seed)
        files.contents[f"/x/{FACTOR_FILE}"] = source.read_bytes()
        assert get(f"{files.url}/x", place).path.read_bytes() == source.read_bytes()
    files.contents[f"/x/{fetch.MANIFEST}"] = manifest_of(source)
    files.contents[f"/x/{FACTOR_FILE}"] = storage.factor_file(tmp_path / "a", seed=9).read_bytes()
    with pytest.raises(RemoteError, match="not the set that its manifest names"):
        get(f"{files.url}/x", place)


def test_http_that_gives_half(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """A file whose end is missing, with an ETag and no length, is no copy; nor is a page, such as a login."""
    files.lengths = files.ranges = False
    content = storage.factor_file(tmp_path / "a").read_bytes()
    for given in (content[: len(content) // 2], b"<html>Log in</html>", b""):
        files.contents[f"/x/{FACTOR_FILE}"] = given
        with pytest.raises(RemoteError, match="no whole parquet file"):
            get(f"{files.url}/x", place)
        assert parts(place) == []
        assert fetched.entries(place) == []
        assert not list((place / store.FETCHED).glob("*.json"))
    files.contents[f"/x/{FACTOR_FILE}"] = content
    assert get(f"{files.url}/x", place).path.read_bytes() == content


def test_a_signed_url(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """Another signature is the same file; no manifest is looked for beside it; no secret is kept or told."""
    files.contents[f"/x/{FACTOR_FILE}"] = storage.factor_file(tmp_path / "a").read_bytes()
    base, lines = f"{files.url}/x/{FACTOR_FILE}", list[str]()
    get(f"{base}?X-Amz-Signature=0123456789abcdef&X-Amz-Date=1", place, lines)
    gets = len(files.log)
    other = f"{base}?X-Amz-Signature=fedcba9876543210&X-Amz-Date=2"
    found = get(other, place, lines)
    assert [entry[0] for entry in files.log[gets:]] == ["HEAD"]
    assert not [path for _, path, _ in files.log if path.endswith(fetch.MANIFEST)]
    files.status = 503
    noted = get(other, place, lines)
    files.status = 403
    with pytest.raises(RemoteRefusedError) as caught:
        get(other, place, lines)
    kept = "".join(file.read_text() for file in (place / store.FETCHED).glob("*.json"))
    everything = f"{found}{noted}{lines}{kept}{caught.value}{sorted(place.rglob('*'))}"
    for secret in ("0123456789abcdef", "fedcba9876543210"):
        assert secret not in everything
    assert f"{base}?***" in everything


def test_keys() -> None:
    """A signature and a slash at the end make no other name; a version, a path and another query do."""
    plain = fetch.key_of("https://host/x")
    for same in (
        "https://host/x/",
        "HTTPS://host/x#part",
        "https://host/x?X-Amz-Signature=1&X-Amz-Date=2",
        "https://host/x?AWSAccessKeyId=1&Signature=2&Expires=3",
        "https://host/x?X-Goog-Signature=1&X-Goog-Date=2",
        "https://host/x?Key-Pair-Id=1&Signature=2&Policy=3",
        "https://host/x?sv=1&sig=2&se=3&st=4&sp=r&sr=b&skoid=5",
    ):
        assert fetch.key_of(same) == plain
    others = ("versionId=1", "versionId=2", "se=A", "se=B", "expires=A", "policy=A", "x=", "X-Amz-Date=1")
    keys = {fetch.key_of(f"https://host/x?{query}") for query in others}
    assert len({*keys, plain, fetch.key_of("https://host/y"), fetch.key_of("s3://host/x#1")}) == 11


def test_memory_and_file(place: Path, tmp_path: Path) -> None:
    """What fsspec has without a driver is taken as well, such as a share; `#` is a letter of its path."""
    import fsspec

    other, source = storage.factor_file(tmp_path / "exp"), storage.factor_file(tmp_path / "exp#2", seed=8)
    assert get(f"file://{source.parent}", place).path.read_bytes() == source.read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/test-fetched/{FACTOR_FILE}", other.read_bytes())
    try:
        assert get("memory://test-fetched", place).path.read_bytes() == other.read_bytes()
    finally:
        memory.rm("/test-fetched", recursive=True)


# --- who is told ---


def test_lines_and_bytes(
    files: servers.Files, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log gets lines with the share; whoever draws a bar gets the bytes, and no such lines."""
    monkeypatch.setattr(fetch, "_LINE_SECONDS", 0.0)
    source, lines = storage.factor_file(tmp_path / "a"), list[str]()
    files.contents["/x/set.parquet"] = source.read_bytes()
    url, moved = f"{files.url}/x/set.parquet", list[tuple[str, int, int | None]]()
    get(url, place, lines)
    assert any(line.endswith("(100%)") for line in lines)
    fetch.fetch(url, tmp_path / "other", lambda _: None, lambda *seen: moved.append(seen))
    size = source.stat().st_size
    assert moved[-1] == (url, size, size)
    assert [done for _, done, _ in moved] == sorted(done for _, done, _ in moved)


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar(terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal shows a bar on stderr, and nothing else does."""
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar() as show:
        show("s3://bucket/run", 1, None)
        show("s3://bucket/run", 50, 100)
    shown = capsys.readouterr()
    assert ("s3://bucket/run" in shown.err) is terminal
    assert terminal or shown.err == ""
    assert shown.out == ""


# --- the disk ---


def test_no_room(bucket: Bucket, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without the room is told before a byte moves, and where it is full meanwhile; nothing stays."""
    url = bucket.put(storage.factor_file(tmp_path / "a"), "run")
    with monkeypatch.context() as patched:
        patched.setattr(fetch, "_SPARE", 1 << 60)
        with pytest.raises(StoreError, match="are free"):
            get(url, place)
    assert bucket.proxy.count() < 10_000
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))  # which fails as a full disk does
    try:
        with pytest.raises(StoreError, match="can't be copied into the store"):
            get(url, place)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert parts(place) == []


def test_a_place_that_is_no_folder(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A file where the store should be is one message."""
    url = bucket.put(storage.factor_file(tmp_path / "a"), "run")
    place.write_text("mine")
    with pytest.raises(StoreError):
        get(url, place)
    assert place.read_text() == "mine"


def test_a_store_that_may_only_be_read(bucket: Bucket, tmp_path: Path) -> None:
    """Who may not write a store uses what was fetched into it, and is told where that is not enough."""
    url = bucket.put(storage.factor_file(tmp_path / "a"), "run")
    with public_folder() as folder:
        place = folder / "store"
        found = get(url, place)
        with without_privileges():
            assert get(url, place) == found
        bucket.put(storage.factor_file(tmp_path / "b", seed=8), "run")
        with without_privileges(), pytest.raises(StoreError, match="can't be copied into the store"):
            get(url, place)


def test_entries_and_prune(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """Fetched sets are listed with their URLs, and go when nobody has asked for them, as do broken parts."""
    assert fetched.entries(place) == []
    old = get(bucket.put(storage.factor_file(tmp_path / "a"), "old"), place)
    new = get(bucket.put(storage.factor_file(tmp_path / "b", seed=8), "new"), place)
    used = get(bucket.put(storage.factor_file(tmp_path / "c", seed=9), "used"), place)
    then, part = time.time() - 40 * 24 * 3600, place / store.FETCHED / f".{'0' * 64}.part"
    part.write_bytes(b"?")
    for file in [part, *(place / store.FETCHED).glob("*.json"), old.path.parent, used.path.parent]:
        os.utime(file, (then, then))
    fetched.current_digest(used.path)  # a run asks its URL once, and its loops look at the file for weeks
    assert {copy.urls for copy in fetched.entries(place)} == {(old.url,), (new.url,), (used.url,)}
    before = datetime.now(timezone.utc) - timedelta(days=30)
    copies, others = fetched.prune(place, before, dry_run=True)
    assert ([copy.path for copy in copies], others) == ([old.path], [part])
    assert old.path.exists()
    assert fetched.prune(place, before, dry_run=False) == (copies, others)
    assert not old.path.parent.exists()
    assert {copy.path for copy in fetched.entries(place)} == {new.path, used.path}
    assert parts(place) == []
    assert get(bucket.url("old"), place).path == old.path

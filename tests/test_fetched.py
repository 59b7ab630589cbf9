"""Sets behind URLs: fetched once, whole, gone on with after a break, and never another than was named."""

from __future__ import annotations

import hashlib
import json
import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from rdagent_sota_bridge import factors, fetched, filesystem, published, push, remote, store
from rdagent_sota_bridge.cli import fetching
from rdagent_sota_bridge.errors import (
    FactorFileNotFoundError,
    RemoteError,
    RemoteRefusedError,
    RemoteUnavailableError,
    StoreError,
)
from rdagent_sota_bridge.locate import Located, Origin
from rdagent_sota_bridge.names import FACTOR_FILE
from tests import servers, storage
from tests.frames import assert_survives_pickling, public_folder, without_privileges
from tests.storage import BLOCK, Bucket


@pytest.fixture(scope="module")
def server() -> Iterator[storage.Storage]:
    """Run one S3 server for the module."""
    with storage.running() as made:
        yield made


@pytest.fixture
def bucket(
    server: storage.Storage, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Bucket]:
    """Give a bucket of the test's own, small blocks, and no waiting."""
    monkeypatch.setattr(remote, "BLOCK", BLOCK)
    monkeypatch.setattr(fetched, "WAITS", (0.0, 0.0))
    name = hashlib.md5(request.node.nodeid.encode()).hexdigest()
    with storage.new_bucket(server, name, monkeypatch) as made:
        yield made


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> Iterator[servers.Files]:
    """Give an HTTP server, small blocks, and no waiting."""
    monkeypatch.setattr(remote, "BLOCK", BLOCK)
    monkeypatch.setattr(fetched, "WAITS", (0.0, 0.0))
    with servers.http_server() as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Return the folder of a store that is not there yet."""
    return tmp_path / "a store"


def fetch(url: str, place: Path, told: list[str] | None = None) -> Located:
    """Fetch a URL."""
    return fetched.fetch(url, place, fetched.Watch((told if told is not None else []).append))


def left(place: Path) -> list[str]:
    """Return what a store's folder of fetched sets holds beside locks, records and contents."""
    return sorted(
        file.name
        for file in (place / store.FETCHED).iterdir()
        if ".part" in file.name or file.name.startswith(".tmp")
    )


def manifest_of(file: Path, state: str = published.COMPLETE, **changes: object) -> bytes:
    """Return the manifest that a push of a file writes, or nearly."""
    digest = f"sha256:{hashlib.sha256(file.read_bytes()).hexdigest()}"
    content = {
        "digest": digest,
        "size": file.stat().st_size,
        "metrics": {"IC": 0.05, "ICIR": None},
        "origin": {"accepted": True},
    }
    return published.text({**content, **changes}, state)


def pushed(file: Path, url: str) -> str:
    """Push a file, and return the URL of its folder."""
    push.push(Located(file), url, replace=False, progress=lambda *_: None)
    return url


# --- once ---


def test_a_folder_on_s3(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """The file comes byte for byte, under its content's name, read-only, and the URL is remembered."""
    source = storage.factor_file(tmp_path / "mined")
    told: list[str] = []
    found = fetch(bucket.put(source, "team", "run 1"), place, told)
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    assert found.path == place / "fetched" / digest / FACTOR_FILE
    assert found.path.read_bytes() == source.read_bytes()
    assert found.path.stat().st_mode & 0o222 == 0
    assert found.url == bucket.url("team", "run 1", FACTOR_FILE)
    assert found.notes == ()
    assert left(place) == []
    assert any("is fetched into" in line for line in told)


def test_a_second_fetch_moves_no_set(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """What was fetched once is asked for by its ETag: less than 4 kB of a set of half a megabyte."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    first = fetch(url, place)
    assert bucket.proxy.count() > source.stat().st_size
    assert fetch(url, place) == first
    assert fetch(f"{url}/{FACTOR_FILE}", place) == first
    assert bucket.proxy.count() < 2 * 4000


def test_another_set_at_the_url(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A changed object is fetched anew, and what a run began with stays beside it."""
    url = bucket.put(storage.factor_file(tmp_path / "a"), "run")
    before = fetch(url, place)
    content = before.path.read_bytes()
    other = storage.factor_file(tmp_path / "b", seed=8)
    bucket.put(other, "run")
    after = fetch(url, place)
    assert after.path != before.path
    assert after.path.read_bytes() == other.read_bytes()
    assert before.path.read_bytes() == content


def test_one_content_at_two_urls(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A set has one name everywhere: where a manifest names one that is here, nothing is moved."""
    source = storage.factor_file(tmp_path / "mined")
    for folder in ("a", "b"):
        pushed(source, bucket.url(folder))
    first = fetch(bucket.url("a"), place)
    bucket.proxy.count()
    told: list[str] = []
    second = fetch(bucket.url("b"), place, told)
    assert second.path == first.path
    assert bucket.proxy.count() < 10_000
    assert "is here already" in told[0]


def test_an_object_that_was_written_over_beside_its_manifest(
    bucket: Bucket, place: Path, tmp_path: Path
) -> None:
    """A manifest is believed of the object that was pushed: another of the same size is refused."""
    source, other = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", seed=8)
    assert source.stat().st_size == other.stat().st_size
    fetch(pushed(source, bucket.url("a")), place)
    url = pushed(source, bucket.url("b"))
    bucket.put(other, "b")
    with pytest.raises(RemoteError, match="not the set that its manifest names") as caught:
        fetch(url, place)
    assert factors.current_digest(other) in caught.value.fact


def test_a_set_that_was_mined_here(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A set that the store has from a workspace is not fetched, and not kept twice."""
    source = storage.factor_file(tmp_path / "mined")
    digest = factors.current_digest(source)
    stored = store.keep(store.Wanted(digest, ("momentum", "turnover"), ((source, digest),)), place)
    url = pushed(source, bucket.url("run"))
    bucket.proxy.count()
    found = fetch(url, place)
    assert bucket.proxy.count() < 10_000
    assert found.path.read_bytes() == source.read_bytes()
    assert store.spoilt(stored) == ""


def test_a_set_that_was_mined_here_and_can_not_be_linked(
    bucket: Bucket, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the stored set is copied and not linked, the copy is read-only all the same."""
    source = storage.factor_file(tmp_path / "mined")
    digest = factors.current_digest(source)
    store.keep(store.Wanted(digest, ("momentum", "turnover"), ((source, digest),)), place)
    monkeypatch.setattr(filesystem, "clone", lambda *_: False)
    monkeypatch.setattr(filesystem, "link", lambda *_: False)
    found = fetch(pushed(source, bucket.url("run")), place)
    assert found.path.stat().st_mode & 0o222 == 0


def test_a_linked_copy_is_dated_by_its_fetch(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """The time of a file that is a link to the stored set is not that of the fetch."""
    source = storage.factor_file(tmp_path / "mined")
    digest = factors.current_digest(source)
    stored = store.keep(store.Wanted(digest, ("momentum", "turnover"), ((source, digest),)), place)
    os.utime(stored.path, (1e9, 1e9))
    found = fetch(pushed(source, bucket.url("run")), place)
    (copy,) = fetched.entries(place)
    assert copy.fetched == datetime.fromisoformat(found.fetched)


def test_the_stored_set_is_the_fetched_file(
    bucket: Bucket, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fetched set in normal form takes its room once, its links are no change, and it is read once."""
    monkeypatch.setattr(filesystem, "clone", lambda *_: False)  # which takes no room either
    found = fetch(bucket.put(storage.factor_file(tmp_path / "mined"), "run"), place)
    digest = factors.current_digest(found.path)
    wanted = store.Wanted(digest, ("momentum", "turnover"), ((found.path, digest),))
    stored = store.keep(wanted, place)
    again = store.find(digest, place)
    assert again is not None
    (copy,) = fetched.entries(place)
    assert copy.stored
    assert stored.path.samefile(found.path)
    assert again.links == 0
    fetched.current_digest(found.path)
    monkeypatch.setattr(factors, "current_digest", None)  # read no more
    store.hand_out(stored, tmp_path / "linked.parquet", link=True)
    linked = store.find(digest, place)
    assert linked is not None
    assert linked.links == 1
    # A link changes the file's ctime, and nothing of its content.
    assert fetched.current_digest(found.path) == digest
    assert fetch(bucket.url("run"), place).path == found.path


def test_many_processes_fetch_once(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """Runs that start at once on one machine fetch one copy, and all get it."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    bucket.proxy.count()
    children = [child(url, place) for _ in range(2)]
    outputs = [process.communicate(timeout=60)[0] for process in children]
    assert [process.returncode for process in children] == [0, 0]
    assert len(set(outputs)) == 1
    assert source.stat().st_size < bucket.proxy.count() < 1.5 * source.stat().st_size


def child(url: str, place: Path) -> subprocess.Popen[str]:
    """Fetch a URL in a process of its own, and print the path."""
    code = f"""
        from pathlib import Path
        from rdagent_sota_bridge import fetched, remote
        remote.BLOCK = {BLOCK}
        print(fetched.fetch({url!r}, Path({str(place)!r}), fetched.Watch(lambda _: None)).path)
    """
    return subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(code)], stdout=subprocess.PIPE, text=True, env=os.environ
    )


# --- broken ---


def test_a_cut_connection(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A fetch that is cut in the middle goes on from there: what came over twice is less than a block."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    bucket.proxy.count()
    bucket.proxy.cut_after, bucket.proxy.cuts = BLOCK // 2, 2
    found = fetch(url, place)
    assert bucket.proxy.cuts == 0
    assert found.path.read_bytes() == source.read_bytes()
    assert bucket.proxy.count() < source.stat().st_size + 4 * BLOCK


def test_a_server_that_goes_away_in_the_middle(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """The fetch ends with one message after some attempts, and the next one begins where it ended."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    half = source.stat().st_size // 2
    bucket.proxy.on_bytes = lambda received: bucket.proxy.close() if received > half else None
    told: list[str] = []
    with pytest.raises(RemoteUnavailableError) as caught:
        fetch(url, place, told)
    assert_survives_pickling(caught.value)
    assert "what was fetched is kept" in str(caught.value)
    assert sum("again in" in line for line in told) == 3
    (part,) = (file for file in left(place) if file.endswith(".part"))
    kept = (place / store.FETCHED / part).stat().st_size
    assert half - BLOCK < kept < source.stat().st_size
    bucket.proxy.open()
    found = fetch(url, place)
    assert found.path.read_bytes() == source.read_bytes()
    assert bucket.proxy.count() < source.stat().st_size - kept + BLOCK
    assert left(place) == []


def test_a_server_that_stalls(
    files: servers.Files, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A request that gives nothing more is given up and made again."""
    monkeypatch.setattr(remote, "STALL", 0.3)
    source = storage.factor_file(tmp_path / "a")
    files.contents["/x/set.parquet"] = source.read_bytes()
    files.stalls = 1
    told: list[str] = []
    assert fetch(f"{files.url}/x/set.parquet", place, told).path.read_bytes() == source.read_bytes()
    assert sum("again in" in line for line in told) == 1


def test_a_kill_in_the_middle(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """After a kill -9 the next process goes on with the part, and holds no lock of the dead."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    size, killed = source.stat().st_size, []
    process: list[subprocess.Popen[str]] = []

    def kill(received: int) -> None:
        if received > size // 2 and not killed:
            killed.append(received)
            process[0].send_signal(signal.SIGKILL)
            time.sleep(0.2)  # until it is dead, for the next bytes

    bucket.proxy.on_bytes = kill
    bucket.proxy.count()
    process.append(child(url, place))
    process[0].communicate(timeout=60)
    assert process[0].returncode == -signal.SIGKILL
    assert [name for name in left(place) if name.endswith(".part")]
    assert not list(place.rglob(FACTOR_FILE))
    bucket.proxy.on_bytes = None
    bucket.proxy.count()
    found = fetch(url, place)
    assert found.path.read_bytes() == source.read_bytes()
    assert bucket.proxy.count() < size * 3 // 4
    assert left(place) == []


def test_killed_before_the_bytes_have_their_name(
    bucket: Bucket, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the record and the file nothing is lost: the next run takes the whole part."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")

    write_whole = fetched.write_whole

    def die_after_the_record(target: Path, text: str) -> None:
        write_whole(target, text)
        if not target.name.startswith("."):
            raise KeyboardInterrupt

    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(fetched, "write_whole", die_after_the_record)
        fetch(url, place)
    assert left(place) != []
    bucket.proxy.count()
    found = fetch(url, place)
    assert found.path.read_bytes() == source.read_bytes()
    assert bucket.proxy.count() < 10_000


def test_killed_while_the_bytes_get_their_name(
    files: servers.Files, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is left of a kill there can be written by the next run, also of a user whom modes bind."""
    files.contents["/x/set.parquet"] = storage.factor_file(tmp_path / "a").read_bytes()
    replace = Path.replace

    def die(self: Path, target: Path) -> Path:
        if self.suffix == ".part":
            raise KeyboardInterrupt
        return replace(self, target)

    with public_folder() as folder:
        folder.chmod(0o777)
        place = folder / "store"
        with without_privileges():
            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(Path, "replace", die)
                fetch(f"{files.url}/x/set.parquet", place)
            assert left(place) != []
            found = fetch(f"{files.url}/x/set.parquet", place)
            assert found.path.stat().st_mode & 0o222 == 0
        assert left(place) == []


def test_an_object_that_changes_between_the_blocks(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """No file is made of two objects: S3 refuses the next block, and the fetch begins anew."""
    before, after = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", seed=8)
    url = bucket.put(before, "run")
    changed: list[int] = []

    def change(received: int) -> None:
        if received > before.stat().st_size // 2 and not changed:
            changed.append(received)
            bucket.put(after, "run")

    bucket.proxy.on_bytes = change
    told: list[str] = []
    found = fetch(url, place, told)
    assert changed
    assert found.path.read_bytes() == after.read_bytes()
    assert any("has changed while it was fetched" in line for line in told)


def test_an_object_that_never_rests(
    files: servers.Files, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that is written all the time is given up after some attempts, and nothing of it stays."""
    contents = [storage.factor_file(tmp_path / "a", seed=seed).read_bytes() for seed in range(4)]
    original = remote.Remote.blocks

    def changing(self: remote.Remote, *arguments: object) -> Iterator[bytes]:
        files.contents["/x/set.parquet"] = contents.pop()
        return original(self, *arguments)  # type: ignore[arg-type]

    files.contents["/x/set.parquet"] = contents.pop()
    monkeypatch.setattr(remote.Remote, "blocks", changing)
    with pytest.raises(RemoteError, match="has changed 3 times"):
        fetch(f"{files.url}/x/set.parquet", place)
    assert contents == []
    assert left(place) == []


def test_a_part_of_another_object_is_dropped(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """What is left of a broken fetch counts only while the ETag is the same."""
    before, after = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", seed=8)
    url = bucket.put(before, "run")
    half = before.stat().st_size // 2
    bucket.proxy.on_bytes = lambda received: bucket.proxy.close() if received > half else None
    with pytest.raises(RemoteUnavailableError):
        fetch(url, place)
    bucket.put(after, "run")
    bucket.proxy.open()
    assert fetch(url, place).path.read_bytes() == after.read_bytes()


# --- without a server ---


def test_offline_with_a_copy(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """The copy is used, with one note that says so, why, and of when it is."""
    url = bucket.put(storage.factor_file(tmp_path / "mined"), "run")
    before = fetch(url, place)
    bucket.proxy.close()
    after = fetch(url, place)
    assert after.path == before.path
    (note,) = after.notes
    assert "can't be reached" in note
    assert f"the copy that was fetched at {before.fetched} is used" in note


def test_offline_without_a_copy(bucket: Bucket, place: Path) -> None:
    """Without a copy there is one message, and no folder is made."""
    bucket.proxy.close()
    with pytest.raises(RemoteUnavailableError, match="can't be reached") as caught:
        fetch(bucket.url("run"), place)
    assert caught.value.place == bucket.url("run", FACTOR_FILE)
    assert not place.exists()


@pytest.mark.parametrize(("status", "kind"), [(404, FactorFileNotFoundError), (403, RemoteRefusedError)])
def test_a_set_that_is_gone_or_closed_is_not_used_unasked(
    files: servers.Files, place: Path, tmp_path: Path, status: int, kind: type[Exception]
) -> None:
    """A server that answers is not offline: the message names the copy, for the user to take."""
    files.contents[f"/run/{FACTOR_FILE}"] = storage.factor_file(tmp_path / "a").read_bytes()
    copy = fetch(f"{files.url}/run", place).path
    files.status = status
    with pytest.raises(kind) as caught:
        fetch(f"{files.url}/run", place)
    assert f"SOTA_WORKSPACE_PATH={copy.parent}" in str(caught.value)


def test_a_server_that_fails(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """A server's own failure is like none: the copy is used, with a note."""
    files.contents[f"/run/{FACTOR_FILE}"] = storage.factor_file(tmp_path / "a").read_bytes()
    copy = fetch(f"{files.url}/run", place)
    files.status = 503
    again = fetch(f"{files.url}/run", place)
    assert again.path == copy.path
    assert "503" in again.notes[0]


def test_a_copy_that_was_changed(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A fetched file that is not what it was is fetched anew, with a note; offline it is not used."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    path = fetch(url, place).path
    path.chmod(0o644)
    path.write_bytes(b"?" + source.read_bytes()[1:])
    found = fetch(url, place)
    assert found.path.read_bytes() == source.read_bytes()
    assert "was changed after it was fetched" in found.notes[0]
    path.chmod(0o644)
    path.write_bytes(source.read_bytes()[1:])
    assert "was changed after it was fetched" in fetch(url, place).notes[0]
    assert fetch(url, place).notes == ()
    path.chmod(0o644)
    path.write_bytes(b"??" + source.read_bytes()[2:])
    bucket.proxy.close()
    with pytest.raises(RemoteUnavailableError):
        fetch(url, place)


# --- manifests ---


def test_the_manifests_metrics_lie_beside_the_copy(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """The copy's folder is like a workspace: the factor run's metrics are read from it as from one."""
    source = storage.factor_file(tmp_path / "mined")
    url = bucket.put(source, "run")
    bucket.fs.pipe(f"{bucket.name}/run/{published.FILE}", manifest_of(source))
    assert factors.metrics_beside(fetch(url, place).path) == {"IC": 0.05}


def test_a_digest_that_does_not_fit(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """Bytes that are not the manifest's are an error with both digests, and do not stay."""
    source, other = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", seed=8)
    assert source.stat().st_size == other.stat().st_size
    url = bucket.put(source, "run")
    bucket.fs.pipe(f"{bucket.name}/run/{published.FILE}", manifest_of(other))
    with pytest.raises(RemoteError) as caught:
        fetch(url, place)
    assert factors.current_digest(source) in caught.value.fact
    assert factors.current_digest(other) in caught.value.fact
    assert left(place) == []
    assert not list(place.rglob(FACTOR_FILE))


def test_a_size_that_does_not_fit(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """Another size than the manifest's is told before a byte of the set is moved."""
    source, other = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", days=300)
    url = bucket.put(source, "run")
    bucket.fs.pipe(f"{bucket.name}/run/{published.FILE}", manifest_of(other))
    bucket.proxy.count()
    with pytest.raises(RemoteError, match="not the set that its manifest names"):
        fetch(url, place)
    assert bucket.proxy.count() < 10_000


def test_a_push_that_broke_off(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A manifest that says `uploading` is an error: the file beside it may be any."""
    source = storage.factor_file(tmp_path / "a")
    url = bucket.put(source, "run")
    bucket.fs.pipe(f"{bucket.name}/run/{published.FILE}", manifest_of(source, published.UPLOADING))
    with pytest.raises(RemoteError, match="not whole"):
        fetch(url, place)


def test_a_set_of_a_rejected_loop(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """What the manifest says of the verdict is a note of every run, also without a server."""
    source = storage.factor_file(tmp_path / "a")
    url = bucket.put(source, "run")
    text = manifest_of(source, origin={"accepted": False, "run": "a-run", "loop": 3, "workspace_id": "w"})
    bucket.fs.pipe(f"{bucket.name}/run/{published.FILE}", text)
    first = fetch(url, place)
    assert first.origin == Origin("a-run", 3, "w", accepted=False)
    (note,) = first.notes
    assert "is the set of loop 3 of a-run, which its run rejected" in note
    assert fetch(url, place) == first
    bucket.proxy.close()
    assert note in fetch(url, place).notes


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"<html>", b"\xff", b'{"set_manifest_version": 2}'],
)
def test_a_manifest_that_says_nothing(content: bytes) -> None:
    """A damaged manifest, or one of another release, is one message."""
    with pytest.raises(RemoteError) as caught:
        published.parsed(content, "s3://bucket/run/sota_set.json")
    assert caught.value.place == "s3://bucket/run/sota_set.json"


@pytest.mark.parametrize(
    "change", [{"digest": "md5:0"}, {"digest": 7}, {"size": "x"}, {"metrics": []}, {"origin": None}]
)
def test_a_manifest_with_a_wrong_entry(tmp_path: Path, change: dict[str, object]) -> None:
    """Every entry that is used is looked at."""
    content = manifest_of(storage.factor_file(tmp_path, days=2), **change)
    with pytest.raises(RemoteError, match="says nothing that is known"):
        published.parsed(content, "place")


# --- other servers ---


def test_http_with_ranges(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """A plain web server will do: blocks by range, and one HEAD for what was fetched before."""
    source = storage.factor_file(tmp_path / "a")
    files.contents[f"/x/{FACTOR_FILE}"] = source.read_bytes()
    found = fetch(f"{files.url}/x", place)
    assert found.path.read_bytes() == source.read_bytes()
    assert sum(asked.startswith("bytes=") for _, _, asked in files.log) > 3
    files.log.clear()
    assert fetch(f"{files.url}/x/", place) == found
    assert files.log == [("HEAD", f"/x/{FACTOR_FILE}", "")]


def test_a_hash_in_a_path(place: Path, tmp_path: Path) -> None:
    """The set in `exp#2` is fetched, and not that in `exp`."""
    other, source = storage.factor_file(tmp_path / "exp"), storage.factor_file(tmp_path / "exp#2", seed=8)
    assert fetch(f"file://{source.parent}", place).path.read_bytes() == source.read_bytes()
    assert source.read_bytes() != other.read_bytes()


def test_http_without_ranges(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """A server that gives its files whole is read as a stream."""
    files.ranges = False
    source = storage.factor_file(tmp_path / "a")
    files.contents["/x/set.parquet"] = source.read_bytes()
    assert fetch(f"{files.url}/x/set.parquet", place).path.read_bytes() == source.read_bytes()
    assert left(place) == []


def test_http_that_tells_nothing_of_its_files(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """Without ETag and time nothing says that a file is the same: it is fetched each time, and right."""
    files.tags = False
    for seed in (7, 8):
        source = storage.factor_file(tmp_path / "a", seed=seed)
        files.contents[f"/x/{FACTOR_FILE}"] = source.read_bytes()
        assert fetch(f"{files.url}/x", place).path.read_bytes() == source.read_bytes()
    files.contents[f"/x/{published.FILE}"] = manifest_of(source)
    files.contents[f"/x/{FACTOR_FILE}"] = storage.factor_file(tmp_path / "a", seed=9).read_bytes()
    with pytest.raises(RemoteError, match="not the set that its manifest names"):
        fetch(f"{files.url}/x", place)


def test_http_that_gives_half(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """A file whose end is missing, with an ETag and no length, is no copy; nor is a page, such as a login."""
    files.lengths = files.ranges = False
    content = storage.factor_file(tmp_path / "a").read_bytes()
    for given in (content[: len(content) // 2], b"<html>Log in</html>", b""):
        files.contents[f"/x/{FACTOR_FILE}"] = given
        with pytest.raises(RemoteError, match="no whole parquet file"):
            fetch(f"{files.url}/x", place)
        assert left(place) == []
        assert fetched.entries(place) == []
        assert not list((place / store.FETCHED).glob("*.json"))
    files.contents[f"/x/{FACTOR_FILE}"] = content
    assert fetch(f"{files.url}/x", place).path.read_bytes() == content


def test_a_manifest_that_does_not_end(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """A manifest of unknown length is read no further than one could go."""
    files.lengths = files.ranges = False
    files.contents[f"/x/{published.FILE}"] = b" " * 1000
    with pytest.raises(RemoteError, match="is no manifest"):
        remote.reach(f"{files.url}/x/{published.FILE}").read_small(limit=999)
    found = remote.reach(f"{files.url}/x/{published.FILE}").read_small(limit=1000)
    assert found == b" " * 1000


def test_a_signed_url(files: servers.Files, place: Path, tmp_path: Path) -> None:
    """Another signature is the same file; no manifest is looked for beside it; no secret is kept or told."""
    source = storage.factor_file(tmp_path / "a")
    files.contents[f"/x/{FACTOR_FILE}"] = source.read_bytes()
    told: list[str] = []
    base = f"{files.url.replace('://', '://alice:pa55word@')}/x/{FACTOR_FILE}"
    fetch(f"{base}?X-Amz-Signature=0123456789abcdef&X-Amz-Date=1", place, told)
    gets = len(files.log)
    found = fetch(f"{base}?X-Amz-Signature=fedcba9876543210&X-Amz-Date=2", place, told)
    assert [entry[0] for entry in files.log[gets:]] == ["HEAD"]
    files.status = 503
    noted = fetch(f"{base}?X-Amz-Signature=fedcba9876543210&X-Amz-Date=2", place, told)
    kept = "".join(file.read_text() for file in (place / store.FETCHED).glob("*.json"))
    everything = f"{found}{noted}{told}{kept}{sorted(place.rglob('*'))}"
    for secret in ("alice", "pa55word", "0123456789abcdef", "fedcba9876543210"):
        assert secret not in everything
    assert f"http://***@127.0.0.1:{files.server_port}/x/{FACTOR_FILE}?***" in everything


def test_memory_and_file(place: Path, tmp_path: Path) -> None:
    """What fsspec has without a driver is taken as well, such as a share that is mounted."""
    import fsspec

    source = storage.factor_file(tmp_path / "a")
    assert fetch(f"file://{source.parent}", place).path.read_bytes() == source.read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/test-fetched/{FACTOR_FILE}", storage.factor_file(tmp_path / "b", seed=8).read_bytes())
    try:
        assert fetch("memory://test-fetched", place).path.read_bytes() != source.read_bytes()
    finally:
        memory.rm("/test-fetched", recursive=True)


# --- who is told ---


def test_lines_and_bytes(
    files: servers.Files, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A log gets lines with share and speed; whoever draws a bar gets the bytes, and no such lines."""
    monkeypatch.setattr(fetched, "_LINE_SECONDS", 0.0)
    source = storage.factor_file(tmp_path / "a")
    files.contents["/x/set.parquet"] = source.read_bytes()
    told: list[str] = []
    fetch(f"{files.url}/x/set.parquet", place, told)
    assert any(" MB (" in line and line.endswith(" MB/s") for line in told)
    moved: list[tuple[str, int, int | None]] = []
    fetched.fetch(
        f"{files.url}/x/set.parquet",
        tmp_path / "other",
        fetched.Watch(lambda _: None, lambda *seen: moved.append(seen)),
    )
    size = source.stat().st_size
    assert moved[-1] == (f"{files.url}/x/set.parquet", size, size)
    assert [done for _, done, _ in moved] == sorted({done for _, done, _ in moved})


@pytest.mark.parametrize("terminal", [True, False])
def test_the_bar(terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A terminal shows a bar on stderr, and nothing else does."""
    monkeypatch.setenv("FORCE_COLOR" if terminal else "NO_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    with fetching.bar() as bar:
        bar.show("s3://bucket/run", 1, None)
        bar.show("s3://bucket/run", 50, 100)
    shown = capsys.readouterr()
    assert ("s3://bucket/run" in shown.err) is terminal
    assert terminal or shown.err == ""
    assert shown.out == ""


# --- the disk ---


def test_no_room(bucket: Bucket, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk without the room is told before a byte is moved."""
    url = bucket.put(storage.factor_file(tmp_path / "a"), "run")
    monkeypatch.setattr(fetched, "_SPARE", 1 << 60)
    with pytest.raises(StoreError, match="are free"):
        fetch(url, place)
    assert not list(place.rglob("*.part"))


def test_a_place_that_is_no_folder(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A file where the store should be is one message."""
    url = bucket.put(storage.factor_file(tmp_path / "a"), "run")
    place.write_text("mine")
    with pytest.raises(StoreError):
        fetch(url, place)
    assert place.read_text() == "mine"


def test_a_store_that_may_only_be_read(bucket: Bucket, tmp_path: Path) -> None:
    """Who may not write a store uses what was fetched into it, and is told where that is not enough."""
    url = bucket.put(storage.factor_file(tmp_path / "a"), "run")
    with public_folder() as folder:
        place = folder / "store"
        found = fetch(url, place)
        with without_privileges():
            assert fetch(url, place) == found
        bucket.put(storage.factor_file(tmp_path / "b", seed=8), "run")
        with without_privileges(), pytest.raises(StoreError, match="can't be copied into the store"):
            fetch(url, place)


def test_entries_and_prune(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """Fetched sets are listed with their URLs, and go when nobody has asked for them, as do broken parts."""
    assert fetched.entries(place) == []
    old = fetch(bucket.put(storage.factor_file(tmp_path / "a"), "old"), place)
    new = fetch(bucket.put(storage.factor_file(tmp_path / "b", seed=8), "new"), place)
    then = time.time() - 40 * 24 * 3600
    for file in (place / store.FETCHED).glob("*.json"):
        if json.loads(file.read_text())["url"] == old.url:
            os.utime(file, (then, then))
    os.utime(old.path.parent, (then, then))
    part = place / store.FETCHED / f".{'0' * 64}.part"
    part.write_bytes(b"?")
    os.utime(part, (then, then))
    assert [copy.urls for copy in fetched.entries(place)] == [(old.url,), (new.url,)]
    before = datetime.now(timezone.utc) - timedelta(days=30)
    told = fetched.prune(place, before, dry_run=True)
    assert ([copy.path for copy in told[0]], told[1]) == ([old.path], [part])
    assert old.path.exists()
    assert fetched.prune(place, before, dry_run=False) == told
    assert not old.path.exists()
    assert [copy.path for copy in fetched.entries(place)] == [new.path]
    assert left(place) == []
    assert fetch(bucket.url("old"), place).path == old.path


def test_a_set_that_a_run_trains_on_stays(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A run asks its URL once and goes on for weeks: what its loops look at is in use."""
    found = fetch(bucket.put(storage.factor_file(tmp_path / "a"), "run"), place)
    then = time.time() - 40 * 24 * 3600
    for file in [*(place / store.FETCHED).glob("*.json"), found.path.parent]:
        os.utime(file, (then, then))
    before = datetime.now(timezone.utc) - timedelta(days=30)
    assert len(fetched.prune(place, before, dry_run=True)[0]) == 1
    fetched.current_digest(found.path)
    assert fetched.prune(place, before, dry_run=False) == ([], [])
    assert found.path.exists()


def test_a_set_that_is_asked_for_while_it_is_pruned(
    bucket: Bucket, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is used between the look and the lock stays."""
    found = fetch(bucket.put(storage.factor_file(tmp_path / "a"), "run"), place)
    before = datetime.now(timezone.utc) + timedelta(days=1)
    held = fetched.locking.held

    def asked_for(*arguments: object) -> object:
        os.utime(found.path.parent, (before.timestamp(), before.timestamp()))
        return held(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(fetched.locking, "held", asked_for)
    assert fetched.prune(place, before, dry_run=False) == ([], [])
    assert found.path.exists()


def test_verify(bucket: Bucket, place: Path, tmp_path: Path) -> None:
    """A fetched file is read whole, and one with other bytes is named."""
    path = fetch(bucket.put(storage.factor_file(tmp_path / "a"), "run"), place).path
    (copy,) = fetched.entries(place)
    assert fetched.spoilt(copy) == ""
    path.chmod(0o644)
    path.write_bytes(b"?" + path.read_bytes()[1:])
    assert "was changed" in fetched.spoilt(copy)

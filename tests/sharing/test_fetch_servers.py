"""Sets from servers of every kind, and what the manifest beside a set says of it."""

from __future__ import annotations

from pathlib import Path

import fsspec
import pytest

from rdagent_sota_bridge.errors import RemoteError, RemoteRefusedError
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.locate import Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import training_record
from rdagent_sota_bridge.sharing import fetch, fetched
from rdagent_sota_bridge.sharing.remote import MANIFEST
from tests import servers, storage
from tests.storage import Bucket, get, left, manifest_of, serve

# --- the manifest ---


def test_a_set_that_does_not_fit(bucket: Bucket, place: Path, source: Path, other: Path) -> None:
    """Other bytes than the manifest's do not stay; the message has both digests."""
    url = bucket.put(source, "run")
    bucket.fs.pipe(f"{bucket.name}/run/{MANIFEST}", manifest_of(other))
    with pytest.raises(RemoteError, match="not the set that its manifest names") as caught:
        get(url, place)
    assert parquet.current_digest(other) in caught.value.fact
    assert parquet.current_digest(source) in caught.value.fact
    assert left(place) == []
    assert not list(place.rglob(FACTOR_FILE))


def test_a_set_of_a_rejected_loop(bucket: Bucket, place: Path, source: Path) -> None:
    """The manifest's verdict is a note of every run, also without a server; metrics lie beside the file."""
    url = bucket.put(source, "run")
    text = manifest_of(source, origin={"accepted": False, "run": "a-run", "loop": 3, "workspace_id": "w"})
    bucket.fs.pipe(f"{bucket.name}/run/{MANIFEST}", text)
    first = get(url, place)
    assert first.origin == Origin("a-run", 3, "w", accepted=False)
    assert training_record.metrics_beside(first.path) == {"IC": 0.05}
    (note,) = first.notes
    assert "is the set of loop 3 of a-run, which its run rejected" in note
    assert get(url, place) == first
    bucket.proxy.close()
    assert note in get(url, place).notes


@pytest.mark.parametrize(
    "change",
    [
        *(b"", b"{", b"[]", b"<html>", b"\xff", {"set_manifest_version": 2}, {"digest": "md5:0"}),
        *({"digest": 7}, {"size": "x"}, {"metrics": []}, {"origin": None}, {"state": "half"}),
        {"state": "uploading"},
    ],
    ids=str,
)
def test_a_manifest_that_says_nothing(
    files: servers.Files, place: Path, tmp_path: Path, change: bytes | dict[str, object]
) -> None:
    """A damaged manifest, one of another release, and one of half a push stop with one message."""
    files.lengths = False
    source = storage.factor_file(tmp_path, days=2)
    url = serve(files, source)
    text = change if isinstance(change, bytes) else manifest_of(source, **change)
    files.contents[f"/run/{MANIFEST}"] = text
    fact = "not whole" if b"uploading" in text else "says nothing that is known"
    with pytest.raises(RemoteError, match=fact) as caught:
        get(url, place)
    assert f"{url}/{MANIFEST}" in caught.value.place


def test_a_manifest_that_may_not_be_read(files: servers.Files, place: Path, source: Path) -> None:
    """The set is fetched, and a line says that it was compared with nothing."""
    url, lines = serve(files, source), list[str]()
    files.closed = f"/run/{MANIFEST}"
    assert get(url, place, lines).path.read_bytes() == source.read_bytes()
    assert "the set is not compared with it" in lines[0]


# --- other servers ---


@pytest.mark.parametrize("says", ["all", "no ranges", "no length"])
def test_http(files: servers.Files, place: Path, source: Path, says: str) -> None:
    """A plain web server will do, and one HEAD for what was fetched before."""
    files.ranges, files.lengths = says == "all", says != "no length"
    url = serve(files, source)
    found = get(url, place)
    assert found.path.read_bytes() == source.read_bytes()
    files.log.clear()
    assert get(f"{url}/", place) == found
    assert files.log[0] == ("HEAD", f"/run/{FACTOR_FILE}", "")
    assert len(files.log) == 1 or says == "no length"


def test_http_that_says_nothing_of_its_files(
    files: servers.Files, place: Path, source: Path, other: Path
) -> None:
    """Without ETag and time nothing says that a file is the same: it is fetched each time, and right."""
    files.tags = False
    for file in (source, other):
        url = serve(files, file)
        assert get(url, place).path.read_bytes() == file.read_bytes()
    files.contents[f"/run/{MANIFEST}"] = manifest_of(source)
    with pytest.raises(RemoteError, match="not the set that its manifest names"):
        get(url, place)


@pytest.mark.parametrize("given", ["half", "<html>Log in</html>", ""])
def test_http_that_gives_half(files: servers.Files, place: Path, source: Path, given: str) -> None:
    """A file whose end is missing, with an ETag and no length, is no copy; nor is a page, such as a login."""
    files.lengths = files.ranges = False
    url, content = serve(files, source), source.read_bytes()
    bad = content[: len(content) // 2] if given == "half" else given.encode()
    files.contents[f"/run/{FACTOR_FILE}"] = bad
    with pytest.raises(RemoteError, match="no whole parquet file"):
        get(url, place)
    assert (left(place), fetched.entries(place)) == ([], [])
    assert not list((place / store.FETCHED).glob("*.json"))
    serve(files, source)
    assert get(url, place).path.read_bytes() == content


def test_a_signed_url(files: servers.Files, place: Path, source: Path) -> None:
    """Another signature is the same file; no manifest is looked for beside it; no secret is kept or shown."""
    base, lines = f"{serve(files, source)}/{FACTOR_FILE}", list[str]()
    get(f"{base}?X-Amz-Signature=0123456789abcdef&X-Amz-Date=1", place, lines)
    requests = len(files.log)
    again = f"{base}?X-Amz-Signature=fedcba9876543210&X-Amz-Date=2"
    found = get(again, place, lines)
    assert [entry[0] for entry in files.log[requests:]] == ["HEAD"]
    assert not [path for _, path, _ in files.log if path.endswith(MANIFEST)]
    files.status = 503
    noted = get(again, place, lines)
    files.status = 403
    with pytest.raises(RemoteRefusedError) as caught:
        get(again, place, lines)
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


def test_memory_and_file(place: Path, source: Path, tmp_path: Path) -> None:
    """What fsspec has without a driver is taken as well, such as a share; `#` is a letter of its path."""
    share = storage.factor_file(tmp_path / "mined#2", seed=8)
    assert get(f"file://{share.parent}", place).path.read_bytes() == share.read_bytes()
    memory = fsspec.filesystem("memory")
    memory.pipe(f"/test-fetched/{FACTOR_FILE}", source.read_bytes())
    try:
        assert get("memory://test-fetched", place).path.read_bytes() == source.read_bytes()
    finally:
        memory.rm("/test-fetched", recursive=True)

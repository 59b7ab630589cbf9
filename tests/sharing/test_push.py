"""Pushing a set: once, whole, with its manifest, and never over what is another's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.errors import FactorFileError, RemoteError, RemoteUnavailableError, SetChangedError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.locate import Located, Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.sharing import fetch, push
from rdagent_sota_bridge.sharing.remote import Remote
from tests import storage
from tests.frames import factor_frame, nested, write
from tests.storage import Bucket


@pytest.fixture(scope="module")
def server() -> Iterator[storage.Storage]:
    """Run one S3 server for the module."""
    with storage.running() as made:
        yield made


@pytest.fixture
def bucket(server: storage.Storage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bucket]:
    """Give a bucket of the test's own; the current folder is an empty project."""
    monkeypatch.chdir(tmp_path)
    name = f"bucket-{abs(hash(tmp_path)):x}"
    with storage.new_bucket(server, name, monkeypatch) as made:
        yield made


def put(file: Path, url: str, *, replace: bool = False) -> push.Pushed:
    """Push a file."""
    return push.push(Located(file), url, overwrite=replace, progress=lambda *_: None)


def run(*arguments: str) -> Result:
    """Run `rdagent-sota`."""
    return CliRunner().invoke(app, list(arguments))


def told(bucket: Bucket, folder: str) -> dict[str, object]:
    """Return the manifest in a folder of the bucket."""
    found: dict[str, object] = json.loads(bucket.fs.cat_file(f"{bucket.name}/{folder}/{fetch.MANIFEST}"))
    return found


def test_a_set_and_its_manifest(bucket: Bucket, tmp_path: Path) -> None:
    """The bytes are the file's, the manifest says what they are, and nothing of the machine."""
    source = storage.factor_file(tmp_path / "mined")
    (source.parent / RESULT_FILE).write_text(",0\nIC,0.05\nICIR,nan\n")
    done = put(source, bucket.url("run"))
    assert done.moved
    assert bucket.fs.cat_file(f"{bucket.name}/run/{FACTOR_FILE}") == source.read_bytes()
    manifest = told(bucket, "run")
    assert manifest["state"] == "complete"
    assert manifest["digest"] == done.digest == parquet.current_digest(source)
    assert manifest["size"] == source.stat().st_size
    assert (manifest["rows"], manifest["columns"]) == (24_000, ["momentum", "turnover"])
    assert manifest["metrics"] == {"IC": 0.05, "ICIR": None}
    assert manifest["origin"] == {"run": None, "loop": None, "workspace_id": "", "accepted": None}
    assert "rdagent-sota-bridge" in manifest["versions"]  # type: ignore[operator]
    assert str(tmp_path) not in json.dumps(manifest)


def test_the_same_set_again_moves_nothing(bucket: Bucket, tmp_path: Path) -> None:
    """What is there already is told, by its manifest, of half a megabyte."""
    source = storage.factor_file(tmp_path / "mined")
    put(source, bucket.url("run"))
    bucket.proxy.count()
    assert not put(source, bucket.url("run") + "/").moved
    assert bucket.proxy.count() < 10_000


@pytest.mark.parametrize("days", [600, 300])
def test_an_object_that_was_written_over(bucket: Bucket, tmp_path: Path, days: int) -> None:
    """Other bytes beside the set's manifest, also as many as the set has, are not the set."""
    source = storage.factor_file(tmp_path / "a")
    put(source, bucket.url("run"))
    bucket.put(storage.factor_file(tmp_path / "b", seed=8, days=days), "run")
    with pytest.raises(RemoteError, match="Something else is there") as caught:
        put(source, bucket.url("run"))
    assert "is not the one of the manifest beside it" in caught.value.fact
    bucket.fs.rm(f"{bucket.name}/run/{FACTOR_FILE}")
    assert put(source, bucket.url("run")).moved


def test_two_pushes_at_once(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of two sets that are pushed into one empty folder, one push fails, and the set there is the other's."""
    source, other = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", seed=8)
    original = Remote.put

    def meanwhile(self: Remote, *arguments: object) -> None:
        monkeypatch.setattr(Remote, "put", original)
        original(self, *arguments)  # type: ignore[arg-type]
        put(other, bucket.url("run"), replace=True)

    monkeypatch.setattr(Remote, "put", meanwhile)
    with pytest.raises(RemoteError, match="Another push"):
        put(source, bucket.url("run"))
    found = fetch.fetch(bucket.url("run"), tmp_path / "store", print)
    assert found.path.read_bytes() == other.read_bytes()


def test_another_set_is_not_written_over(bucket: Bucket, tmp_path: Path) -> None:
    """Other content is refused, with both digests, unless it is to be replaced."""
    first = put(storage.factor_file(tmp_path / "a"), bucket.url("run"))
    other = storage.factor_file(tmp_path / "b", seed=8)
    with pytest.raises(RemoteError, match="Something else is there") as caught:
        put(other, bucket.url("run"))
    assert first.digest in str(caught.value)
    assert "--replace" in caught.value.fix
    assert told(bucket, "run")["digest"] == first.digest
    assert put(other, bucket.url("run"), replace=True).moved
    assert bucket.fs.cat_file(f"{bucket.name}/run/{FACTOR_FILE}") == other.read_bytes()
    assert told(bucket, "run")["digest"] == parquet.current_digest(other)


def test_a_file_without_a_manifest_is_somebodys(bucket: Bucket, tmp_path: Path) -> None:
    """A factor file that somebody has put there by hand is not written over."""
    source = storage.factor_file(tmp_path / "a")
    bucket.fs.pipe(f"{bucket.name}/run/{FACTOR_FILE}", b"mine")
    with pytest.raises(RemoteError, match="without a manifest"):
        put(source, bucket.url("run"))
    assert bucket.fs.cat_file(f"{bucket.name}/run/{FACTOR_FILE}") == b"mine"


def test_a_push_that_breaks_off(bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Until the end the manifest says `uploading`, and a fetch refuses; the same push does it again."""
    source = storage.factor_file(tmp_path / "mined")

    def broken(*_: object) -> None:
        raise RemoteUnavailableError("The connection broke", "there", "again")

    with monkeypatch.context() as patched, pytest.raises(RemoteUnavailableError):
        patched.setattr(Remote, "put", broken)
        put(source, bucket.url("run"))
    assert told(bucket, "run")["state"] == "uploading"
    assert not bucket.fs.exists(f"{bucket.name}/run/{FACTOR_FILE}")
    bucket.fs.pipe(f"{bucket.name}/run/{FACTOR_FILE}", source.read_bytes()[:1000])
    with pytest.raises(RemoteError, match="not whole"):
        fetch.fetch(bucket.url("run"), tmp_path / "store", print)
    with pytest.raises(RemoteError, match="Something else"):
        put(storage.factor_file(tmp_path / "b", seed=8), bucket.url("run"))
    assert put(source, bucket.url("run")).moved
    assert told(bucket, "run")["state"] == "complete"
    found = fetch.fetch(bucket.url("run"), tmp_path / "store", print)
    assert found.path.read_bytes() == source.read_bytes()


def test_a_file_that_changes_meanwhile(
    bucket: Bucket, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A set that is not what was checked is not declared complete."""
    source = storage.factor_file(tmp_path / "mined")
    original = Remote.put

    def change(self: Remote, *arguments: object) -> None:
        original(self, *arguments)  # type: ignore[arg-type]
        storage.factor_file(tmp_path / "mined", seed=8)

    monkeypatch.setattr(Remote, "put", change)
    with pytest.raises(SetChangedError):
        put(source, bucket.url("run"))
    assert told(bucket, "run")["state"] == "uploading"


def test_a_set_that_no_run_could_use(bucket: Bucket, tmp_path: Path) -> None:
    """A file with faults is refused with all of them, and nothing is written."""
    frame = factor_frame()
    frame["momentum"] = float("inf")
    with pytest.raises(FactorFileError):
        put(write(nested(frame), tmp_path), bucket.url("run"))
    assert not bucket.fs.exists(f"{bucket.name}/run")


@pytest.mark.parametrize(
    ("url", "fact"),
    [
        ("/a/folder", "A set is pushed to a URL"),
        ("https://host/run", "Nothing can be written to https://"),
        ("memory://run", "What is put into memory:// is gone when this process ends"),
        ("s3://bucket/run/a.parquet", "The URL names no folder that a set could be put into"),
        ("s3://bucket/run?versionId=1", "The URL names no folder that a set could be put into"),
        ("s3://bucket", "The URL names no folder that a set could be put into"),
        ("s3://bucket/", "The URL names no folder that a set could be put into"),
    ],
)
def test_a_url_that_nothing_is_pushed_to(tmp_path: Path, url: str, fact: str) -> None:
    """A path, a web server, a file, a query: told before the set is read."""
    with pytest.raises(RemoteError) as caught:
        put(tmp_path / "nothing", url)
    assert caught.value.fact == fact


def test_a_folder_that_is_mounted(tmp_path: Path) -> None:
    """Pushed to a folder of this machine, a link that lies there is replaced and not written through."""
    source, precious = storage.factor_file(tmp_path / "a"), storage.factor_file(tmp_path / "b", seed=8)
    content = precious.read_bytes()
    share = tmp_path / "a share" / "run#3"
    put(source, f"file://{share}")
    (share / FACTOR_FILE).unlink()
    (share / FACTOR_FILE).hardlink_to(precious)
    put(source, f"file://{share}", replace=True)
    assert (share / FACTOR_FILE).read_bytes() == source.read_bytes()
    assert precious.read_bytes() == content
    assert sorted(file.name for file in share.iterdir()) == [FACTOR_FILE, fetch.MANIFEST]


def test_the_commands(bucket: Bucket, tmp_path: Path) -> None:
    """push prints the line for .env, path fetches what it names, and the store tells of it."""
    source = storage.factor_file(tmp_path / "mined")
    done = run("push", str(source.parent), bucket.url("run"))
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith(f"pushed: {bucket.url('run')} (sha256:")
    assert done.stdout.endswith(f"\nSOTA_WORKSPACE_PATH={bucket.url('run')}\n")
    assert "already there" in run("push", str(source), bucket.url("run")).stdout
    copy = Path(run("path", bucket.url("run")).stdout.strip())
    assert (copy / FACTOR_FILE).read_bytes() == source.read_bytes()
    assert bucket.url("run", FACTOR_FILE) in run("store").stdout
    assert f"as fetched: {copy / FACTOR_FILE}" in run("store", "verify").stdout
    listed = json.loads(run("store", "list", "--json").stdout)["fetched"]
    assert [entry["urls"] for entry in listed] == [[bucket.url("run", FACTOR_FILE)]]
    assert "would be removed" in run("store", "prune", "--keep-days", "0", "--dry-run").stdout
    assert f"removed: {copy / FACTOR_FILE}" in run("store", "prune", "--keep-days", "0").stdout
    assert not copy.exists()


def test_a_fetched_set_goes_on(bucket: Bucket, tmp_path: Path) -> None:
    """What was fetched from one place can be pushed to another, and has the same name and verdict there."""
    source = storage.factor_file(tmp_path / "mined")
    origin = Origin("a-run", 3, "w", accepted=False)
    push.push(Located(source, origin=origin), bucket.url("a"), overwrite=False, progress=lambda *_: None)
    done = run("push", bucket.url("a"), bucket.url("b"))
    assert done.exit_code == 0, done.output
    assert "rejected" in done.stderr
    assert told(bucket, "a")["digest"] == told(bucket, "b")["digest"]
    assert told(bucket, "a")["origin"] == told(bucket, "b")["origin"]
    assert told(bucket, "b")["origin"] == {"run": "a-run", "loop": 3, "workspace_id": "w", "accepted": False}


def test_errors_of_the_command(bucket: Bucket, tmp_path: Path) -> None:
    """What can't be pushed is one message and status 1."""
    storage.factor_file(tmp_path / "mined", days=2)
    secret = "https://alice:pa55word@host/x?sig=topsecret"
    for arguments in (
        ("nothing", bucket.url("run")),
        (f"{tmp_path} {secret}", bucket.url("run")),
        (secret, bucket.url("run")),
        ("mined", secret.replace("https", "s3").partition("?")[0]),
    ):
        done = run("push", *arguments)
        assert done.exit_code == 1
        assert "fix:" in done.stderr
        for text in ("Traceback", "pa55word", "topsecret"):
            assert text not in done.output

"""Pushing a set: once, whole, with its manifest, and never over what is another's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.errors import FactorFileError, RemoteError, RemoteUnavailableError, SetChangedError
from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.locate import Located, Origin
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.sharing import fetch, push
from rdagent_sota_bridge.sharing.remote import MANIFEST, Remote
from tests import storage
from tests.frames import factor_frame, nested, write
from tests.storage import Bucket


@pytest.fixture
def source(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a set; the current folder is a project."""
    monkeypatch.chdir(tmp_path)
    return source


def put(file: Path, url: str, *, replace: bool = False, origin: Origin | None = None) -> bool:
    """Push a file, and return True if it was not there."""
    located = Located(file, origin=origin)
    return push.push(located, url, overwrite=replace, progress=lambda *_: None)[1]


def run(*arguments: str) -> Result:
    """Run `rdagent-sota`."""
    return CliRunner().invoke(app, list(arguments))


def manifest(bucket: Bucket, folder: str = "run") -> dict[str, object]:
    """Return the manifest in a folder of the bucket."""
    found: dict[str, object] = json.loads(bucket.fs.cat_file(f"{bucket.name}/{folder}/{MANIFEST}"))
    return found


def content(bucket: Bucket) -> bytes:
    """Return the factor file in `run`."""
    found: bytes = bucket.fs.cat_file(f"{bucket.name}/run/{FACTOR_FILE}")
    return found


def after_put(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Do something once the next file was written."""
    original = Remote.put

    def changed(self: Remote, *arguments: object) -> None:
        monkeypatch.setattr(Remote, "put", original)
        original(self, *arguments)  # type: ignore[arg-type]
        act()

    monkeypatch.setattr(Remote, "put", changed)


def test_a_set_and_its_manifest(bucket: Bucket, source: Path) -> None:
    """The bytes are the file's, the manifest says what they are, and the same set again moves nothing."""
    (source.parent / RESULT_FILE).write_text(",0\nIC,0.05\nICIR,nan\n")
    assert put(source, bucket.url("run"))
    assert content(bucket) == source.read_bytes()
    found = manifest(bucket)
    assert (found["state"], found["digest"]) == ("complete", parquet.current_digest(source))
    assert (found["size"], found["rows"]) == (source.stat().st_size, 24_000)
    assert (found["columns"], found["metrics"]) == (["momentum", "turnover"], {"IC": 0.05, "ICIR": None})
    assert found["origin"] == {"run": None, "loop": None, "workspace_id": "", "accepted": None}
    assert "rdagent-sota-bridge" in found["versions"]  # type: ignore[operator]
    assert str(source.parent) not in json.dumps(found)
    bucket.proxy.count()
    assert not put(source, bucket.url("run") + "/")
    assert bucket.proxy.count() < 10_000


@pytest.mark.parametrize("days", [600, 300])
def test_an_object_that_was_written_over(bucket: Bucket, source: Path, tmp_path: Path, days: int) -> None:
    """Other bytes beside the set's manifest, also as many as the set has, are not the set."""
    put(source, bucket.url("run"))
    bucket.put(storage.factor_file(tmp_path / "b", seed=8, days=days), "run")
    with pytest.raises(RemoteError, match="is not the one of the manifest beside it"):
        put(source, bucket.url("run"))
    bucket.fs.rm(f"{bucket.name}/run/{FACTOR_FILE}")
    assert put(source, bucket.url("run"))


def test_another_set_is_not_written_over(bucket: Bucket, source: Path, other: Path) -> None:
    """Other content is refused, with both digests, unless it is to be replaced; so is a file by hand."""
    put(source, bucket.url("run"))
    with pytest.raises(RemoteError, match="Something else is there") as caught:
        put(other, bucket.url("run"))
    for text in (parquet.current_digest(source), parquet.current_digest(other), "--replace"):
        assert text in str(caught.value)
    assert content(bucket) == source.read_bytes()
    assert put(other, bucket.url("run"), replace=True)
    assert content(bucket) == other.read_bytes()
    assert manifest(bucket)["digest"] == parquet.current_digest(other)
    bucket.fs.rm(f"{bucket.name}/run/{MANIFEST}")
    with pytest.raises(RemoteError, match="without a manifest"):
        put(source, bucket.url("run"))
    assert content(bucket) == other.read_bytes()


def test_two_pushes_at_once(
    bucket: Bucket, source: Path, other: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two sets that are pushed into one empty folder, one push fails, and the set there is the other's."""
    after_put(monkeypatch, lambda: put(other, bucket.url("run"), replace=True))
    with pytest.raises(RemoteError, match="Another push"):
        put(source, bucket.url("run"))
    assert fetch.fetch(bucket.url("run"), place, print).path.read_bytes() == other.read_bytes()


def test_a_push_that_breaks_off(
    bucket: Bucket, source: Path, other: Path, place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until the end the manifest says `uploading`, and a fetch refuses; the same push does it again."""

    def broken(*_: object) -> None:
        raise RemoteUnavailableError("The connection broke", "there", "again")

    with monkeypatch.context() as patched, pytest.raises(RemoteUnavailableError):
        patched.setattr(Remote, "put", broken)
        put(source, bucket.url("run"))
    assert manifest(bucket)["state"] == "uploading"
    bucket.fs.pipe(f"{bucket.name}/run/{FACTOR_FILE}", source.read_bytes()[:1000])
    with pytest.raises(RemoteError, match="not whole"):
        fetch.fetch(bucket.url("run"), place, print)
    with pytest.raises(RemoteError, match="Something else"):
        put(other, bucket.url("run"))
    assert put(source, bucket.url("run"))
    assert fetch.fetch(bucket.url("run"), place, print).path.read_bytes() == source.read_bytes()


def test_a_file_that_changes_meanwhile(bucket: Bucket, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A set that is not what was checked is not declared complete."""
    after_put(monkeypatch, lambda: storage.factor_file(source.parent, seed=8))
    with pytest.raises(SetChangedError):
        put(source, bucket.url("run"))
    assert manifest(bucket)["state"] == "uploading"


def test_a_set_that_no_run_could_use(bucket: Bucket, tmp_path: Path) -> None:
    """A file with faults is refused with all of them, and nothing is written."""
    frame = factor_frame().assign(momentum=float("inf"))
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
    """A path, a web server, a file, a query: refused before the set is read."""
    with pytest.raises(RemoteError) as caught:
        put(tmp_path / "nothing", url)
    assert caught.value.fact == fact


def test_a_folder_that_is_mounted(source: Path, other: Path, tmp_path: Path) -> None:
    """Pushed to a folder of this machine, a link that lies there is replaced and not written through."""
    precious, share = other.read_bytes(), tmp_path / "a share" / "run#3"
    put(source, f"file://{share}")
    (share / FACTOR_FILE).unlink()
    (share / FACTOR_FILE).hardlink_to(other)
    put(source, f"file://{share}", replace=True)
    assert (share / FACTOR_FILE).read_bytes() == source.read_bytes()
    assert other.read_bytes() == precious
    assert sorted(file.name for file in share.iterdir()) == [FACTOR_FILE, MANIFEST]


def test_the_commands(bucket: Bucket, source: Path) -> None:
    """push prints the line for .env, path fetches what it names, and the store shows and prunes it."""
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


def test_a_fetched_set_is_pushed(bucket: Bucket, source: Path) -> None:
    """What was fetched from one place can be pushed to another, and has the same name and verdict there."""
    put(source, bucket.url("a"), origin=Origin("a-run", 3, "w", accepted=False))
    done = run("push", bucket.url("a"), bucket.url("b"))
    assert done.exit_code == 0, done.output
    assert "rejected" in done.stderr
    assert manifest(bucket, "a")["digest"] == manifest(bucket, "b")["digest"]
    assert manifest(bucket, "b")["origin"] == {
        "run": "a-run",
        "loop": 3,
        "workspace_id": "w",
        "accepted": False,
    }


SECRET = "https://alice:pa55word@host/x?sig=topsecret"


@pytest.mark.parametrize(
    ("named", "url"),
    [
        ("nothing", "s3://bucket/run"),
        (f"mined {SECRET}", "s3://bucket/run"),
        (SECRET, "s3://bucket/run"),
        ("mined", "s3://alice:pa55word@host/x"),
    ],
)
def test_errors_of_the_command(source: Path, named: str, url: str) -> None:
    """What can't be pushed is one message and status 1, without a secret."""
    done = run("push", named, url)
    assert done.exit_code == 1
    assert "fix:" in done.stderr
    for text in ("Traceback", "pa55word", "topsecret"):
        assert text not in done.output

"""`rdagent-sota store`: what is stored, whether it is as it was written, and what may go."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.factor_set import parquet, store
from tests.frames import factor_frame, nested, write

DAY = 24 * 3600


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return an empty project folder, which is the current one."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    return tmp_path


def keep(project: Path, name: str, *, days_ago: int = 0) -> store.Stored:
    """Store a set of its own content, as a run some days ago did."""
    folder = project / name
    folder.mkdir()
    path = write(nested(factor_frame(seed=len(name))), folder)
    digest = parquet.current_digest(path)
    wanted = store.Wanted(digest, ("momentum", "turnover"), ((path, digest),))
    stored = store.keep(wanted, store.folder(None))
    then = time.time() - days_ago * DAY
    os.utime(stored.path.with_suffix(".json"), (then, then))
    return stored


def run(*arguments: str) -> Result:
    """Run `rdagent-sota store`."""
    return CliRunner().invoke(app, ["store", *arguments])


@pytest.mark.parametrize("place", ["", "elsewhere", "a file"])
@pytest.mark.parametrize("command", ["", "list", "verify", "prune"])
def test_a_place_without_sets(
    project: Path, command: str, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No store is no error: each command says where it looked; a file in its place is one message."""
    if place:
        monkeypatch.setenv("SOTA_STORE_PATH", place)
    if place == "a file":
        (project / place).touch()
    done = run(*filter(None, [command]))
    assert str(project / (place or Path("git_ignore_folder", "sota_store"))) in done.output
    assert done.exit_code == (place == "a file")
    assert ("Not a directory" in done.output and "fix:" in done.output) == (place == "a file")
    assert [one.name for one in project.iterdir()] == (["a file"] if place == "a file" else [])


def test_the_list(project: Path) -> None:
    """Sets stand there by name, with their file, size and links, the one used last at the end."""
    new, old = keep(project, "new"), keep(project, "older", days_ago=3)
    store.hand_out(old, project / "linked.parquet", link=True)
    output = run().output
    assert output.index(old.digest[7:17]) < output.index(new.digest[7:17])
    for columns in ("80", "200"):  # the path is whole, to be copied, and the screen is not filled
        lines = CliRunner().invoke(app, ["store"], env={"COLUMNS": columns}).output.splitlines()
        assert f"{old.digest[7:17]} is made of {project / 'older' / 'combined_factors_df.parquet'}" in lines
        assert max(len(line) for line in lines if str(project) not in line) < 80
    sets = json.loads(run("list", "--json").stdout)["sets"]
    assert [entry["digest"] for entry in sets] == [old.digest, new.digest]
    assert [entry["links"] for entry in sets] == [1, 0]
    first = sets[0]
    source = {"path": str(project / "older" / "combined_factors_df.parquet"), "digest": old.digest}
    assert first == {
        "digest": old.digest,
        "path": str(old.path),
        "factors": ["momentum", "turnover"],
        "rows": 12,
        "size": old.path.stat().st_size,
        "links": 1,
        "content": old.content,
        "sources": [source],
        "written": old.written.isoformat(),
        "used": first["used"],
    }


def test_what_was_changed(project: Path) -> None:
    """Changed bytes fail `verify` though size and time are as before; another size is in the list too."""
    stored = keep(project, "a")
    assert run("verify").exit_code == 0
    assert f"as written: {stored.path}" in run("verify").output
    before, content = stored.path.stat(), stored.path.read_bytes()
    stored.path.chmod(0o644)
    for changed in (content[:100] + b"?" + content[101:], content + b"x"):
        stored.path.write_bytes(changed)
        os.utime(stored.path, ns=(before.st_atime_ns, before.st_mtime_ns))
        done = run("verify")
        assert done.exit_code == 1
        assert done.output.count(f"{stored.path} was changed") == 1
        assert "as written" not in done.output
    assert f"{stored.path} was changed" in run("list").output


@pytest.mark.parametrize(
    "content", ["{", "[" * 100_000, '{"form": Infinity}'], ids=["half", "deep", "endless"]
)
def test_an_entry_that_says_nothing(project: Path, content: str) -> None:
    """A damaged entry is named by list and verify, and is no traceback."""
    stored = keep(project, "a")
    stored.path.with_suffix(".json").write_text(content)
    assert run("list").exit_code == 0
    assert stored.path.name in run("list").output
    assert run("verify").exit_code == 1


def test_prune(project: Path) -> None:
    """What was not used for so many days goes, and a workspace keeps its link; a dry run only says so.

    Data that release 0.1.0 kept for later models go too.
    """
    new, old = keep(project, "new", days_ago=5), keep(project, "older", days_ago=40)
    link = project / "linked.parquet"
    store.hand_out(old, link, link=True)
    content = old.path.read_bytes()
    prepared = store.folder(None) / "prepared" / ("a" * 64 + ".prepared")
    prepared.parent.mkdir(parents=True)
    prepared.touch()
    dry = run("prune", "--dry-run").output
    for path in (old.path, prepared):
        assert f"would be removed: {path}" in dry and path.exists()
    done = run("prune").output
    for path in (old.path, prepared):
        assert f"removed: {path}" in done and not path.exists()
    assert new.path.exists()
    assert link.read_bytes() == content
    assert run("prune").output.startswith("Nothing in ")
    assert str(new.path) in run("prune", "--keep-days", "2").output
    assert json.loads(run("list", "--json").stdout) == {"sets": [], "fetched": []}


@pytest.mark.parametrize("days", ["-1", "soon", "inf", "1000000"])
def test_days_that_mean_nothing(project: Path, days: str) -> None:
    """Negative or endless days, and text that is no number, are usage errors that name the option."""
    done = run("prune", "--keep-days", days)
    assert done.exit_code == 2
    assert "keep-days" in done.output

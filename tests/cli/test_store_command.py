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


def run_in(folder: Path, *arguments: str) -> Result:
    """Run `rdagent-sota store` on the store in a folder."""
    return CliRunner().invoke(app, ["store", *arguments], env={"SOTA_STORE_PATH": str(folder)})


def test_an_empty_store(project: Path) -> None:
    """A project without a store is no error for any of the commands, and says where was looked."""
    place = str(project / "git_ignore_folder" / "sota_store")
    for arguments in ((), ("list",), ("verify",), ("prune",)):
        done = run(*arguments)
        assert done.exit_code == 0
        assert place in done.output
    assert list(project.iterdir()) == []


def test_the_place_is_that_of_the_settings(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SOTA_STORE_PATH is where the command looks, relative to the current folder."""
    monkeypatch.setenv("SOTA_STORE_PATH", "elsewhere")
    assert str(project / "elsewhere") in run("list").output


def test_the_list(project: Path) -> None:
    """Sets stand there by name, with their file, size and links, the one used last at the end."""
    new, old = keep(project, "new"), keep(project, "older", days_ago=3)
    store.hand_out(old, project / "linked.parquet", link=True)
    output = run().output
    assert output.index(old.digest[7:17]) < output.index(new.digest[7:17])
    assert "older/combined_factors_df.parquet" in output.replace("\n", "").replace(" ", "")
    told = json.loads(run("list", "--json").stdout)["sets"]
    assert [entry["digest"] for entry in told] == [old.digest, new.digest]
    assert [entry["links"] for entry in told] == [1, 0]
    assert told[0]["factors"] == ["momentum", "turnover"]
    assert told[0]["rows"] == 12
    assert told[0]["size"] == old.path.stat().st_size
    assert told[0]["sources"][0]["path"] == str(project / "older" / "combined_factors_df.parquet")


def test_verify(project: Path) -> None:
    """Sets that are as they were written pass; changed bytes fail, though size and time are as before."""
    stored = keep(project, "a")
    assert run("verify").exit_code == 0
    assert f"as written: {stored.path}" in run("verify").output
    before = stored.path.stat()
    content = stored.path.read_bytes()
    stored.path.chmod(0o644)
    stored.path.write_bytes(content[:100] + b"?" + content[101:])
    os.utime(stored.path, ns=(before.st_atime_ns, before.st_mtime_ns))
    done = run("verify")
    assert done.exit_code == 1
    assert f"{stored.path} was changed" in done.output
    assert "as written" not in done.output


def test_an_entry_that_says_nothing(project: Path) -> None:
    """A damaged entry is named by list and verify, and is no traceback."""
    stored = keep(project, "a")
    stored.path.with_suffix(".json").write_text("{")
    assert run("list").exit_code == 0
    assert stored.path.name in run("list").output
    assert run("verify").exit_code == 1


def test_prune(project: Path) -> None:
    """What was not used for so many days goes, and a workspace keeps its link; a dry run only says so."""
    new, old = keep(project, "new", days_ago=5), keep(project, "older", days_ago=40)
    link = project / "linked.parquet"
    store.hand_out(old, link, link=True)
    content = old.path.read_bytes()
    dry = run("prune", "--dry-run")
    assert f"would be removed: {old.path}" in dry.output
    assert old.path.exists()
    done = run("prune")
    assert f"removed: {old.path}" in done.output
    assert (old.path.exists(), new.path.exists()) == (False, True)
    assert link.read_bytes() == content
    assert run("prune").output.startswith("Nothing in ")
    assert str(new.path) in run("prune", "--keep-days", "2").output
    assert json.loads(run("list", "--json").stdout) == {"sets": [], "fetched": []}


def test_what_release_010_prepared_is_removed(project: Path) -> None:
    """Data that release 0.1.0 kept for later models go; a dry run only says so."""
    left = store.folder(None) / "prepared" / ("a" * 64 + ".prepared")
    left.parent.mkdir(parents=True)
    left.touch()
    assert f"would be removed: {left}" in run("prune", "--dry-run").output
    assert left.exists()
    assert f"removed: {left}" in run("prune").output
    assert not left.exists()


@pytest.mark.parametrize("command", ["list", "verify", "prune"])
def test_a_store_that_is_a_file(project: Path, command: str) -> None:
    """A file where the store should be is one message, not an empty store."""
    (project / "file").touch()
    done = run_in(project / "file", command)
    assert done.exit_code == 1
    assert "Not a directory" in done.output
    assert "fix:" in done.output


def test_a_changed_file_is_told_in_the_list(project: Path) -> None:
    """A stored file that has another size or time than it was written with is named, once by verify too."""
    stored = keep(project, "a")
    stored.path.chmod(0o644)
    with stored.path.open("ab") as file:
        file.write(b"x")
    assert f"{stored.path} was changed" in run("list").output
    assert run("verify").output.count("was changed") == 1


@pytest.mark.parametrize("days", ["-1", "soon", "inf", "1000000"])
def test_days_that_mean_nothing(project: Path, days: str) -> None:
    """Negative or endless days, and text that is no number, are usage errors that name the option."""
    done = run("prune", "--keep-days", days)
    assert done.exit_code == 2
    assert "keep-days" in done.output

"""`rdagent-sota patch`: what it says, and its status."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge import diff, source_file
from rdagent_sota_bridge.cli import app

RUNNER = Path("rdagent") / source_file.RUNNER_FILE
NEWEST = source_file.diffs()[0]


def content(path: Path = NEWEST) -> bytes:
    """Return the smallest file that a diff fits."""
    first, last = diff.hunks(path.read_bytes())
    return b"import pandas as pd\n" + b"\n".join((*first.old, *last.old)) + b"\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a checkout."""
    (tmp_path / RUNNER).parent.mkdir(parents=True)
    (tmp_path / RUNNER).write_bytes(content())
    return tmp_path


def patch(command: str, root: Path | None) -> tuple[int, str, str]:
    """Run a command, and return status, output and errors."""
    options = [] if root is None else ["--source", str(root)]
    done = CliRunner().invoke(app, ["patch", command, *options])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_there_and_back(root: Path) -> None:
    """Each command says what it did, or that there was nothing to do, and which diff it was."""
    file = root / RUNNER
    assert patch("status", root) == (0, f"none: {file} is not patched; {NEWEST.name} fits\n", "")
    assert patch("revert", root) == (0, f"{file} is not patched; nothing was changed\n", "")
    status, said, _ = patch("apply", root)
    assert (status, said.splitlines()[0]) == (0, f"applied {NEWEST.name} to {file}")
    assert "before you uninstall this package" in said
    then = file.stat()
    assert patch("apply", root) == (0, f"{file} has {NEWEST.name} already; nothing was changed\n", "")
    assert file.stat() == then
    assert patch("status", root) == (0, f"applied: {file} has {NEWEST.name}\n", "")
    assert patch("revert", root) == (0, f"took {NEWEST.name} out of {file}\n", "")
    assert file.read_bytes() == content()


@pytest.mark.parametrize("path", source_file.diffs(), ids=lambda path: path.name)
def test_the_diff_is_chosen_by_content(path: Path, root: Path) -> None:
    """Nothing but the lines tells which release it is."""
    (root / RUNNER).write_bytes(content(path))
    assert f"{path.name} fits" in patch("status", root)[1]
    assert f"applied {path.name}" in patch("apply", root)[1]
    assert f"took {path.name} out" in patch("revert", root)[1]


def test_a_file_that_does_not_fit(root: Path) -> None:
    """Status 1 with the lines; and what was never patched needs no revert."""
    (root / RUNNER).write_bytes(content() + b"more = 1\n")
    status, said, _ = patch("status", root)
    assert status == 1
    assert said.startswith("does not fit: RD-Agent's model runner is not as the patch expects it")
    status, said, error = patch("apply", root)
    assert (status, said) == (1, "")
    assert "    | more = 1" in error
    assert patch("revert", root) == (0, f"{root / RUNNER} is not patched; nothing was changed\n", "")
    assert (root / RUNNER).read_bytes() == content() + b"more = 1\n"


def test_half_a_patch(root: Path) -> None:
    """All three say so, with status 1, and change nothing."""
    half = content() + b"\n\nsota_bridge.apply(__name__)\n"
    (root / RUNNER).write_bytes(half)
    for command in ("status", "apply", "revert"):
        status, said, error = patch(command, root)
        assert status == 1
        assert "has a part of the patch, or an edited one" in said + error
        assert "  fix:   take the lines with sota_bridge out by hand" in said + error
    assert (root / RUNNER).read_bytes() == half


@pytest.mark.parametrize("command", ["status", "apply", "revert"])
def test_no_rdagent_there(command: str, tmp_path: Path) -> None:
    """One message, status 1."""
    status, said, error = patch(command, tmp_path / "typo")
    assert (status, said) == (1, "")
    assert error.startswith("There is no RD-Agent with a model runner for Qlib\n  where: ")

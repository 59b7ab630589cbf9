"""`rdagent-sota patch`: what it says, and its status."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.cli import app
from tests.bridge.test_source_patch import BLOCK, RUNNER, checkout, installed, with_block, with_old_diff


def patch(command: str, root: Path) -> tuple[int, str, str]:
    """Run a command, and return status, output and errors."""
    done = CliRunner().invoke(app, ["patch", command, "--source", str(root)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


def test_there_and_back(tmp_path: Path) -> None:
    """Each command says what it did, or that there was nothing to do."""
    file = checkout(tmp_path)
    assert patch("status", tmp_path) == (0, f"none: {file} is not patched\n", "")
    assert patch("revert", tmp_path) == (0, f"{file} is not patched; nothing was changed\n", "")
    status, said, _ = patch("apply", tmp_path)
    assert (status, said.splitlines()[0]) == (0, f"applied the patch to {file}")
    assert "before you uninstall this package" in said
    then = file.stat().st_mtime_ns
    assert patch("apply", tmp_path) == (0, f"{file} is patched already; nothing was changed\n", "")
    assert file.stat().st_mtime_ns == then
    assert patch("status", tmp_path) == (0, f"applied: {file} calls rdagent_sota_bridge\n", "")
    assert patch("revert", tmp_path) == (0, f"took the patch out of {file}\n", "")
    assert file.read_bytes() == installed()


@pytest.mark.parametrize(
    ("command", "expected"), [("apply", with_block(installed())), ("revert", installed())]
)
def test_an_old_diff(command: str, expected: bytes, tmp_path: Path) -> None:
    """The diff of release 0.1.0 is named as that, and comes out."""
    file = checkout(tmp_path)
    file.write_bytes(with_old_diff(installed()))
    assert patch("status", tmp_path)[1].startswith(f"old: {file} has a diff of release 0.1.0")
    assert patch(command, tmp_path)[0] == 0
    assert file.read_bytes() == expected


@pytest.mark.parametrize("command", ["status", "apply", "revert"])
def test_what_is_refused(command: str, tmp_path: Path) -> None:
    """Half a patch, and a place without RD-Agent: one message, status 1, and nothing is changed."""
    half = installed() + BLOCK.partition(b"\n")[2]
    checkout(tmp_path / "half").write_bytes(half)
    for folder, said in (("half", "RD-Agent's model runner has a part of"), ("typo", "There is no RD-Agent")):
        status, out, error = patch(command, tmp_path / folder)
        assert (status, out) == (1, "")
        assert error.startswith(said)
        assert "\n  where: " in error
        assert "\n  fix:   " in error
    assert (tmp_path / "half" / RUNNER).read_bytes() == half

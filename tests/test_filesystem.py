"""What file systems differ in."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from rdagent_sota_bridge import filesystem
from rdagent_sota_bridge.writing import write_whole


def test_protect(tmp_path: Path) -> None:
    """A stored file is read-only."""
    (tmp_path / "file").touch(mode=0o644)
    filesystem.protect(tmp_path / "file")
    assert (tmp_path / "file").stat().st_mode & 0o777 == 0o444


@pytest.mark.parametrize("says", ["EINVAL", "EXDEV", "EMLINK", "EACCES", "ENOSYS"])
def test_links_may_be_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, says: str) -> None:
    """Whatever means that there are no links here is no error."""

    def refuse(*_: object) -> None:
        raise OSError(getattr(errno, says), "refused")

    (tmp_path / "file").touch()
    monkeypatch.setattr(os, "link", refuse)
    assert filesystem.link(tmp_path / "file", tmp_path / "link") is False


@pytest.mark.parametrize("text", ["one\n", "one\r\n因子\n"])
def test_ends_of_lines_stay(tmp_path: Path, text: str) -> None:
    """No line's end is made another: digests of such files travel."""
    write_whole(tmp_path / "a.json", text)
    assert (tmp_path / "a.json").read_bytes() == text.encode()

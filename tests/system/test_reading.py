"""What is read: regular files alone, and JSON that is none is one kind of error."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_bridge.system import files
from tests.no_files import NO_FILES, REASONS, ending, put_no_file


@pytest.mark.parametrize("kind", NO_FILES)
def test_only_files_are_opened(tmp_path: Path, kind: str) -> None:
    """What is no file is an error at once that names it; a file is read, also through a link."""
    path = put_no_file(tmp_path / "a", kind)
    with ending(), pytest.raises(OSError, match=REASONS[kind]) as caught:
        files.open_file(path)
    assert caught.value.filename == str(path)
    (tmp_path / "b").write_text("text")
    (tmp_path / "link").symlink_to("b")
    assert files.read_text(tmp_path / "link") == "text"
    with pytest.raises(FileNotFoundError):
        files.open_file(tmp_path / "c")


@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b"[" * 150 + b"]" * 150, b'{"a":' * 100_000, b"\xff", b"{", b""]
)
def test_what_is_no_json(tmp_path: Path, content: bytes) -> None:
    """Whatever can't be read as JSON is a ValueError, also what is nested too deep for Python."""
    (tmp_path / "a").write_bytes(content)
    with pytest.raises(ValueError):
        files.read_json(tmp_path / "a")

"""The `.env` of the current folder, which every command of `rdagent-sota` loads first."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.cli import app


@pytest.mark.parametrize(
    "content", [b"# \xd2\xf2\xd7\xd3\n", "A=因子\n".encode("utf-16")], ids=["GBK", "UTF-16"]
)
def test_a_file_in_another_encoding(content: bytes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that is no UTF-8 is one message with the file and the fix, and no traceback."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / ".env").write_bytes(content)
    result = CliRunner().invoke(app, ["path", "latest"])
    assert result.exit_code == 1
    assert result.stderr.startswith(".env can't be read: ")
    assert f"where: {tmp_path / '.env'}" in result.stderr
    assert "fix:   write it as UTF-8" in result.stderr
    assert "Traceback" not in result.output

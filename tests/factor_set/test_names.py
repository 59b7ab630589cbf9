"""Where RD-Agent keeps its workspaces."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_bridge.factor_set.names import workspace_root


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        (None, "", "git_ignore_folder/RD-Agent_workspace"),
        ("WORKSPACE_PATH", "there", "there"),
        ("workspace_path", "/absolute", "/absolute"),
    ],
)
def test_workspace_root_is_rdagents(
    name: str | None, value: str, expected: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The root is where RD-Agent's own settings put it, which are asked here for the same environment."""
    from rdagent.core.conf import RDAgentSettings

    monkeypatch.chdir(tmp_path)
    if name is not None:
        monkeypatch.setenv(name, value)
        assert Path.cwd() / RDAgentSettings().workspace_path == workspace_root()
    assert workspace_root() == tmp_path / expected

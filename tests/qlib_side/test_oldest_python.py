"""Qlib's environment may be an old Python, and has no package of ours."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from rdagent_sota_bridge.qlib_side import __file__ as qlib_side


@pytest.mark.parametrize("name", sorted(file.name for file in Path(qlib_side).parent.glob("*.py")))
def test_what_runs_beside_qlib(name: str) -> None:
    """Every file is Python 3.8, and imports nothing of this package."""
    text = Path(qlib_side).with_name(name).read_text(encoding="utf-8")
    found = ast.walk(ast.parse(text, feature_version=(3, 8)))
    names = [alias.name for node in found if isinstance(node, ast.Import) for alias in node.names]
    found = ast.walk(ast.parse(text))
    names += [str(node.module) for node in found if isinstance(node, ast.ImportFrom)]
    assert not [one for one in names if one.startswith("rdagent")]

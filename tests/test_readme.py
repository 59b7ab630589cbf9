"""README.md and .env.example say what the code declares, and README.md leads to what is there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from rdagent_sota_bridge.settings import Settings, read_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")
DECLARED = {str(one.validation_alias): one for one in Settings.model_fields.values()}


def test_the_short_table_of_settings_has_the_declared_defaults() -> None:
    """Each variable of the table is one, and has the default that is declared."""
    section = README.partition("## Settings")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (\S*) *\|", section, re.MULTILINE)
    assert len(rows) > 5
    for name, default in rows:
        declared = DECLARED[name].default
        assert default == {None: "", True: "`true`", False: "`false`"}.get(declared, f"`{declared}`")


def test_the_example_names_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """.env.example has each variable, commented out ones with their default, and loads without an error."""
    for name, declared in DECLARED.items():
        (found,) = re.findall(rf"^(# )?{name}=(.*)$", EXAMPLE, re.MULTILINE)
        if found[0]:
            shown = {None: "", False: "false", True: "true"}.get(declared.default, str(declared.default))
            assert found[1] == shown
    assert re.search(r"^# RDAGENT_SOTA_BRIDGE=", EXAMPLE, re.MULTILINE)
    for name, value in dotenv_values(ROOT / ".env.example").items():
        monkeypatch.setenv(name, str(value))
    assert read_settings().enabled is True


@pytest.mark.parametrize("page", ["README.md", "README.zh-CN.md"])
def test_a_readme_is_a_front_door(page: str) -> None:
    """It has at most 250 lines: what is longer stands in docs/."""
    assert len((ROOT / page).read_text(encoding="utf-8").splitlines()) <= 250

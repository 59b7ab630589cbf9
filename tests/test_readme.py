"""README and .env.example say what the code declares."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from dotenv import dotenv_values

from rdagent_sota_bridge.bridge import seams
from rdagent_sota_bridge.settings import Settings, read_settings

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
EXAMPLE = (ROOT / ".env.example").read_text(encoding="utf-8")


def rows() -> list[str]:
    """Return the settings table as the declaration gives it."""
    result = []
    for declared in Settings.model_fields.values():
        default = {None: "", True: "`true`", False: "`false`"}.get(declared.default, f"`{declared.default}`")
        result.append(f"| `{declared.validation_alias}` | {default} | {declared.description} |")
    return result


def test_the_settings_table_is_the_declaration() -> None:
    """Name, default and meaning of every variable stand in the README as they are declared, and no others."""
    section = README.partition("## Settings")[2].partition("\n## ")[0]
    assert re.findall(r"^\| `.*", section, re.MULTILINE) == rows()


def test_the_example_names_every_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    """.env.example has each variable, commented out ones with their default, and loads without an error."""
    for declared in Settings.model_fields.values():
        name = str(declared.validation_alias)
        (found,) = re.findall(rf"^(# )?{name}=(.*)$", EXAMPLE, re.MULTILINE)
        if found[0]:
            shown = {None: "", False: "false", True: "true"}.get(declared.default, str(declared.default))
            assert found[1] == shown
    assert re.search(r"^# RDAGENT_SOTA_BRIDGE=", EXAMPLE, re.MULTILINE)
    for name, value in dotenv_values(ROOT / ".env.example").items():
        monkeypatch.setenv(name, str(value))
    assert read_settings().enabled is True


def test_every_seam_stands_in_the_readme() -> None:
    """The table of what is patched has a row for each seam, with its module."""
    for seam in seams.SEAMS:
        assert f"| {seam.name} | `{seam.module}` |" in README


def test_links_inside_the_readme_lead_somewhere() -> None:
    """Every link to a heading or to a file of the repository has its target."""
    headings = {
        re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-")
        for title in re.findall(r"^#+ (.+)$", README, re.MULTILINE)
    }
    for target in re.findall(r"\]\(([^)]+)\)", README):
        if target.startswith("#"):
            assert target[1:] in headings
        elif not target.startswith("http"):
            assert (ROOT / target).exists()


def test_the_log_lines_are_the_codes() -> None:
    """What the README greps for is what the package (or RD-Agent) logs."""
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "rdagent_sota_bridge").rglob("*.py"))
    for line in re.findall(r'^grep "([^"]+)" log/latest\.log', README, re.MULTILINE):
        assert line in code or line == "SOTA factor processing"

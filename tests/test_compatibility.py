"""The compatibility table: what is declared is what the README shows and what `make test` sets up."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from rdagent_sota_bridge import compatibility, patch

ROOT = Path(__file__).parent.parent
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")


def test_the_readme_shows_the_declaration() -> None:
    """The table in the README is the one that the module prints, to the letter."""
    printed = subprocess.run(
        [sys.executable, "-m", "rdagent_sota_bridge.compatibility"],
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert printed in (ROOT / "README.md").read_text(encoding="utf-8")


def test_every_release_that_is_claimed_is_set_up() -> None:
    """`make test` installs the releases and the Pythons of the table, and no others."""
    releases = set(re.findall(r"^\w+ := rdagent==(\S+)", MAKEFILE, re.MULTILINE))
    assert releases == set(compatibility.TESTED)
    pythons = {re.findall(r"^PYTHON \?= python(\S+)", MAKEFILE, re.MULTILINE)[0]}
    pythons |= set(re.findall(r"^PYTHONS := (.+)$", MAKEFILE, re.MULTILINE)[0].split())
    assert pythons == {cell.python for cell in compatibility.CELLS if cell.python}
    looked_at = set(re.findall(r"^LOOKED_AT := (.+)$", MAKEFILE, re.MULTILINE)[0].split())
    assert looked_at == {cell.rdagent for cell in compatibility.CELLS if cell.proof == "recognised"}


def test_the_seams_are_checked_on_the_tested_releases() -> None:
    """No seam claims a release that the table does not."""
    assert {release for seam in patch.SEAMS for release in seam.checked} == set(compatibility.TESTED)


def test_the_package_admits_the_pythons_and_releases_of_the_table() -> None:
    """pyproject's bounds are no narrower than what is run."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    oldest = min(cell.python for cell in compatibility.CELLS if cell.python)
    assert f'requires-python = ">={oldest}"' in pyproject
    assert f'"rdagent>={min(cell.rdagent for cell in compatibility.CELLS)}"' in pyproject

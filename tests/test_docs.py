"""READMEs and docs/ say what the code declares and lead somewhere, and each page has its Chinese twin."""

from __future__ import annotations

import re
from itertools import zip_longest
from pathlib import Path

import pytest
import yaml

from rdagent_sota_bridge.bridge import seams
from rdagent_sota_bridge.settings import Settings
from tests.pages import ROOT, Section, anchors, broken_links, english_name, sections

DOCS = ROOT / "docs"
ENGLISH = sorted(file for file in DOCS.glob("*.md") if not file.name.endswith(".zh.md"))
TWINS = {file: file.with_suffix(".zh.md") for file in ENGLISH if file.name != "contributing.md"} | {
    ROOT / "README.md": ROOT / "README.zh-CN.md",
    ROOT / "CONTRIBUTING.md": DOCS / "contributing.zh.md",  # docs/contributing.md includes it
}
PAGES = [*TWINS, *TWINS.values(), ROOT / "SECURITY.md"]


def relative(path: Path) -> str:
    """Return a file's path in the repository."""
    return str(path.relative_to(ROOT))


def test_the_settings_table_is_the_declaration() -> None:
    """Name, default and meaning of every variable stand in the docs as they are declared, and no others."""
    rows = []
    for declared in Settings.model_fields.values():
        default = {None: "", True: "`true`", False: "`false`"}.get(declared.default, f"`{declared.default}`")
        rows.append(f"| `{declared.validation_alias}` | {default} | {declared.description} |")
    page = (DOCS / "settings.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `.*", page, re.MULTILINE) == rows


def test_every_seam_stands_in_the_docs() -> None:
    """The table of what is patched has a row for each seam, with its module."""
    page = (DOCS / "how-it-works.md").read_text(encoding="utf-8")
    for seam in seams.SEAMS:
        assert f"| {seam.name} | `{seam.module}` |" in page


def test_the_log_lines_are_the_codes() -> None:
    """What the pages grep for is what the package (or RD-Agent) logs."""
    code = "".join(file.read_text(encoding="utf-8") for file in (ROOT / "rdagent_sota_bridge").rglob("*.py"))
    lines = {
        line
        for page in TWINS
        for line in re.findall(r'grep (?:-A9 )?"([^"]+)" log/latest\.log', page.read_text(encoding="utf-8"))
    }
    assert len(lines) > 6
    assert not [line for line in lines if line not in code and line != "SOTA factor processing"]


@pytest.mark.parametrize("page", PAGES, ids=relative)
def test_links_lead_somewhere(page: Path) -> None:
    """Every link to a file of the repository, and to a heading in it, has its target."""
    assert broken_links(page) == []


def test_the_site_has_every_page() -> None:
    """mkdocs.yml names each page once."""

    class Loader(yaml.SafeLoader):
        """Reads mkdocs.yml, which names a function."""

    Loader.add_multi_constructor("tag:yaml.org,2002:python/", lambda *_: None)
    site = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)
    named = [page for part in site["nav"] for pages in part.values() for page in pages]
    assert sorted(named) == [file.name for file in ENGLISH]


# The sections of each page beside those of its twin.
PAIRS = [
    pytest.param(one, other, id=f"{english.name}: {(one or other).title}")
    for english, chinese in TWINS.items()
    for one, other in zip_longest(
        *(sections(file.read_text(encoding="utf-8")) for file in (english, chinese))
    )
]


@pytest.mark.parametrize(("english", "chinese"), PAIRS)
def test_a_section_has_the_same_commands_names_tables_and_links(
    english: Section | None, chinese: Section | None
) -> None:
    """Headings are as deep; blocks are the same but for comments; every name, row and link is in both."""
    assert english is not None
    assert chinese is not None
    assert chinese.level == english.level
    assert chinese.blocks == english.blocks
    assert chinese.names == english.names
    assert chinese.tables == english.tables
    assert sorted(map(english_name, chinese.links)) == sorted(map(english_name, english.links))


@pytest.mark.parametrize("english", TWINS, ids=relative)
def test_links_to_headings_lead_to_the_same_ones(english: Path) -> None:
    """A link to a heading leads to the one that the Chinese page leads to, in the same order of headings."""
    found = []
    for page in (english, TWINS[english]):
        places = []
        for name, anchor in re.findall(r"\]\(([^)#:]*)#([^)]+)\)", page.read_text(encoding="utf-8")):
            target = page.parent / name if name else page
            known = anchors(target.read_text(encoding="utf-8"))
            places.append((english_name(target.name), known.index(anchor)))
        found.append(sorted(places))
    assert found[0] == found[1]

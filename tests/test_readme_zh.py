"""README.zh-CN.md says what README.md says: the same headings, commands, names and tables, in step."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
ENGLISH = (ROOT / "README.md").read_text(encoding="utf-8")
CHINESE = (ROOT / "README.zh-CN.md").read_text(encoding="utf-8")

_FENCE = re.compile(r"^( *)```(\w*)\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)
_COMMENT = re.compile(r"(^|\s+)#.*$", re.MULTILINE)


@dataclass(frozen=True)
class Section:
    """What stands under one heading.

    Attributes:
        level: How deep the heading is.
        title: Its text.
        blocks: Language and content of each fenced block, without comments.
        names: The code spans of the prose, sorted, each once.
        tables: For each table its rows, each with its number of cells and its code spans.
        links: The targets outside of the page.
    """

    level: int
    title: str
    blocks: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    tables: tuple[tuple[tuple[int, tuple[str, ...]], ...], ...]
    links: tuple[str, ...]


def sections(text: str) -> list[Section]:
    """Return the sections of a README, in order."""
    # What looks like a heading in a block is a comment of the shell.
    blocks: list[str] = []

    def put_away(found: re.Match[str]) -> str:
        blocks.append(found.group(0))
        return f"\x00{len(blocks) - 1}\x00"

    bare = _FENCE.sub(put_away, text)
    parts = re.split(r"^(#+) (.+)$", bare, flags=re.MULTILINE)
    return [
        _section(len(marks), title, re.sub("\x00(\\d+)\x00", lambda found: blocks[int(found.group(1))], body))
        for marks, title, body in zip(parts[1::3], parts[2::3], parts[3::3], strict=True)
    ]


def _section(level: int, title: str, body: str) -> Section:
    blocks = tuple((found[1], _COMMENT.sub("", found[2]).strip()) for found in _FENCE.findall(body))
    prose = _FENCE.sub("", body)
    lines = [line.strip() for line in prose.splitlines()]
    tables: list[list[tuple[int, tuple[str, ...]]]] = []
    inside = False
    for line in lines:
        if line.startswith("|"):
            if not inside:
                tables.append([])
            tables[-1].append((len(re.findall(r"(?<!\\)\|", line)) - 1, _code(line)))
        inside = line.startswith("|")
    rest = "\n".join(line for line in lines if not line.startswith("|"))
    links = tuple(sorted(set(re.findall(r"\]\(([^)#][^)]*)\)", rest))))
    return Section(level, title, blocks, _code(rest), tuple(map(tuple, tables)), links)


def _code(text: str) -> tuple[str, ...]:
    return tuple(sorted({" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)}))


def anchors(text: str) -> list[str]:
    """Return the anchors of the headings, in order, as GitHub makes them."""
    return [re.sub(r"[^\w\- ]", "", one.title.lower()).strip().replace(" ", "-") for one in sections(text)]


PAIRS = list(zip(sections(ENGLISH), sections(CHINESE), strict=False))


def test_the_headings_are_the_same() -> None:
    """As many headings, as deep, in the same order: no section is missing in either."""
    assert [one.level for one in sections(CHINESE)] == [one.level for one in sections(ENGLISH)]


@pytest.mark.parametrize("pair", PAIRS, ids=[english.title for english, _ in PAIRS])
def test_a_section_has_the_same_commands_names_and_tables(pair: tuple[Section, Section]) -> None:
    """Blocks are the same to the letter but for comments; every name, row and outer link is in both."""
    english, chinese = pair
    assert chinese.blocks == english.blocks
    assert chinese.names == english.names
    assert chinese.tables == english.tables
    translated = {target.replace("README.zh-CN.md", "README.md") for target in chinese.links}
    assert translated == {target.replace("README.zh-CN.md", "README.md") for target in english.links}


def test_links_inside_lead_to_the_same_sections() -> None:
    """The links to headings lead to the headings that those of the other page lead to, in the same order."""
    found = []
    for text in (ENGLISH, CHINESE):
        known = anchors(text)
        found.append([known.index(target) for target in re.findall(r"\]\(#([^)]+)\)", text)])
    assert sorted(found[0]) == sorted(found[1])


def test_each_names_the_other() -> None:
    """A reader finds the other language at the top."""
    assert "(README.zh-CN.md)" in ENGLISH.partition("\n## ")[0]
    assert "(README.md)" in CHINESE.partition("\n## ")[0]

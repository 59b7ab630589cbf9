"""What a page in Markdown holds, section by section: the READMEs and docs/ are compared by it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parent.parent

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
        links: The files and addresses that it leads to, without anchors.
    """

    level: int
    title: str
    blocks: tuple[tuple[str, str], ...]
    names: tuple[str, ...]
    tables: tuple[tuple[tuple[int, tuple[str, ...]], ...], ...]
    links: tuple[str, ...]


def sections(text: str) -> list[Section]:
    """Return the sections of a page, in order."""
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
    links = tuple(sorted(set(re.findall(r"\]\(([^)#][^)#]*)", body))))
    return Section(level, title, blocks, _code(rest), tuple(map(tuple, tables)), links)


def _code(text: str) -> tuple[str, ...]:
    return tuple(sorted({" ".join(span.split()) for span in re.findall(r"`([^`]+)`", text)}))


def anchors(text: str) -> list[str]:
    """Return the anchors of the headings, in order, as GitHub makes them."""
    return [re.sub(r"[^\w\- ]", "", one.title.lower()).strip().replace(" ", "-") for one in sections(text)]


def english_name(link: str) -> str:
    """Return the English page that a link of a Chinese one stands for."""
    return link.replace(".zh-CN.md", ".md").replace(".zh.md", ".md")


def broken_links(page: Path) -> list[str]:
    """Return the links of a page to files of the repository, or to headings in them, that are not there."""
    broken = []
    for target in re.findall(r"\]\(([^)]+)\)", page.read_text(encoding="utf-8")):
        name, _, anchor = target.partition("#")
        if name.startswith(("http:", "https:")):
            continue
        file = page.parent / name if name else page
        there = file.is_file() or (file.is_dir() and not anchor)
        if not there or (anchor and anchor not in anchors(file.read_text(encoding="utf-8"))):
            broken.append(target)
    return broken

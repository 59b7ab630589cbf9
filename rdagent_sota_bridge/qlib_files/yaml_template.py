"""Where the parts of a YAML template stand in its text, so that one can be rewritten and all else stays."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import yaml

_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_ALIAS = re.compile(r"\s*:\s*\*[^\s,\]}]+")

Edit = tuple[int, int, str]
"""A part of a text, by its start and its end, and what takes its place."""


@dataclass(frozen=True, eq=False)
class Template:
    """A YAML template, parsed without being rendered: a placeholder is a word, other tags are not there.

    Attributes:
        text: The text.
        root: PyYAML's node of the document; None where it is empty. An alias is the node that it names.
        origin: From a position in what was parsed to that in the text.
    """

    text: str
    root: yaml.Node | None
    origin: tuple[int, ...]

    def value_edit(self, pair: Pair, value: str) -> Edit:
        """Return the edit that gives a key another value, in place of all of its present one."""
        start = self._end(pair.key)
        if (
            pair.value.start_mark.index < pair.key.end_mark.index
        ):  # an alias: the node stands where it is named
            alias = _ALIAS.match(self.text, start)
            end = start if alias is None else alias.end()
        else:
            end = self._end(pair.value)
        return start, end, f": {value}"

    def key_edit(self, mapping: yaml.MappingNode, key: str, value: str) -> Edit:
        """Return the edit that puts a key with a value after the last of a mapping, which must have one."""
        last = Pair(*mapping.value[-1])
        end = self._end(last.value)
        if mapping.flow_style:
            return end, end, f", {key}: {value}"
        line_end = self.text.find("\n", end)
        end = len(self.text) if line_end < 0 else line_end
        return end, end, f"\n{' ' * last.key.start_mark.column}{key}: {value}"

    def without(self, pair: Pair) -> Edit:
        """Return the edit that takes out a key of a block mapping, with all of its lines."""
        start = self.text.rfind("\n", 0, self.origin[pair.key.start_mark.index]) + 1
        line_end = self.text.find("\n", self._end(pair.value))
        return start, len(self.text) if line_end < 0 else line_end + 1, ""

    def _end(self, node: yaml.Node) -> int:
        """Return where a node ends in the text: after its last letter, and before a tag that follows."""
        return self.origin[_end(node) - 1] + 1


@dataclass(frozen=True, eq=False)
class Pair:
    """A key of a mapping and its value."""

    key: yaml.Node
    value: yaml.Node


def parse(text: str) -> Template:
    """Parse a YAML template.

    Raises:
        yaml.YAMLError: if it is no YAML even so.
    """
    parsed: list[str] = []
    origin: list[int] = []
    last = 0
    for tag in _TAG.finditer(text):
        parsed.append(text[last : tag.start()])
        origin += range(last, tag.start())
        if tag[0].startswith("{{"):
            parsed.append("x" * len(tag[0]))
            origin += range(tag.start(), tag.end())
        last = tag.end()
    parsed.append(text[last:])
    origin += range(last, len(text) + 1)
    return Template(text, yaml.compose("".join(parsed), yaml.SafeLoader), tuple(origin))


def pair(node: yaml.Node | None, key: str) -> Pair | None:
    """Return a key of a mapping with its value; None where it is not there, or the node is no mapping."""
    if not isinstance(node, yaml.MappingNode):
        return None
    return next((Pair(*both) for both in node.value if both[0].value == key), None)


def at(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    """Return the value below keys, one inside the other; None where one is not there."""
    for key in keys:
        found = pair(node, key)
        node = None if found is None else found.value
    return node


def items(node: yaml.Node | None) -> Iterator[yaml.Node]:
    """Yield the items of a sequence; none of anything else."""
    if isinstance(node, yaml.SequenceNode):
        yield from node.value


def edited(text: str, edits: Iterable[Edit]) -> str:
    """Return a text with edits, which must not overlap; one that is there twice counts once."""
    for start, end, new in sorted(set(edits), reverse=True):
        text = f"{text[:start]}{new}{text[end:]}"
    return text


def _end(node: yaml.Node) -> int:
    """Return where a node ends. PyYAML lets a block end at the next token, after comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)

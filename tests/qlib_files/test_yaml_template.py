"""Where the parts of a YAML template stand: edits reach the part alone, in every style that YAML has."""

from __future__ import annotations

import jinja2
import pytest
import yaml

from rdagent_sota_bridge.qlib_files import yaml_template
from rdagent_sota_bridge.qlib_files.yaml_template import at, edited, items, pair, parse


def with_value(text: str, *keys: str) -> str:
    """Return a text with the value below keys replaced by [new]."""
    template = parse(text)
    *parents, key = keys
    found = pair(at(template.root, *parents), key)
    assert found is not None
    return edited(text, [template.value_edit(found, "[new]")])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  b: 1\n  c: 2\n", "a:\n  b: [new]\n  c: 2\n"),
        ("a: {b: [1,\n  2], c: 2}", "a: {b: [new], c: 2}"),
        (
            "a:\n  b:\n  - 1\n  - 2  # mine\n  # and mine\n  c: 2\n",
            "a:\n  b: [new]  # mine\n  # and mine\n  c: 2\n",
        ),
        ("a:\n  b:\n    - {x: 1}\n    - - 2\n  c: 2\n", "a:\n  b: [new]\n  c: 2\n"),
        ("x: &x [1]\na:\n  b: *x\n  c: 2\n", "x: &x [1]\na:\n  b: [new]\n  c: 2\n"),
        ("x: &x [1]\na: {b: *x, c: 2}\n", "x: &x [1]\na: {b: [new], c: 2}\n"),
        ("y: &a\n  b: 1\na: *a\n", "y: &a\n  b: [new]\na: *a\n"),
        ('a: {"b": "1", c: 2}', 'a: {"b": [new], c: 2}'),
        ("a:\n  b: {{ one }}\n  c: {{ two }}\n", "a:\n  b: [new]\n  c: {{ two }}\n"),
        ("{% if x %}z: 1{% endif %}\na: {b: {{ one }}}\n", "{% if x %}z: 1{% endif %}\na: {b: [new]}\n"),
        (
            "a:\n  x: [{{ 'q' }}]\n  {% if y %}b: 1{% endif %}\n",
            "a:\n  x: [{{ 'q' }}]\n  {% if y %}b: [new]{% endif %}\n",
        ),
        ("a:\n  {# b: 7 #}\n  b: 因子\n", "a:\n  {# b: 7 #}\n  b: [new]\n"),
    ],
)
def test_a_value_alone_is_replaced(text: str, expected: str) -> None:
    """All that is not the value stays, comments and tags of the template too."""
    assert with_value(text, "a", "b") == expected
    document = yaml.safe_load(jinja2.Template(expected).render(one=1, two=2, x=True, y=True))
    assert document["a"]["b"] == ["new"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  b: 1  # mine\nc: 2\n", "a:\n  b: 1  # mine\n  k: 7\nc: 2\n"),
        ("a:\n  b:\n    - 1\n    - 2\nc: 2\n", "a:\n  b:\n    - 1\n    - 2\n  k: 7\nc: 2\n"),
        ("a: {b: 1}\n", "a: {b: 1, k: 7}\n"),
        ("a:\n    b: 1", "a:\n    b: 1\n    k: 7"),
    ],
)
def test_a_key_is_put_after_the_last(text: str, expected: str) -> None:
    """A key comes in the style of its mapping, below the last one."""
    template = parse(text)
    mapping = at(template.root, "a")
    assert isinstance(mapping, yaml.MappingNode)
    assert edited(text, [template.key_edit(mapping, "k", "7")]) == expected
    assert yaml.safe_load(expected)["a"]["k"] == 7


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a:\n  b:\n    - 1\n    - 2 # mine\n  c: 2\n", "a:\n  c: 2\n"),
        ("a:\n  c: 2\n  b: [1,\n    2]", "a:\n  c: 2\n"),
    ],
)
def test_a_key_is_taken_out(text: str, expected: str) -> None:
    """A key of a block goes with all of its lines."""
    template = parse(text)
    found = pair(at(template.root, "a"), "b")
    assert found is not None
    assert edited(text, [template.without(found)]) == expected


def test_what_is_not_there_is_none() -> None:
    """Paths that lead nowhere, and nodes of another kind, are nothing, not an error."""
    root = parse("a: [1, {b: 2}]\n").root
    assert [node.value for node in items(at(root, "a")) if isinstance(node, yaml.ScalarNode)] == ["1"]
    assert at(root, "a", "b") is None
    assert at(root, "z", "b") is None
    assert pair(at(root, "a"), "b") is None
    assert list(items(root)) == []
    assert parse("").root is None


def test_one_edit_twice_is_one() -> None:
    """What two names lead to is rewritten once; edits may come in any order."""
    assert edited("abcdef", [(4, 5, "E"), (1, 2, ""), (4, 5, "E")]) == "acdEf"


def test_no_yaml_is_an_error() -> None:
    """A text that is none is refused by the parser."""
    with pytest.raises(yaml.YAMLError):
        yaml_template.parse("a: [1")

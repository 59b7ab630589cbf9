"""Edits of the model YAML, a template: a part of its text, by start and end, and what takes its place."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator

import yaml

from rdagent_sota_bridge.qlib_files.base_sets import BaseSet

NETWORK = ("GeneralPTNN", "qlib.contrib.model.pytorch_general_nn")
"""Class and module of Qlib's that train RD-Agent's networks."""

ALPHA_LOADER = "qlib.contrib.data.loader.Alpha158DL"
PLAIN_LOADER = "qlib.data.dataset.loader.QlibDataLoader"
PROCESSORS = ("shared_processors", "infer_processors", "learn_processors")

_FEATURES = "[{{ feature_expressions }}, {{ feature_names }}]"
_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_ALIAS = re.compile(r"\s*:\s*\*[^\s,\]}]+")

_Edit = tuple[int, int, str]


def with_features(text: str, base: BaseSet) -> str:
    """Return the YAML with its first loader's features, and those of its filters, taken from variables.

    Raises:
        ValueError: if it has a form that is not known; the text says which.
        yaml.YAMLError: if it is no YAML.
    """
    handler = _at(_parse(text), "task", "dataset", "kwargs", "handler", "kwargs")
    edits = {*_feature_edits(text, handler, base), *_filter_edits(text, handler)}
    for start, end, new in sorted(edits, reverse=True):
        text = f"{text[:start]}{new}{text[end:]}"
    return text


@functools.lru_cache(maxsize=8)  # every loop asks it of the same text
def with_model_module(text: str, module: str) -> str:
    """Return the YAML with another module path of the model `GeneralPTNN`.

    Raises:
        ValueError: if the model is another one; the text says which.
    """
    model = _at(_parse(text), "task", "model")
    named, path = _at(model, "class"), _at(model, "module_path")
    if named is None or path is None or (named.value, path.value) not in (NETWORK, (NETWORK[0], module)):
        known = ".".join(node.value for node in (path, named) if node is not None)
        raise ValueError(f"the model is {known or 'of no class'}")
    return f"{text[: path.start_mark.index]}{module}{text[path.end_mark.index :]}"


def _feature_edits(text: str, handler: yaml.Node | None, base: BaseSet) -> Iterator[_Edit]:
    """Yield the edit that gives the first loader the features of a base set."""
    first = next(iter(_items(_at(handler, "data_loader", "kwargs", "dataloader_l"))), None)
    config, loader = _at(first, "kwargs", "config"), _at(first, "class")
    if not isinstance(config, yaml.MappingNode) or loader is None:
        raise ValueError("it has no first loader of features")
    keys = [key.value for key, _ in config.value]
    if "feature" in keys:
        key, value = config.value[keys.index("feature")]
        if not base.features and not config.flow_style:  # all of its lines go
            line_end = text.find("\n", _end(value))
            start = text.rfind("\n", 0, key.start_mark.index) + 1
            yield start, len(text) if line_end < 0 else line_end + 1, ""
        elif base.features:
            yield from _value_edit(text, key, value, _FEATURES)
    elif keys == ["label"] and base.features and loader.value == ALPHA_LOADER:
        key, value = config.value[-1]
        if config.flow_style:
            yield _end(value), _end(value), f", feature: {_FEATURES}"
        else:
            line_end = text.find("\n", _end(value))
            end = len(text) if line_end < 0 else line_end
            yield end, end, f"\n{' ' * key.start_mark.column}feature: {_FEATURES}"
    elif keys != ["label"] or base.features or loader.value != PLAIN_LOADER:
        raise ValueError(f"its first loader {loader.value} has {keys}, and no features")


def _filter_edits(text: str, handler: yaml.Node | None) -> Iterator[_Edit]:
    """Yield the edits that let all features through each `FilterCol` of the features."""
    for processor in [one for name in PROCESSORS for one in _items(_at(handler, name))]:
        named, kwargs = _at(processor, "class"), _at(processor, "kwargs")
        group = _at(kwargs, "fields_group")
        if (
            named is not None
            and named.value.split(".")[-1] == "FilterCol"
            and isinstance(kwargs, yaml.MappingNode)
        ):
            for key, value in kwargs.value:
                if key.value == "col_list" and (group is None or group.value == "feature"):
                    yield from _value_edit(text, key, value, "{{ feature_columns }}")


def _value_edit(text: str, key: yaml.Node, value: yaml.Node, new: str) -> Iterator[_Edit]:
    """Yield the edit that gives a key another value, unless it has it."""
    start, end = _end(key), _end(value)
    if value.start_mark.index < start:  # an alias: the node stands where it is named
        alias = _ALIAS.match(text, start)
        end = start if alias is None else alias.end()
    if re.findall(r"\w+", text[start:end]) != re.findall(r"\w+", new):
        yield start, end, f": {new}"


def _parse(text: str) -> yaml.Node | None:
    """Parse a YAML template without rendering it, each node at its place: tags are words or blanks."""

    def masked(tag: re.Match[str]) -> str:
        is_first = not text[text.rfind("\n", 0, tag.start()) + 1 : tag.start()].strip()
        is_word = tag[0].startswith("{{") or (is_first and text[tag.end() : tag.end() + 1].strip())
        return ("x" if is_word else " ") * len(tag[0])

    return yaml.compose(_TAG.sub(masked, text), yaml.SafeLoader)


def _at(node: yaml.Node | None, *keys: str) -> yaml.Node | None:
    """Return the value below keys, one inside the other; None where one is not there."""
    for key in keys:
        pairs = node.value if isinstance(node, yaml.MappingNode) else []
        node = next((value for named, value in pairs if named.value == key), None)
    return node


def _items(node: yaml.Node | None) -> Iterable[yaml.Node]:
    return node.value if isinstance(node, yaml.SequenceNode) else []


def _end(node: yaml.Node) -> int:
    """Return where a node ends. PyYAML lets a block end at the next token, after comments that follow it."""
    if isinstance(node, yaml.CollectionNode) and not node.flow_style and node.value:
        last = node.value[-1]
        return _end(last[1] if isinstance(last, tuple) else last)
    return int(node.end_mark.index)

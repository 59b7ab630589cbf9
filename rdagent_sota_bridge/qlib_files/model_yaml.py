"""The model YAML that RD-Agent hands to qrun: what it names, and the lines that depend on the base set.

The text stays a template: all but the features of the first data loader, and the names that a processor lets
through, is RD-Agent's (or the user's).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd
import yaml
from jinja2.sandbox import SandboxedEnvironment

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError, SettingsError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA158, NO_BASE_SET, BaseSet

CONFIG_FILE = "conf_sota_factors_model.yaml"
"""The YAML of a model that trains on factors (RD-Agent's `scenarios/qlib/experiment/model_template`)."""

FACTOR_CONFIG_FILES = ("conf_combined_factors.yaml", "conf_combined_factors_sota_model.yaml")
"""The YAML files of a factor loop with factors: for LightGBM, and for the best model of the run
(`scenarios/qlib/experiment/factor_template`, 0.8.0 and 1.0.0)."""

NETWORK = ("GeneralPTNN", "qlib.contrib.model.pytorch_general_nn")
"""Class and module of Qlib's that train RD-Agent's networks."""

Segment = tuple[pd.Timestamp, pd.Timestamp]
"""First and last day of a segment, both inclusive."""

_NOTE = "# rdagent-sota-bridge:"
_ALPHA_LOADER = "qlib.contrib.data.loader.Alpha158DL"
_PLAIN_LOADER = "qlib.data.dataset.loader.QlibDataLoader"
_DATES = ("train_start", "train_end", "valid_start", "valid_end", "test_start", "test_end")
_FEATURE_GROUPS = ("feature", None)
_PROCESSORS = ("shared_processors", "infer_processors", "learn_processors")
_FEATURES = "[{{ feature_expressions }}, {{ feature_names }}]"
_TAG = re.compile(r"\{\{.*?\}\}|\{%.*?%\}|\{#.*?#\}", re.DOTALL)
_ALIAS = re.compile(r"\s*:\s*\*[^\s,\]}]+")
_UNREADABLE = (
    *(AttributeError, KeyError, IndexError, TypeError, ValueError),
    *(yaml.YAMLError, jinja2.TemplateError),
)


def inside(days: pd.DatetimeIndex, segment: Segment) -> Any:
    """Return which days (without times of day) are in a segment, whose end may be open; bool, (days,)."""
    start, end = segment
    return (days >= start) & ((days <= end) | pd.isna(end))


@dataclass(frozen=True)
class Task:
    """What a rendered YAML names.

    Attributes:
        provider_uri: Qlib's data folder, as written.
        market: The name of the market.
        train: First and last day of the training segment, both inclusive.
        valid: The same of the validation segment.
        test: The same of the test segment; its end is NaT where it is open.
        label: Qlib's expression of the label.
    """

    provider_uri: str
    market: str
    train: Segment
    valid: Segment
    test: Segment
    label: str

    @property
    def segments(self) -> dict[str, Segment]:
        """The three segments by name."""
        return {"train": self.train, "valid": self.valid, "test": self.test}


def task_of(document: Any, market: Any) -> Task:
    """Return what a configuration of Qlib names, with the name of its market.

    Raises:
        KeyError, IndexError, TypeError, ValueError: if it does not name all of it.
    """
    dataset = document["task"]["dataset"]["kwargs"]
    handler, segments = dataset["handler"]["kwargs"], {}
    for name in ("train", "valid", "test"):
        start, end = (pd.Timestamp(day) for day in dataset["segments"][name])
        if pd.isna(start) or (pd.isna(end) and name != "test"):
            raise ValueError(f"a {name} segment from {start} to {end}")
        segments[name] = start, end
    if "data_loader" in handler:
        label = handler["data_loader"]["kwargs"]["dataloader_l"][0]["kwargs"]["config"]["label"][0]
    else:  # a handler of Qlib's own, as in 0.8.0's baseline
        label = handler["label"]
    label = label if isinstance(label, str) else label[0]  # expressions before names, or an expression
    return Task(str(document["qlib_init"]["provider_uri"]), str(market), **segments, label=str(label))


def read_task(text: str, variables: dict[str, str]) -> Task:
    """Read what the YAML names, rendered with the variables that RD-Agent would hand to qrun.

    Raises:
        SeamError: if it has a form that is not known.
    """
    try:
        document = rendered(text, variables)
        return task_of(document, document["market"])
    except _UNREADABLE as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class QlibStart:
    """What RD-Agent would start Qlib with: the name of the YAML, its text (a template), its variables."""

    config_name: str
    config: str
    run_env: dict[str, str]

    def task(self, base: BaseSet) -> Task:
        """Return what the YAML names, with a base set.

        Raises:
            SeamError: if it has a form that is not known.
            SettingsError: if a date of RD-Agent's settings is none.
        """
        kind = "MODEL" if self.config_name == CONFIG_FILE else "FACTOR"
        for name in self.run_env.keys() & set(_DATES):
            try:
                pd.Timestamp(self.run_env[name])
            except ValueError:
                variable = f"QLIB_{kind}_{name.upper()}"
                raise SettingsError(
                    f"{variable} is no date: {self.run_env[name]!r}",
                    f"environment variable or .env entry {variable}, a setting of RD-Agent's",
                    "write it as 2008-01-01",
                ) from None
        return read_task(adapt(self.config, base, ""), {**self.run_env, **feature_variables(base)})


def feature_variables(base: BaseSet, mined: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables that carry the features into the YAML.

    The base set's are named as RD-Agent 1.0.0 names them. The third has the names of all features, for
    processors that let through those they name.
    """
    lists = {
        "feature_names": base.names,
        "feature_expressions": [expression for _, expression in base.features],
        "feature_columns": dict.fromkeys([*base.names, *mined]),
    }
    return {name: json.dumps(list(texts), ensure_ascii=False) for name, texts in lists.items()}


@functools.lru_cache(maxsize=8)  # every loop asks it of the same text
def adapt(text: str, base: BaseSet, note: str, mined: tuple[str, ...] = ()) -> str:
    """Return the YAML with its first loader's features taken from variables, or without them.

    Without base features the key has to go, for Qlib refuses empty lists, and the loader has to become the
    plain one, for `Alpha158DL` loads all 158 where the key is missing (pyqlib 0.9.7).

    A fork may have the features written out in any style, or leave the key out and let a `FilterCol` choose
    from the 158: that one drops all that it does not name, mined columns too, and gets all names from a
    variable.

    Args:
        text: RD-Agent's YAML, or one that was adapted before.
        base: The base features that the model gets beside the mined columns; may be empty.
        note: A line of comment for the top, which names the set. It makes the YAML differ where the set
            does, and with it the key of a cached qrun (`ENABLE_CACHE` in `utils/env.py` of RD-Agent 1.0.0),
            which knows texts but no data.
        mined: The mined columns, where they are known.

    Raises:
        SeamError: if the YAML has a form that is not known.
    """
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(_NOTE)]
    body = "".join(lines) if base.features else "".join(lines).replace(_ALPHA_LOADER, _PLAIN_LOADER)
    try:
        handler = _at(_parse(body), "task", "dataset", "kwargs", "handler", "kwargs")
        edits = {*_feature_edits(body, handler, base), *_filter_edits(body, handler)}
    except yaml.YAMLError as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None
    for start, end, new in sorted(edits, reverse=True):
        body = f"{body[:start]}{new}{body[end:]}"
    noted = f"{_NOTE} {note}\n{body}"
    _verify(noted, base, mined)
    return noted


@functools.lru_cache(maxsize=8)  # every loop asks it of the same text
def with_model_module(text: str, module: str) -> str:
    """Return the YAML with another module path of the model `GeneralPTNN`.

    Raises:
        ValueError: if the model is another one; the text says which.
    """
    model = _at(_parse(text), "task", "model")
    named, path = _at(model, "class"), _at(model, "module_path")
    if named is None or path is None or (named.value, path.value) not in (NETWORK, (NETWORK[0], module)):
        raise ValueError(f"the model is {'of no class' if named is None else named.value}")
    return f"{text[: path.start_mark.index]}{module}{text[path.end_mark.index :]}"


@functools.lru_cache(maxsize=8)  # every loop asks it of the same text, more than once
def written_features(text: str) -> dict[str, str]:
    """Return the base features that stand in a YAML itself, by name; none where variables bring them.

    Those are what its first loader lists, or loads where it lists nothing, as far as a `FilterCol` lets them
    through. What has another form is left to `adapt`, which refuses it.
    """
    try:
        kwargs = rendered(text, {})["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        first = kwargs["data_loader"]["kwargs"]["dataloader_l"][0]
        features = ALPHA158 if first["class"] == _ALPHA_LOADER else {}
        if "feature" in first["kwargs"]["config"]:
            expressions, names = first["kwargs"]["config"]["feature"]
            features = dict(zip(names, expressions, strict=True))
        for _, group, columns in _named_by_filters(kwargs):
            if group in _FEATURE_GROUPS:
                features = {name: features[name] for name in features if name in columns}
    except _UNREADABLE:
        return {}
    return features


def rendered(text: str, variables: dict[str, str]) -> Any:
    """Return a YAML as Qlib would read it, with the variables that RD-Agent hands to qrun.

    Raises:
        yaml.YAMLError, jinja2.TemplateError: if it has no such form.
    """
    nothing_yet = {"num_features": "0", **feature_variables(NO_BASE_SET)}
    text_of_yaml = _template(text).render({**nothing_yet, **variables})
    # The parser written in C, where PyYAML has it, is ten times as fast: a run's check takes milliseconds.
    return yaml.load(text_of_yaml, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe


@functools.lru_cache(maxsize=8)
def _template(text: str) -> jinja2.Template:
    # Not HTML, and rendered as Qlib renders it (`qlib/cli/run.py`, pyqlib 0.9.7), but for what a template can
    # reach: a workspace may be somebody else's.
    return SandboxedEnvironment().from_string(text)


def _verify(text: str, base: BaseSet, mined: Sequence[str]) -> None:
    """Read the adapted YAML as Qlib would, and compare what its loaders and processors get."""
    try:
        kwargs = rendered(text, feature_variables(base, mined))["task"]["dataset"]["kwargs"]["handler"][
            "kwargs"
        ]
        first, *others = kwargs["data_loader"]["kwargs"]["dataloader_l"]
        features = first["kwargs"]["config"].get("feature")
        static = [loader["kwargs"]["config"] for loader in others]
        choosing = list(_named_by_filters(kwargs))
    except _UNREADABLE as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None
    expected = [[expression for _, expression in base.features], list(base.names)] if base.features else None
    if features != expected:
        raise _unknown_form(f"its first loader would load {features}, not {expected}")
    if static != [FACTOR_FILE]:
        raise _unknown_form(f"its other loaders read {static}, not [{FACTOR_FILE!r}]")
    held = {*base.names, *mined}
    for name, group, columns in choosing:
        kept = held if group not in _FEATURE_GROUPS else held & columns
        if lost := sorted(held & columns if name == "DropCol" else held - kept):
            some = ", ".join(lost[:5])
            raise _unknown_form(f"its processor {name} would drop {len(lost)} features: {some}")


def _named_by_filters(handler: dict[str, Any]) -> Iterator[tuple[str, str | None, set[str]]]:
    """Yield of each processor that chooses columns its class, the group it chooses from, and its names.

    As Qlib does (`qlib/data/dataset/processor.py`, pyqlib 0.9.7): `FilterCol` keeps what it names, and all of
    other groups; `DropCol` drops what it names.
    """
    for processor in [one for name in _PROCESSORS for one in handler.get(name) or []]:
        named = processor if isinstance(processor, str) else processor["class"]
        arguments = {} if isinstance(processor, str) else processor.get("kwargs") or {}
        name = named.split(".")[-1] if isinstance(named, str) else ""
        if name in ("FilterCol", "DropCol"):
            yield name, arguments.get("fields_group", "feature"), set(arguments.get("col_list", []))


def _unknown_form(found: str) -> SeamError:
    return SeamError(
        f"RD-Agent's model YAML has a form that is not known: {found}",
        f"model_template/{CONFIG_FILE} of the installed RD-Agent",
        OTHER_RELEASE,
    )


# --- edits of a template: a part of its text, by start and end, and what takes its place ---

_Edit = tuple[int, int, str]


def _feature_edits(text: str, handler: yaml.Node | None, base: BaseSet) -> Iterator[_Edit]:
    """Yield the edit that gives the first loader the features of a base set."""
    first = next(iter(_items(_at(handler, "data_loader", "kwargs", "dataloader_l"))), None)
    config, loader = _at(first, "kwargs", "config"), _at(first, "class")
    if not isinstance(config, yaml.MappingNode) or loader is None:
        raise _unknown_form("it has no first loader of features")
    keys = [key.value for key, _ in config.value]
    if "feature" in keys:
        key, value = config.value[keys.index("feature")]
        if not base.features and not config.flow_style:  # all of its lines go
            line_end = text.find("\n", _end(value))
            start = text.rfind("\n", 0, key.start_mark.index) + 1
            yield start, len(text) if line_end < 0 else line_end + 1, ""
        elif base.features:
            yield from _value_edit(text, key, value, _FEATURES)
    elif keys == ["label"] and base.features and loader.value == _ALPHA_LOADER:
        key, value = config.value[-1]
        if config.flow_style:
            yield _end(value), _end(value), f", feature: {_FEATURES}"
        else:
            line_end = text.find("\n", _end(value))
            end = len(text) if line_end < 0 else line_end
            yield end, end, f"\n{' ' * key.start_mark.column}feature: {_FEATURES}"
    elif keys != ["label"] or base.features or loader.value != _PLAIN_LOADER:
        raise _unknown_form(f"its first loader {loader.value} has {keys}, and no features")


def _filter_edits(text: str, handler: yaml.Node | None) -> Iterator[_Edit]:
    """Yield the edits that let all features through each `FilterCol` of the features."""
    for processor in [one for name in _PROCESSORS for one in _items(_at(handler, name))]:
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

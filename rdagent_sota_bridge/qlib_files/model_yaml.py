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
from rdagent_sota_bridge.qlib_files import yaml_template
from rdagent_sota_bridge.qlib_files.base_sets import NO_BASE_SET, BaseSet, base_set

CONFIG_FILE = "conf_sota_factors_model.yaml"
"""The YAML of a model that trains on factors (RD-Agent's `scenarios/qlib/experiment/model_template`)."""

FACTOR_CONFIG_FILES = ("conf_combined_factors.yaml", "conf_combined_factors_sota_model.yaml")
"""The YAML files of a factor loop with factors: for LightGBM, and for the best model of the run
(`scenarios/qlib/experiment/factor_template`, 0.8.0 and 1.0.0)."""

# The features of the first loader: two lists in 0.8.0, two placeholders in 1.0.0.
_FEATURES = re.compile(
    r"^(?P<indent>[ \t]*)feature:[ \t]*\n"
    r"(?P<item>[ \t]*)-[ \t]*(?:\[.*?\]|\{\{.*?\}\})[ \t]*\n"
    r"[ \t]*-[ \t]*(?:\[.*?\]|\{\{.*?\}\})[ \t]*\n",
    re.DOTALL | re.MULTILINE,
)
_ALPHA_LOADER = "qlib.contrib.data.loader.Alpha158DL"
_DATES = ("train_start", "train_end", "valid_start", "valid_end", "test_start", "test_end")
_PLAIN_LOADER = "qlib.data.dataset.loader.QlibDataLoader"


Segment = tuple[pd.Timestamp, pd.Timestamp]
"""First and last day of a segment, both inclusive."""


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


def read_task(text: str, variables: dict[str, str]) -> Task:
    """Read what the YAML names, rendered with the variables that RD-Agent would hand to qrun.

    Raises:
        SeamError: if it has a form that is not known.
    """
    try:
        document = rendered(text, variables)
        dataset = document["task"]["dataset"]["kwargs"]
        train, valid, test = (
            _segment(name, dataset["segments"][name], open_end=name == "test")
            for name in ("train", "valid", "test")
        )
        loader = dataset["handler"]["kwargs"]["data_loader"]["kwargs"]["dataloader_l"][0]
        labels = loader["kwargs"]["config"]["label"][0]  # expressions before names, or an expression without
        return Task(
            provider_uri=str(document["qlib_init"]["provider_uri"]),
            market=str(document["market"]),
            train=train,
            valid=valid,
            test=test,
            label=str(labels if isinstance(labels, str) else labels[0]),
        )
    except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError, jinja2.TemplateError) as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class QlibStart:
    """What RD-Agent would start Qlib with.

    Attributes:
        config_name: The name of the YAML.
        config: Its text, a template.
        run_env: The variables for it.
    """

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


def _segment(name: str, days: Any, *, open_end: bool) -> Segment:
    start, end = (pd.Timestamp(day) for day in days)
    if pd.isna(start) or (pd.isna(end) and not open_end):
        raise ValueError(f"a {name} segment from {start} to {end}")
    return start, end


def feature_variables(base: BaseSet, mined: Sequence[str] = ()) -> dict[str, str]:
    """Return the variables that carry the features into the YAML.

    The base set's are named as RD-Agent 1.0.0 names them. The third has the names of all features, for
    processors that let through those they name.
    """
    return {
        "feature_names": _listed(base.names),
        "feature_expressions": _listed(expression for _, expression in base.features),
        "feature_columns": _listed(dict.fromkeys([*base.names, *mined])),
    }


def _listed(texts: Iterable[str]) -> str:
    return json.dumps(list(texts), ensure_ascii=False)


def adapt(text: str, base: BaseSet, note: str, mined: Sequence[str] = ()) -> str:
    """Return the YAML with its first loader's features taken from variables, or without them.

    Without base features the key has to go, for Qlib refuses empty lists, and the loader has to become the
    plain one, for `Alpha158DL` loads all 158 where the key is missing (pyqlib 0.9.7).

    A fork may have the features written out in any style, or leave the key out and let a `FilterCol` choose
    from the 158: that one drops all that it does not name, mined columns too, and gets all names from a
    variable.

    Args:
        text: RD-Agent's YAML, or one that was adapted before.
        base: The base features that the model gets beside the mined columns; may be empty.
        note: A line of comment for the top, which tells the set. It makes the YAML differ where the set
            does, and with it the key of a cached qrun (`ENABLE_CACHE` in `utils/env.py` of RD-Agent 1.0.0),
            which knows texts but no data.
        mined: The mined columns, where they are known.

    Raises:
        SeamError: if the YAML has a form that is not known.
    """
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(_NOTE)]
    body = "".join(lines)
    if base.features:
        adapted, found = _FEATURES.subn(_placeholders, body)
    else:
        adapted, found = _FEATURES.subn("", body)
        adapted = adapted.replace(_ALPHA_LOADER, _PLAIN_LOADER)
    already_plain = not base.features and found == 0 and _PLAIN_LOADER in body
    try:
        if found == 0 and not already_plain:
            adapted, found = _in_another_style(adapted, base)
        if found != 1 and not already_plain:
            raise _unknown_form(f"its first loader's features were found {found} times, not once")
        if _FILTER in adapted:
            adapted = _letting_all_through(adapted)
    except yaml.YAMLError as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None
    noted = f"{_NOTE} {note}\n{adapted}"
    _verify(noted, base, mined)
    return noted


def written_features(text: str) -> dict[str, str]:
    """Return the base features that stand in a YAML itself, by name; none where variables bring them.

    Those are what its first loader lists, or loads where it lists nothing, as far as a `FilterCol` lets them
    through. What has another form is left to `adapt`, which refuses it.
    """
    return dict(_written_features(text))


@functools.lru_cache(maxsize=8)  # every loop asks it of the same text, more than once
def _written_features(text: str) -> tuple[tuple[str, str], ...]:
    try:
        kwargs = rendered(text, {})["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        first = kwargs["data_loader"]["kwargs"]["dataloader_l"][0]
        if "feature" in first["kwargs"]["config"]:
            expressions, names = first["kwargs"]["config"]["feature"]
            features = dict(zip(names, expressions, strict=True))
        elif first["class"] == _ALPHA_LOADER:
            features = dict(base_set("alpha158").features)
        else:
            return ()
        for _, group, columns in _named_by_filters(kwargs):
            if group in _FEATURE_GROUPS:
                features = {name: features[name] for name in features if name in columns}
    except (KeyError, IndexError, TypeError, ValueError, yaml.YAMLError, jinja2.TemplateError):
        return ()
    return tuple(features.items())


_FILTER = "FilterCol"
_FEATURE_GROUPS = ("feature", None)
_PROCESSORS = ("shared_processors", "infer_processors", "learn_processors")


_NOTE = "# rdagent-sota-bridge:"


def _placeholders(match: re.Match[str]) -> str:
    item = match["item"]
    return (
        f"{match['indent']}feature:\n{item}- {{{{ feature_expressions }}}}\n{item}- {{{{ feature_names }}}}\n"
    )


def _in_another_style(text: str, base: BaseSet) -> tuple[str, int]:
    """Return the YAML with the features of its first loader rewritten, and how many there were: 0 or 1."""
    template = yaml_template.parse(text)
    loaders = yaml_template.at(_handler(template), "data_loader", "kwargs", "dataloader_l")
    first = next(yaml_template.items(loaders), None)
    config, loader = yaml_template.at(first, "kwargs", "config"), yaml_template.at(first, "class")
    if not isinstance(config, yaml.MappingNode) or loader is None:
        return text, 0
    features = yaml_template.pair(config, "feature")
    lists = "[{{ feature_expressions }}, {{ feature_names }}]"
    if features is not None and base.features:
        return yaml_template.edited(text, [template.value_edit(features, lists)]), 1
    if features is not None and not config.flow_style:
        return yaml_template.edited(text, [template.without(features)]), 1
    if [key.value for key, _ in config.value] != ["label"]:
        return text, 0
    if base.features and loader.value == _ALPHA_LOADER:
        return yaml_template.edited(text, [template.key_edit(config, "feature", lists)]), 1
    # Without base features there is nothing to put there, and the loader is the plain one by now.
    return text, int(not base.features and loader.value == _PLAIN_LOADER)


def _letting_all_through(text: str) -> str:
    """Return the YAML with all names of features for each `FilterCol` of the features."""
    template = yaml_template.parse(text)
    edits = []
    for name in _PROCESSORS:
        for processor in yaml_template.items(yaml_template.at(_handler(template), name)):
            named = yaml_template.at(processor, "class")
            group = yaml_template.at(processor, "kwargs", "fields_group")
            columns = yaml_template.pair(yaml_template.at(processor, "kwargs"), "col_list")
            of_features = group is None or group.value == "feature"
            if named is not None and _is_class(named.value, _FILTER) and of_features and columns is not None:
                edits.append(template.value_edit(columns, "{{ feature_columns }}"))
    return yaml_template.edited(text, edits)


def _handler(template: yaml_template.Template) -> yaml.Node | None:
    return yaml_template.at(template.root, "task", "dataset", "kwargs", "handler", "kwargs")


def _is_class(named: Any, name: str) -> bool:
    return isinstance(named, str) and named.split(".")[-1] == name


def _named_by_filters(handler: dict[str, Any]) -> Iterator[tuple[str, str | None, set[str]]]:
    """Yield of each processor that chooses columns its class, the group it chooses from, and its names.

    As Qlib does (`qlib/data/dataset/processor.py`, pyqlib 0.9.7): `FilterCol` keeps what it names, and all of
    other groups; `DropCol` drops what it names.
    """
    for processor in [one for name in _PROCESSORS for one in handler.get(name) or []]:
        named = processor if isinstance(processor, str) else processor["class"]
        arguments = {} if isinstance(processor, str) else processor.get("kwargs") or {}
        for name in (_FILTER, "DropCol"):
            if _is_class(named, name):
                yield name, arguments.get("fields_group", "feature"), set(arguments.get("col_list", []))


def _verify(text: str, base: BaseSet, mined: Sequence[str]) -> None:
    """Read the adapted YAML as Qlib would, and compare what its loaders and processors are told."""
    try:
        document = rendered(text, feature_variables(base, mined))
        kwargs = document["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        first, *others = kwargs["data_loader"]["kwargs"]["dataloader_l"]
        features = first["kwargs"]["config"].get("feature")
        static = [loader["kwargs"]["config"] for loader in others]
        choosing = list(_named_by_filters(kwargs))
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError, jinja2.TemplateError) as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None
    expected = [[expression for _, expression in base.features], list(base.names)] if base.features else None
    if features != expected:
        raise _unknown_form(f"its first loader would load {features}, not {expected}")
    if static != [FACTOR_FILE]:
        raise _unknown_form(f"its other loaders read {static}, not [{FACTOR_FILE!r}]")
    for name, group, columns in choosing:
        held = {*base.names, *mined}
        lost = sorted(
            held & columns if name != _FILTER else held - columns if group in _FEATURE_GROUPS else ()
        )
        if lost:
            raise _unknown_form(
                f"its processor {name} would drop {len(lost)} features: {', '.join(lost[:5])}"
            )


_NOTHING_YET = {"num_features": "0", **feature_variables(NO_BASE_SET)}


@functools.lru_cache(maxsize=8)
def _template(text: str) -> jinja2.Template:
    # Not HTML, and rendered as Qlib renders it (`qlib/cli/run.py`, pyqlib 0.9.7), but for what a template can
    # reach: a workspace may be somebody else's.
    return SandboxedEnvironment().from_string(text)


def rendered(text: str, variables: dict[str, str]) -> Any:
    """Return a YAML as Qlib would read it, with the variables that RD-Agent hands to qrun.

    Raises:
        yaml.YAMLError, jinja2.TemplateError: if it has no such form.
    """
    text_of_yaml = _template(text).render({**_NOTHING_YET, **variables})
    # The parser written in C, where PyYAML has it, is ten times as fast: a run's check takes milliseconds.
    return yaml.load(text_of_yaml, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe


def _unknown_form(found: str) -> SeamError:
    return SeamError(
        f"RD-Agent's model YAML has a form that is not known: {found}",
        f"model_template/{CONFIG_FILE} of the installed RD-Agent",
        OTHER_RELEASE,
    )

"""The model YAML that RD-Agent hands to qrun: what it names, and the lines that depend on the base set.

The text stays a template: all but the features of the first data loader, and the names that a processor lets
through, is RD-Agent's (or the user's).
"""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jinja2
import pandas as pd
import yaml
from jinja2.sandbox import SandboxedEnvironment

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError, SettingsError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import docker, yaml_edits
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA158, NO_BASE_SET, BaseSet
from rdagent_sota_bridge.qlib_files.yaml_edits import ALPHA_LOADER, PLAIN_LOADER, PROCESSORS

CONFIG_FILE = "conf_sota_factors_model.yaml"
"""The YAML of a model that trains on factors (RD-Agent's `scenarios/qlib/experiment/model_template`)."""

FACTOR_CONFIG_FILES = ("conf_combined_factors.yaml", "conf_combined_factors_sota_model.yaml")
"""The YAML files of a factor loop with factors: for LightGBM, and for the best model of the run
(`scenarios/qlib/experiment/factor_template`, 0.8.0 and 1.0.0)."""

NOTE = "# rdagent-sota-bridge:"
"""Begins the line of a YAML that says what it trains on."""

Segment = tuple[pd.Timestamp, pd.Timestamp]
"""First and last day of a segment, both inclusive; NaT and NaT for one that is not known."""

_DATES = ("train_start", "train_end", "valid_start", "valid_end", "test_start", "test_end")
_UNKNOWN = "__unknown__"
_FEATURE_GROUPS = ("feature", None)
_UNREADABLE = (
    *(AttributeError, KeyError, IndexError, TypeError, ValueError),
    *(yaml.YAMLError, jinja2.TemplateError),
)


def inside(days: pd.DatetimeIndex, segment: Segment) -> Any:
    """Return which days (without times of day) are in a segment, whose end may be open; bool, (days,).

    One that is not known may hold every day.
    """
    start, end = segment
    return ((days >= start) | pd.isna(start)) & ((days <= end) | pd.isna(end))


@dataclass(frozen=True)
class Task:
    """What a rendered YAML names. What depends on a variable that nothing hands to Qlib is not known.

    Attributes:
        provider_uri: Qlib's data folder, as written; empty if it is not known.
        market: The name of the market; empty if it is not known.
        train: First and last day of the training segment, both inclusive.
        valid: The same of the validation segment.
        test: The same of the test segment; its end is NaT where it is open.
        label: Qlib's expression of the label; empty if it is not known.
        region: Qlib's region: cn, us or tw.
        is_robust: True where Qlib's RobustZScoreNorm scales the features.
        backtest_end: The last day of the back-test, NaT where it is open; None for no back-test, or if it is
            not known.
    """

    provider_uri: str
    market: str
    train: Segment
    valid: Segment
    test: Segment
    label: str
    region: str = "cn"
    is_robust: bool = field(default=True, compare=False)  # no part of what a training is of
    backtest_end: Any = field(default=None, compare=False, repr=False)

    @property
    def segments(self) -> dict[str, Segment]:
        """The segments that are known, by name."""
        named = {"train": self.train, "valid": self.valid, "test": self.test}
        return {name: days for name, days in named.items() if not pd.isna(days[0])}

    @property
    def unknown(self) -> tuple[str, ...]:
        """What is not known, in words."""
        known: dict[str, Any] = {
            **{"data folder": self.provider_uri, "market": self.market, "label": self.label},
            **{f"{name} segment": name in self.segments for name in ("train", "valid", "test")},
        }
        return tuple(name for name, value in known.items() if not value)

    def as_record(self) -> dict[str, Any]:
        """Return it as JSON can hold it, without what is not known; null for an open end."""
        texts = {"provider_uri": self.provider_uri, "market": self.market, "label": self.label}
        days = {
            name: [None if pd.isna(day) else str(day) for day in segment]
            for name, segment in self.segments.items()
        }
        return {**days, **{name: text for name, text in texts.items() if text}}


def task_of(document: Any) -> Task:
    """Return what a configuration of Qlib names.

    Raises:
        KeyError, IndexError, TypeError, ValueError: if it does not name all of it.
    """
    dataset = document["task"]["dataset"]["kwargs"]
    handler, segments = dataset["handler"]["kwargs"], {}
    for name in ("train", "valid", "test"):
        start, end = _days(dataset["segments"][name])
        if start is not None and (pd.isna(start) or (pd.isna(end) and name != "test")):
            raise ValueError(f"a {name} segment from {start} to {end}")
        segments[name] = (pd.NaT, pd.NaT) if start is None else (start, end)
    if "data_loader" in handler:
        label = handler["data_loader"]["kwargs"]["dataloader_l"][0]["kwargs"]["config"]["label"][0]
    else:  # a handler of Qlib's own, as in 0.8.0's baseline
        label = handler["label"]
    label = label if isinstance(label, str) else label[0]  # expressions before names, or an expression
    market = handler["instruments"]
    market = market["market"] if isinstance(market, dict) else market
    texts = (document["qlib_init"]["provider_uri"], market, label)
    provider_uri, market, label = ("" if _UNKNOWN in str(text) else str(text) for text in texts)
    return Task(
        provider_uri,
        market,
        **segments,
        label=label,
        region=str(document["qlib_init"].get("region", "cn")),  # Qlib's own default
        is_robust="RobustZScoreNorm" in str(handler.get("infer_processors")),
        backtest_end=_backtest_end(document),
    )


def _days(written: Any) -> tuple[Any, Any]:
    """Return the days of a segment; None and None where they are not known."""
    if _UNKNOWN in str(written):
        return None, None
    start, end = map(pd.Timestamp, written)
    return start, end


def _backtest_end(document: Any) -> Any:
    records = document["task"].get("record") or []
    for record in [records] if isinstance(records, dict) else records:
        if str(record["class"]).endswith("PortAnaRecord"):
            config = (record.get("kwargs") or {}).get("config") or {}
            end = config["backtest"]["end_time"] if config else None  # Qlib's default
            return None if _UNKNOWN in str(end) else pd.Timestamp(end)
    return None


class _Unknown(jinja2.ChainableUndefined):
    """A variable that nothing hands to Qlib; what it is written into is not known."""

    def __str__(self) -> str:
        return _UNKNOWN


def read_task(text: str, variables: dict[str, str]) -> Task:
    """Read what the YAML names, rendered with the variables that RD-Agent would hand to qrun.

    Raises:
        SeamError: if it has a form that is not known.
    """
    # `LocalEnv` (`utils/env.py`, 0.8.0, 1.0.0) adds them to this environment; a container gets them alone.
    inherited = {} if docker.is_qlib_in_docker() else os.environ
    try:
        return task_of(rendered(text, {**inherited, **variables}))
    except _UNREADABLE as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None


@dataclass(frozen=True)
class QlibStart:
    """What RD-Agent would start Qlib with: the name of the YAML, its text (a template), its variables."""

    config_name: str
    config: str
    run_env: dict[str, str]

    def variable(self, name: str) -> str:
        """Return the variable of RD-Agent's settings that sets a date of `run_env`."""
        return f"QLIB_{'MODEL' if self.config_name == CONFIG_FILE else 'FACTOR'}_{name.upper()}"

    def task(self, base: BaseSet | None = None) -> Task:
        """Return what the YAML names, with a base set; as it stands there if that is None.

        Raises:
            SeamError: if it has a form that is not known.
            SettingsError: if a date of RD-Agent's settings is none.
        """
        for name in self.run_env.keys() & set(_DATES):
            try:
                pd.Timestamp(self.run_env[name])
            except ValueError:
                variable = self.variable(name)
                raise SettingsError(
                    f"{variable} is no date: {self.run_env[name]!r}",
                    f"environment variable or .env entry {variable}, a setting of RD-Agent's",
                    "write it as 2008-01-01",
                ) from None
        text = self.config if base is None else adapt(self.config, base, "")
        return read_task(text, {**self.run_env, **feature_variables(base or NO_BASE_SET)})


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
    lines = [line for line in text.splitlines(keepends=True) if not line.startswith(NOTE)]
    body = "".join(lines) if base.features else "".join(lines).replace(ALPHA_LOADER, PLAIN_LOADER)
    try:
        body = yaml_edits.with_features(body, base)
    except yaml.YAMLError as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None
    except ValueError as error:
        raise _unknown_form(str(error)) from None
    noted = f"{NOTE} {note}\n{body}"
    _verify(noted, base, mined)
    return noted


@functools.lru_cache(maxsize=8)  # every loop asks it of the same text, more than once
def written_features(text: str) -> dict[str, str]:
    """Return the base features that stand in a YAML itself, by name; none where variables bring them.

    Those are what its first loader lists, or loads where it lists nothing, as far as a `FilterCol` lets them
    through. What has another form is left to `adapt`, which refuses it.
    """
    try:
        kwargs = rendered(text, {})["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        first = kwargs["data_loader"]["kwargs"]["dataloader_l"][0]
        features = ALPHA158 if first["class"] == ALPHA_LOADER else {}
        if "feature" in first["kwargs"]["config"]:
            expressions, names = first["kwargs"]["config"]["feature"]
            features = dict(zip(names, expressions, strict=True))
        for _, group, columns in _named_by_filters(kwargs):
            if group in _FEATURE_GROUPS:
                features = {name: features[name] for name in features if name in columns}
    except _UNREADABLE:
        return {}
    return features


def rendered(text: str, variables: Mapping[str, str]) -> Any:
    """Return a YAML as Qlib would read it, with the variables that RD-Agent hands to qrun.

    Qlib writes nothing in place of one that is missing; here a word says that it is not known yet.

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
    return SandboxedEnvironment(undefined=_Unknown).from_string(text)


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
    for processor in [one for name in PROCESSORS for one in handler.get(name) or []]:
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

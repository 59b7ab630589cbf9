"""The model YAML that RD-Agent hands to qrun: what it names, and the lines that depend on the base set.

The text stays a template: all but the features of the first data loader is RD-Agent's (or the user's).
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from typing import Any

import jinja2
import pandas as pd
import yaml
from jinja2.sandbox import SandboxedEnvironment

from rdagent_sota_bridge.alpha import BaseSet
from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError
from rdagent_sota_bridge.locate import FACTOR_FILE

CONFIG_FILE = "conf_sota_factors_model.yaml"
"""The YAML of a model that trains on factors (RD-Agent's `scenarios/qlib/experiment/model_template`)."""

# The features of the first loader: two lists in 0.8.0, two placeholders in 1.0.0.
_FEATURES = re.compile(
    r"^(?P<indent>[ \t]*)feature:[ \t]*\n"
    r"(?P<item>[ \t]*)-[ \t]*(?:\[.*?\]|\{\{.*?\}\})[ \t]*\n"
    r"[ \t]*-[ \t]*(?:\[.*?\]|\{\{.*?\}\})[ \t]*\n",
    re.DOTALL | re.MULTILINE,
)
_ALPHA_LOADER = "qlib.contrib.data.loader.Alpha158DL"
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


def _segment(name: str, days: Any, *, open_end: bool) -> Segment:
    start, end = (pd.Timestamp(day) for day in days)
    if pd.isna(start) or (pd.isna(end) and not open_end):
        raise ValueError(f"a {name} segment from {start} to {end}")
    return start, end


def feature_variables(base: BaseSet) -> dict[str, str]:
    """Return the variables that carry the base set into the YAML, named as RD-Agent 1.0.0 names them."""
    return {
        "feature_names": json.dumps(list(base.names), ensure_ascii=False),
        "feature_expressions": json.dumps(
            [expression for _, expression in base.features], ensure_ascii=False
        ),
    }


def adapt(text: str, base: BaseSet, note: str) -> str:
    """Return the YAML with its first loader's features taken from variables, or without them.

    Without base features the key has to go, for Qlib refuses empty lists, and the loader has to become the
    plain one, for `Alpha158DL` loads all 158 where the key is missing (pyqlib 0.9.7).

    Args:
        text: RD-Agent's YAML, or one that was adapted before.
        base: The base features that the model gets beside the mined columns; may be empty.
        note: A line of comment for the top, which tells the set. It makes the YAML differ where the set
            does, and with it the key of a cached qrun (`ENABLE_CACHE` in `utils/env.py` of RD-Agent 1.0.0),
            which knows texts but no data.

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
    if found != 1 and not already_plain:
        raise _unknown_form(f"its first loader's features were found {found} times, not once")
    noted = f"{_NOTE} {note}\n{adapted}"
    _verify(noted, base)
    return noted


_NOTE = "# rdagent-sota-bridge:"


def _placeholders(match: re.Match[str]) -> str:
    item = match["item"]
    return (
        f"{match['indent']}feature:\n{item}- {{{{ feature_expressions }}}}\n{item}- {{{{ feature_names }}}}\n"
    )


def _verify(text: str, base: BaseSet) -> None:
    """Read the adapted YAML as Qlib would, and compare what its loaders are told to load."""
    try:
        document = rendered(text, feature_variables(base))
        kwargs = document["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        first, *others = kwargs["data_loader"]["kwargs"]["dataloader_l"]
        features = first["kwargs"]["config"].get("feature")
        static = [loader["kwargs"]["config"] for loader in others]
    except (AttributeError, KeyError, TypeError, ValueError, yaml.YAMLError, jinja2.TemplateError) as error:
        raise _unknown_form(f"{type(error).__name__}: {error}") from None
    expected = [[expression for _, expression in base.features], list(base.names)] if base.features else None
    if features != expected:
        raise _unknown_form(f"its first loader would load {features}, not {expected}")
    if static != [FACTOR_FILE]:
        raise _unknown_form(f"its other loaders read {static}, not [{FACTOR_FILE!r}]")


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
    text_of_yaml = _template(text).render({"num_features": "0", **variables})
    # The parser written in C, where PyYAML has it, is ten times as fast: a run's check takes milliseconds.
    return yaml.load(text_of_yaml, getattr(yaml, "CSafeLoader", yaml.SafeLoader))  # noqa: S506 - both are safe


def _unknown_form(found: str) -> SeamError:
    return SeamError(
        f"RD-Agent's model YAML has a form that is not known: {found}",
        f"model_template/{CONFIG_FILE} of the installed RD-Agent",
        OTHER_RELEASE,
    )

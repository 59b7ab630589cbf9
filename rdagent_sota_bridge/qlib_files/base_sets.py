"""Base sets: named lists of Qlib features, and their union with mined columns."""

from __future__ import annotations

import ast
import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rdagent_sota_bridge import urls
from rdagent_sota_bridge.errors import BaseSetError, UnknownBaseSetError
from rdagent_sota_bridge.system import files

WINDOWS = (5, 10, 20, 30, 60)
_EPSILON = "1e-12"  # Qlib's guard against a division by zero


def _alpha158() -> dict[str, str]:
    """Return Qlib's Alpha158 features, name to expression, in Qlib's order.

    Source: `qlib.contrib.data.loader.Alpha158DL.get_feature_config` (pyqlib 0.9.7), which RD-Agent 1.0.0
    writes out as `rdagent.utils.qlib.ALPHA158`. Written as rules here, and compared with both in the tests.
    """
    spread = f"($high-$low+{_EPSILON})"
    features = {
        "KMID": "($close-$open)/$open",
        "KLEN": "($high-$low)/$open",
        "KMID2": f"($close-$open)/{spread}",
        "KUP": "($high-Greater($open, $close))/$open",
        "KUP2": f"($high-Greater($open, $close))/{spread}",
        "KLOW": "(Less($open, $close)-$low)/$open",
        "KLOW2": f"(Less($open, $close)-$low)/{spread}",
        "KSFT": "(2*$close-$high-$low)/$open",
        "KSFT2": f"(2*$close-$high-$low)/{spread}",
        "OPEN0": "$open/$close",
        "HIGH0": "$high/$close",
        "LOW0": "$low/$close",
        "VWAP0": "$vwap/$close",
    }
    up = "Greater($close-Ref($close, 1), 0)"
    down = "Greater(Ref($close, 1)-$close, 0)"
    moves = "Abs($close-Ref($close, 1))"
    volume_up = "Greater($volume-Ref($volume, 1), 0)"
    volume_down = "Greater(Ref($volume, 1)-$volume, 0)"
    volume_all = "Abs($volume-Ref($volume, 1))"
    turbulence = "Abs($close/Ref($close, 1)-1)*$volume"
    rules = {
        "ROC": "Ref($close, {d})/$close",
        "MA": "Mean($close, {d})/$close",
        "STD": "Std($close, {d})/$close",
        "BETA": "Slope($close, {d})/$close",
        "RSQR": "Rsquare($close, {d})",
        "RESI": "Resi($close, {d})/$close",
        "MAX": "Max($high, {d})/$close",
        "MIN": "Min($low, {d})/$close",
        "QTLU": "Quantile($close, {d}, 0.8)/$close",
        "QTLD": "Quantile($close, {d}, 0.2)/$close",
        "RANK": "Rank($close, {d})",
        "RSV": f"($close-Min($low, {{d}}))/(Max($high, {{d}})-Min($low, {{d}})+{_EPSILON})",
        "IMAX": "IdxMax($high, {d})/{d}",
        "IMIN": "IdxMin($low, {d})/{d}",
        "IMXD": "(IdxMax($high, {d})-IdxMin($low, {d}))/{d}",
        "CORR": "Corr($close, Log($volume+1), {d})",
        "CORD": "Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), {d})",
        "CNTP": "Mean($close>Ref($close, 1), {d})",
        "CNTN": "Mean($close<Ref($close, 1), {d})",
        "CNTD": "Mean($close>Ref($close, 1), {d})-Mean($close<Ref($close, 1), {d})",
        "SUMP": f"Sum({up}, {{d}})/(Sum({moves}, {{d}})+{_EPSILON})",
        "SUMN": f"Sum({down}, {{d}})/(Sum({moves}, {{d}})+{_EPSILON})",
        "SUMD": f"(Sum({up}, {{d}})-Sum({down}, {{d}}))/(Sum({moves}, {{d}})+{_EPSILON})",
        "VMA": f"Mean($volume, {{d}})/($volume+{_EPSILON})",
        "VSTD": f"Std($volume, {{d}})/($volume+{_EPSILON})",
        "WVMA": f"Std({turbulence}, {{d}})/(Mean({turbulence}, {{d}})+{_EPSILON})",
        "VSUMP": f"Sum({volume_up}, {{d}})/(Sum({volume_all}, {{d}})+{_EPSILON})",
        "VSUMN": f"Sum({volume_down}, {{d}})/(Sum({volume_all}, {{d}})+{_EPSILON})",
        "VSUMD": f"(Sum({volume_up}, {{d}})-Sum({volume_down}, {{d}}))/(Sum({volume_all}, {{d}})+{_EPSILON})",
    }
    for family, rule in rules.items():
        features.update({f"{family}{window}": rule.replace("{d}", str(window)) for window in WINDOWS})
    return features


ALPHA158 = _alpha158()

# RD-Agent's own list, in its order (`rdagent.utils.qlib.ALPHA20` of 1.0.0; the model YAML of 0.8.0).
_ALPHA20_NAMES = (
    *("RESI5", "WVMA5", "RSQR5", "KLEN", "RSQR10", "CORR5", "CORD5", "CORR10", "ROC60", "RESI10"),
    *("VSTD5", "RSQR60", "CORR60", "WVMA60", "STD5", "RSQR20", "CORD60", "CORD10", "CORR20", "KLOW"),
)

ALPHA20 = {name: ALPHA158[name] for name in _ALPHA20_NAMES}

# The plan that the package implements counts 22 features and lists 20: price and volume trend, the two
# families that the 20 leave out, make up the count.
ALPHA22 = {**ALPHA20, "MA20": ALPHA158["MA20"], "VMA20": ALPHA158["VMA20"]}

PRESETS = {"alpha20": ALPHA20, "alpha22": ALPHA22, "alpha158": ALPHA158}


@dataclass(frozen=True)
class BaseSet:
    """A named, ordered list of Qlib features.

    Attributes:
        name: A preset's name, the path of a file, `none`, or `GIVEN`.
        features: (name, Qlib expression) pairs, in order.
    """

    name: str
    features: tuple[tuple[str, str], ...]

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in order."""
        return tuple(name for name, _ in self.features)

    @property
    def digest(self) -> str:
        """The SHA-256 of names and expressions, in order."""
        return hashlib.sha256(json.dumps(self.features).encode()).hexdigest()

    def without(self, mined: Iterable[str]) -> BaseSet:
        """Return the features whose names no mined column has.

        Qlib's `NestedDataLoader` (pyqlib 0.9.7, `data/dataset/loader.py`) drops the earlier loader's column
        when two have a name in common, so a mined column wins; handing the expression over all the same
        would only make RD-Agent count one column too many.
        """
        taken = set(mined)
        return BaseSet(self.name, tuple(pair for pair in self.features if pair[0] not in taken))


NO_BASE_SET = BaseSet("none", ())
GIVEN = "rd-agent"
"""The name of base features that the user chose in RD-Agent itself."""


def base_set(name: str) -> BaseSet:
    """Return the base set of that name, or of the JSON or YAML file at that path.

    Args:
        name: `alpha20`, `alpha22`, `alpha158`, or a path ending in .json, .yaml or .yml, relative to the
            current folder, of a file that maps names to Qlib expressions.

    Raises:
        UnknownBaseSetError: if the name is unknown.
        BaseSetError: if the file is missing or malformed.
    """
    if name.lower() in PRESETS:
        return BaseSet(name.lower(), tuple(PRESETS[name.lower()].items()))
    try:
        path = Path.cwd() / Path(name).expanduser()
    except RuntimeError as error:  # a home folder (~name) that is not known
        raise _unreadable(Path(name), str(error)) from None
    fix = urls.misread(name)
    if (fix and not path.exists()) or path.suffix.lower() not in (".json", ".yaml", ".yml"):
        raise UnknownBaseSetError(
            f"ALPHA_FACTORS has an unknown value: {name!r}",
            "environment variable or .env entry ALPHA_FACTORS",
            fix or f"use one of {', '.join(PRESETS)}, or the path of a .json, .yaml or .yml file",
        )
    return BaseSet(str(path), tuple(_read_features(path).items()))


def same_features(features: dict[str, str], other: dict[str, str]) -> bool:
    """Return True if both have the same names in the same order with the same expressions."""
    return list(features.items()) == list(other.items())


def given_set(features: dict[str, str]) -> BaseSet:
    """Return the base set of the features that the user chose in RD-Agent itself."""
    return BaseSet(GIVEN, tuple(features.items()))


def _read_features(path: Path) -> dict[str, str]:
    try:
        text = files.read_text(path)
        if path.suffix.lower() == ".json":
            content = json.loads(text, object_pairs_hook=_unique)
        else:
            content = yaml.load(text, _UniqueKeyLoader)  # noqa: S506 - a SafeLoader
    except UnicodeDecodeError:
        raise _unreadable(path, "it is not UTF-8 text") from None
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except (ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise _malformed(path, f"it can't be parsed: {' '.join(str(error).split())}") from None
    if not isinstance(content, dict) or not content:
        raise _malformed(path, "it holds no mapping of names to expressions")
    for name, expression in content.items():
        if not isinstance(name, str) or not name.strip() or not name.isprintable():
            raise _malformed(path, f"a feature's name is not text: {name!r}")
        if not isinstance(expression, str) or not expression.strip():
            raise _malformed(path, f"the expression of {name} is not text: {expression!r}")
        try:
            # Qlib evaluates an expression as Python, after it has replaced `$close` and the like by calls
            # (`qlib.utils.parse_field`, pyqlib 0.9.7); what Python can't parse would fail every loop's qrun.
            ast.parse(re.sub(r"\$\$?(\w+)", r"\1", expression).strip(), mode="eval")
        except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
            why = getattr(error, "msg", None) or error
            fact = f"the expression of {name} is no Qlib expression ({why}): {expression}"
            raise _malformed(path, fact) from None
    return content


def _unreadable(path: Path, why: str) -> BaseSetError:
    return BaseSetError(
        f"The file of the base set can't be read: {why}",
        f"ALPHA_FACTORS, looked for at {path}",
        "correct the path; a relative path is relative to the folder that the command is started in",
    )


def _malformed(path: Path, why: str) -> BaseSetError:
    return BaseSetError(
        f"The file of the base set is malformed: {why}",
        f"ALPHA_FACTORS, {path}",
        'write one mapping of names to Qlib expressions, such as {"MA20": "Mean($close, 20)/$close"}',
    )


def _unique(pairs: Sequence[tuple[Any, Any]]) -> dict[Any, Any]:
    names = [name for name, _ in pairs]
    for name in names:
        if names.count(name) > 1:
            raise ValueError(f"the name {name!r} stands there twice")
    return dict(pairs)


class _UniqueKeyLoader(yaml.SafeLoader):
    """A SafeLoader that refuses a key that stands there twice, where PyYAML keeps the last in silence."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """Construct one mapping."""
        return _unique(
            [tuple(self.construct_object(part, deep=True) for part in pair) for pair in node.value]
        )

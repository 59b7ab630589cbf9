"""Base sets: the presets against their sources, files of features, and the union with mined columns."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from importlib import import_module, resources
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from qlib.contrib.data.loader import Alpha158DL

from rdagent_sota_bridge.errors import BaseSetError
from rdagent_sota_bridge.qlib_files.base_sets import (
    ALPHA20,
    ALPHA22,
    ALPHA158,
    NO_BASE_SET,
    BaseSet,
    base_set,
    given_set,
    same_features,
)
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from tests.frames import assert_survives_pickling, public_folder, without_privileges

FIX = 'write one mapping of names to Qlib expressions, such as {"MA20": "Mean($close, 20)/$close"}'


def refused(name: str | Path) -> BaseSetError:
    """Return the error for a base set that is refused; fail where it is accepted."""
    with pytest.raises(BaseSetError) as caught:
        base_set(str(name))
    assert_survives_pickling(caught.value)
    return caught.value


def put(folder: Path, name: str, content: str | bytes) -> Path:
    """Write a file of features and return its path."""
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def features_in_rdagents_yaml() -> dict[str, str] | None:
    """Return the features that RD-Agent's model YAML lists, or None where it has placeholders for them."""
    package = resources.files("rdagent.scenarios.qlib.experiment")
    text = (package / "model_template" / CONFIG_FILE).read_text(encoding="utf-8")
    if "{{ feature_expressions }}" in text:
        return None
    found = re.search(r"feature:\s*-\s*(\[.*?\])\s*-\s*(\[.*?\])", text, re.DOTALL)
    assert found is not None
    expressions, names = (ast.literal_eval(part) for part in found.groups())
    return dict(zip(names, expressions, strict=True))


def constant_of_rdagent(name: str) -> Mapping[str, str] | None:
    """Return a base set that the installed RD-Agent has as a constant, or None where it has none (0.8.0)."""
    if find_spec("rdagent.utils.qlib") is None:
        return None
    found: Mapping[str, str] = getattr(import_module("rdagent.utils.qlib"), name)
    return found


def test_presets_are_rdagents_and_qlibs_own_lists() -> None:
    """alpha20 is what RD-Agent trains on, by constant or YAML; alpha158 is Qlib's; each in order."""
    in_yaml = features_in_rdagents_yaml()
    constants = {name: constant_of_rdagent(name) for name in ("ALPHA20", "ALPHA158")}
    assert all((in_yaml is None) != (found is None) for found in constants.values()), "moved by now"
    assert list(ALPHA20.items()) == list((constants["ALPHA20"] or in_yaml or {}).items())
    assert list((constants["ALPHA158"] or ALPHA158).items()) == list(ALPHA158.items())
    prices = {"windows": [0], "feature": ["OPEN", "HIGH", "LOW", "VWAP"]}
    expressions, names = Alpha158DL.get_feature_config({"kbar": {}, "price": prices, "rolling": {}})
    assert list(ALPHA158.items()) == list(zip(names, expressions, strict=True))


def test_alpha22_is_alpha20_and_two_trends() -> None:
    """alpha22, in any case, is the 20, in their order, and then MA20 and VMA20 as Qlib defines them."""
    assert base_set("aLpHa22") == BaseSet("alpha22", tuple(ALPHA22.items()))
    assert list(ALPHA22.items()) == [
        *ALPHA20.items(),
        ("MA20", "Mean($close, 20)/$close"),
        ("VMA20", "Mean($volume, 20)/($volume+1e-12)"),
    ]


@pytest.mark.parametrize("name", ["", "alpha21", "alpha22 ", "features.txt"])
def test_unknown_name(name: str) -> None:
    """What is neither a preset nor a file of a known kind is refused, with what is accepted."""
    error = refused(name)
    assert error.fact == f"ALPHA_FACTORS has an unknown value: {name!r}"
    assert error.place == "environment variable or .env entry ALPHA_FACTORS"
    assert error.fix == "use one of alpha20, alpha22, alpha158, or the path of a .json, .yaml or .yml file"


FEATURES = {"MA20": "Mean($close, 20)/$close", "动量 5": "Ref($close, 5)/$close", "a.b": "$open"}


@pytest.mark.parametrize("suffix", [".json", ".yaml", ".YML"])
def test_file_of_features(tmp_path: Path, suffix: str) -> None:
    """A JSON or YAML file gives its features in its order, and is named by its path."""
    is_json = suffix.lower() == ".json"
    text = json.dumps(FEATURES) if is_json else yaml.safe_dump(FEATURES, sort_keys=False, allow_unicode=True)
    path = put(tmp_path, f"base{suffix}", text)
    assert base_set(str(path)) == BaseSet(str(path), tuple(FEATURES.items()))


def test_relative_file_and_file_below_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A relative path is relative to the current folder, `~` is the home folder; the name is absolute."""
    path = put(tmp_path, "base.json", json.dumps(FEATURES))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("base.json", "./base.json", "~/base.json"):
        found = base_set(name)
        assert found.names == tuple(FEATURES)
        assert Path(found.name).is_absolute()
        assert Path(found.name).samefile(path)


@pytest.mark.parametrize(
    "expression",
    [
        "$close",
        "P($$roewa_q)",
        "If($close > $open, 1, -1)",
        "($close-$open)/($high-$low+1e-12) ** 2",
        "Mean($close, 5) &\\\n ($open > 1)",
        "Mask($close, 'sh600000')",
        " Mean($close, 20)\n",
    ],
)
def test_expressions_of_qlib_are_accepted(tmp_path: Path, expression: str) -> None:
    """What Qlib can evaluate is accepted and handed on unchanged."""
    path = put(tmp_path, "base.json", json.dumps({"x": expression}))
    assert base_set(str(path)).features == (("x", expression),)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("missing", "No such file or directory"),
        ("folder", "Is a directory"),
        ("another user's", "Permission denied"),
        ("another encoding", "it is not UTF-8 text"),
        ("home of nobody", "Could not determine home directory."),
    ],
)
def test_unreadable_file(kind: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing file, a folder, another user's file, another encoding, an unknown home: refused for that."""
    with public_folder() as folder:
        monkeypatch.chdir(folder)
        path = put(folder, "base.json", json.dumps(FEATURES, ensure_ascii=False).encode("gb18030"))
        if kind in ("folder", "missing"):
            path.unlink()
        if kind == "folder":
            path.mkdir()
        elif kind == "another user's":
            path.chmod(0o000)
        with without_privileges():
            error = refused("~no-such-user-here/base.json" if kind == "home of nobody" else "base.json")
        path.chmod(0o755) if path.exists() else None
        monkeypatch.undo()
    assert error.fact == f"The file of the base set can't be read: {reason}"
    if kind != "home of nobody":
        assert error.place == f"ALPHA_FACTORS, looked for at {path}"
    assert "a relative path is relative to the folder that the command is started in" in error.fix


def why(path: Path) -> str:
    """Return why a file is malformed; fail unless place and fix are those of a malformed file."""
    error = refused(path)
    assert error.place == f"ALPHA_FACTORS, {path}"
    assert error.fix == FIX
    start = "The file of the base set is malformed: "
    assert error.fact.startswith(start)
    return error.fact.removeprefix(start)


NO_MAPPING = "it holds no mapping of names to expressions"
MALFORMED = [
    ("list.json", '["MA20"]', NO_MAPPING),
    ("null.json", "null", NO_MAPPING),
    ("braces.json", "{}", NO_MAPPING),
    ("text.yaml", "MA20\n", NO_MAPPING),
    ("comment.yaml", "# nothing\n", NO_MAPPING),
    ("empty.json", "", "it can't be parsed: Expecting value: line 1 column 1 (char 0)"),
    ("cut.json", '{"a": "$close"', "it can't be parsed: Expecting ',' delimiter: line 1 column 15 (char 14)"),
    ("tab.yaml", "a:\n\t- b\n", "found character '\\t' that cannot start any token"),
    ("two.yaml", "a: $close\n---\nb: $open\n", "expected a single document in the stream"),
    ("object.yaml", "!!python/object:os.system {}\n", "could not determine a constructor for the tag"),
    ("loop.yaml", "a: &x {b: *x}\n", "found unconstructable recursive node"),
    ("list key.yaml", "[a, b]: $close\n", ""),
    ("twice.json", '{"a": "$close", "a": "$close"}', "it can't be parsed: the name 'a' stands there twice"),
    ("twice.yaml", "a: $close\nb: $open\na: $high\n", "the name 'a' stands there twice"),
    ("flow.yml", "{a: $close, 'a': $open}\n", "the name 'a' stands there twice"),
    ("number name.yaml", "5: $close\n", "a feature's name is not text: 5"),
    ("switch name.yaml", "on: $close\n", "a feature's name is not text: True"),
    ("nothing name.yaml", "~: $close\n", "a feature's name is not text: None"),
    ("blank name.json", '{" ": "$close"}', "a feature's name is not text: ' '"),
    ("delete.json", '{"a\\u007fb": "$close"}', "a feature's name is not text: 'a\\x7fb'"),
    ("new line.json", '{"a\\nb": "$close"}', "a feature's name is not text: 'a\\nb'"),
    ("surrogate.json", '{"\\ud800": "$close"}', "a feature's name is not text: '\\ud800'"),
    ("number.json", '{"a": 5}', "the expression of a is not text: 5"),
    ("nan.json", '{"a": NaN}', "the expression of a is not text: nan"),
    ("list.json", '{"a": ["$close"]}', "the expression of a is not text: ['$close']"),
    ("blank.json", '{"a": " \\n"}', "the expression of a is not text: ' \\n'"),
    ("nested.yaml", "a:\n  b: $close\n", "the expression of a is not text: {'b': '$close'}"),
    ("missing.yaml", "a:\n", "the expression of a is not text: None"),
]


@pytest.mark.parametrize(("name", "content", "reason"), MALFORMED)
def test_malformed_file(tmp_path: Path, name: str, content: str, reason: str) -> None:
    """Each file that is no mapping of names to texts is refused, with its reason on one line."""
    found = why(put(tmp_path, name, content))
    assert reason in found
    assert "\n" not in found


@pytest.mark.parametrize(
    "expression",
    ["Mean($close, 5", "$close $open", "x = 1", "5MA", "$", "'a"],
)
def test_expression_that_does_not_parse(tmp_path: Path, expression: str) -> None:
    """What Qlib could not evaluate is refused with the feature's name, the reason and the expression."""
    path = put(tmp_path, "base.json", json.dumps({"good": "$close", "bad": expression}))
    found = why(path)
    assert re.match(r"the expression of bad is no Qlib expression \(.+\): ", found)
    assert found.endswith(f": {expression}")


def test_without_drops_the_mined_names() -> None:
    """A base feature whose name a mined column has goes; the others keep their order."""
    base = BaseSet("custom", (("a", "$close"), ("b", "$open"), ("c", "$high")))
    assert base.without(["b", "other"]) == BaseSet("custom", (("a", "$close"), ("c", "$high")))
    assert base.without(iter(["a", "b", "c"])) == BaseSet("custom", ())
    assert base.without(["A", "$open"]) == base


def test_digest() -> None:
    """Order, a name, an expression and a missing feature each change the digest; the set's name does not."""
    base = BaseSet("custom", (("a", "$close"), ("b", "$open")))
    others = [
        BaseSet("custom", (("b", "$open"), ("a", "$close"))),
        BaseSet("custom", (("a", "$close"), ("c", "$open"))),
        BaseSet("custom", (("a", "$close"), ("b", "$high"))),
        BaseSet("custom", (("a", "$close"),)),
        BaseSet("custom", (("a", "$open"), ("b", "$close"))),
        BaseSet("custom", (("a$close", ""), ("b", "$open"))),
        NO_BASE_SET,
        *(base_set(name) for name in ("alpha20", "alpha22", "alpha158")),
    ]
    assert len({base.digest, *(other.digest for other in others)}) == len(others) + 1
    assert BaseSet("elsewhere", base.features).digest == base.digest
    # It stays in every release: resumed sessions and cached results are known by it.
    assert base_set("alpha22").digest == "ab88702113beb8ca73033b608ca898d47605ccef27bb295d071ffa37071d34b1"


def test_features_that_were_chosen_in_rdagent() -> None:
    """They are kept as they are; two lists are the same with the same names, order and expressions alone."""
    features = {"a": "$close", "b": "$open"}
    assert given_set(features) == BaseSet("rd-agent", (("a", "$close"), ("b", "$open")))
    assert same_features(features, dict(features))
    for other in ({"b": "$open", "a": "$close"}, {"a": "$close", "b": "$high"}, {"a": "$close"}, {}):
        assert not same_features(features, other)

"""The model YAML: what it names, and the features of its first loader, in both forms that RD-Agent had."""

from __future__ import annotations

import difflib
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

import jinja2
import pandas as pd
import pytest
import yaml

from rdagent_sota_bridge.errors import SeamError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files.base_sets import ALPHA20, NO_BASE_SET, BaseSet, base_set
from rdagent_sota_bridge.qlib_files.model_yaml import (
    CONFIG_FILE,
    Task,
    adapt,
    feature_variables,
    read_task,
    written_features,
)
from tests import forks
from tests.frames import assert_survives_pickling
from tests.yamls import NEW_FORM, OLD_FORM

_PACKAGE = resources.files("rdagent.scenarios.qlib.experiment")
INSTALLED = (_PACKAGE / "model_template" / CONFIG_FILE).read_text(encoding="utf-8")
FORMS = {"installed": INSTALLED, "0.8.0": OLD_FORM, "1.0.0": NEW_FORM}
LABEL = "Ref($close, -2)/Ref($close, -1) - 1"
CUSTOM = BaseSet(
    "/base.yaml",
    (
        ("动量 5", "Ref($close, 5)/$close"),
        ('it\'s "quoted"', "If($close > 1, \"a]\", 'b')"),
        ("{{ braces }}", "Mean($close, 5) - [1][0]"),
        ("a: b, c # d", "$open\\\n + 1"),
        ("on", "$high"),
        ("5", "$low"),
    ),
)
NOTE = "set sha256:12ab, base set alpha22"

every_form = pytest.mark.parametrize("text", FORMS.values(), ids=FORMS.keys())


def handler(text: str, base: BaseSet, mined: Sequence[str] = ()) -> dict[str, Any]:
    """Render an adapted YAML as Qlib would and return what its handler is made of."""
    values = {"num_features": "30", **feature_variables(base, mined)}
    document = yaml.safe_load(jinja2.Template(text).render(values))
    found: dict[str, Any] = document["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
    return found


def loaders(text: str, base: BaseSet) -> list[dict[str, Any]]:
    """Return the loaders of an adapted YAML."""
    nest = handler(text, base)["data_loader"]
    assert nest["class"] == "NestedDataLoader"
    found: list[dict[str, Any]] = nest["kwargs"]["dataloader_l"]
    return found


def processors(text: str, base: BaseSet, mined: Sequence[str]) -> list[dict[str, Any]]:
    """Return the processors of an adapted YAML."""
    of_text = handler(text, base, mined)
    return [*of_text["infer_processors"], *of_text["learn_processors"]]


def changed_lines(before: str, after: str) -> tuple[list[str], list[str]]:
    """Return the lines that are gone and those that are new."""
    lines = list(difflib.ndiff(before.splitlines(), after.splitlines()))
    return [line[2:] for line in lines if line[0] == "-"], [line[2:] for line in lines if line[0] == "+"]


def reason(error: SeamError) -> str:
    """Return what an unknown form is like; fail unless the error is one of an unknown form."""
    assert_survives_pickling(error)
    assert error.place == f"model_template/{CONFIG_FILE} of the installed RD-Agent"
    start = "RD-Agent's model YAML has a form that is not known: "
    assert error.fact.startswith(start)
    return error.fact.removeprefix(start)


def refused(text: str, base: BaseSet) -> str:
    """Return why a YAML is not adapted; fail where it is."""
    with pytest.raises(SeamError) as caught:
        adapt(text, base, NOTE)
    return reason(caught.value)


DATES = ("2008-01-01", "2014-12-31"), ("2015-01-01", "2016-12-31"), ("2017-01-01", "2020-08-01")


def test_installed_yaml_has_one_of_the_two_forms() -> None:
    """The installed RD-Agent has placeholders or lists, so the short forms here stand for real ones."""
    assert ("{{ feature_expressions }}" in INSTALLED) != ('"RESI5", "WVMA5"' in INSTALLED)


@every_form
def test_task_is_read(text: str) -> None:
    """Data folder, market, segments and label are read, and dates of the settings."""
    task = read_task(text, {"test_end": "2020-08-01"})
    train, valid, test = ((pd.Timestamp(start), pd.Timestamp(end)) for start, end in DATES)
    assert task == Task("~/.qlib/qlib_data/cn_data", "csi300", train, valid, test, LABEL)
    assert task.segments == {"train": train, "valid": valid, "test": test}
    other = read_task(text.replace("$close, -", "$vwap, -"), {"train_start": "2010-05-04", "test_end": ""})
    assert other.label == LABEL.replace("close", "vwap")
    assert other.train[0] == (pd.Timestamp("2010-05-04") if "train_start" in text else train[0])
    assert pd.isna(other.test[1]) if "test_end" in text else other.test == test


@pytest.mark.parametrize(
    ("old", "new", "expected"),
    [
        ("", "", ("cn", True)),
        ("region: cn", "region: us", ("us", True)),
        ("region: cn", "", ("cn", True)),
        ("RobustZScoreNorm", "ZScoreNorm", ("cn", False)),
    ],
)
def test_region_and_norm_are_read(old: str, new: str, expected: tuple[str, bool]) -> None:
    """Qlib's region (cn by default) and whether its RobustZScoreNorm scales the features are in the YAML."""
    task = read_task(INSTALLED.replace(old, new), {})
    assert (task.region, task.is_robust) == expected


def test_label_without_a_name() -> None:
    """Qlib takes expressions without names too, and then their list stands alone."""
    lines = (f'                            - ["{LABEL}"]\n', '- ["LABEL0"]')
    other = OLD_FORM.replace(lines[0], lines[0].replace("[", "").replace("]", "")).replace(lines[1], "")
    assert read_task(other, {}).label == LABEL


BASES = {**{name: base_set(name) for name in ("alpha20", "alpha22", "alpha158")}, "custom": CUSTOM}


@every_form
@pytest.mark.parametrize("base", [*BASES.values(), NO_BASE_SET], ids=[*BASES, "none"])
def test_what_the_loaders_load(text: str, base: BaseSet) -> None:
    """The first computes exactly the set and the label, whatever a name holds; the second the factors."""
    adapted = adapt(text, base, NOTE)
    first, second = loaders(adapted, base)
    config = first["kwargs"]["config"]
    pairs = tuple(zip(*reversed(config["feature"]), strict=True)) if base.features else ()
    assert (pairs, list(config)) == (base.features, ["label", "feature"] if base.features else ["label"])
    assert config["label"] == [[LABEL], ["LABEL0"]]
    kind = (
        "qlib.contrib.data.loader.Alpha158DL" if base.features else "qlib.data.dataset.loader.QlibDataLoader"
    )
    assert first["class"] == kind
    assert (second["class"], second["kwargs"]["config"]) == (
        "qlib.data.dataset.loader.StaticDataLoader",
        FACTOR_FILE,
    )
    # Again it is the same, with another note but for that, and for another set as from the start.
    assert adapt(adapted, base, NOTE) == adapted
    gone, new = changed_lines(adapted, adapt(adapted, base, "another set"))
    assert (gone, new) == ([f"# rdagent-sota-bridge: {NOTE}"], ["# rdagent-sota-bridge: another set"])
    if base.features:
        assert adapt(adapted, NO_BASE_SET, NOTE) == adapt(text, NO_BASE_SET, NOTE)
        assert (
            loaders(adapt(adapted, CUSTOM, NOTE), CUSTOM)[0] == loaders(adapt(text, CUSTOM, NOTE), CUSTOM)[0]
        )
    else:  # what was taken out can't be put back: no silent mistake
        assert "has ['label'], and no features" in refused(adapted, CUSTOM)


@every_form
def test_all_else_stays_as_it_was(text: str) -> None:
    """Beside the note only the features change, if they are no variables; without, the class too."""
    text = "# mine\n" + text.replace("&market csi300", "&market csi500  # mine") + "# end"
    note, has_variables = f"# rdagent-sota-bridge: {NOTE}", "{{ feature_expressions }}" in text
    start = text.splitlines().index(" " * 24 + "feature:")
    gone, new = changed_lines(text, adapt(text, CUSTOM, NOTE))
    features = " " * 24 + "feature: [{{ feature_expressions }}, {{ feature_names }}]"
    assert new == ([note] if has_variables else [note, features])
    assert gone == ([] if has_variables else text.splitlines()[start : start + len(gone)])
    gone, new = changed_lines(text, adapt(text, NO_BASE_SET, NOTE))
    loader = " " * 16 + "- class: qlib.data.dataset.loader.QlibDataLoader"
    assert new == [note, loader]
    assert gone[0] == " " * 16 + "- class: qlib.contrib.data.loader.Alpha158DL"
    assert gone[1:] == text.splitlines()[start : start + len(gone) - 1]


def test_feature_variables_are_lists_of_one_length() -> None:
    """The variables are JSON lists, which are YAML lists too; of names and expressions in one order."""
    variables = feature_variables(CUSTOM, ["gap", "on"])
    assert {name: yaml.safe_load(text) for name, text in variables.items()} == {
        "feature_names": list(CUSTOM.names),
        "feature_expressions": [pair[1] for pair in CUSTOM.features],
        "feature_columns": [*CUSTOM.names, "gap"],
    }
    assert "动量" in variables["feature_names"]


# --- forks ---

every_fork = pytest.mark.parametrize("fork", forks.YAMLS)
every_base = pytest.mark.parametrize(
    "base", [base_set("alpha22"), CUSTOM, NO_BASE_SET], ids=["alpha22", "custom", "none"]
)


@every_fork
@every_base
def test_features_in_every_style(fork: str, base: BaseSet) -> None:
    """However a fork writes its features, the loader gets those of the run, and again the same."""
    adapted = adapt(forks.YAMLS[fork], base, NOTE)
    assert adapt(adapted, base, NOTE) == adapted
    first, second = loaders(adapted, base)
    features = first["kwargs"]["config"].get("feature")
    expected = [[expression for _, expression in base.features], list(base.names)] if base.features else None
    assert features == expected
    assert first["class"].endswith(".Alpha158DL" if base.features else ".QlibDataLoader")
    assert first["kwargs"]["config"]["label"] == [[LABEL], ["LABEL0"]]
    assert second["kwargs"]["config"] == FACTOR_FILE
    assert read_task(adapted, feature_variables(base)) == read_task(INSTALLED, {})


@every_fork
@every_base
def test_filters_let_all_features_through(fork: str, base: BaseSet) -> None:
    """A filter of columns names base and mined columns, each once; other processors are as they were."""
    mined = ("gap", "KLEN", "动量 5")
    adapted = processors(adapt(forks.YAMLS[fork], base, NOTE, mined), base, mined)
    before = processors(forks.YAMLS[fork], base, [])
    filters = [one for one in adapted if one["class"].endswith("FilterCol")]
    assert bool(filters) is ("filter" in fork)
    for one in filters:
        assert sorted(one["kwargs"]["col_list"]) == sorted({*base.names, *mined})
    others = [[one for one in found if one not in filters] for found in (adapted, before)]
    assert others[0] == [one for one in others[1] if not one["class"].endswith("FilterCol")]


@every_fork
def test_features_that_a_fork_wrote(fork: str) -> None:
    """What a fork's YAML chooses comes with its expressions."""
    alpha158 = dict(base_set("alpha158").features)
    assert written_features(forks.YAMLS[fork]) == {name: alpha158[name] for name in forks.CHOSEN}


def test_features_of_variables_are_not_written() -> None:
    """What RD-Agent's own variables bring is not the YAML's choice, nor is what can't be read."""
    for text in (NEW_FORM, forks.WITH_A_PLACEHOLDER, adapt(OLD_FORM, CUSTOM, NOTE), "", "task: [", "5"):
        assert written_features(text) == {}
    assert set(written_features(OLD_FORM)) == {"RESI5", "KLEN", "CORD5"}
    assert written_features(INSTALLED) in ({}, ALPHA20)


@pytest.mark.parametrize(
    ("processor", "dropped"),
    [
        ("- FilterCol", "FilterCol would drop 7 features"),
        ("- {class: FilterCol, kwargs: {fields_group: feature}}", "FilterCol would drop 7 features"),
        (
            "- {class: FilterCol, kwargs: {fields_group: null, col_list: ['on']}}",
            "FilterCol would drop 6 features",
        ),
        ("- {class: DropCol, kwargs: {col_list: [gap, other]}}", "DropCol would drop 1 features: gap"),
    ],
)
@pytest.mark.parametrize("place", ["infer_processors:\n", "learn_processors:\n"])
def test_a_processor_that_would_drop_features(processor: str, dropped: str, place: str) -> None:
    """What a processor would drop, in a form that can't be rewritten, is found before a training."""
    text = INSTALLED.replace(place, f"{place}        {processor}\n")
    with pytest.raises(SeamError) as caught:
        adapt(text, CUSTOM, NOTE, ("gap",))
    assert f"its processor {dropped}" in reason(caught.value)


@pytest.mark.parametrize(
    "processor",
    [
        "- {class: FilterCol, kwargs: {fields_group: label, col_list: [LABEL0]}}",
        "- {class: DropCol, kwargs: {col_list: [other]}}",
    ],
)
def test_a_processor_of_other_columns_stays(processor: str) -> None:
    """What a processor does to other columns is the fork's own."""
    text = INSTALLED.replace("infer_processors:\n", f"infer_processors:\n        {processor}\n")
    assert processor in adapt(text, CUSTOM, NOTE, ("gap",))


# --- forms that are not known ---

FEATURE_BLOCK = NEW_FORM[
    NEW_FORM.index(" " * 24 + "feature:") : NEW_FORM.index("                - class: qlib.data")
]
STATIC_BLOCK = NEW_FORM[NEW_FORM.index("                - class: qlib.data") : NEW_FORM.index(FACTOR_FILE)]
NO_LOADER = "it has no first loader of features"


def with_other(before: str, after: str) -> Callable[[str], str]:
    """Return what writes something else into a YAML."""
    return lambda text: text.replace(before, after)


REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "no features": (with_other(" feature:\n", " features:\n"), "['label', 'features'], and no"),
    "no YAML": (with_other("class: NestedDataLoader", "class: [NestedDataLoader"), "ParserError: "),
    "no template": (lambda text: text + "x: {{ end\n", "ParserError: "),
    "a tag without an end": (lambda text: text + "{% if x %}\n", "TemplateSyntaxError: "),
    "another factor file": (
        with_other(FACTOR_FILE, "other.parquet"),
        f"its other loaders read ['other.parquet'], not ['{FACTOR_FILE}']",
    ),
    "no factor file": (
        with_other(f'{STATIC_BLOCK}{FACTOR_FILE}"\n', ""),
        f"its other loaders read [], not ['{FACTOR_FILE}']",
    ),
    "another loader": (
        lambda text: text.replace("loader.Alpha158DL", "loader.Mine").replace(" feature:", " x:"),
        "",
    ),
    "nothing": (lambda _: "", NO_LOADER),
    "a list": (lambda _: "[]\n", NO_LOADER),
}


@pytest.mark.parametrize("kind", REFUSED)
@every_form
def test_yaml_that_is_refused(text: str, kind: str) -> None:
    """A YAML into which the features can't be put, or that would not read the factors, is refused."""
    change, why = REFUSED[kind]
    bases = (CUSTOM,) if kind == "no factor file" else (CUSTOM, NO_BASE_SET)
    assert [why in refused(change(text), base) for base in bases] == [True] * len(bases)


def test_features_of_another_key() -> None:
    """Features that stand outside of the first loader are not taken for its own, and stay."""
    block = "else:\n" + FEATURE_BLOCK
    assert adapt(NEW_FORM.replace(FEATURE_BLOCK, "") + block, CUSTOM, NOTE).endswith(block)
    assert loaders(adapt(NEW_FORM + block, NO_BASE_SET, NOTE), NO_BASE_SET)[0]["kwargs"]["config"].keys() == {
        "label"
    }


@pytest.mark.parametrize(
    ("before", "after", "error"),
    [
        ("qlib_init:", "x:", "KeyError: 'qlib_init'"),
        ("task:", "xtask:", "KeyError: 'task'"),
        ("segments:", "xsegments:", "KeyError: 'segments'"),
        (" train:", " xtrain:", "KeyError: 'train'"),
        (" valid:", " xvalid:", "KeyError: 'valid'"),
        (" test:", " xtest:", "KeyError: 'test'"),
        ("label:", "xlabel:", "KeyError: 'label'"),
        ("label:", "label: []\n                        x:", "IndexError"),
        ("label:", "label:\n                        x:", "TypeError"),
        ("[2008-01-01, 2014-12-31]", "[soon, later]", "DateParseError"),
        ("[2008-01-01, 2014-12-31]", "[2008-01-01]", "ValueError"),
        ("[2008-01-01, 2014-12-31]", "{}", "ValueError"),
        ("[2008-01-01, 2014-12-31]", "[null, 2014-12-31]", "ValueError: a train segment from NaT"),
        ("[2008-01-01, 2014-12-31]", "[2008-01-01, null]", "ValueError: a train segment from 2008"),
        ("[2015-01-01, 2016-12-31]", "[2015-01-01, null]", "ValueError: a valid segment from 2015"),
        ("[2017-01-01, 2020-08-01]", "[null, 2020-08-01]", "ValueError: a test segment from NaT"),
        ("class: NestedDataLoader", "class: [NestedDataLoader", "ParserError: "),
        ("csi300", "{{ end", "TemplateSyntaxError: "),
        ("csi300", "{{ cycler.__init__.__globals__.os.getcwd() }}", "SecurityError"),
        (OLD_FORM, "5\n", "TypeError: "),
    ],
)
def test_task_that_can_not_be_read(before: str, after: str, error: str) -> None:
    """A YAML without what the check needs, or with code in it, is refused, and the reason named."""
    assert before in OLD_FORM
    with pytest.raises(SeamError) as caught:
        read_task(OLD_FORM.replace(before, after), {})
    assert reason(caught.value).startswith(error)


def test_a_back_test_without_settings() -> None:
    """Qlib has defaults for a PortAnaRecord without arguments: its end is open."""
    place = INSTALLED.index("- class: PortAnaRecord")
    bare = INSTALLED[:place] + "- class: PortAnaRecord\n"
    assert pd.isna(read_task(bare, {}).backtest_end)

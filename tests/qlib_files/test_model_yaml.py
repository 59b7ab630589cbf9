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
    adapt,
    feature_variables,
    read_task,
    written_features,
)
from tests import forks
from tests.frames import assert_survives_pickling

_HEAD = """\
qlib_init:
    provider_uri: "~/.qlib/qlib_data/cn_data"
market: &market csi300
data_handler_config: &data_handler_config
    instruments: *market
    data_loader:
        class: NestedDataLoader
        kwargs:
            dataloader_l:
                - class: qlib.contrib.data.loader.Alpha158DL
                  kwargs:
                    config:
                        label:
                            - ["Ref($close, -2)/Ref($close, -1) - 1"]
                            - ["LABEL0"]
                        feature:
"""
_LOADER = """\
                - class: qlib.data.dataset.loader.StaticDataLoader
                  kwargs:
                    config: "combined_factors_df.parquet"

"""
_TASK = """\
task:
    model:
        kwargs:
            pt_model_kwargs: {
                "num_features": {{ num_features }}{% if num_timesteps %}, "x": {{ num_timesteps }}{% endif %}
            }
    dataset:
        kwargs:
            handler:
                kwargs: *data_handler_config
            segments:
"""
# The forms of 0.8.0 and of 1.0.0, shortened.
OLD_FORM = (
    _HEAD
    + """\
                            - ["Resi($close, 5)/$close", "($high-$low)/$open",
                               "Corr($close/Ref($close,1), Log($volume/Ref($volume, 1)+1), 5)"]
                            - ["RESI5", "KLEN",
                               "CORD5"]
"""
    + _LOADER
    + _TASK
    + "                train: [2008-01-01, 2014-12-31]\n"
    + "                valid: [2015-01-01, 2016-12-31]\n"
    + "                test: [2017-01-01, 2020-08-01]\n"
)
NEW_FORM = (
    _HEAD
    + """\
                            - {{ feature_expressions }}
                            - {{ feature_names }}
"""
    + _LOADER
    + _TASK
    + '                train: [{{ train_start | default("2008-01-01", true) }}, '
    + '{{ train_end | default("2014-12-31", true) }}]\n'
    + '                valid: [{{ valid_start | default("2015-01-01", true) }}, '
    + '{{ valid_end | default("2016-12-31", true) }}]\n'
    + '                test: [{{ test_start | default("2017-01-01", true) }}, '
    + '{{ test_end | default("null", true) }}]\n'
)
_PACKAGE = resources.files("rdagent.scenarios.qlib.experiment")
INSTALLED = (_PACKAGE / "model_template" / CONFIG_FILE).read_text(encoding="utf-8")
FORMS = {"installed": INSTALLED, "0.8.0": OLD_FORM, "1.0.0": NEW_FORM}
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


def loaders(text: str, base: BaseSet, **variables: str) -> list[dict[str, Any]]:
    """Render an adapted YAML as Qlib would and return its loaders."""
    values = {"num_features": "30", **feature_variables(base), **variables}
    document = yaml.safe_load(jinja2.Template(text).render(values))
    nest = document["task"]["dataset"]["kwargs"]["handler"]["kwargs"]["data_loader"]
    assert nest["class"] == "NestedDataLoader"
    found: list[dict[str, Any]] = nest["kwargs"]["dataloader_l"]
    return found


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


def test_installed_yaml_has_one_of_the_two_forms() -> None:
    """The installed RD-Agent has placeholders or lists, so the short forms here stand for real ones."""
    assert ("{{ feature_expressions }}" in INSTALLED) != ('"RESI5", "WVMA5"' in INSTALLED)


@every_form
def test_task_is_read(text: str) -> None:
    """Data folder, market, segments and label are read, by default those of RD-Agent."""
    task = read_task(text, {})
    assert task.provider_uri == "~/.qlib/qlib_data/cn_data"
    assert task.market == "csi300"
    assert task.train == (pd.Timestamp("2008-01-01"), pd.Timestamp("2014-12-31"))
    assert task.valid == (pd.Timestamp("2015-01-01"), pd.Timestamp("2016-12-31"))
    assert task.test[0] == pd.Timestamp("2017-01-01")
    assert pd.isna(task.test[1]) if "test_end" in text else task.test[1] == pd.Timestamp("2020-08-01")
    assert task.label == "Ref($close, -2)/Ref($close, -1) - 1"
    assert task.segments == {"train": task.train, "valid": task.valid, "test": task.test}


@pytest.mark.parametrize(
    ("end", "expected"), [("2020-08-01", pd.Timestamp("2020-08-01")), ("null", pd.NaT), ("", pd.NaT)]
)
def test_end_of_the_test_segment(end: str, expected: Any) -> None:
    """The test segment ends where the settings say, or is open."""
    start, found = read_task(NEW_FORM, {"test_start": "2018-01-01", "test_end": end}).test
    assert start == pd.Timestamp("2018-01-01")
    assert found is expected or found == expected


@every_form
def test_another_label(text: str) -> None:
    """The label is the user's own where it was changed."""
    other = text.replace("Ref($close, -2)/Ref($close, -1) - 1", "Ref($vwap, -6)/Ref($vwap, -1) - 1")
    assert read_task(other, {}).label == "Ref($vwap, -6)/Ref($vwap, -1) - 1"


def test_label_without_a_name() -> None:
    """Qlib takes expressions without names too, and then their list stands alone."""
    lines = ('                            - ["Ref($close, -2)/Ref($close, -1) - 1"]\n', '- ["LABEL0"]')
    other = OLD_FORM.replace(lines[0], lines[0].replace("[", "").replace("]", "")).replace(lines[1], "")
    assert read_task(other, {}).label == "Ref($close, -2)/Ref($close, -1) - 1"


@every_form
def test_task_with_other_dates(text: str) -> None:
    """Dates in the settings win where the YAML has placeholders for them, and only there."""
    task = read_task(text, {"train_start": "2010-05-04", "train_end": "2012-12-31"})
    if "train_start" in text:
        assert task.train == (pd.Timestamp("2010-05-04"), pd.Timestamp("2012-12-31"))
    else:
        assert task.train == (pd.Timestamp("2008-01-01"), pd.Timestamp("2014-12-31"))


@every_form
@pytest.mark.parametrize("name", ["alpha20", "alpha22", "alpha158"])
def test_presets_are_what_the_loader_loads(text: str, name: str) -> None:
    """Adapted and rendered, the first loader computes exactly the preset, the second reads the factors."""
    base = base_set(name)
    first, second = loaders(adapt(text, base, NOTE), base)
    assert first["class"] == "qlib.contrib.data.loader.Alpha158DL"
    expressions, names = first["kwargs"]["config"]["feature"]
    assert list(zip(names, expressions, strict=True)) == list(base.features)
    assert first["kwargs"]["config"]["label"] == [["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]]
    assert second["class"] == "qlib.data.dataset.loader.StaticDataLoader"
    assert second["kwargs"]["config"] == FACTOR_FILE


@every_form
def test_custom_set_with_difficult_names(text: str) -> None:
    """Quotes, braces, brackets, colons, non-ASCII letters and words of YAML arrive as they are."""
    first, _ = loaders(adapt(text, CUSTOM, NOTE), CUSTOM)
    expressions, names = first["kwargs"]["config"]["feature"]
    assert tuple(zip(names, expressions, strict=True)) == CUSTOM.features


@every_form
def test_empty_set_leaves_the_label_alone(text: str) -> None:
    """Without base features the plain loader loads the label and no feature, then the factors follow."""
    first, second = loaders(adapt(text, NO_BASE_SET, NOTE), NO_BASE_SET)
    assert first["class"] == "qlib.data.dataset.loader.QlibDataLoader"
    assert list(first["kwargs"]["config"]) == ["label"]
    assert second["kwargs"]["config"] == FACTOR_FILE


@every_form
@pytest.mark.parametrize("base", [base_set("alpha22"), CUSTOM], ids=["alpha22", "custom"])
def test_adapted_twice_is_adapted_once(text: str, base: BaseSet) -> None:
    """A workspace that is used again gets the same text, and with another note nothing else changes."""
    once = adapt(text, base, NOTE)
    assert adapt(once, base, NOTE) == once
    gone, new = changed_lines(once, adapt(once, base, "another set"))
    assert (gone, new) == ([f"# rdagent-sota-bridge: {NOTE}"], ["# rdagent-sota-bridge: another set"])


@every_form
def test_adapted_again_for_another_set(text: str) -> None:
    """An adapted text can be adapted for another set, down to none."""
    other = base_set("alpha158")
    assert adapt(adapt(text, CUSTOM, NOTE), other, NOTE) == adapt(text, other, NOTE)
    assert adapt(adapt(text, CUSTOM, NOTE), NO_BASE_SET, NOTE) == adapt(text, NO_BASE_SET, NOTE)


@every_form
def test_features_that_were_taken_out_stay_out(text: str) -> None:
    """Without features a second time changes nothing; they can't be put back: no silent mistake."""
    without = adapt(text, NO_BASE_SET, NOTE)
    assert adapt(without, NO_BASE_SET, NOTE) == without
    assert refused(without, CUSTOM) == "its first loader's features were found 0 times, not once"


@every_form
def test_all_else_stays_as_it_was(text: str) -> None:
    """Beside the note, only the lines of the features change; where they are placeholders, none does."""
    gone, new = changed_lines(text, adapt(text, CUSTOM, NOTE))
    note = f"# rdagent-sota-bridge: {NOTE}"
    if "{{ feature_expressions }}" in text:
        assert (gone, new) == ([], [note])
    else:
        indent = " " * 28
        assert new == [note, f"{indent}- {{{{ feature_expressions }}}}", f"{indent}- {{{{ feature_names }}}}"]
        start = text.splitlines().index(" " * 24 + "feature:") + 1
        assert gone == text.splitlines()[start : start + len(gone)]
        assert text.splitlines()[start + len(gone)].strip() == (
            "- class: qlib.data.dataset.loader.StaticDataLoader"
        )


@every_form
def test_all_else_stays_as_it_was_without_a_set(text: str) -> None:
    """Without base features only their lines go and the first loader's class changes."""
    gone, new = changed_lines(text, adapt(text, NO_BASE_SET, NOTE))
    indent = " " * 16
    assert new == [
        f"# rdagent-sota-bridge: {NOTE}",
        f"{indent}- class: qlib.data.dataset.loader.QlibDataLoader",
    ]
    assert gone[:2] == [f"{indent}- class: qlib.contrib.data.loader.Alpha158DL", " " * 24 + "feature:"]
    assert all(line.startswith(" " * 28) for line in gone[2:])


def test_users_own_lines_stay() -> None:
    """The user's own comments and values beside the features stay."""
    text = "# mine\n" + NEW_FORM.replace("market: &market csi300", "market: &market csi500  # mine") + "# end"
    adapted = adapt(text, CUSTOM, NOTE)
    assert changed_lines(text, adapted) == ([], [f"# rdagent-sota-bridge: {NOTE}"])
    assert read_task(adapted, feature_variables(CUSTOM)).market == "csi500"


def test_feature_variables_are_lists_of_one_length() -> None:
    """The variables are JSON lists, which are YAML lists too; of names and expressions in one order."""
    variables = feature_variables(CUSTOM, ["gap", "on"])
    assert list(variables) == ["feature_names", "feature_expressions", "feature_columns"]
    assert yaml.safe_load(variables["feature_columns"]) == [*CUSTOM.names, "gap"]
    assert yaml.safe_load(variables["feature_names"]) == list(CUSTOM.names)
    assert yaml.safe_load(variables["feature_expressions"]) == [pair[1] for pair in CUSTOM.features]
    assert "动量" in variables["feature_names"]


# --- forks ---

every_fork = pytest.mark.parametrize("fork", forks.YAMLS)
every_base = pytest.mark.parametrize(
    "base", [base_set("alpha22"), CUSTOM, NO_BASE_SET], ids=["alpha22", "custom", "none"]
)


def processors(text: str, base: BaseSet, mined: Sequence[str]) -> list[dict[str, Any]]:
    """Render an adapted YAML as Qlib would and return its processors."""
    values = {"num_features": "30", **feature_variables(base, mined)}
    handler = yaml.safe_load(jinja2.Template(text).render(values))["task"]["dataset"]["kwargs"]["handler"]
    return [*handler["kwargs"]["infer_processors"], *handler["kwargs"]["learn_processors"]]


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
    assert first["kwargs"]["config"]["label"] == [["Ref($close, -2)/Ref($close, -1) - 1"], ["LABEL0"]]
    assert second["kwargs"]["config"] == FACTOR_FILE
    assert read_task(adapted, feature_variables(base)) == read_task(INSTALLED, {})


@every_fork
@every_base
def test_filters_let_all_features_through(fork: str, base: BaseSet) -> None:
    """A filter of columns names base and mined columns, each once; other processors are as they were."""
    mined = ["gap", "KLEN", "动量 5"]
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
    """What a fork's YAML chooses is told with its expressions."""
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
    """What a processor would drop, in a form that can't be rewritten, is told before a training."""
    text = INSTALLED.replace(place, f"{place}        {processor}\n")
    with pytest.raises(SeamError) as caught:
        adapt(text, CUSTOM, NOTE, ["gap"])
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
    assert processor in adapt(text, CUSTOM, NOTE, ["gap"])


# --- forms that are not known ---

FEATURE_BLOCK = NEW_FORM[
    NEW_FORM.index(" " * 24 + "feature:") : NEW_FORM.index("                - class: qlib.data")
]
STATIC_BLOCK = NEW_FORM[NEW_FORM.index("                - class: qlib.data") : NEW_FORM.index(FACTOR_FILE)]
REFUSED: dict[str, tuple[Callable[[str], str], str]] = {
    "no features": (
        lambda text: text.replace(" feature:\n", " features:\n"),
        "its first loader's features were found 0 times",
    ),
    "features twice": (
        lambda text: text + 'more:\n    feature:\n    - ["$close"]\n    - ["CLOSE"]\n',
        "its first loader's features were found 2 times, not once",
    ),
    "no YAML": (
        lambda text: text.replace("class: NestedDataLoader", "class: [NestedDataLoader"),
        "ParserError: ",
    ),
    "no template": (lambda text: text + "x: {{ end\n", "TemplateSyntaxError: "),
    "another factor file": (
        lambda text: text.replace(FACTOR_FILE, "other.parquet"),
        f"its other loaders read ['other.parquet'], not ['{FACTOR_FILE}']",
    ),
    "no factor file": (
        lambda text: text.replace(f'{STATIC_BLOCK}{FACTOR_FILE}"\n', ""),
        f"its other loaders read [], not ['{FACTOR_FILE}']",
    ),
    "nothing": (lambda _: "", "its first loader's features were found 0 times, not once"),
    "a list": (lambda _: "[]\n", "its first loader's features were found 0 times, not once"),
}


@pytest.mark.parametrize("kind", REFUSED)
@every_form
def test_yaml_that_is_refused(text: str, kind: str) -> None:
    """A YAML into which the features can't be put, or that would not read the factors, is refused."""
    change, why = REFUSED[kind]
    bases = (CUSTOM,) if kind == "no factor file" else (CUSTOM, NO_BASE_SET)
    assert all(refused(change(text), base).startswith(why) for base in bases)


def test_features_of_another_loader() -> None:
    """Features that stand outside of the first loader are not taken for its own."""
    other = NEW_FORM.replace(FEATURE_BLOCK, "") + "else:\n" + FEATURE_BLOCK
    assert refused(other, CUSTOM).startswith("its first loader would load None, not [[")


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

"""The configuration of a recorded training with other columns, segments or a seed, as qrun reads it."""

from __future__ import annotations

import copy
import datetime
from typing import Any

import pytest
import yaml

from rdagent_sota_bridge.errors import SeamError
from rdagent_sota_bridge.models import edits
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from tests import trained

NORM = {"fields_group": "feature", "fit_start_time": trained._BEGIN, "fit_end_time": trained._END}
BACKTEST = {"start_time": datetime.date(2017, 1, 1), "end_time": datetime.date(2020, 8, 1), "account": 1}


def recorded() -> dict[str, Any]:
    """Return a configuration on two mined columns, one of which has replaced a base feature."""
    found = trained.config(trained.BASE.without(["ROC60"]), width=3)
    handler = found["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
    handler["end_time"] = datetime.date(2020, 8, 1)
    handler["infer_processors"] = [
        {"class": "RobustZScoreNorm", "kwargs": dict(NORM)},
        {"class": "qlib.data.dataset.processor.FilterCol", "kwargs": {"col_list": ["KLEN", "ROC60", "gap"]}},
        {"class": "FilterCol", "kwargs": {"fields_group": "label", "col_list": ["LABEL0"]}},
        "Fillna",
    ]
    found["task"]["record"] = [
        {"class": "SignalRecord", "kwargs": {"model": "<MODEL>"}},
        {"class": "PortAnaRecord", "kwargs": {"config": {"backtest": dict(BACKTEST)}}},
    ]
    return found


def changed(
    config: dict[str, Any] | None = None,
    base: BaseSet | None = None,
    mined: tuple[str, ...] = ("ROC60", "gap"),
    segments: Any = None,
    seeded: bool = False,
) -> Any:
    """Return what qrun reads of a change."""
    base = trained.BASE.without(mined) if base is None else base
    text = edits.changed_yaml(
        recorded() if config is None else config, "a note", base, mined, segments or {}, seeded=seeded
    )
    assert text.startswith("# rdagent-sota-bridge: a note\nqlib_init:\n")
    assert "&" not in text.replace("&lt;", ""), "no anchors: it is plain"
    return yaml.safe_load(text)


def handler_of(config: Any) -> Any:
    """Return the arguments of the data handler."""
    return config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]


def test_no_change_is_the_same_configuration() -> None:
    """What was rendered once is written as it was."""
    assert changed() == recorded()


@pytest.mark.parametrize("mined", [(), ("gap",)])
def test_fewer_columns(mined: tuple[str, ...]) -> None:
    """The base feature that a column had replaced is back; without columns nothing reads their file."""
    found = changed(mined=mined)
    first, *others = handler_of(found)["data_loader"]["kwargs"]["dataloader_l"]
    expressions, names = first["kwargs"]["config"]["feature"]
    assert dict(zip(names, expressions, strict=True)) == dict(trained.BASE.features)
    assert [one["kwargs"]["config"] for one in others] == ["combined_factors_df.parquet"] * len(mined)
    width = found["task"]["model"]["kwargs"]["pt_model_kwargs"]["num_features"]
    assert width == len(trained.BASE.features) + len(mined)
    norm, features, label, fill = handler_of(found)["infer_processors"]
    assert features["kwargs"]["col_list"] == [*trained.BASE.names, *mined]
    assert [norm, label, fill] == [
        handler_of(recorded())["infer_processors"][number] for number in (0, 2, 3)
    ], "the rest is as it was"


def test_no_base_set() -> None:
    """A model on mined columns alone keeps its first loader, which has the label and no features."""
    config = trained.config(BaseSet("none", ()), width=2)
    found = changed(copy.deepcopy(config), base=BaseSet("none", ()), mined=("gap",))
    config["task"]["model"]["kwargs"]["pt_model_kwargs"]["num_features"] = 1
    assert found == config


def test_other_segments() -> None:
    """The days of the data, of the fit and of the back-test follow, as in RD-Agent's YAML."""
    days = {"train": ("2009-01-01", "2013-12-31"), "test": ("2018-01-01", "2019-12-31")}
    found = changed(segments=days)
    begin, end = (datetime.date.fromisoformat(day) for day in days["train"])
    first, last = (datetime.date.fromisoformat(day) for day in days["test"])
    segments = found["task"]["dataset"]["kwargs"]["segments"]
    valid = recorded()["task"]["dataset"]["kwargs"]["segments"]["valid"]
    assert segments == {"train": [begin, end], "valid": valid, "test": [first, last]}
    handler = handler_of(found)
    assert (handler["start_time"], handler["end_time"]) == (begin, last)
    norm = handler["infer_processors"][0]["kwargs"]
    assert norm == {**NORM, "fit_start_time": begin, "fit_end_time": end}
    signal, portfolio = found["task"]["record"]
    assert portfolio["kwargs"]["config"]["backtest"] == {**BACKTEST, "start_time": first, "end_time": last}
    assert signal == recorded()["task"]["record"][0]


def test_a_seed() -> None:
    """The network comes from the file that seeds first."""
    expected = recorded()
    expected["task"]["model"]["kwargs"]["pt_model_uri"] = "sota_seed.model_cls"
    assert changed(seeded=True) == expected


@pytest.mark.parametrize(
    ("spoil", "reason"),
    [
        (lambda task: task.pop("dataset"), "KeyError: 'dataset'"),
        (lambda task: handler_of({"task": task}).update(data_loader=None), "TypeError"),
        (lambda task: handler_of({"task": task})["data_loader"]["kwargs"].update(dataloader_l=[]), "unpack"),
        (lambda task: task["model"]["kwargs"].update(pt_model_uri="net.cls"), "the network is net.cls"),
        (lambda task: task.update(extra=object()), "RepresenterError"),
        (lambda task: task.update(extra="{{ 7 }}"), "as YAML it is another one"),
        (lambda task: task.update(extra="{% endif %}"), "TemplateSyntaxError"),
    ],
)
def test_a_form_that_is_not_known(spoil: Any, reason: str) -> None:
    """Each is one message, and nothing is trained."""
    config = recorded()
    spoil(config["task"])
    with pytest.raises(SeamError, match="What Qlib recorded has a form that is not known") as caught:
        changed(config, seeded=True)
    assert reason in caught.value.fact

"""The configuration of a recorded training with other columns, segments or a seed, as qrun reads it."""

from __future__ import annotations

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
    segments: Any = None,
    seeded: bool = False,
) -> Any:
    """Return what qrun reads of a change."""
    config = recorded() if config is None else config
    text = edits.changed_yaml(config, "a note", base, segments, seeded=seeded)
    assert text.startswith("# rdagent-sota-bridge: a note\nqlib_init:\n")
    assert "&" not in text.replace("&lt;", ""), "no anchors: it is plain"
    return yaml.safe_load(text)


def handler_of(config: Any) -> Any:
    """Return the arguments of the data handler."""
    return config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]


def test_no_change_is_the_same_configuration() -> None:
    """What was rendered once is written as it was."""
    assert changed() == recorded()


def test_the_base_set_alone() -> None:
    """The base feature that a column had replaced is back, and nothing reads the mined columns' file."""
    found = changed(base=trained.BASE)
    first, *others = handler_of(found)["data_loader"]["kwargs"]["dataloader_l"]
    expressions, names = first["kwargs"]["config"]["feature"]
    assert dict(zip(names, expressions, strict=True)) == dict(trained.BASE.features)
    assert others == []
    width = found["task"]["model"]["kwargs"]["pt_model_kwargs"]["num_features"]
    assert width == len(trained.BASE.features)
    norm, features, label, fill = handler_of(found)["infer_processors"]
    assert features["kwargs"]["col_list"] == list(trained.BASE.names)
    assert [norm, label, fill] == [
        handler_of(recorded())["infer_processors"][number] for number in (0, 2, 3)
    ], "the rest is as it was"


def test_other_segments() -> None:
    """The days of the data, of the fit and of the back-test follow, as in RD-Agent's YAML."""
    days = [datetime.date(year, 1, 1) for year in (2009, 2013, 2014, 2017, 2018, 2019)]
    begin, end, *valid, first, last = days
    parts = {"train": [begin, end], "valid": valid, "test": [first, last]}
    found = changed(segments={name: tuple(map(str, part)) for name, part in parts.items()})
    assert found["task"]["dataset"]["kwargs"]["segments"] == parts
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
        changed(config, trained.BASE, seeded=True)
    assert reason in caught.value.fact

"""The configuration of a recorded training, edited as plain data, and written as plain YAML."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import jinja2
import yaml

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models.segments import Segments
from rdagent_sota_bridge.qlib_files import model_yaml, seeds
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.qlib_files.yaml_edits import PROCESSORS


def changed_yaml(
    config: dict[str, Any],
    note: str,
    base: BaseSet | None,
    segments: Segments | None,
    *,
    seeded: bool,
) -> str:
    """Return the YAML of a training that differs from a recorded one.

    Args:
        config: The recorded one, as `training_record.read_training` returns it; it is edited.
        note: A line of comment for the top.
        base: The base set, which is to be all; None for the columns that it has.
        segments: New ones; None for those that it has.
        seeded: True where `seeds.FILE` is to name the network.

    Raises:
        SeamError: if the recorded one has a form that is not known.
    """
    try:
        if base is not None:
            _leave_base(config["task"], base)
        if segments is not None:
            _set_segments(config["task"], segments)
        model = config["task"]["model"]["kwargs"]
        if seeded and model["pt_model_uri"] != seeds.NETWORK:
            raise ValueError(f"the network is {model['pt_model_uri']}, not {seeds.NETWORK}")
        if seeded:
            model["pt_model_uri"] = seeds.SEEDED_NETWORK
        text = f"{model_yaml.NOTE} {note}\n{plain_yaml(config)}"
        if model_yaml.rendered(text, {}) != config:  # for qrun it is a template
            raise ValueError("as YAML it is another one")
    except (
        *(AttributeError, KeyError, IndexError, TypeError, ValueError),
        *(yaml.YAMLError, jinja2.TemplateError),
    ) as error:
        raise SeamError(
            f"What Qlib recorded has a form that is not known: {type(error).__name__}: {error}",
            "the task of the recorded training",
            OTHER_RELEASE,
        ) from None
    return text


def plain_yaml(config: dict[str, Any]) -> str:
    """Return plain data as YAML, in their order."""
    return yaml.dump(config, Dumper=_Plain, sort_keys=False, allow_unicode=True)


class _Plain(yaml.SafeDumper):
    """Writes without anchors what stands there twice."""

    def ignore_aliases(self, data: Any) -> bool:
        """Have none."""
        return True


def _leave_base(task: dict[str, Any], base: BaseSet) -> None:
    handler = task["dataset"]["kwargs"]["handler"]["kwargs"]
    first, *others = handler["data_loader"]["kwargs"]["dataloader_l"]
    names = list(base.names)
    first["kwargs"]["config"]["feature"] = [[expression for _, expression in base.features], names]
    others = [loader for loader in others if loader["kwargs"]["config"] != FACTOR_FILE]
    handler["data_loader"]["kwargs"]["dataloader_l"] = [first, *others]
    task["model"]["kwargs"]["pt_model_kwargs"]["num_features"] = len(names)
    for kind, arguments in _processors(handler):
        if kind == "FilterCol" and arguments.get("fields_group", "feature") in ("feature", None):
            arguments["col_list"] = names


def _set_segments(task: dict[str, Any], segments: Segments) -> None:
    """Set segments, and what RD-Agent's YAML has from the same variables: data, fit and back-test."""
    days = {name: [datetime.date.fromisoformat(day) for day in given] for name, given in segments.items()}
    handler = task["dataset"]["kwargs"]["handler"]["kwargs"]
    task["dataset"]["kwargs"]["segments"].update(days)
    handler["start_time"], handler["end_time"] = days["train"][0], days["test"][1]
    for _, arguments in _processors(handler):
        if "fit_start_time" in arguments:
            arguments["fit_start_time"], arguments["fit_end_time"] = days["train"]
    for record in task["record"]:
        if backtest := record["kwargs"].get("config", {}).get("backtest"):
            backtest["start_time"], backtest["end_time"] = days["test"]


def _processors(handler: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield class and arguments of each processor that has some."""
    for processor in [one for name in PROCESSORS for one in handler.get(name) or []]:
        if isinstance(processor, dict) and processor.get("kwargs"):
            yield processor["class"].split(".")[-1], processor["kwargs"]

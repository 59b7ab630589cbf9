"""RD-Agent's loop of fin_quant with its two real runners, and what stands in for Qlib in it."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from rdagent.components.coder.factor_coder.factor import FactorTask
from rdagent.scenarios.qlib.developer import factor_runner, model_runner
from rdagent.scenarios.qlib.developer.factor_runner import QlibFactorRunner
from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment
from rdagent.utils.workflow import LoopBase, LoopMeta

from examples.demo.market import Market
from rdagent_sota_bridge.bridge import experiment
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import model_yaml
from tests import seams


class QuantRDLoop(LoopBase, metaclass=LoopMeta):
    """Named as RD-Agent names the loop of fin_quant; its two runners, and one step."""

    def __init__(self, for_factors: Any) -> None:
        self.model_runner = seams.build_runner()
        self.factor_runner = for_factors
        super().__init__()

    def running(self, previous: dict[str, Any]) -> str:
        """Do nothing."""
        return "done"


@dataclass(frozen=True)
class BackTest:
    """What one back-test got: the YAML's name, content and note, its variables, and the factors."""

    config_name: str
    config: Any
    variables: dict[str, str]
    factors: pd.DataFrame
    note: str

    @property
    def columns(self) -> list[str]:
        """The names of the factors."""
        return [str(name) for name in self.factors["feature"].columns]

    @property
    def base_features(self) -> list[str]:
        """The names of the base features that Qlib has to load."""
        kwargs = self.config["task"]["dataset"]["kwargs"]["handler"]["kwargs"]
        features: list[str] = kwargs["data_loader"]["kwargs"]["dataloader_l"][0]["kwargs"]["config"][
            "feature"
        ][1]
        return features


@dataclass
class Qlib:
    """Stands in for Qlib's environment: it keeps what a back-test gets, and answers with its number as IC.

    The names of all back-tests, those of other processes too, are lines of a file. At `kill_at` of them its
    process is killed.
    """

    names: Path
    tests: list[BackTest] = field(default_factory=list)
    kill_at: int = 0

    def count(self) -> int:
        """Return how many back-tests there were, in all processes."""
        return len(self.names.read_text().splitlines())

    def prepare(self) -> None:
        """Be there."""

    def check_output(self, local_path: str, entry: str, env: dict[str, str]) -> str:
        """Keep the content of the workspace at qrun, and write results as RD-Agent's script does."""
        folder = Path(local_path)
        if entry.startswith("qrun "):
            name = entry.removeprefix("qrun ")
            text = (folder / name).read_text(encoding="utf-8")
            factors = pd.read_parquet(folder / FACTOR_FILE)
            note = text.splitlines()[0]
            self.tests.append(BackTest(name, model_yaml.rendered(text, env), dict(env), factors, note))
            with self.names.open("a") as names:
                names.write(f"{name}\n")
            if self.count() == self.kill_at:
                os.kill(os.getpid(), signal.SIGKILL)
        else:
            number = float(self.count())
            metrics = pd.Series(dict.fromkeys(experiment.METRICS, number), name="0")
            metrics.to_csv(folder / "qlib_res.csv")
            metrics.to_frame().to_pickle(folder / "ret.pkl")
            metrics.to_frame().to_parquet(folder / "ret.parquet")
        return ""


@dataclass(frozen=True)
class Place(seams.Place):
    """A market, a good set, and what back-tests get."""

    qlib: Qlib

    def loop(self) -> QuantRDLoop:
        """Return RD-Agent's loop with the set."""
        self.switch_on()
        return QuantRDLoop(QlibFactorRunner(None))


def let_code_be_run(monkeypatch: pytest.MonkeyPatch, market: Market) -> None:
    """Let a factor's code give a column of its name; ours lies over it as over RD-Agent's own."""
    frame = seams.factor_frame(market, noise=1.0)[["noise"]]

    def process(given: Any) -> pd.DataFrame:
        listed = given if isinstance(given, list) else [given]
        names = [task.factor_name for one in listed for task in one.sub_tasks]
        names += [
            Path(file).stem for one in listed for file in getattr(one, "base_feature_codes", None) or {}
        ]
        return pd.DataFrame({name: frame["noise"] * (1 + len(name)) for name in names})

    def no_deduplication(self: Any, old: pd.DataFrame, new: pd.DataFrame) -> pd.DataFrame:
        return new  # RD-Agent's own takes a correlation per day and pair, in many processes

    for module in (factor_runner, model_runner):
        monkeypatch.setattr(module, "process_factor_data", seams.merge_over(process))
    monkeypatch.setattr(QlibFactorRunner, "deduplicate_new_factors", no_deduplication)


def factor_experiment(name: str, *accepted: Any) -> Any:
    """Return the experiment of a factor loop, as `QlibFactorHypothesis2Experiment` makes it."""
    made = QlibFactorExperiment([FactorTask(name, "d", "f")])
    made.based_experiments = [QlibFactorExperiment(sub_tasks=[]), *accepted]
    return made


def of_accepted(made: Any, ic: float) -> Any:
    """Give an experiment a result, as one that was accepted has."""
    made.result = pd.Series(dict.fromkeys(experiment.METRICS, ic), name="0")
    return made


def accepted_model() -> Any:
    """Return a model that the run accepted, with its code."""
    model = seams.model_experiment("Best")
    model.sub_workspace_list[0].inject_files(**{"model.py": "model_cls = None"})
    return of_accepted(model, 0.5)

"""Is a set worth anything to a model: models trained on the base set with and without the mined columns."""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge.check import inspect
from rdagent_sota_bridge.check.inspect import Inspection
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor import qlib as environment
from rdagent_sota_bridge.doctor import rdagent
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import OTHER_RELEASE, CompareError, SeamError, SettingsError
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.qlib_files import batches, docker, model_yaml
from rdagent_sota_bridge.qlib_files.base_sets import BaseSet
from rdagent_sota_bridge.report.statistics import Estimate, estimate
from rdagent_sota_bridge.settings import Settings
from rdagent_sota_bridge.system import files

METRICS = ("IC", "rank IC")
BASE, MINED, DIFFERENCE = "base", "mined", "difference"

# What RD-Agent takes where its LLM names nothing (`scenarios/qlib/developer/model_runner.py`, 0.8.0, 1.0.0).
_DEFAULTS = {"n_epochs": "100", "lr": "2e-4", "early_stop": "10", "batch_size": "256", "weight_decay": "1e-4"}
_STEPS = {"dataset_cls": "TSDatasetH", "step_len": "20", "num_timesteps": "20"}

_PROGRESS = re.compile(r"^compare: (.*)|(Epoch\d+: train .*)")  # our own, and Qlib's of a net


@dataclass(frozen=True, eq=False)
class Comparison:
    """What models make of a set.

    Attributes:
        found: The set, and what it was tried on.
        models: By model, and by its columns (`BASE`: the base set; `MINED`: the mined columns too), the daily
            figures of the test segment: columns `METRICS`, a row a day.
    """

    found: Inspection
    models: dict[str, dict[str, pd.DataFrame]]

    def estimates(self) -> dict[str, dict[str, dict[str, Estimate]]]:
        """Return the means with their intervals: by model, by columns or paired `DIFFERENCE`, by metric."""
        found = {}
        for name, trained in self.models.items():
            series = {**trained, DIFFERENCE: trained[MINED] - trained[BASE]}
            found[name] = {
                which: {metric: estimate(daily[[metric]]) for metric in METRICS}
                for which, daily in series.items()
            }
        return found


def compare(
    settings: Settings,
    located: tuple[Located, ...],
    model: Path | None,
    say: Callable[[str], object],
    *,
    takes_steps: bool = False,
) -> Comparison:
    """Train Ridge, LightGBM and `model`, each on the base set with and without the mined columns.

    Args:
        settings: The settings, as for a run.
        located: The factor files.
        model: The file of a model in RD-Agent's form (`model_cls`); None for none.
        say: Gets a line of progress now and then: it takes minutes.
        takes_steps: Whether `model` takes the features of the last 20 days, not of one.

    Raises:
        BridgeError: if the set, Qlib's environment or the model can't be used.
    """
    if not settings.use_alpha_factors:
        fact = "There is no base set to compare with: USE_ALPHA_FACTORS is off"
        raise SettingsError(fact, "environment variable or .env entry USE_ALPHA_FACTORS", "unset it")
    if docker.is_qlib_in_docker():
        fact = "Qlib runs in Docker, and a comparison needs it in a conda environment"
        fix = "make that environment, and set MODEL_CoSTEER_ENV_TYPE=conda for this command"
        raise SettingsError(fact, "MODEL_CoSTEER_ENV_TYPE, a setting of RD-Agent's", fix)
    code = {} if model is None else {"model.py": _code(model)}
    say("looking at the set, RD-Agent and Qlib's environment")
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(environment.usable_qlib)
        seams = rdagent.look_at_rdagent()
        found = inspect.inspect(settings, rdagent.qlib_start(seams), located)
        found.raise_failures()
        qlib = looking.result()
    if isinstance(qlib, Line):
        raise CompareError("Qlib's environment can't be used", qlib.text, qlib.fix)
    request, variables, texts = _prepared(found, seams, _stored(found, settings, say), settings)
    variables |= {**_DEFAULTS, **(_STEPS if takes_steps else {}), "PATH": qlib.path}
    answer = _trained(request, {**texts, **code}, {**os.environ, **variables}, say)
    if "refused" in answer:
        fix = "let model_cls be a torch module that takes num_features (and num_timesteps, where it takes "
        fix += "steps: --model-type TimeSeries) and gives one column"
        raise CompareError(f"The model is not trained: {answer['refused']}", str(model), fix)
    if model is not None:
        answer[model.name] = answer.pop("model")
    by_day = {
        name: {which: _by_day(daily) for which, daily in trained.items()} for name, trained in answer.items()
    }
    return Comparison(found, by_day)


def _code(model: Path) -> str:
    try:
        return files.read_text(model)
    except (OSError, UnicodeDecodeError) as error:
        why = getattr(error, "strerror", None) or "it is not UTF-8 text"
        fix = "name a Python file with model_cls, such as the model.py of a model's workspace"
        raise CompareError(f"The model can't be read: {why}", str(model), fix) from None


def _stored(found: Inspection, settings: Settings, say: Callable[[str], object]) -> Path:
    held = found.quality.factors
    sources = tuple((source.path, source.digest) for source in found.quality.sources)
    wanted = store.Wanted(held.digest, held.columns, sources, found.quality.is_normal)
    return store.keep(wanted, store.folder(settings.store_path), say).path


def _prepared(
    found: Inspection, seams: Seams | Line, stored: Path, settings: Settings
) -> tuple[dict[str, object], dict[str, str], dict[str, str]]:
    """Return what Qlib is asked, the YAML's variables, and the texts of the files beside it, by name."""
    start = rdagent.qlib_start(seams)
    if isinstance(seams, Line) or seams.of_factors is None:
        fact = "What RD-Agent's factor loops would train LightGBM with is not known"
        raise SeamError(fact, "QlibFactorRunner.develop", OTHER_RELEASE)
    mined = found.quality.factors.columns
    # What a mined column replaces is loaded too, under another name; sorted, as by Qlib's `NestedDataLoader`.
    names = {name: f"{name} (base set)" if name in mined else name for name in sorted(found.base.names)}
    columns = {BASE: list(names.values()), MINED: sorted({*names, *mined})}
    base = BaseSet(found.base.name, tuple((names[name], text) for name, text in found.base.features))
    adapted = model_yaml.adapt(start.config, base, "compare", mined)
    adapted, beside, _ = batches.adapt(adapted, wanted=settings.fast_training)
    texts = {"model.yaml": adapted, "lightgbm.yaml": seams.of_factors.start.config, **beside}
    # How many features there are, each training knows by its columns.
    variables = {**start.run_env, **model_yaml.feature_variables(base, mined), "num_features": "0"}
    return {"set": str(stored), "columns": columns}, variables, texts


def _trained(
    request: object, texts: Mapping[str, str], env: Mapping[str, str], say: Callable[[str], object]
) -> Any:
    """Let Qlib's Python train in a folder of its own, and return its answer; nothing else of it is left."""

    def hear(line: str) -> None:
        if match := _PROGRESS.search(line):
            say(match[1] or match[2])

    python = str(shutil.which("python", path=env["PATH"]))
    # A short path: sockets' paths below it have to fit into 108 characters.
    with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        for file, text in texts.items():
            (folder / file).write_text(text, encoding="utf-8")
        answer, last = child.run_script(folder, "sota_compare.py", request, python, env, hear)
    if answer is None:
        fix = (
            "see what rdagent-sota check says; a training that needs more memory than there is ends with 137"
        )
        raise CompareError(f"The training ended with {last}", python, fix)
    return answer


def _by_day(daily: Mapping[str, list[Any]]) -> pd.DataFrame:
    days = pd.DatetimeIndex(pd.to_datetime(daily["days"]))
    return pd.DataFrame({metric: daily[metric] for metric in METRICS}, index=days)

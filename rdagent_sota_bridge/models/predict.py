"""The predictions of a recorded model made anew: for its own test segment, or for other days."""

from __future__ import annotations

import json
import shutil
import tempfile
import uuid
from importlib import resources
from pathlib import Path

import pandas as pd

from rdagent_sota_bridge.errors import OTHER_RELEASE, ResultError, SeamError
from rdagent_sota_bridge.factor_set import store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.models import child
from rdagent_sota_bridge.models.retrain import MODEL_FILE, set_is_gone
from rdagent_sota_bridge.qlib_files import docker, training_record
from rdagent_sota_bridge.system import files

_SCRIPT = resources.files("rdagent_sota_bridge.qlib_side") / "sota_predict.py"
_PREDICTIONS = "sota_predictions.parquet"
_OUTPUT = "sota_predict.txt"  # what Qlib said where there are no predictions, in the model's workspace


def predict_again(of: Path, days: tuple[str, str] | None = None) -> pd.DataFrame:
    """Return what a recorded model predicts, in Qlib's environment, from the data as they are now.

    Nothing is fitted: what scaled the features in the training scales them here.

    Args:
        of: The model's workspace; a folder in it is used, and removed.
        days: First and last day (ISO, both inclusive); None for the test segment.

    Returns:
        `score` and `label` (raw; NaN where it lies behind the data's end), by datetime and instrument.

    Raises:
        ResultError: if there is no training, it can't be read, or nothing was predicted.
        FactorFileNotFoundError: if the file of the set is gone.
        SeamError: if the recorded configuration has a form that is not known.
        StoreError: if a file can't be read or written.
    """
    of = of.absolute()
    training = training_record.read_training(of)
    try:
        dataset = training.config["task"]["dataset"]
        handler = dataset["kwargs"]["handler"]["kwargs"]
        loaders = [loader["kwargs"]["config"] for loader in handler["data_loader"]["kwargs"]["dataloader_l"]]
        if days is not None:
            dataset["kwargs"]["segments"]["test"], handler["end_time"] = list(days), days[1]
        # Dates become text, which Qlib takes as well.
        config = json.dumps({"qlib_init": training.config["qlib_init"], "dataset": dataset}, default=str)
    except (KeyError, TypeError) as error:
        fact = f"What Qlib recorded has a form that is not known: {type(error).__name__}: {error}"
        raise SeamError(fact, str(training.run / "artifacts" / "task"), OTHER_RELEASE) from None
    if FACTOR_FILE in loaders and not (of / FACTOR_FILE).is_file():
        raise set_is_gone(of / FACTOR_FILE)
    fix = "make the files readable and writable for you, with room on the disk"
    with (
        store.failing_at(of, ("The model can't predict", fix)),
        tempfile.TemporaryDirectory(dir=of, prefix=".predict-", ignore_cleanup_errors=True) as name,
    ):
        folder = Path(name)
        if FACTOR_FILE in loaders:
            files.place(of / FACTOR_FILE, folder / FACTOR_FILE, link=not docker.is_qlib_in_docker())
        artifacts = training.run / "artifacts"
        for file in (of / MODEL_FILE, artifacts / "dataset", artifacts / "params.pkl"):
            shutil.copyfile(file, folder / file.name)
        (folder / "sota_predict.json").write_text(config, encoding="utf-8")
        # With an id of its own, for RD-Agent's ENABLE_CACHE, which knows the texts of Python files alone.
        script = f"{_SCRIPT.read_text(encoding='utf-8')}\n# {uuid.uuid4().hex}\n"
        (folder / _SCRIPT.name).write_text(script, encoding="utf-8")
        child.call("run_in_qlib", folder, _SCRIPT.name)
        if (folder / _PREDICTIONS).is_file():
            return pd.read_parquet(folder / _PREDICTIONS)
        said = (folder / child.OUTPUT).replace(of / _OUTPUT)
        raise ResultError("The model predicted nothing", str(said), "see what Qlib says there")

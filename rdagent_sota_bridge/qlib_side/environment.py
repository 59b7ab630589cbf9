"""Runs where RD-Agent starts Qlib: writes down versions, and whether mlflow takes a file store."""

import gc
import json
import platform
from importlib import metadata
from pathlib import Path

gc.disable()  # it takes a quarter of the time that mlflow's import takes
answer = {"versions": {"python": platform.python_version()}, "file_store": ""}
for name in ("pyqlib", "torch", "pandas", "pyarrow", "numpy", "mlflow"):
    try:
        answer["versions"][name] = metadata.version(name)  # type: ignore[index]
    except metadata.PackageNotFoundError:
        continue
try:
    from mlflow.tracking import MlflowClient

    # The store that `qlib/cli/run.py` (pyqlib 0.9.7) names.
    MlflowClient(tracking_uri=f"file:{Path.cwd().resolve() / 'mlruns'}").create_experiment("check")
except Exception as error:  # what fails is the answer, whatever it raises
    answer["file_store"] = f"{type(error).__name__}: {error}"
Path("answer.json").write_text(json.dumps(answer), encoding="utf-8")

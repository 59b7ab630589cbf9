"""The environment in which RD-Agent starts Qlib: its versions, and whether its mlflow takes a file store."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import rdagent_sota_bridge as startup
from rdagent_sota_bridge.check.lines import Line, State
from rdagent_sota_bridge.system import child
from rdagent_sota_bridge.system.files import write_whole

FIRST_REFUSING_MLFLOW = "3.13"
"""The first mlflow that refuses a file store unless `MLFLOW_ALLOW_FILE_STORE` is true; 3.12 only warned."""

_ANSWER = "answer.json"
_QLIB_SECONDS = 60.0
_MIGRATION_PAGE = "migrate-from-file-store"  # stands in mlflow's refusal in every wording that it had so far


@dataclass(frozen=True)
class Unseen:
    """Why something was not looked at.

    Attributes:
        state: `warn`, or `fail` where the reason itself would make a run fail.
        reason: Part of a sentence.
        fix: What to do about it.
        in_docker: True where Qlib runs in a container.
    """

    state: State
    reason: str
    fix: str
    in_docker: bool = False


@dataclass(frozen=True)
class Place:
    """Where RD-Agent would start Qlib.

    Attributes:
        kind: `MODEL_CoSTEER_ENV_TYPE`, or RD-Agent's default.
        name: The name of the conda environment.
        path: PATH inside of it; empty where conda can't run anything there.
        has_conda: True if there is a conda.
        listed: True if conda lists the environment.
    """

    kind: str
    name: str = ""
    path: str = ""
    has_conda: bool = False
    listed: bool = False


@dataclass(frozen=True)
class QlibSide:
    """What the conda environment that runs Qlib answered.

    Attributes:
        name: The name of the environment.
        versions: From a distribution, or `python`, to its version there.
        file_store: Why mlflow did not take a file store as Qlib asks for one; empty where it did.
    """

    name: str
    versions: dict[str, str]
    file_store: str = ""


def qlib_line(side: QlibSide | Unseen, pandas: str) -> Line:
    """Return the line about the environment that trains and back-tests.

    Args:
        side: What it answered.
        pandas: The version of pandas in this environment.
    """
    if isinstance(side, Unseen):
        return Line("qlib", side.state, f"not looked at: {side.reason}", side.fix)
    figures = {"environment": side.name, "versions": side.versions, "pandas_here": pandas}
    missing = [name for name in ("pyqlib", "torch", "pandas", "pyarrow") if name not in side.versions]
    if missing:
        return Line(
            "qlib",
            "fail",
            f"the conda environment {side.name} has no {' and no '.join(missing)}: every training would fail",
            f"remove it, and RD-Agent makes it anew: conda env remove -n {side.name}",
            figures,
        )
    names = ("pyqlib", "torch", "python", "pandas", "pyarrow")
    text = f"conda environment {side.name}: {', '.join(f'{name} {side.versions[name]}' for name in names)}"
    major, there = (version.partition(".")[0] for version in (pandas, side.versions["pandas"]))
    if int(there) > int(major):
        # `ret.pkl` in `scenarios/qlib/experiment/workspace.py` of 0.8.0; 1.0.0 has `ret.parquet`. Tried:
        # pandas 2.3 reads a pickle of 1.5, and none of 3.1.
        text += (
            f"; pandas {pandas} is here, and can't read the pickle of a newer major version that RD-Agent "
            "0.8.0 takes results back as"
        )
        fix = f'conda run -n {side.name} pip install --upgrade "pandas=={major}.*" pyarrow'
        return Line("qlib", "warn", text, fix, figures)
    return Line("qlib", "pass", text, figures=figures)


def file_store_line(side: QlibSide | Unseen, allowed: str) -> Line:
    """Return the line about the store `./mlruns` that Qlib writes, and newer mlflow refuses.

    Args:
        side: What Qlib's side answered.
        allowed: The value of `MLFLOW_ALLOW_FILE_STORE`; empty where it is not set.
    """
    name, figures = "mlflow file store", {"MLFLOW_ALLOW_FILE_STORE": allowed or None}
    fix = "set MLFLOW_ALLOW_FILE_STORE=true in the environment or in .env"
    if isinstance(side, Unseen):
        text = "Qlib's side was not looked at (see qlib)"
        trap = f"from {FIRST_REFUSING_MLFLOW} on mlflow refuses ./mlruns without MLFLOW_ALLOW_FILE_STORE=true"
        if side.in_docker:
            trap += ", and RD-Agent hands containers none of your variables"
            fix = (
                "where back-tests fail on it, hand it in (RD-Agent 1.0.0): "
                """QLIB_DOCKER_ENV_DICT='{"MLFLOW_ALLOW_FILE_STORE": "true"}', or set it in the image"""
            )
        elif allowed.lower() in ("true", "1"):  # the words that mlflow takes
            text += f"; MLFLOW_ALLOW_FILE_STORE={allowed} is set, so any mlflow takes ./mlruns"
            return Line(name, "pass", text, figures=figures)
        return Line(name, "warn", f"{text}; {trap}", fix, figures)
    mlflow = f"mlflow {side.versions.get('mlflow', 'missing')} on Qlib's side"
    figures["error"] = side.file_store or None
    if not side.file_store:
        return Line(name, "pass", f"{mlflow} takes a file store", figures=figures)
    if _MIGRATION_PAGE in side.file_store:
        text = f"{mlflow} refuses the file store ./mlruns: every back-test would fail"
        return Line(name, "fail", text, fix, figures)
    text = f"{mlflow} can't make a file store: {side.file_store}"
    return Line(name, "fail", text, f"conda run -n {side.name} pip install --upgrade mlflow", figures)


def look_at_qlib(folder: Path) -> QlibSide | Unseen:
    """Find the environment in which RD-Agent would start Qlib, and let it answer.

    Args:
        folder: An existing folder to work in; files are left there.
    """
    code = "import pathlib; from rdagent_sota_bridge.doctor import qlib_environment; "
    code += f"qlib_environment.tell_place(pathlib.Path({_ANSWER!r}))"
    place = ask_rdagent(code, folder / "place", _QLIB_SECONDS)
    if isinstance(place, str):
        reason = f"RD-Agent's settings for it can't be read, or conda does not answer: {place}"
        return Unseen("warn", reason, "see what rdagent --help and conda env list say")
    return ask_qlib(Place(**place), folder)


def ask_rdagent(code: str, folder: Path, seconds: float) -> dict[str, Any] | str:
    """Let a child of this Python import RD-Agent, and return what it wrote down, or why it did not.

    Args:
        code: What it does; its answer is `answer.json`, in the current folder.
        folder: The folder to make for it.
        seconds: How long it may take.
    """
    # LiteLLM downloads a table of prices when it is imported, and waits for the download to fail.
    variables = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    variables.pop("RDAGENT_SOTA_BRIDGE", None)  # switched off, nothing could be told of the hook
    return _asked([sys.executable, "-c", code], variables, folder, seconds)


def _asked(
    command: list[str], variables: Mapping[str, str], folder: Path, seconds: float
) -> dict[str, Any] | str:
    trouble = child.ask(command, variables, folder, seconds)
    answer = folder / _ANSWER
    return json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else trouble


def ask_qlib(place: Place, folder: Path) -> QlibSide | Unseen:
    """Let the environment that runs Qlib tell its versions, and open a file store there.

    Args:
        place: Where it is.
        folder: An existing folder to work in; files are left there.
    """
    if place.kind == "docker":
        return Unseen(
            "warn",
            "Qlib runs in Docker (MODEL_CoSTEER_ENV_TYPE=docker)",
            "look at the versions in sota_manifest.json after the first model",
            in_docker=True,
        )
    if place.kind != "conda":
        return Unseen(
            "fail",
            f"RD-Agent does not know MODEL_CoSTEER_ENV_TYPE={place.kind}: every back-test would fail",
            "set it to conda or docker",
        )
    if not place.path:
        return _no_conda_environment(place)
    # As `LocalEnv._run` in `rdagent/utils/env.py` (0.8.0, 1.0.0) composes it.
    path = f"{place.path}:/bin/:/usr/bin/"
    python, qrun = (shutil.which(name, path=path) for name in ("python", "qrun"))
    if python is None or qrun is None:
        return Unseen(
            "fail",
            f"the conda environment {place.name} has no {'python' if python is None else 'qrun'}: every "
            "back-test would fail",
            f"remove it, and RD-Agent makes it anew: conda env remove -n {place.name}",
        )
    variables = {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}  # a check tells nobody
    told = _asked([python, "-c", _PROBE], {**os.environ, **variables}, folder / "probe", _QLIB_SECONDS)
    if isinstance(told, str):
        reason = f"Python does not run in the conda environment {place.name}: {told}"
        return Unseen("fail", reason, f"see what {python} --version says")
    return QlibSide(place.name, told["versions"], told["file_store"])


def _no_conda_environment(place: Place) -> Unseen:
    if not place.has_conda:
        return Unseen(
            "fail",
            f"conda is not on PATH, and RD-Agent starts Qlib in the conda environment {place.name}: every "
            "back-test would fail",
            "install conda, or set MODEL_CoSTEER_ENV_TYPE=docker",
        )
    if place.listed:
        return Unseen(
            "fail",
            f"conda lists {place.name}, so RD-Agent does not make it, and can't run anything in it",
            f"see what conda run -n {place.name} python --version says, or remove it: "
            f"conda env remove -n {place.name}",
        )
    return Unseen(
        "warn",
        f"the conda environment {place.name} is not there yet; RD-Agent makes it in its first run",
        "check again after a first run",
    )


def tell_place(answer: Path) -> None:
    """Write down where RD-Agent would start Qlib, by its own settings. For a child process.

    `QlibFBWorkspace.execute` (0.8.0, 1.0.0) asks the same classes. Building `QlibCondaConf` asks conda for
    the PATH inside of the environment; it is empty where conda can't run anything there.
    """
    startup.unregister()  # settings are read, nothing is run: no seam has to fit
    kind = import_module("rdagent.components.coder.model_coder.conf").ModelCoSTEERSettings().env_type
    place = Place(kind)
    if kind == "conda":
        conf = import_module("rdagent.utils.env").QlibCondaConf()
        has_conda = shutil.which("conda") is not None
        listed = has_conda and conf.conda_env_name in _conda_environments()
        place = Place(kind, conf.conda_env_name, conf.bin_path, has_conda, listed)
    write_whole(answer, json.dumps(dataclasses.asdict(place)))


def _conda_environments() -> str:
    """Return conda's list as text; RD-Agent looks for the name anywhere in it (`QlibCondaEnv.prepare`)."""
    return subprocess.run(["conda", "env", "list"], capture_output=True, text=True).stdout  # noqa: S607


# Runs in Qlib's environment, which may be Python 3.8: opens the store that `qlib/cli/run.py` (pyqlib 0.9.7)
# names. What fails is the answer, whatever it raises.
_PROBE = """
import json, os, pathlib, platform
from importlib import metadata

told = {"versions": {"python": platform.python_version()}, "file_store": ""}
for name in ("pyqlib", "torch", "pandas", "pyarrow", "numpy", "mlflow"):
    try:
        told["versions"][name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
try:
    from mlflow.tracking import MlflowClient

    uri = "file:" + str(pathlib.Path(os.getcwd()).resolve() / "mlruns")
    MlflowClient(tracking_uri=uri).create_experiment("check")
except Exception as error:
    told["file_store"] = "{}: {}".format(type(error).__name__, error)
with open("answer.json", "w", encoding="utf-8") as file:
    json.dump(told, file)
"""

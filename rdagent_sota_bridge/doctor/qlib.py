"""The conda environment that runs Qlib: what is in it, and whether Qlib's store of results works there."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass, field
from importlib import metadata, resources

from pydantic_settings import BaseSettings

from rdagent_sota_bridge.bridge.stage import NO_CONDA
from rdagent_sota_bridge.check.line import Line, State
from rdagent_sota_bridge.doctor import children
from rdagent_sota_bridge.qlib_files import docker

_MIGRATION_PAGE = "migrate-from-file-store"  # stands in mlflow's refusal in every wording that it had so far


class _QlibConda(BaseSettings):
    """`QlibCondaConf` in `utils/env.py` (0.8.0, 1.0.0)."""

    conda_env_name: str = "rdagent4qlib"


@dataclass(frozen=True)
class QlibSide:
    """What the conda environment that runs Qlib answered."""

    name: str
    versions: dict[str, str]  # of distributions, and of `python`
    file_store: str = ""  # why mlflow took no file store as Qlib asks for one; empty where it did
    path: str = field(default="", compare=False)  # PATH in it, as RD-Agent has it


def look_at_qlib() -> QlibSide | Line:
    """Let the environment in which RD-Agent starts Qlib answer; a line where it can't. Takes seconds."""
    if children.installed("rdagent") is None:
        return children.unseen("qlib", "warn", *children.NOT_INSTALLED)
    kind, name = docker.env_type(), _QlibConda().conda_env_name
    if kind == "docker":
        fix = "look at the versions in sota_manifest.json after the first model"
        return children.unseen("qlib", "warn", "Qlib runs in Docker (MODEL_CoSTEER_ENV_TYPE=docker)", fix)
    if kind != "conda":
        reason, fix = f"RD-Agent does not know MODEL_CoSTEER_ENV_TYPE={kind}", "set it to conda or docker"
    elif shutil.which("conda") is None:
        reason = f"conda is not on PATH, and RD-Agent starts Qlib in the conda environment {name}"
        fix = "install conda, or set MODEL_CoSTEER_ENV_TYPE=docker"
    else:
        return _ask_qlib(name)
    return children.unseen("qlib", "fail", f"{reason}: every back-test would fail", fix)


def usable_qlib() -> QlibSide | Line:
    """Return the environment that trains, or the line that says why it can't."""
    side = look_at_qlib()
    line = qlib_line(side, *map(metadata.version, ("pandas", "pyarrow")))
    return line if isinstance(side, Line) or line.state == "fail" else side


def _ask_qlib(name: str) -> QlibSide | Line:
    anew = f"remove it, and RD-Agent makes it anew: conda env remove -n {name}"
    said = children.conda_env(name)
    path = children.path_in_conda(said)
    missing = [program for program in ("python", "qrun") if path and shutil.which(program, path=path) is None]
    state: State = "fail"
    if "no answer within" in said:
        state, reason, fix = "warn", "conda does not answer", "see what conda env list says"
    elif not path and name in children.conda("env", "list"):  # as `QlibCondaEnv.prepare` looks for it
        reason = f"conda lists {name}, so RD-Agent does not make it, and can't run anything in it"
        fix = f"see what conda run -n {name} python --version says, or {anew}"
    elif not path:
        state, fix = "warn", "check again after a first run"
        reason = f"the conda environment {name} is not there yet; RD-Agent makes it in its first run"
    elif missing:
        reason, fix = f"the conda environment {name} has no {missing[0]}: every back-test would fail", anew
    else:
        python = str(shutil.which("python", path=path))
        code = (resources.files("rdagent_sota_bridge.qlib_side") / "environment.py").read_text("utf-8")
        variables = {**os.environ, "PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}
        answer = children.ask([python, "-c", code], variables, children.CONDA_SECONDS)
        if not isinstance(answer, str):
            return QlibSide(name, **answer, path=path)
        reason = f"Python does not run in the conda environment {name}: {answer}"
        fix = f"see what {python} --version says"
    return children.unseen("qlib", state, reason, fix)


def qlib_line(side: QlibSide | Line, pandas: str, pyarrow: str) -> Line:
    """Return the line about the environment that trains; `pandas` and `pyarrow` are the versions here."""
    if isinstance(side, Line):
        return side
    here = {"pandas": pandas, "pyarrow": pyarrow}
    figures = {"environment": side.name, "versions": side.versions, "here": here}
    names = ("pyqlib", "torch", "python", "pandas", "pyarrow")
    if missing := [name for name in names if name not in side.versions]:
        text = (
            f"the conda environment {side.name} has no {' and no '.join(missing)}: every training would fail"
        )
        fix = f"remove it, and RD-Agent makes it anew: conda env remove -n {side.name}"
        return Line("qlib", "fail", text, fix, figures)
    held = ", ".join(f"{name} {side.versions[name]}" for name in names)
    text = f"conda environment {side.name}: {held}, qrun; here pandas {pandas}, pyarrow {pyarrow}"
    major, there = (version.partition(".")[0] for version in (pandas, side.versions["pandas"]))
    if int(there) <= int(major):
        return Line("qlib", "pass", text, figures=figures)
    # `ret.pkl` in `scenarios/qlib/experiment/workspace.py` of 0.8.0; 1.0.0 has `ret.parquet`. Tried:
    # pandas 2.3 reads a pickle of 1.5, and none of 3.1.
    text += ", which can't read the pickle of a newer major version that RD-Agent 0.8.0 takes results back as"
    fix = f'conda run -n {side.name} pip install --upgrade "pandas=={major}.*" pyarrow'
    return Line("qlib", "warn", text, fix, figures)


def file_store_line(side: QlibSide | Line, allowed: str) -> Line:
    """Return the line about the store `./mlruns` that Qlib writes, and mlflow from 3.13 on refuses.

    `allowed` is MLFLOW_ALLOW_FILE_STORE, or empty.
    """
    figures = {"MLFLOW_ALLOW_FILE_STORE": allowed or None}
    state: State = "warn"
    fix = "set MLFLOW_ALLOW_FILE_STORE=true in the environment or in .env"
    if isinstance(side, Line):
        text = "Qlib's side was not looked at (see qlib)"
        if allowed.lower() in ("true", "1") and docker.env_type() != "docker":  # the words that mlflow takes
            state, fix = "pass", ""
            text += f"; MLFLOW_ALLOW_FILE_STORE={allowed} is set, so any mlflow takes ./mlruns"
        else:
            text += "; from 3.13 on mlflow refuses ./mlruns without MLFLOW_ALLOW_FILE_STORE=true"
        if docker.env_type() == "docker":
            text += ", and RD-Agent hands containers none of your variables"
            fix = "where back-tests fail on it, hand it in (RD-Agent 1.0.0): "
            fix += """QLIB_DOCKER_ENV_DICT='{"MLFLOW_ALLOW_FILE_STORE": "true"}', or set it in the image"""
    else:
        text = f"mlflow {side.versions.get('mlflow', 'missing')} on Qlib's side "
        state, figures["error"] = "fail", side.file_store or None
        if not side.file_store:
            state, text, fix = "pass", f"{text}takes a file store", ""
        elif _MIGRATION_PAGE in side.file_store:
            text += "refuses the file store ./mlruns: every back-test would fail"
        else:
            text += f"can't make a file store: {side.file_store}"
            fix = f"conda run -n {side.name} pip install --upgrade mlflow"
    return Line("mlflow file store", state, text, fix, figures)


def look_at_conda() -> str:
    """Return the PATH of the environment that CONDA_DEFAULT_ENV names, as RD-Agent has it; empty for none."""
    name = os.environ.get("CONDA_DEFAULT_ENV", "")
    if name in ("", NO_CONDA) or shutil.which("conda") is None:
        return ""
    return children.path_in_conda(children.conda_env(name))


def conda_line(active: str, path: str) -> Line:
    """Return the line about the conda environment that is active.

    `get_factor_env` in `components/coder/factor_coder/config.py` (0.8.0, 1.0.0) needs one, for the text on
    Python and its packages that the LLM gets; factors' code runs in the PATH of the process.

    Args:
        active: CONDA_DEFAULT_ENV, or empty.
        path: What `look_at_conda` found.
    """
    fix = f"for those commands, activate a conda environment, or set CONDA_DEFAULT_ENV={NO_CONDA}"
    figures = {"CONDA_DEFAULT_ENV": active or None}
    if not active:
        text = "CONDA_DEFAULT_ENV is not set: `rdagent fin_factor` and fin_quant end in a traceback; "
        text += f"`rdagent-sota run` gives its stages CONDA_DEFAULT_ENV={NO_CONDA}"
        return Line("conda", "warn", text, fix, figures)
    if active == NO_CONDA or path:
        return Line("conda", "pass", f"CONDA_DEFAULT_ENV={active}", "", figures)
    # Without a PATH in it, RD-Agent looks for `python` in these two.
    there = shutil.which("python", path="/bin:/usr/bin")
    text = f"conda runs nothing in {active}, which CONDA_DEFAULT_ENV names: "
    text += "fin_factor and fin_quant " + (f"describe {there} to the LLM" if there else "end in a traceback")
    return Line("conda", "warn" if there else "fail", text, fix, figures)

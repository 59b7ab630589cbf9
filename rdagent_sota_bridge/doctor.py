"""Whether this machine is fit for a run: RD-Agent and its seams, Qlib's environment, mlflow, the disk.

Each line is a function of facts. The facts come from short-lived children in a temporary folder: RD-Agent
leaves a log folder wherever it is imported, and Qlib has an environment of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from importlib import metadata, resources
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from pydantic_settings import BaseSettings

from rdagent_sota_bridge.bridge.seam_check import Seams
from rdagent_sota_bridge.bridge.seams import SEAMS
from rdagent_sota_bridge.bridge.stage import NO_CONDA
from rdagent_sota_bridge.check.disk import disk_line, gets_copies, nearest_existing
from rdagent_sota_bridge.check.line import Line, State
from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError, SettingsError
from rdagent_sota_bridge.factor_set.names import workspace_root
from rdagent_sota_bridge.qlib_files import docker
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart
from rdagent_sota_bridge.settings import FALSE_WORDS, TRUE_WORDS, read_settings
from rdagent_sota_bridge.system import child

OWN_RUNNER = "rdagent_sota_bridge.runner.SotaModelRunner"
"""What `QLIB_MODEL_RUNNER` names for a run without the import hook."""

_RDAGENT_SECONDS = 180.0  # its modules took 20 seconds to import on a busy machine with two cores
_QLIB_SECONDS = 60.0
_MIGRATION_PAGE = "migrate-from-file-store"  # stands in mlflow's refusal in every wording that it had so far
_NOT_INSTALLED = ("RD-Agent is not installed", "install it: pip install rdagent")


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


def look_at_rdagent() -> Seams | Line:
    """Let a child import RD-Agent's modules, try the seams and ask `develop`; a line where it can't."""
    if installed("rdagent") is None:
        return _unseen("seams", "warn", *_NOT_INSTALLED)
    # Without the collector, which takes a quarter of the time that the imports take.
    code = "import gc, pathlib; gc.disable(); from rdagent_sota_bridge.bridge import seam_check; "
    command = [sys.executable, "-c", f"{code}seam_check.write_seams(pathlib.Path('answer.json'))"]
    # LiteLLM downloads a table of prices when it is imported, and waits for the download to fail.
    variables = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    variables.pop("RDAGENT_SOTA_BRIDGE", None)  # switched off, nothing would be known of the hook
    answer = _ask(command, variables, _RDAGENT_SECONDS)
    if isinstance(answer, str):
        reason = f"RD-Agent's modules can't be looked at: {answer}"
        return _unseen("seams", "fail", reason, "see what rdagent --help says")
    return TypeAdapter(Seams).validate_python(answer)


def _unseen(name: str, state: State, reason: str, fix: str) -> Line:
    return Line(name, state, f"not looked at: {reason}", fix)


def qlib_start(seams: Seams | Line) -> QlibStart:
    """Return what RD-Agent would start Qlib with for a model.

    Raises:
        SeamError: if the factors can't reach it, or it was not seen.
    """
    fact = "What RD-Agent would train with is not known"
    if isinstance(seams, Line):
        raise SeamError(fact, seams.text, seams.fix)
    if seams.asked is None:
        raise SeamError(fact, "; ".join(seams.misfits.values()), OTHER_RELEASE)
    return seams.asked.start


def lines(set_size: int, place: Path, look: Callable[[], Seams | Line] = look_at_rdagent) -> list[Line]:
    """Return the lines about the machine. Takes seconds: RD-Agent's modules are imported, in a child.

    Args:
        set_size: Bytes of the set's files.
        place: The folder of the store.
        look: Returns what was found of RD-Agent.
    """
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(look)
        qlib = look_at_qlib()
        seams = looking.result()
    way = ""
    with contextlib.suppress(SettingsError):  # a check shows it in a line of its own
        way = read_settings().verdict_on_models
    switch, runner, allowed = (
        os.environ.get(name, "").strip()
        for name in ("RDAGENT_SOTA_BRIDGE", "QLIB_MODEL_RUNNER", "MLFLOW_ALLOW_FILE_STORE")
    )
    root = workspace_root()
    copies = docker.env_type() == "docker" or gets_copies(place, root)
    return [
        rdagent_line(installed("rdagent")),
        *([seams] if isinstance(seams, Line) else seams_lines(seams, switch, runner, way)),
        qlib_line(qlib, metadata.version("pandas")),
        file_store_line(qlib, allowed),
        *conda_lines(os.environ.get("CONDA_DEFAULT_ENV", "")),
        disk_line(set_size if copies else 0, shutil.disk_usage(nearest_existing(root)).free, root),
    ]


# --- the lines, from facts ---


def rdagent_line(version: str | None) -> Line:
    """Return the line about RD-Agent's release; None for none installed."""
    if version is not None:
        return Line("rdagent", "pass", f"RD-Agent {version}", figures={"version": version})
    text = "RD-Agent is not installed in this environment"
    fix = "install both into one environment: pip install rdagent rdagent-sota-bridge"
    return Line("rdagent", "fail", text, fix, {"version": None})


def seams_lines(seams: Seams, switch: str, runner: str, way: str) -> list[Line]:
    """Return the lines about the places where RD-Agent is changed.

    `switch`, `runner` and `way` are RDAGENT_SOTA_BRIDGE, QLIB_MODEL_RUNNER and SOTA_MODEL_VERDICT, or empty.
    """
    found = [_seams_line(seams, switch, runner)]
    for seam in SEAMS:
        reason = seams.misfits.get(seam.name)
        figures = {"module": seam.module, "found": "misfit" if reason else "fits"}
        figures |= {"reason": reason} if reason else {}
        state: State = "pass" if not reason else "fail" if seam.carries_factors else "warn"
        text = f"{seam.module}: misfit: {reason}" if reason else f"{seam.module}: fits"
        found.append(Line(f"seam {seam.name}", state, text, OTHER_RELEASE if reason else "", figures))
    if seams.runners:
        text = "; ".join(f"{name}: {reason}" for name, reason in seams.runners.items())
        fix = f"unset {' and '.join(seams.runners)}, or call super().develop(exp) in a class derived from "
        fix += "QlibModelRunner"
        found.append(Line("runner", "fail", f"no factors for {text}", fix, {"unfit": seams.runners}))
    elif not seams.misfits:
        text = "the model runners of fin_model and fin_quant can be given the factors"
        found.append(Line("runner", "pass", text))
    if way in seams.verdicts:
        found.append(_verdict_line(seams.verdicts, way))
    return found


def _seams_line(seams: Seams, switch: str, runner: str) -> Line:
    fits = {seam.name: seams.misfits.get(seam.name, "fits") for seam in SEAMS}
    figures = {"hook": seams.hooked, "patched": seams.patched, "seams": fits}
    state: State = "fail"
    all_fit = f"all {len(SEAMS)} seams fit the installed RD-Agent"
    off = switch.lower() in FALSE_WORDS
    reason = "the import hook (rdagent-sota-bridge.pth) is not active in this environment"
    fix = "install the package with pip into the environment of rdagent"
    if off:
        reason, fix = f"RDAGENT_SOTA_BRIDGE={switch} turns the import hook off", "unset RDAGENT_SOTA_BRIDGE"
    if seams.misfits:
        carrying = [seam.name for seam in SEAMS if seam.carries_factors and seam.name in seams.misfits]
        state, fix = "fail" if carrying else "warn", OTHER_RELEASE
        text = f"{len(seams.misfits)} of {len(SEAMS)} seams do not fit the installed RD-Agent: "
        text += "; ".join(f"{name}: {reason}" for name, reason in seams.misfits.items())
    elif switch and switch.lower() not in TRUE_WORDS + FALSE_WORDS:
        text = f"RDAGENT_SOTA_BRIDGE has an unknown value: {switch!r}"
        fix = f"use one of {', '.join(FALSE_WORDS)} to turn the package off, or leave it out"
    elif seams.hooked and not off:
        state, text, fix = "pass", all_fit, ""
    elif seams.patched:
        state, fix = "pass", ""
        text = f"{all_fit}, and its patched source calls the package; {reason}, so there are no underscore "
        text += "options, and a resume is checked after its load"
    elif runner == OWN_RUNNER:
        state, fix = "warn", f"for these {fix}"
        text = f"{reason}: QLIB_MODEL_RUNNER hands the factors over, without underscore options, text log "
        text += "and the check before a resume"
    else:
        text = f"{reason}: models would be trained without the factors"
    return Line("seams", state, text, fix, figures)


def _verdict_line(verdicts: dict[str, str], way: str) -> Line:
    name, figures = "model verdict", {"SOTA_MODEL_VERDICT": way}
    if reason := verdicts[way]:
        fix = "unset SOTA_MODEL_VERDICT, or set it to mended" if way == "rdagent" else OTHER_RELEASE
        return Line(name, "warn", reason, fix, figures)
    text = "the verdict of fin_model can accept a model"
    own = "; one of a run with the switch off can't" if verdicts["rdagent"] else ", as RD-Agent itself has it"
    return Line(name, "pass", text + own, figures=figures)


def qlib_line(side: QlibSide | Line, pandas: str) -> Line:
    """Return the line about the environment that trains; `pandas` is the version of pandas here."""
    if isinstance(side, Line):
        return side
    figures = {"environment": side.name, "versions": side.versions, "pandas_here": pandas}
    names = ("pyqlib", "torch", "python", "pandas", "pyarrow")
    if missing := [name for name in names if name not in side.versions]:
        text = (
            f"the conda environment {side.name} has no {' and no '.join(missing)}: every training would fail"
        )
        fix = f"remove it, and RD-Agent makes it anew: conda env remove -n {side.name}"
        return Line("qlib", "fail", text, fix, figures)
    text = f"conda environment {side.name}: {', '.join(f'{name} {side.versions[name]}' for name in names)}"
    major, there = (version.partition(".")[0] for version in (pandas, side.versions["pandas"]))
    if int(there) <= int(major):
        return Line("qlib", "pass", text, figures=figures)
    # `ret.pkl` in `scenarios/qlib/experiment/workspace.py` of 0.8.0; 1.0.0 has `ret.parquet`. Tried:
    # pandas 2.3 reads a pickle of 1.5, and none of 3.1.
    text += f"; pandas {pandas} is here, and can't read the pickle of a newer major version that RD-Agent "
    fix = f'conda run -n {side.name} pip install --upgrade "pandas=={major}.*" pyarrow'
    return Line("qlib", "warn", f"{text}0.8.0 takes results back as", fix, figures)


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


def conda_lines(active: str) -> list[Line]:
    """Return the line about CONDA_DEFAULT_ENV where it is not set, or empty.

    `get_factor_env` in `components/coder/factor_coder/config.py` (0.8.0, 1.0.0) needs it, for the text on
    Python and its packages that the LLM gets; factors' code runs in the PATH of the process.
    """
    if active:
        return []
    text = "CONDA_DEFAULT_ENV is not set: `rdagent fin_factor` and fin_quant end in a traceback; "
    text += f"`rdagent-sota run` gives its stages CONDA_DEFAULT_ENV={NO_CONDA}"
    fix = f"for those commands, activate a conda environment, or set CONDA_DEFAULT_ENV={NO_CONDA}"
    return [Line("conda", "warn", text, fix)]


# --- the facts ---


def installed(name: str) -> str | None:
    """Return the version of a distribution in this environment, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def look_at_qlib() -> QlibSide | Line:
    """Let the environment in which RD-Agent starts Qlib answer; a line where it can't. Takes seconds."""
    if installed("rdagent") is None:
        return _unseen("qlib", "warn", *_NOT_INSTALLED)
    kind, name = docker.env_type(), _QlibConda().conda_env_name
    if kind == "docker":
        fix = "look at the versions in sota_manifest.json after the first model"
        return _unseen("qlib", "warn", "Qlib runs in Docker (MODEL_CoSTEER_ENV_TYPE=docker)", fix)
    if kind != "conda":
        reason, fix = f"RD-Agent does not know MODEL_CoSTEER_ENV_TYPE={kind}", "set it to conda or docker"
    elif shutil.which("conda") is None:
        reason = f"conda is not on PATH, and RD-Agent starts Qlib in the conda environment {name}"
        fix = "install conda, or set MODEL_CoSTEER_ENV_TYPE=docker"
    else:
        return _ask_qlib(name)
    return _unseen("qlib", "fail", f"{reason}: every back-test would fail", fix)


def _ask_qlib(name: str) -> QlibSide | Line:
    anew = f"remove it, and RD-Agent makes it anew: conda env remove -n {name}"
    said = _conda("run", "-n", name, "--no-capture-output", "env")
    inside = [line.removeprefix("PATH=") for line in said.splitlines() if line.startswith("PATH=")]
    # As `LocalEnv._run` in `rdagent/utils/env.py` (0.8.0, 1.0.0) composes it.
    path = f"{inside[0]}:/bin/:/usr/bin/" if inside else ""
    missing = [program for program in ("python", "qrun") if path and shutil.which(program, path=path) is None]
    state: State = "fail"
    if "no answer within" in said:
        state, reason, fix = "warn", "conda does not answer", "see what conda env list says"
    elif not path and name in _conda("env", "list"):  # as RD-Agent looks for it (`QlibCondaEnv.prepare`)
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
        answer = _ask([python, "-c", code], variables, _QLIB_SECONDS)
        if not isinstance(answer, str):
            return QlibSide(name, **answer, path=path)
        reason = f"Python does not run in the conda environment {name}: {answer}"
        fix = f"see what {python} --version says"
    return _unseen("qlib", state, reason, fix)


# --- the children ---


def _conda(*arguments: str) -> str:
    """Return what conda says, then why it said no more."""
    with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
        trouble = child.ask(["conda", *arguments], os.environ, Path(name, "child"), _QLIB_SECONDS)
        return Path(name, "child", "output.txt").read_text(encoding="utf-8", errors="replace") + trouble


def _ask(command: list[str], variables: dict[str, str], seconds: float) -> dict[str, Any] | str:
    """Return what a command writes into `answer.json`, or why it does not."""
    # A short path: sockets' paths below it have to fit into 108 characters.
    with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
        trouble = child.ask(command, variables, Path(name, "child"), seconds)
        answer = Path(name, "child", "answer.json")
        return json.loads(answer.read_text(encoding="utf-8")) if answer.is_file() else trouble

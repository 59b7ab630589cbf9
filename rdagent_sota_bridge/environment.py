"""The lines of a check about the machine: RD-Agent and its seams, Qlib's environment, mlflow, the disk.

Each line is a plain function of facts. The facts come from short-lived children that work in a temporary
folder: RD-Agent leaves a log folder wherever it is imported, and Qlib has an environment of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import rdagent_sota_bridge as startup
from rdagent_sota_bridge import child, dry_run, locate, verdict_forms
from rdagent_sota_bridge.errors import OTHER_RELEASE, HandOffError, SeamError, SettingsError
from rdagent_sota_bridge.patch import SEAMS, Seam, apply_seam
from rdagent_sota_bridge.patch import status as seam_states
from rdagent_sota_bridge.settings import FALSE_WORDS, TRUE_WORDS, VERDICT_WAYS, read_settings
from rdagent_sota_bridge.verdict import Line, State
from rdagent_sota_bridge.writing import write_whole

OWN_RUNNER = "rdagent_sota_bridge.runner.SotaModelRunner"
"""What `QLIB_MODEL_RUNNER` names for a run without the import hook."""

FIRST_REFUSING_MLFLOW = "3.13"
"""The first mlflow that refuses a file store unless `MLFLOW_ALLOW_FILE_STORE` is true; 3.12 only warned."""

LOOPS = 10
"""For how many model loops the disk should have room."""

BACK_TEST_SIZE = 100_000_000
"""Bytes taken for what a loop leaves beside its copy of the set.

Measured with RD-Agent 1.0.0 and pyqlib 0.9.7: 14 kB a day and 16 bytes a row of the test segment, 1 MB of
logs. That is 17 MB on 300 instruments and RD-Agent's own test segment (870 days), 70 MB on 4,000. Qlib's
`dataset` artifact is not among it: it is saved without its data.
"""

_CHILD_SECONDS = 180.0
"""How long RD-Agent's modules may take to import: on a busy machine with two cores they took 20 seconds."""

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

    def develop(self) -> dry_run.DryRun:
        """Raise why it is not known what RD-Agent's `develop` does.

        Raises:
            SeamError: always.
        """
        raise SeamError("RD-Agent does not tell what it would train with", self.reason, self.fix)


@dataclass(frozen=True)
class Seams:
    """How RD-Agent's modules meet the table of seams.

    Attributes:
        hooked: True if a Python that starts in this environment has the import hook.
        misfits: From a seam's name to the reason why it does not fit; seams that fit are left out.
        runners: From a variable that names a model runner to the reason why that can't be given the factors.
        patched: True if RD-Agent's source calls the package (`rdagent-sota patch`).
        verdicts: From a value of `SOTA_MODEL_VERDICT` to the reason why `fin_model` can't accept a model with
            it; empty where it can.
        asked: What RD-Agent's `develop` of models does; None where the factors can't reach it.
    """

    hooked: bool
    misfits: dict[str, str]
    runners: dict[str, str] = dataclasses.field(default_factory=dict)
    patched: bool = False
    verdicts: dict[str, str] = dataclasses.field(default_factory=dict)
    asked: dry_run.DryRun | None = None

    def develop(self) -> dry_run.DryRun:
        """Return what RD-Agent's `develop` of models does.

        Raises:
            SeamError: if the factors can't reach it.
        """
        if self.asked is not None:
            return self.asked
        reason = "; ".join(self.misfits.values())
        raise SeamError("RD-Agent does not tell what it would train with", reason, OTHER_RELEASE)


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
    """What the environment that runs Qlib answered.

    Attributes:
        name: The name of the conda environment.
        versions: From a distribution, or `python`, to its version there.
        parquet: Why a file that this side wrote was not read back alike; empty where it was.
        file_store: Why mlflow did not take a file store as Qlib asks for one; empty where it did.
    """

    name: str
    versions: dict[str, str]
    parquet: str = ""
    file_store: str = ""


_NOT_INSTALLED = Unseen("warn", "RD-Agent is not installed", "install it: pip install rdagent")


def look_at_rdagent() -> Seams | Unseen:
    """Let a child import RD-Agent's modules, try the seams and ask `develop`. Takes seconds."""
    if installed("rdagent") is None:
        return _NOT_INSTALLED
    with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
        folder = Path(name, "seams")
        with _told(folder, "tell_seams") as telling:
            return _seams(_answer(telling, folder, _CHILD_SECONDS))


def lines(set_size: int, place: Path, look: Callable[[], Seams | Unseen] = look_at_rdagent) -> list[Line]:
    """Return the lines about the environment. Takes seconds: RD-Agent's modules are imported, in a child.

    Args:
        set_size: Bytes of the set's files.
        place: The folder of the store.
        look: Returns what was found of RD-Agent.
    """
    version = installed("rdagent")
    here = {name: installed(name) or "missing" for name in ("pandas", "pyarrow")}
    qlib: QlibSide | Unseen = _NOT_INSTALLED
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(look)
        if version is not None:
            # A short path: sockets' paths below it have to fit into 108 characters.
            with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
                qlib = look_at_qlib(Path(name))
        seams = looking.result()
    root = locate.workspace_root()
    copies = gets_copies(place, root) or (isinstance(qlib, Unseen) and qlib.in_docker)
    return [
        rdagent_line(version),
        seams_line(
            seams,
            os.environ.get("RDAGENT_SOTA_BRIDGE", "").strip(),
            os.environ.get("QLIB_MODEL_RUNNER", "").strip(),
        ),
        *seam_lines(seams),
        *runner_lines(seams),
        *verdict_lines(seams, _verdict_asked_for()),
        qlib_line(qlib),
        parquet_line(here, qlib),
        file_store_line(qlib, os.environ.get("MLFLOW_ALLOW_FILE_STORE", "")),
        disk_line(set_size if copies else 0, shutil.disk_usage(nearest_existing(root)).free, root),
    ]


def _verdict_asked_for() -> str:
    try:
        return read_settings().verdict_on_models
    except SettingsError:  # a check says so in a line of its own
        return ""


# --- the lines, from facts ---


def rdagent_line(version: str | None) -> Line:
    """Return the line about RD-Agent's release; None for none installed."""
    figures = {"version": version}
    if version is None:
        return Line(
            "rdagent",
            "fail",
            "RD-Agent is not installed in this environment",
            "install both into one environment: pip install rdagent rdagent-sota-bridge",
            figures,
        )
    return Line("rdagent", "pass", f"RD-Agent {version}", figures=figures)


def seams_line(seams: Seams | Unseen, switch: str, runner: str) -> Line:
    """Return the line about the places where RD-Agent is changed.

    Args:
        seams: How they fit.
        switch: The value of `RDAGENT_SOTA_BRIDGE`; empty where it is not set.
        runner: The value of `QLIB_MODEL_RUNNER`; empty where it is not set.
    """
    if isinstance(seams, Unseen):
        return Line("seams", seams.state, f"not looked at: {seams.reason}", seams.fix)
    figures = {
        "hook": seams.hooked,
        "patched": seams.patched,
        "seams": {seam.name: seams.misfits.get(seam.name, "fits") for seam in SEAMS},
    }
    if seams.misfits:
        needed = {seam.name for seam in SEAMS if seam.carries_factors}
        text = "; ".join(f"{name}: {reason}" for name, reason in seams.misfits.items())
        state: State = "fail" if needed & seams.misfits.keys() else "warn"
        count = f"{len(seams.misfits)} of {len(SEAMS)} seams do not fit the installed RD-Agent"
        return Line("seams", state, f"{count}: {text}", OTHER_RELEASE, figures)
    if switch and switch.lower() not in TRUE_WORDS + FALSE_WORDS:
        return Line(
            "seams",
            "fail",
            f"RDAGENT_SOTA_BRIDGE has an unknown value: {switch!r}",
            f"use one of {', '.join(FALSE_WORDS)} to turn the package off, or leave it out",
            figures,
        )
    if switch.lower() in FALSE_WORDS or not seams.hooked:
        return _line_without_hook(switch, runner, figures)
    return Line("seams", "pass", f"all {len(SEAMS)} seams fit the installed RD-Agent", figures=figures)


def seam_lines(seams: Seams | Unseen) -> list[Line]:
    """Return the table of seams, one line each: where it is, and what was found there; none if not known."""
    return [] if isinstance(seams, Unseen) else [_seam_line(seam, seams) for seam in SEAMS]


def _seam_line(seam: Seam, seams: Seams) -> Line:
    name = f"seam {seam.name}"
    figures: dict[str, Any] = {"module": seam.module, "purpose": seam.purpose}
    reason = seams.misfits.get(seam.name)
    if reason is not None:
        state: State = "fail" if seam.carries_factors else "warn"
        figures |= {"found": "misfit", "reason": reason}
        return Line(name, state, f"{seam.module}: misfit: {reason}", OTHER_RELEASE, figures)
    return Line(name, "pass", f"{seam.module}: fits", figures={**figures, "found": "fits"})


def runner_lines(seams: Seams | Unseen) -> list[Line]:
    """Return the line about the classes that RD-Agent's settings name as model runners; none if not known."""
    if isinstance(seams, Unseen) or seams.misfits:
        return []
    if not seams.runners:
        return [
            Line("runner", "pass", "the model runners of fin_model and fin_quant can be given the factors")
        ]
    text = "; ".join(f"{name}: {reason}" for name, reason in seams.runners.items())
    fix = f"unset {' and '.join(seams.runners)}, or call super().develop(exp) in a class derived from "
    return [
        Line("runner", "fail", f"no factors for {text}", f"{fix}QlibModelRunner", {"unfit": seams.runners})
    ]


def verdict_lines(seams: Seams | Unseen, way: str) -> list[Line]:
    """Return the line about the verdict on models; none if not known.

    Args:
        seams: What was found of RD-Agent.
        way: What `SOTA_MODEL_VERDICT` says.
    """
    if isinstance(seams, Unseen) or way not in seams.verdicts:
        return []
    name, reason, figures = "model verdict", seams.verdicts[way], {"SOTA_MODEL_VERDICT": way}
    if not reason:
        text = "the verdict of fin_model can accept a model; one of a run with the switch off can't"
        if not seams.verdicts["rdagent"]:
            text = "the verdict of fin_model can accept a model, as RD-Agent itself has it"
        return [Line(name, "pass", text, figures=figures)]
    fix = "unset SOTA_MODEL_VERDICT, or set it to mended" if way == "rdagent" else OTHER_RELEASE
    return [Line(name, "warn", reason, fix, figures)]


def _line_without_hook(switch: str, runner: str, figures: dict[str, Any]) -> Line:
    if switch.lower() in FALSE_WORDS:
        reason, fix = f"RDAGENT_SOTA_BRIDGE={switch} turns the import hook off", "unset RDAGENT_SOTA_BRIDGE"
    else:
        reason = "the import hook (rdagent-sota-bridge.pth) is not active in this environment"
        fix = "install the package with pip into the environment of rdagent"
    if figures["patched"]:
        return Line(
            "seams",
            "pass",
            f"all {len(SEAMS)} seams fit the installed RD-Agent, and its patched source calls the package; "
            f"{reason}, so there are no underscore options, and a resume is checked after its load",
            figures=figures,
        )
    if runner == OWN_RUNNER:
        return Line(
            "seams",
            "warn",
            f"{reason}: QLIB_MODEL_RUNNER hands the factors over, without underscore options, text log and "
            "the check before a resume",
            f"for these {fix}",
            figures,
        )
    return Line("seams", "fail", f"{reason}: models would be trained without the factors", fix, figures)


def qlib_line(side: QlibSide | Unseen) -> Line:
    """Return the line about the environment that trains and back-tests."""
    if isinstance(side, Unseen):
        return Line("qlib", side.state, f"not looked at: {side.reason}", side.fix)
    figures = {"environment": side.name, "versions": side.versions}
    missing = [name for name in ("pyqlib", "torch") if name not in side.versions]
    if missing:
        return Line(
            "qlib",
            "fail",
            f"the conda environment {side.name} has no {' and no '.join(missing)}: every training would fail",
            f"remove it, and RD-Agent makes it anew: conda env remove -n {side.name}",
            figures,
        )
    found = ", ".join(f"{name} {side.versions[name]}" for name in ("pyqlib", "torch", "python"))
    return Line("qlib", "pass", f"conda environment {side.name}: {found}", figures=figures)


def parquet_line(here: Mapping[str, str], side: QlibSide | Unseen) -> Line:
    """Return the line about pandas and pyarrow, which write a factor file here and read it on Qlib's side.

    Args:
        here: The versions of `pandas` and `pyarrow` in this environment.
        side: What Qlib's side answered.
    """
    name, ours = "pandas and pyarrow", f"pandas {here['pandas']}, pyarrow {here['pyarrow']} here"
    if isinstance(side, Unseen):
        text = f"{ours}; Qlib's side was not looked at (see qlib)"
        return Line(name, "warn", text, side.fix, {"here": dict(here)})
    there = {package: side.versions.get(package, "missing") for package in here}
    figures = {"here": dict(here), "qlib_side": there, "error": side.parquet or None}
    both = f"{ours}; pandas {there['pandas']}, pyarrow {there['pyarrow']} on Qlib's side"
    fix = f'conda run -n {side.name} pip install --upgrade "pandas=={_major(here["pandas"])}.*" pyarrow'
    if side.parquet:
        return Line(
            name,
            "fail",
            f"{both}: a small factor file written here is not read back alike there: {side.parquet}",
            fix,
            figures,
        )
    if int(_major(there["pandas"])) > int(_major(here["pandas"])):
        # `ret.pkl` in `scenarios/qlib/experiment/workspace.py` of 0.8.0; 1.0.0 has `ret.parquet`. Tried:
        # pandas 2.3 reads a pickle of 1.5, and none of 3.1.
        text = (
            f"{both}: a small factor file is read back alike, but RD-Agent 0.8.0 takes results back as a "
            "pickle, and pandas can't read one of a newer major version"
        )
        return Line(name, "warn", text, fix, figures)
    return Line(
        name, "pass", f"{both}; a small factor file written here is read back alike there", figures=figures
    )


def file_store_line(side: QlibSide | Unseen, allowed: str) -> Line:
    """Return the line about the store `./mlruns` that Qlib writes, and newer mlflow refuses.

    Args:
        side: What Qlib's side answered.
        allowed: The value of `MLFLOW_ALLOW_FILE_STORE`; empty where it is not set.
    """
    name, figures = "mlflow file store", {"MLFLOW_ALLOW_FILE_STORE": allowed or None}
    fix = "set MLFLOW_ALLOW_FILE_STORE=true in the environment or in .env"
    if isinstance(side, Unseen):
        unseen = "Qlib's side was not looked at (see qlib)"
        trap = f"from {FIRST_REFUSING_MLFLOW} on mlflow refuses ./mlruns without MLFLOW_ALLOW_FILE_STORE=true"
        if side.in_docker:
            text = f"{unseen}; {trap}, and RD-Agent hands containers none of your variables"
            fix = (
                "where back-tests fail on it, hand it in (RD-Agent 1.0.0): "
                """QLIB_DOCKER_ENV_DICT='{"MLFLOW_ALLOW_FILE_STORE": "true"}', or set it in the image"""
            )
            return Line(name, "warn", text, fix, figures)
        if allowed.lower() in ("true", "1"):  # the words that mlflow takes
            text = f"{unseen}; MLFLOW_ALLOW_FILE_STORE={allowed} is set, so any mlflow takes ./mlruns"
            return Line(name, "pass", text, figures=figures)
        return Line(name, "warn", f"{unseen}; {trap}", fix, figures)
    version = side.versions.get("mlflow", "missing")
    figures = {**figures, "version": version, "error": side.file_store or None}
    if not side.file_store:
        return Line(name, "pass", f"mlflow {version} on Qlib's side takes a file store", figures=figures)
    if _MIGRATION_PAGE in side.file_store:
        text = f"mlflow {version} on Qlib's side refuses the file store ./mlruns: every back-test would fail"
        return Line(name, "fail", text, fix, figures)
    text = f"mlflow {version} on Qlib's side can't make a file store: {side.file_store}"
    fix = f"conda run -n {side.name} pip install --upgrade mlflow"
    return Line(name, "fail", text, fix, figures)


def disk_line(copy_size: int, free: int, root: Path) -> Line:
    """Return the line about room for the workspaces of a run.

    Args:
        copy_size: Bytes of the set where a loop's workspace gets a copy; 0 where it gets a link.
        free: Bytes that the user may still write below `root`.
        root: The folder of all workspaces.
    """
    from rich.filesize import decimal

    loop = copy_size + BACK_TEST_SIZE
    figures = {
        "free": free,
        "copy": copy_size,
        "loop_estimate": loop,
        "loops": LOOPS,
        "run_estimate": loop * LOOPS,
    }
    text = (
        f"{decimal(free)} free in {root}; a model loop takes about {decimal(loop)} ("
        f"{'a copy of the set and ' if copy_size else ''}{decimal(BACK_TEST_SIZE)} for its back-test), "
        f"{LOOPS} loops {decimal(loop * LOOPS)}"
    )
    if free >= loop * LOOPS:
        return Line("disk", "pass", text, figures=figures)
    fix = "make room, or set WORKSPACE_PATH to a folder on a larger disk"
    return Line("disk", "fail" if free < loop else "warn", text, fix, figures)


def store_line(size: int, place: Path, stored: bool) -> Line:
    """Return the line about the store's copy of a set.

    Args:
        size: Bytes that writing the copy takes.
        place: The folder of the store.
        stored: True if the copy is there.
    """
    from rich.filesize import decimal

    figures: dict[str, Any] = {"folder": str(place), "stored": stored, "size": size}
    if stored:
        return Line("store", "pass", f"the set is stored in {place}", figures=figures)
    fix = "set SOTA_STORE_PATH to a folder that can be written and has the room"
    try:
        near = nearest_existing(place)
        free = shutil.disk_usage(near).free
    except OSError as error:
        text = f"{place} can't be looked at: {error.strerror}"
        return Line("store", "fail", text, fix, figures)
    figures["free"] = free
    text = (
        f"a run will write a copy of the set into {place}; it takes {decimal(size)} of {decimal(free)} free"
    )
    if place.exists() and not place.is_dir():
        return Line("store", "fail", f"{place} is no folder: no run can store the set there", fix, figures)
    effective = os.access in os.supports_effective_ids
    if not os.access(near, os.W_OK | os.X_OK, effective_ids=effective):
        return Line("store", "fail", f"{near} can't be written: no run can store the set there", fix, figures)
    return Line("store", "fail" if free < size else "pass", text, fix if free < size else "", figures)


def gets_copies(place: Path, root: Path) -> bool:
    """Return True where a workspace can't link what is in the store, being on another file system."""
    try:
        return nearest_existing(place).stat().st_dev != nearest_existing(root).stat().st_dev
    except OSError:  # the store's own line says so
        return False


def _major(version: str) -> str:
    return version.partition(".")[0]


# --- the facts ---


def installed(name: str) -> str | None:
    """Return the version of a distribution in this environment, or None."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def nearest_existing(folder: Path) -> Path:
    """Return the folder, or the nearest one above that is there."""
    folder = folder.absolute()
    return next(place for place in (folder, *folder.parents) if place.is_dir())


def look_at_qlib(folder: Path) -> QlibSide | Unseen:
    """Find the environment in which RD-Agent would start Qlib, and let it try a run's steps.

    Args:
        folder: An existing folder to work in; files are left there.
    """
    with _told(folder / "place", "tell_place") as telling:
        told = _answer(telling, folder / "place", _QLIB_SECONDS)
    if isinstance(told, str):
        reason = f"RD-Agent's settings for it can't be read, or conda does not answer: {told}"
        return Unseen("warn", reason, "see what rdagent --help and conda env list say")
    return ask_qlib(Place(**told), folder)


def ask_qlib(place: Place, folder: Path) -> QlibSide | Unseen:
    """Let the environment that runs Qlib tell its versions, read a small factor file and open a file store.

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
    return _probe(folder / "probe", python, path, place.name)


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


def _probe(folder: Path, python: str, path: str, name: str) -> QlibSide | Unseen:
    folder.mkdir()
    _write_set(folder / "set.parquet")
    (folder / "probe.py").write_text(_PROBE, encoding="utf-8")
    variables = {"PATH": path, "MLFLOW_DISABLE_TELEMETRY": "true"}  # a check tells nobody
    with _child([python, "probe.py"], folder, variables) as probe:
        told = _answer(probe, folder, _QLIB_SECONDS)
    if isinstance(told, str):
        reason = f"Python does not run in the conda environment {name}: {told}"
        return Unseen("fail", reason, f"see what {python} --version says")
    parquet = told["parquet"]
    if not parquet and told["read"] != _EXPECTED:
        parquet = f"it reads {json.dumps(told['read'], ensure_ascii=False)}"
    return QlibSide(name, told["versions"], parquet, told["file_store"])


# --- the children ---


def tell_seams(answer: Path) -> None:
    """Import RD-Agent's modules with seams, and write down whether the seams fit. For a child process."""
    hooked = startup.SeamFinder in sys.meta_path
    startup.unregister()  # at a misfit the hook would stop the process, or write to stderr
    misfits = {}
    for seam in SEAMS:
        try:
            apply_seam(seam.name)
        except SeamError as error:
            misfits[seam.name] = f"{error.fact} ({error.place})"
        except SystemExit:  # a patched source stops the process in its own import
            misfits |= {at.seam.name: at.reason for at in seam_states() if at.state == "misfit"}
        except Exception as error:  # whatever an import of foreign code raises is the answer here
            misfits[seam.name] = f"{seam.module} can't be used: {type(error).__name__}: {error}"
    needed = {seam.name for seam in SEAMS if seam.carries_factors}
    asked = None
    if not needed & misfits.keys():
        try:
            asked = dataclasses.asdict(dry_run.of_models())
        except SeamError as error:
            misfits["runner"] = f"{error.fact} ({error.place})"
    if "factor runner" not in misfits:
        runner = import_module("rdagent.scenarios.qlib.developer.factor_runner").QlibFactorRunner
        if isinstance(why := dry_run.ask_factor_runner(runner), str):
            misfits["factor runner"] = (
                f"QlibFactorRunner.develop has a shape that is not known: it {why}; factor loops of "
                "fin_quant go without the loaded set"
            )
    told = {
        "hooked": hooked,
        "misfits": misfits,
        "runners": {} if misfits else _unfit_runners(),
        "patched": bool(startup.called_by_source),
        "verdicts": _verdicts(misfits.get("verdict", "")),
        "asked": asked,
    }
    write_whole(answer, json.dumps(told))


def _unfit_runners() -> dict[str, str]:
    """Return why the runners that RD-Agent's settings name can't be given the factors, by variable."""
    plans = import_module("rdagent_sota_bridge.plan")
    conf = import_module("rdagent.app.qlib_rd_loop.conf")
    named = {
        "QLIB_MODEL_RUNNER": conf.ModelBasePropSetting().runner,
        "QLIB_QUANT_MODEL_RUNNER": conf.QuantBasePropSetting().model_runner,
    }
    unfit = {}
    for variable, path in named.items():
        try:
            plans.check_runner_class(import_module("rdagent.core.utils").import_class(path))
        except HandOffError as error:
            unfit[variable] = error.place
        except Exception as error:  # whatever an import of foreign code raises is the answer here
            unfit[variable] = f"{path} can't be imported: {type(error).__name__}: {error}"
    return unfit


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


def _told(folder: Path, function: str) -> AbstractContextManager[subprocess.Popen[bytes]]:
    """Start a child of this Python that calls one of the functions above; `_answer` waits for it."""
    folder.mkdir()
    code = f"import pathlib, rdagent_sota_bridge.environment as e; e.{function}(pathlib.Path({_ANSWER!r}))"
    # LiteLLM downloads a table of prices when it is imported, and waits for the download to fail.
    return _child([sys.executable, "-c", code], folder, {"LITELLM_LOCAL_MODEL_COST_MAP": "True"})


@contextmanager
def _child(
    command: list[str], folder: Path, variables: Mapping[str, str]
) -> Iterator[subprocess.Popen[bytes]]:
    """Start a child in a folder, with this environment and further variables; end it with all its children.

    Without `RDAGENT_SOTA_BRIDGE`: switched off, nothing could be told of the hook.
    """
    environment = {**os.environ, **variables}
    environment.pop("RDAGENT_SOTA_BRIDGE", None)
    # A file, for conda's children may hold a pipe open after conda itself has ended.
    with (folder / _OUTPUT).open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - it starts this Python, or that of Qlib's environment
            command,
            cwd=folder,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=child.starts_session(),
        )
    try:
        yield process
    finally:
        child.end_group(process)


def _answer(process: subprocess.Popen[bytes], folder: Path, seconds: float) -> dict[str, Any] | str:
    """Wait for a child, and return what it wrote down, or why it did not."""
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"no answer within {seconds:.0f} seconds"
    file = folder / _ANSWER
    if status == 0 and file.is_file():
        answer: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        return answer
    output = (folder / _OUTPUT).read_text(encoding="utf-8", errors="replace").strip()
    return output.splitlines()[-1] if output else f"it ended with status {status}"


def _seams(told: dict[str, Any] | str) -> Seams | Unseen:
    if isinstance(told, str):
        return Unseen(
            "fail", f"RD-Agent's modules can't be looked at: {told}", "see what rdagent --help says"
        )
    asked = None if told["asked"] is None else dry_run.DryRun(**told["asked"])
    return Seams(**{**told, "asked": asked})


def _verdicts(misfit: str) -> dict[str, str]:
    """Return why fin_model can't accept a model, by the value of `SOTA_MODEL_VERDICT`."""
    try:
        conf = import_module("rdagent.app.qlib_rd_loop.conf")
        summarizer = import_module("rdagent.core.utils").import_class(conf.ModelBasePropSetting().summarizer)
        judge = summarizer.generate_feedback
    except Exception as error:  # whatever an import of foreign code raises is the answer here
        trouble = f"whether fin_model can accept a model is not known: {type(error).__name__}: {error}"
        return dict.fromkeys(VERDICT_WAYS, trouble)
    return {way: verdict_forms.trouble(judge, way, misfit) for way in VERDICT_WAYS}


_ANSWER = "answer.json"
_OUTPUT = "output.txt"

# What the probe has to read of the set below, with what Qlib does to it.
_EXPECTED = {
    "columns": [["feature", "momentum"], ["feature", "动量"]],
    "levels": ["datetime", "instrument"],
    "rows": [["2020-01-02", "SH600000"], ["2020-01-03", "SH600000"]],
    "values": [[0.5, 2.0], [-1.25, 3.0]],
}


def _write_set(file: Path) -> None:
    """Write a small set as RD-Agent does (`QlibModelRunner.develop`, 0.8.0 and 1.0.0)."""
    import pandas as pd

    days = pd.DatetimeIndex(["2020-01-02", "2020-01-03", "2020-01-06"])
    index = pd.MultiIndex.from_product([days, ["SH600000", "SZ000001"]], names=["datetime", "instrument"])
    frame = pd.DataFrame({"momentum": [0.5, 9, -1.25, 9, 9, 9], "动量": [2.0, 9, 3, 9, 9, 9]}, index=index)
    frame.columns = pd.MultiIndex.from_product([["feature"], frame.columns])
    frame.to_parquet(file, engine="pyarrow")


# Runs in Qlib's environment, which may be Python 3.8. It reads as `StaticDataLoader` does
# (`qlib/data/dataset/loader.py`, pyqlib 0.9.7), and opens the store that `qlib/cli/run.py` names. What fails
# is the answer, whatever it raises.
_PROBE = f'''\
import json, os, pathlib, platform
from importlib import metadata

told = {{"versions": {{"python": platform.python_version()}}, "read": None, "parquet": "", "file_store": ""}}
for name in ("pyqlib", "torch", "pandas", "pyarrow", "numpy", "mlflow"):
    try:
        told["versions"][name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        pass
try:
    import pandas as pd

    frame = pd.read_parquet("set.parquet", engine="pyarrow").sort_index()
    frame = frame.loc(axis=0)[:, ["SH600000"]]
    frame = frame.loc[pd.Timestamp("2020-01-02"):pd.Timestamp("2020-01-03")]
    told["read"] = {{
        "columns": [list(column) for column in frame.columns],
        "levels": list(frame.index.names),
        "rows": [[str(pd.Timestamp(day).date()), code] for day, code in frame.index],
        "values": frame.values.tolist(),
    }}
except Exception as error:
    told["parquet"] = "{{}}: {{}}".format(type(error).__name__, error)
try:
    from mlflow.tracking import MlflowClient

    uri = "file:" + str(pathlib.Path(os.getcwd()).resolve() / "mlruns")
    MlflowClient(tracking_uri=uri).create_experiment("check")
except Exception as error:
    told["file_store"] = "{{}}: {{}}".format(type(error).__name__, error)
with open("{_ANSWER}", "w", encoding="utf-8") as file:
    json.dump(told, file)
'''

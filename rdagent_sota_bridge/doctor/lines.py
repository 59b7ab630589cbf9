"""Whether this machine is fit for a run: RD-Agent and its seams, Qlib's environment, mlflow, the disk.

Each line is a plain function of facts. The facts come from two short-lived children in a temporary folder:
RD-Agent leaves a log folder wherever it is imported, and Qlib has an environment of its own.
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import sys
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter
from rich.filesize import decimal

import rdagent_sota_bridge as startup
from rdagent_sota_bridge.bridge import dry_run, verdict
from rdagent_sota_bridge.bridge.seams import SEAMS, Seam, apply_seam
from rdagent_sota_bridge.bridge.seams import status as seam_states
from rdagent_sota_bridge.check.lines import Line, State
from rdagent_sota_bridge.doctor.qlib_environment import (
    QlibSide,
    Unseen,
    ask_rdagent,
    file_store_line,
    look_at_qlib,
    qlib_line,
)
from rdagent_sota_bridge.errors import OTHER_RELEASE, HandOffError, SeamError, SettingsError
from rdagent_sota_bridge.factor_set.names import workspace_root
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart
from rdagent_sota_bridge.settings import FALSE_WORDS, TRUE_WORDS, VERDICT_WAYS, read_settings
from rdagent_sota_bridge.system.files import write_whole

OWN_RUNNER = "rdagent_sota_bridge.runner.SotaModelRunner"
"""What `QLIB_MODEL_RUNNER` names for a run without the import hook."""

LEAST_FREE = 1_000_000_000
"""Bytes that ten model loops may leave beside copies of the set: back-tests and logs of up to 100 MB each."""

_CHILD_SECONDS = 180.0
"""How long RD-Agent's modules may take to import: on a busy machine with two cores they took 20 seconds."""


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


_NOT_INSTALLED = Unseen("warn", "RD-Agent is not installed", "install it: pip install rdagent")


def look_at_rdagent() -> Seams | Unseen:
    """Let a child import RD-Agent's modules, try the seams and ask `develop`. Takes seconds."""
    if installed("rdagent") is None:
        return _NOT_INSTALLED
    code = "import pathlib; from rdagent_sota_bridge.doctor import lines; "
    code += "lines.tell_seams(pathlib.Path('answer.json'))"
    # A short path: sockets' paths below it have to fit into 108 characters.
    with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
        return _seams(ask_rdagent(code, Path(name, "seams"), _CHILD_SECONDS))


def qlib_start(seams: Seams | Unseen) -> QlibStart:
    """Return what RD-Agent would start Qlib with for a model.

    Raises:
        SeamError: if the factors can't reach it, or it was not seen.
    """
    if isinstance(seams, Seams) and seams.asked is not None:
        return seams.asked.start
    fact = "What RD-Agent would train with is not known"
    if isinstance(seams, Unseen):
        raise SeamError(fact, seams.reason, seams.fix)
    raise SeamError(fact, "; ".join(seams.misfits.values()), OTHER_RELEASE)


def lines(set_size: int, place: Path, look: Callable[[], Seams | Unseen] = look_at_rdagent) -> list[Line]:
    """Return the lines about the environment. Takes seconds: RD-Agent's modules are imported, in a child.

    Args:
        set_size: Bytes of the set's files.
        place: The folder of the store.
        look: Returns what was found of RD-Agent.
    """
    version = installed("rdagent")
    qlib: QlibSide | Unseen = _NOT_INSTALLED
    with ThreadPoolExecutor(1) as beside:
        looking = beside.submit(look)
        if version is not None:
            with tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as name:
                qlib = look_at_qlib(Path(name))
        seams = looking.result()
    root = workspace_root()
    copies = gets_copies(place, root) or (isinstance(qlib, Unseen) and qlib.in_docker)
    switch, runner, file_store = (
        os.environ.get(name, "").strip()
        for name in ("RDAGENT_SOTA_BRIDGE", "QLIB_MODEL_RUNNER", "MLFLOW_ALLOW_FILE_STORE")
    )
    return [
        rdagent_line(version),
        seams_line(seams, switch, runner),
        *seam_lines(seams),
        *runner_lines(seams),
        *verdict_lines(seams, _verdict_asked_for()),
        qlib_line(qlib, installed("pandas") or ""),
        file_store_line(qlib, file_store),
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
    figures: dict[str, Any] = {"module": seam.module}
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


def disk_line(copy_size: int, free: int, root: Path) -> Line:
    """Return the line about room for the workspaces of ten model loops; it fails without room for one.

    Args:
        copy_size: Bytes of the set where a loop's workspace gets a copy; 0 where it gets a link.
        free: Bytes that the user may still write below `root`.
        root: The folder of all workspaces.
    """
    figures = {"free": free, "copy": copy_size}
    text = f"{decimal(free)} free in {root}"
    if copy_size:
        text += f"; every model loop gets a copy of the set, {decimal(copy_size)}"
    of_ten = LEAST_FREE + 10 * copy_size
    if free >= of_ten:
        return Line("disk", "pass", text, figures=figures)
    fix = f"make room for {decimal(of_ten)}, or set WORKSPACE_PATH to a folder on a larger disk"
    return Line("disk", "fail" if free < of_ten / 10 else "warn", text, fix, figures)


def store_line(size: int, place: Path, stored: bool) -> Line:
    """Return the line about the store's copy of a set.

    Args:
        size: Bytes that writing the copy takes.
        place: The folder of the store.
        stored: True if the copy is there.
    """
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
    plans = import_module("rdagent_sota_bridge.bridge.plan")
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


def _seams(told: dict[str, Any] | str) -> Seams | Unseen:
    if isinstance(told, str):
        return Unseen(
            "fail", f"RD-Agent's modules can't be looked at: {told}", "see what rdagent --help says"
        )
    asked = None if told["asked"] is None else TypeAdapter(dry_run.DryRun).validate_python(told["asked"])
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
    return {way: verdict.trouble(judge, way, misfit) for way in VERDICT_WAYS}

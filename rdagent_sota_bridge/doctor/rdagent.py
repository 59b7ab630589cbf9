"""RD-Agent: its release, the import hook, the seams, and what a dry run of `develop` says."""

from __future__ import annotations

import os
import sys

from pydantic import TypeAdapter

from rdagent_sota_bridge.bridge.seams import DISABLED, SEAMS, disabled
from rdagent_sota_bridge.check.line import Line, State, lines_of
from rdagent_sota_bridge.doctor import children
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError, SettingsError
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart
from rdagent_sota_bridge.settings import FALSE_WORDS, hook_trouble

OWN_RUNNER = "rdagent_sota_bridge.runner.SotaModelRunner"
"""What `QLIB_MODEL_RUNNER` names for a run without the import hook."""

DRY_RUN = "dry run"
"""The name of the line that says what `develop` would do with the factors."""

SEAM = "seam "
"""How the names of the lines begin that have one seam each."""

_RDAGENT_SECONDS = 180.0  # its modules took 20 seconds to import on a busy machine with two cores


def look_at_rdagent() -> Seams | Line:
    """Let a child import RD-Agent's modules, try the seams and ask `develop`; a line where it can't."""
    if children.installed("rdagent") is None:
        text = "RD-Agent is not installed in this environment"
        fix = "install both into one environment: pip install rdagent rdagent-sota-bridge"
        return Line("rdagent", "fail", text, fix, {"version": None})
    try:
        disabled()
    except SettingsError as error:
        return lines_of(error, "rdagent")[0]
    # Without the collector, which takes a quarter of the time that the imports take.
    code = "import gc, pathlib; gc.disable(); from rdagent_sota_bridge.doctor import seam_check; "
    command = [sys.executable, "-c", f"{code}seam_check.write_seams(pathlib.Path('answer.json'))"]
    # LiteLLM downloads a table of prices when it is imported, and waits for the download to fail.
    variables = {**os.environ, "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    variables.pop("RDAGENT_SOTA_BRIDGE", None)  # switched off, nothing would be known of the hook
    answer = children.ask(command, variables, _RDAGENT_SECONDS)
    if isinstance(answer, str):
        reason = f"RD-Agent's modules can't be looked at: {answer}"
        return children.unseen("rdagent", "fail", reason, "see what rdagent --help says")
    return TypeAdapter(Seams).validate_python(answer)


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


# --- the lines, from facts ---


def rdagent_lines(seams: Seams, switch: str, runner: str, way: str) -> list[Line]:
    """Return the line about RD-Agent's release, the hook and the seams, the details, and the dry run's.

    `switch`, `runner` and `way` are RDAGENT_SOTA_BRIDGE, QLIB_MODEL_RUNNER and SOTA_MODEL_VERDICT, or empty.
    """
    found = [_rdagent_line(seams, switch, runner)]
    for seam in SEAMS:
        reason = seams.misfits.get(seam.name)
        figures = {"module": seam.module, "found": "misfit" if reason else "fits"}
        figures |= {"reason": reason} if reason else {}
        state: State = "pass" if not reason else "fail" if seam.carries_factors else "warn"
        said = f"misfit: {reason}" if reason else "turned off" if seam.name in seams.disabled else "fits"
        text = f"{seam.module}: {said}"
        found.append(Line(f"{SEAM}{seam.name}", state, text, OTHER_RELEASE if reason else "", figures))
    if seams.runners:
        text = "; ".join(f"{name}: {reason}" for name, reason in seams.runners.items())
        fix = f"unset {' and '.join(seams.runners)}, or call super().develop(exp) in a class derived from "
        fix += "QlibModelRunner"
        found.append(Line(DRY_RUN, "fail", f"no factors for {text}", fix, {"unfit": seams.runners}))
    elif not seams.misfits:
        text = "the model runners of fin_model and fin_quant can be given the factors"
        found.append(Line(DRY_RUN, "pass", text))
    if way in seams.verdicts:
        found.append(_verdict_line(seams.verdicts, way))
    return found


def _rdagent_line(seams: Seams, switch: str, runner: str) -> Line:
    fits = {seam.name: seams.misfits.get(seam.name, "fits") for seam in SEAMS}
    release = children.installed("rdagent")
    figures = {"version": release, "hook": seams.hooked, "patched": seams.patched, "seams": fits}
    state: State = "fail"
    off_names = f", {DISABLED} turns off {', '.join(seams.disabled)}" if seams.disabled else ""
    all_fit = f"all {len(SEAMS) - len(seams.disabled)} seams fit{off_names}"
    off = switch.lower() in FALSE_WORDS
    reason = "the import hook (rdagent-sota-bridge.pth) is not active in this environment"
    fix = "install the package with pip into the environment of rdagent"
    if off:
        reason, fix = f"RDAGENT_SOTA_BRIDGE={switch} turns the import hook off", "unset RDAGENT_SOTA_BRIDGE"
    if seams.misfits:
        carrying = [seam.name for seam in SEAMS if seam.carries_factors and seam.name in seams.misfits]
        state, fix = "fail" if carrying else "warn", OTHER_RELEASE
        text = f"{len(seams.misfits)} of {len(SEAMS)} seams do not fit: "
        text += "; ".join(f"{name}: {reason}" for name, reason in seams.misfits.items())
    elif trouble := hook_trouble(switch):
        text, fix = trouble.fact, trouble.fix
    elif seams.hooked and not off:
        state, text, fix = "pass", f"the import hook is active, {all_fit}", ""
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
    return Line("rdagent", state, f"RD-Agent {release}: {text}", fix, figures)


def _verdict_line(verdicts: dict[str, str], way: str) -> Line:
    name, figures = "model verdict", {"SOTA_MODEL_VERDICT": way}
    if reason := verdicts[way]:
        fix = "unset SOTA_MODEL_VERDICT, or set it to mended" if way == "rdagent" else OTHER_RELEASE
        return Line(name, "warn", reason, fix, figures)
    text = "the verdict of fin_model can accept a model"
    own = "; one of a run with the switch off can't" if verdicts["rdagent"] else ", as RD-Agent itself has it"
    return Line(name, "pass", text + own, figures=figures)

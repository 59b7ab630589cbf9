"""Whether the seams fit the installed RD-Agent: found out in a process of its own, which a check starts."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from importlib import import_module
from pathlib import Path

import rdagent_sota_bridge as startup
from rdagent_sota_bridge.bridge import cli_options, dry_run, verdict
from rdagent_sota_bridge.bridge.seams import SEAMS, apply_seam, disabled
from rdagent_sota_bridge.bridge.seams import status as seam_states
from rdagent_sota_bridge.errors import HandOffError, SeamError
from rdagent_sota_bridge.settings import VERDICT_WAYS
from rdagent_sota_bridge.system.files import write_whole


@dataclass(frozen=True)
class Seams:
    """How RD-Agent's modules meet the table of seams.

    Attributes:
        hooked: True where a Python that starts in this environment has the import hook.
        misfits: By seam, why it does not fit; those that fit are left out.
        runners: By variable, why its runner can't have the factors.
        patched: True where RD-Agent's source calls the package (`rdagent-sota patch`).
        verdicts: By way, why no model is accepted; empty if one is.
        asked: What `develop` of models does; None where the factors can't reach it.
        of_factors: The same of RD-Agent's factor runner.
        disabled: The seams that the user turns off.
    """

    hooked: bool
    misfits: dict[str, str]
    runners: dict[str, str] = field(default_factory=dict)
    patched: bool = False
    verdicts: dict[str, str] = field(default_factory=dict)
    asked: dry_run.DryRun | None = None
    of_factors: dry_run.DryRun | None = None
    disabled: tuple[str, ...] = ()


def write_seams(answer: Path) -> None:
    """Import RD-Agent's modules with seams, and write down whether the seams fit. For a child process."""
    hooked = startup.SeamFinder in sys.meta_path
    startup.unregister()  # at a misfit the hook would stop the process, or write to stderr
    misfits: dict[str, str] = {}
    asked: dry_run.DryRun | None = None
    of_factors: dry_run.DryRun | str | None = None
    for seam in SEAMS:
        try:
            if seam.name == "options":  # of the command line, whose import takes as long as all the others'
                cli_options.check_text()
            else:
                apply_seam(seam.name)
        except SeamError as error:
            misfits[seam.name] = f"{error.fact} ({error.place})"
        except SystemExit:  # a patched source stops the process in its own import
            misfits |= {at.seam.name: at.reason for at in seam_states() if at.state == "misfit"}
        except Exception as error:  # whatever an import of foreign code raises is the answer here
            misfits[seam.name] = f"{seam.module} can't be used: {type(error).__name__}: {error}"
    if not any(seam.carries_factors and seam.name in misfits for seam in SEAMS):
        try:
            asked = dry_run.of_models()
        except SeamError as error:
            misfits["runner"] = f"{error.fact} ({error.place})"
    if "factor runner" not in misfits:
        runner = import_module("rdagent.scenarios.qlib.developer.factor_runner").QlibFactorRunner
        of_factors = dry_run.ask_factor_runner(runner)
        if isinstance(of_factors, str):
            text = f"QlibFactorRunner.develop has a shape that is not known: it {of_factors}"
            misfits["factor runner"] = f"{text}; factor loops of fin_quant go without the loaded set"
    runners = {} if misfits else _unfit_runners()
    patched, verdicts = bool(startup.called_by_source), _verdicts(misfits.get("verdict", ""))
    of_factors = of_factors if isinstance(of_factors, dry_run.DryRun) else None
    found = Seams(hooked, misfits, runners, patched, verdicts, asked, of_factors, disabled())
    write_whole(answer, json.dumps(asdict(found)))


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

"""Log folders as RD-Agent leaves them: its own loop, experiments and verdicts, written by its own `dump`."""

from __future__ import annotations

import importlib.util
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

from tests import seams
from tests.frames import factor_frame, write

SIGNED = importlib.util.find_spec("rdagent.core.serialization") is not None
"""True for an RD-Agent that signs its sessions (1.0.0)."""

BEGIN = datetime(2026, 1, 5, 9, 0, tzinfo=timezone.utc)
"""When loop 0 of the runs ends; each further loop takes an hour."""


def new_loop(kind: str = "FactorRDLoop") -> Any:
    """Return a loop of RD-Agent's that has not begun, without the parts that need a market or an LLM."""
    from rdagent.app.qlib_rd_loop.factor import FactorRDLoop
    from rdagent.app.qlib_rd_loop.model import ModelRDLoop
    from rdagent.app.qlib_rd_loop.quant import QuantRDLoop
    from rdagent.components.workflow.rd_loop import RDLoop
    from rdagent.core.proposal import Trace
    from rdagent.utils.workflow import LoopBase

    classes = {one.__name__: one for one in (FactorRDLoop, ModelRDLoop, QuantRDLoop, RDLoop)}
    loop = object.__new__(classes[kind])
    LoopBase.__init__(loop)
    loop.trace = Trace(scen=None)
    return loop


def factor_experiment(workspace: Path, *names: str, gave_up: tuple[str, ...] = ()) -> Any:
    """Return an experiment on factors whose workspace is said to be that folder; the folder is not made.

    Args:
        workspace: Where its workspace is said to be.
        names: The factors.
        gave_up: Those among them that the coder did not get to work.
    """
    from rdagent.components.coder.CoSTEER.evaluators import (
        CoSTEERMultiFeedback,
        CoSTEERSingleFeedbackDeprecated,
    )
    from rdagent.components.coder.factor_coder.factor import FactorFBWorkspace, FactorTask
    from rdagent.scenarios.qlib.experiment.factor_experiment import QlibFactorExperiment

    tasks = [FactorTask(name, "description", "formulation", variables={}) for name in names]
    experiment = QlibFactorExperiment(tasks)
    experiment.experiment_workspace.workspace_path = workspace
    for position, task in enumerate(tasks):
        implementation = FactorFBWorkspace(target_task=task)
        implementation.file_dict["factor.py"] = f"# the code of {task.factor_name}\n"
        experiment.sub_workspace_list[position] = implementation
    experiment.prop_dev_feedback = CoSTEERMultiFeedback(
        [CoSTEERSingleFeedbackDeprecated(final_decision=name not in gave_up) for name in names]
    )
    return experiment


def model_experiment(workspace: Path) -> Any:
    """Return an experiment on a model whose workspace is said to be that folder."""
    experiment = seams.model_experiment()
    experiment.experiment_workspace.workspace_path = workspace
    return experiment


def begin(loop: Any, number: int, experiment: Any, begun: datetime = BEGIN) -> None:
    """Let a loop take its first step."""
    from rdagent.utils.workflow.loop import LoopTrace

    loop.loop_prev_out[number]["direct_exp_gen"] = {"propose": None, "exp_gen": experiment}
    loop.loop_trace[number].append(LoopTrace(begun, begun, step_idx=0))
    loop.step_idx[number] = 1


def finish(loop: Any, number: int, experiment: Any, accepted: bool, ended: datetime | None = None) -> None:
    """Give a loop's experiment its verdict, as the installed RD-Agent does in its last step."""
    from rdagent.core.proposal import HypothesisFeedback
    from rdagent.utils.workflow.loop import LoopTrace

    ended = ended or BEGIN + timedelta(hours=number)
    feedback = HypothesisFeedback(
        observations="", hypothesis_evaluation="", new_hypothesis="", reason="", decision=accepted
    )
    outputs = {"coding": experiment, "running": experiment, "feedback": feedback}
    begin(loop, number, experiment, ended - timedelta(minutes=1))
    loop.loop_prev_out[number].update(outputs)
    loop.loop_trace[number].append(LoopTrace(ended, ended, step_idx=len(loop.steps) - 1))
    loop.step_idx[number] = len(loop.steps)
    if hasattr(loop.trace, "sync_dag_parent_and_hist"):
        loop.trace.sync_dag_parent_and_hist((experiment, feedback), number)
    else:  # 0.8.0
        loop.trace.hist.append((experiment, feedback))


def dump(loop: Any, log: Path, number: int) -> Path:
    """Write the session after the latest step of a loop, and return the file."""
    step = loop.step_idx[number] - 1
    file = log / "__session__" / str(number) / f"{step}_{loop.steps[step]}"
    loop.dump(file)
    return file


def dump_object(content: Any, file: Path) -> Path:
    """Write any object as RD-Agent would, signed where it signs."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("wb") as target:
        if SIGNED:
            from rdagent.core.serialization import dump as dump_signed

            dump_signed(content, target)
        else:
            import pickle

            pickle.dump(content, target)
    return file


def write_run(
    log: Path,
    root: Path,
    *loops: tuple[str, tuple[str, ...], bool],
    kind: str = "FactorRDLoop",
    ended: datetime = BEGIN,
) -> Path:
    """Write the log of a run whose loops ran one after the other, and return its folder.

    Args:
        log: The log folder.
        root: The folder of its workspaces.
        loops: Of each loop the workspace id, the factors (none for a model), and the verdict.
        kind: The class of the loop.
        ended: When the first loop ended.
    """
    loop = new_loop(kind)
    for number, (name, factors, accepted) in enumerate(loops):
        workspace = root / name
        experiment = factor_experiment(workspace, *factors) if factors else model_experiment(workspace)
        finish(loop, number, experiment, accepted, ended + timedelta(hours=number))
        dump(loop, log, number)
    return log


class Project:
    """A project folder with workspaces and logs, as RD-Agent lays them out."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.root = folder / "git_ignore_folder" / "RD-Agent_workspace"
        self.root.mkdir(parents=True)

    def set(self, name: str, *columns: str) -> Path:
        """Make a workspace with a factor file, and return the file."""
        (self.root / name).mkdir()
        return write(factor_frame(columns), self.root / name)

    def run(
        self, name: str, *loops: tuple[str, tuple[str, ...], bool], kind: str = "FactorRDLoop", hours: int = 0
    ) -> Path:
        """Write the log of a run, whose first loop ended `hours` after `BEGIN`."""
        ended = BEGIN + timedelta(hours=hours)
        return write_run(self.folder / "log" / name, self.root, *loops, kind=kind, ended=ended)

    def damaged(self, name: str) -> Path:
        """Write a log whose session is none, and return the session."""
        return dump_object(None, self.folder / "log" / name / "__session__" / "0" / "0_step")

"""What the demo tells: one job of `rdagent-sota run`, from factors to models with them and without."""

from __future__ import annotations

import importlib.util
import math
import os
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rdagent_sota_bridge import child
from rdagent_sota_bridge.demo.llm import ScriptedLLM
from rdagent_sota_bridge.demo.market import write_market, write_source_data
from rdagent_sota_bridge.demo.sandbox import Sandbox, create
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.history import Loop, read_run
from rdagent_sota_bridge.names import LOGS
from rdagent_sota_bridge.run import job
from rdagent_sota_bridge.run.job import Job

LOOPS = 2
STEPS_OF_LOOP = 5  # RD-Agent's: direct_exp_gen, coding, running, feedback, record

TITLES = {
    job.FACTORS: "rdagent fin_factor",
    job.MODELS: "rdagent fin_model, with the factors",
    job.BASELINE: "rdagent fin_model, without the factors",
}
"""What the progress display calls the stages."""

STEPS = LOOPS * STEPS_OF_LOOP
"""How many steps of RD-Agent's loops each stage takes."""

_SIGNING_KEY = Path(".rdagent") / "artifact_signing.key"  # RD-Agent's default, `core/conf.py` of 1.0.0
_SECONDS_BETWEEN_LOOKS = 0.5


@dataclass(frozen=True)
class Row:
    """One trained model, in Qlib's own figures; NaN where Qlib left none.

    Attributes:
        run: `bridge` or `baseline`.
        model: The model's name.
        ic: Mean daily correlation of prediction and label in the test segment.
        rank_ic: The same of their ranks.
        annualized_return: Excess return with cost, a year.
        max_drawdown: Of that excess return; negative.
        features: Input width of the network, as Qlib recorded it; None where it recorded none.
        digest: Short digest of the factor set; empty without one.
    """

    run: str
    model: str
    ic: float
    rank_ic: float
    annualized_return: float
    max_drawdown: float
    features: int | None
    digest: str


@dataclass(frozen=True)
class Told:
    """What came of the demo: the models, those with the factors first, and the job's report."""

    rows: list[Row]
    report: Path


def check_requirements() -> None:
    """Check that Qlib and torch are here: on users' machines they live in an environment of their own.

    Raises:
        BridgeError: if they are not.
    """
    missing = [name for name in ("qlib", "torch", "tables") if importlib.util.find_spec(name) is None]
    if missing:
        raise BridgeError(
            f"The demo runs Qlib in this environment, and it lacks {', '.join(missing)}",
            sys.prefix,
            "pip install 'rdagent-sota-bridge[demo]'",
        )


def is_begun(folder: Path) -> bool:
    """Return True for the folder of a demo, finished or not."""
    return _sandbox(folder).is_made


def job_in(folder: Path) -> Job | None:
    """Return the job of a demo that was begun in a folder; None where it has none yet.

    Raises:
        JobError: if its state can't be read.
    """
    return job.newest(_sandbox(folder).project / LOGS)


def tell(folder: Path, show: Callable[[str, int], None], *, is_kept: bool) -> Told:
    """Run the job in `folder`, or go on with the one that was begun there.

    Args:
        folder: An empty folder, or one that `tell` was ended in.
        show: Called with a stage's name and the number of its steps that are done.
        is_kept: True if the folder is still there when this has failed.

    Raises:
        BridgeError: if the job ends badly; it names its output.
    """
    box = create(folder)
    market = write_market(box.provider)
    write_source_data(market, box.project)
    begun = job_in(folder)
    asked = ["--factor-loops", str(LOOPS), "--model-loops", str(LOOPS), "--baseline"]
    command = [str(Path(sys.executable).parent / "rdagent-sota"), "run", *(["--resume"] if begun else asked)]
    output = folder / "run.txt"
    # Qlib's recorder leaves a temporary folder behind for all that it saves. Not below `folder`: torch's
    # workers put sockets there, whose paths may have a hundred characters; with longer ones they hang.
    with (
        tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as temporary,
        ScriptedLLM(in_turn=True) as llm,
        output.open("ab") as file,
        child.started(
            command, box.environment(llm.url, TMPDIR=temporary), box.project, output=file
        ) as process,
    ):
        while process.poll() is None:
            _show(folder, show)
            time.sleep(_SECONDS_BETWEEN_LOOKS)
        _show(folder, show)
    if process.returncode != 0 or llm.unknown:
        raise BridgeError(
            f"`rdagent-sota run` ended with status {process.returncode}"
            + (f"; {len(llm.unknown)} prompts were not in the script" if llm.unknown else ""),
            f"{output}; its last lines:\n{_tail(output)}",
            f"look at that file; rdagent-sota demo --keep {folder} goes on"
            if is_kept
            else "rdagent-sota demo --keep FOLDER keeps that file, and goes on there",
        )
    return _told(box, folder)


def _sandbox(folder: Path) -> Sandbox:
    return Sandbox(folder.absolute(), Path(sys.executable), Path(sys.executable))


def _show(folder: Path, show: Callable[[str, int], None]) -> None:
    begun = job_in(folder)
    for stage in begun.stages if begun is not None else ():
        log = begun.log(stage.name) if begun is not None else None
        if log is not None:
            # RD-Agent leaves a session file after each step; 0.8.0 has one step less.
            done = min(len(list(log.glob("__session__/*/*_*"))), STEPS)
            show(stage.name, STEPS if stage.state == "ended" else done)


def _told(box: Sandbox, folder: Path) -> Told:
    done = job_in(folder)
    if done is None:
        raise BridgeError("The job left no state", str(box.project / LOGS), "run it again with --keep FOLDER")
    # RD-Agent 1.0.0 signs its sessions with a key of the home folder, which is the sandbox's own here.
    os.environ["ARTIFACT_SIGNING_KEY_PATH"] = str(box.home / _SIGNING_KEY)
    rows = [
        _row(run, loop)
        for run, stage in (("bridge", job.MODELS), ("baseline", job.BASELINE))
        if (log := done.log(stage)) is not None
        for loop in read_run(log).loops
    ]
    return Told(rows, job.report_file(done))


def _row(run: str, loop: Loop) -> Row:
    prefix = "1day.excess_return_with_cost."
    return Row(
        run=run,
        model=loop.name,
        ic=loop.metrics.get("IC", math.nan),
        rank_ic=loop.metrics.get("Rank IC", math.nan),
        annualized_return=loop.metrics.get(f"{prefix}annualized_return", math.nan),
        max_drawdown=loop.metrics.get(f"{prefix}max_drawdown", math.nan),
        features=loop.features,
        digest="" if loop.manifest is None else str(loop.manifest["factor_set"]["digest"])[7:15],
    )


def _tail(file: Path, lines: int = 12) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

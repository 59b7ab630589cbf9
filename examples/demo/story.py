"""What the demo tells: one job of `rdagent-sota run`, from factors to models with them and without."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from examples.demo.llm import ScriptedLLM
from examples.demo.market import write_market, write_source_data
from examples.demo.sandbox import Sandbox, create
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.factor_set.names import LOGS
from rdagent_sota_bridge.report.history import Loop, read_run
from rdagent_sota_bridge.run import job
from rdagent_sota_bridge.run.job import Job
from rdagent_sota_bridge.system import child

COMMAND = "make demo KEEP="
"""With a folder behind it: runs in that folder, or goes on there."""

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


def sandbox_in(folder: Path) -> Sandbox:
    """Return the sandbox of a demo in a folder, made or not."""
    return Sandbox(folder.absolute(), Path(sys.executable), Path(sys.executable))


def job_in(folder: Path) -> Job | None:
    """Return the job of a demo that was begun in a folder; None where it has none yet.

    Raises:
        JobError: if its state can't be read.
    """
    return job.newest(sandbox_in(folder).project / LOGS)


def tell(
    folder: Path, show: Callable[[str, int], None], *, is_kept: bool
) -> tuple[list[tuple[str, Loop]], Path]:
    """Run the job in `folder`, or go on with the one that was begun there.

    Args:
        folder: An empty folder, or one that `tell` was ended in.
        show: Called with a stage's name and the number of its steps that are done.
        is_kept: True if the folder is still there when this has failed.

    Returns:
        The models, each with `bridge` or `baseline`, those with the factors first; and the job's report.

    Raises:
        BridgeError: if the job ends badly; it names its output.
    """
    box = create(folder)
    write_source_data(write_market(box.provider), box.project)
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
    done = job_in(folder)
    if process.returncode != 0 or llm.unknown or done is None:
        raise BridgeError(
            f"`rdagent-sota run` ended with status {process.returncode}"
            + (f"; {len(llm.unknown)} prompts were not in the script" if llm.unknown else ""),
            f"{output}; its last lines:\n{_tail(output)}",
            f"look at that file; {COMMAND}{shlex.quote(str(folder))} goes on"
            if is_kept
            else f"{COMMAND}FOLDER keeps that file, and goes on there",
        )
    # RD-Agent 1.0.0 signs its sessions with a key of the home folder, which is the sandbox's own here.
    os.environ["ARTIFACT_SIGNING_KEY_PATH"] = str(box.home / _SIGNING_KEY)
    models = [
        (run, loop)
        for run, stage in (("bridge", job.MODELS), ("baseline", job.BASELINE))
        if (log := done.log(stage)) is not None
        for loop in read_run(log).loops
    ]
    return models, job.report_file(done)


def _show(folder: Path, show: Callable[[str, int], None]) -> None:
    begun = job_in(folder)
    for stage in begun.stages if begun is not None else ():
        log = begun.log(stage.name) if begun is not None else None
        if log is not None:
            # RD-Agent leaves a session file after each step; 0.8.0 has one step less.
            done = min(len(list(log.glob("__session__/*/*_*"))), STEPS)
            show(stage.name, STEPS if stage.state == "ended" else done)


def _tail(file: Path, lines: int = 12) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

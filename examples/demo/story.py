"""The demo's one job of `rdagent-sota run`, from factors to models with them and without, and its table."""

from __future__ import annotations

import math
import os
import shlex
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from rich import box
from rich.table import Table

from examples.demo.llm import ScriptedLLM
from examples.demo.market import write_market, write_source_data
from examples.demo.sandbox import Sandbox, create
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.factor_set.names import LOGS
from rdagent_sota_bridge.qlib_files.manifest import MANIFEST_FILE
from rdagent_sota_bridge.report import ablation
from rdagent_sota_bridge.report.history import read_run
from rdagent_sota_bridge.run import job
from rdagent_sota_bridge.run.job import Job
from rdagent_sota_bridge.system import child
from rdagent_sota_bridge.system.files import read_json

COMMAND = "make demo KEEP="
"""With a folder behind it: runs in that folder, or continues the demo there."""

LOOPS = 2
STEPS = LOOPS * 5
"""How many steps of RD-Agent's loops each stage takes: direct_exp_gen, coding, running, feedback, record."""

TITLES = {
    job.FACTORS: "rdagent fin_factor",
    job.MODELS: "rdagent fin_model, with the factors",
    job.BASELINE: "the same models, without the factors",
}
"""What the progress display calls the stages."""


def sandbox_in(folder: Path) -> Sandbox:
    """Return the sandbox of a demo in a folder, made or not."""
    return Sandbox(folder.absolute(), Path(sys.executable), Path(sys.executable))


def job_in(folder: Path) -> Job | None:
    """Return the job of a demo that was begun in a folder; None where it has none yet.

    Raises:
        JobError: if its state can't be read.
    """
    return job.newest(sandbox_in(folder).project / LOGS)


def play(folder: Path, show: Callable[[str, int], None], *, is_kept: bool) -> Job:
    """Run the job in `folder`, or continue the one that was begun there, and return it.

    Args:
        folder: An empty folder, or one in which `play` was ended.
        show: Called with a stage's name and the number of its steps that are done.
        is_kept: True if the folder is still there when this has failed.

    Raises:
        BridgeError: if the job ends badly; it names its output.
    """
    box = create(folder)
    write_source_data(write_market(box.provider), box.project)
    loops = ["--factor-loops", str(LOOPS), "--model-loops", str(LOOPS), "--baseline"]
    command = [str(Path(sys.executable).parent / "rdagent-sota"), "run"]
    command += ["--resume"] if job_in(folder) else loops
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
            time.sleep(0.5)
        _show(folder, show)
    done = job_in(folder)
    if process.returncode != 0 or llm.unknown or done is None:
        unknown = f"; {len(llm.unknown)} prompts were not in the script" if llm.unknown else ""
        last = "\n".join(output.read_text(encoding="utf-8", errors="replace").splitlines()[-12:])
        raise BridgeError(
            f"`rdagent-sota run` ended with status {process.returncode}{unknown}",
            f"{output}; its last lines:\n{last}",
            f"look at that file; {COMMAND}{shlex.quote(str(folder))} continues"
            if is_kept
            else f"{COMMAND}FOLDER keeps that file, and continues there",
        )
    return done


def _show(folder: Path, show: Callable[[str, int], None]) -> None:
    begun = job_in(folder)
    for stage in begun.stages if begun is not None else ():
        if stage.name == job.BASELINE and stage.state != "waiting":
            show(stage.name, 0)  # it has no steps of RD-Agent's
        elif begun is not None and (log := begun.log(stage.name)) is not None:
            # RD-Agent leaves a session file after each step; 0.8.0 has one step less.
            done = min(len(list(log.glob("__session__/*/*_*"))), STEPS)
            show(stage.name, STEPS if stage.state == "ended" else done)


def table(done: Job) -> Table:
    """Return the models of a job, with the factors and without, in 80 columns."""
    # RD-Agent 1.0.0 signs its sessions with a key of the home folder (`core/conf.py`): the sandbox's own.
    home = sandbox_in(done.file.parents[2]).home
    os.environ["ARTIFACT_SIGNING_KEY_PATH"] = str(home / ".rdagent" / "artifact_signing.key")
    title = "Models with the mined factors, and without"
    shown = Table(title=title, box=box.SIMPLE, pad_edge=False, padding=(0, 1, 0, 0))
    for name in ("run", "model"):
        shown.add_column(name, no_wrap=True)
    for name in ("IC", "rank IC", "annualized return", "max drawdown", "features"):
        shown.add_column(name, justify="right", min_width=max(map(len, name.split())))
    shown.add_column("set", no_wrap=True)
    log = done.log(job.MODELS)
    run = None if log is None else read_run(log)
    pairs = () if run is None else ablation.pairs([run], [])
    for name, trained in (("bridge", [one.ours for one in pairs]), ("baseline", [one.base for one in pairs])):
        for pair, one in zip(pairs, trained, strict=True):
            manifest = read_json(one.workspace / MANIFEST_FILE)
            factor_set = manifest["factor_set"]
            shown.add_row(
                name,
                "" if run is None else run.loops[pair.place[1]].name,
                _figure(one.metrics, "IC", ".3f"),
                _figure(one.metrics, "Rank IC", ".3f"),
                _figure(one.metrics, "1day.excess_return_with_cost.annualized_return", "+.1%"),
                _figure(one.metrics, "1day.excess_return_with_cost.max_drawdown", ".1%"),
                str(manifest["qlib_loaded"]["num_features"]),
                "none" if factor_set is None else str(factor_set["digest"])[7:15],
            )
        shown.add_section()
    return shown


def _figure(metrics: Mapping[str, float], metric: str, form: str) -> str:
    value = metrics.get(metric, math.nan)
    return "missing" if math.isnan(value) else format(value, form)

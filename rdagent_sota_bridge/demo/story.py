"""What the demo tells: a factor run, a model run without its factors, and one with them."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge.demo.llm import ScriptedLLM
from rdagent_sota_bridge.demo.market import write_market, write_source_data
from rdagent_sota_bridge.demo.sandbox import Sandbox, create
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.locate import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.manifest import MANIFEST_FILE

LOOPS = 2
STEPS_OF_LOOP = 5  # RD-Agent's: direct_exp_gen, coding, running, feedback, record
WORKSPACES = Path("git_ignore_folder") / "RD-Agent_workspace"


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        title: What the progress display calls it.
        command: RD-Agent's command.
        with_factors: True where the bridge is switched on.
        steps: How many steps of RD-Agent's loops it takes.
    """

    title: str
    command: str
    with_factors: bool = False
    steps: int = LOOPS * STEPS_OF_LOOP


FACTORS = Stage("rdagent fin_factor", "fin_factor")
BASELINE = Stage("rdagent fin_model, without the factors", "fin_model")
BRIDGED = Stage("rdagent fin_model, with the factors", "fin_model", with_factors=True)
STAGES = (FACTORS, BASELINE, BRIDGED)


@dataclass(frozen=True)
class Row:
    """One trained model, in Qlib's own figures; NaN where Qlib left none.

    Attributes:
        run: `baseline` or `bridge`.
        model: The model's name.
        ic: Mean daily correlation of prediction and label in the test segment.
        rank_ic: The same of their ranks.
        annualized_return: Excess return with cost, a year.
        max_drawdown: Of that excess return; negative.
        features: Input width of the network, as Qlib recorded it.
        digest: Short digest of the factor set; empty without one.
    """

    run: str
    model: str
    ic: float
    rank_ic: float
    annualized_return: float
    max_drawdown: float
    features: int
    digest: str


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


def tell(folder: Path, show: Callable[[Stage, int], None]) -> list[Row]:
    """Run the three stages in `folder` and return the models that were trained, in order.

    Each model run has a project folder of its own, so that neither finds results of the other in a cache.

    Args:
        folder: An empty folder.
        show: Called with a stage and the number of its steps that are done.

    Raises:
        BridgeError: if a stage fails; it names the stage's output.
    """
    rows: list[Row] = []
    factor_box = create(folder / "factors")
    market = write_market(factor_box.provider)
    write_source_data(market, factor_box.project)
    _run(factor_box, FACTORS, show, {})
    factor_set = _accepted_set(factor_box)
    for stage, name in ((BASELINE, "baseline"), (BRIDGED, "bridge")):
        box = create(folder / name)
        write_market(box.provider)
        settings = {
            "LOAD_SOTA_FROM_WORKSPACE": "true" if stage.with_factors else "false",
            "SOTA_WORKSPACE_PATH": str(factor_set),
            "USE_ALPHA_FACTORS": "true",
        }
        _run(box, stage, show, settings)
        rows += _rows(box, name)
    return rows


def _run(box: Sandbox, stage: Stage, show: Callable[[Stage, int], None], settings: dict[str, str]) -> None:
    show(stage, 0)
    output = box.folder / f"{stage.command}.txt"
    rdagent = Path(sys.executable).parent / "rdagent"
    with ScriptedLLM() as llm, output.open("wb") as file:
        process = subprocess.Popen(  # noqa: S603 - our own interpreter's rdagent, with options of our own
            [str(rdagent), stage.command, "--loop_n", str(LOOPS)],
            cwd=box.project,
            env=box.environment(llm.url, **settings),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # one group, so that its children end with it
        )
        try:
            _watch(process, box.project / "log", lambda done: show(stage, min(done, stage.steps)))
        finally:
            _end(process)
    if process.returncode != 0 or llm.unknown:
        raise BridgeError(
            f"The stage «{stage.title}» ended with status {process.returncode}"
            + (f"; {len(llm.unknown)} prompts were not in the script" if llm.unknown else ""),
            f"{output}; its last lines:\n{_tail(output)}",
            "run it again with --keep FOLDER and look at that file",
        )
    show(stage, stage.steps)


def _watch(process: subprocess.Popen[bytes], log: Path, done: Callable[[int], None]) -> None:
    """Count the session files that RD-Agent leaves, one after each step."""
    while process.poll() is None:
        done(len(list(log.glob("*/__session__/*/*_*"))))
        time.sleep(0.5)


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(file: Path, lines: int = 12) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _accepted_set(box: Sandbox) -> Path:
    """Return the workspace of the last factor loop: the script accepts it, and RD-Agent wrote it last."""
    files = sorted(box.project.glob(f"{WORKSPACES}/*/{FACTOR_FILE}"), key=lambda file: file.stat().st_mtime)
    if not files:
        mend = "run it again with --keep FOLDER"
        raise BridgeError("The factor run left no factor set", str(box.project), mend)
    return files[-1].parent


def _rows(box: Sandbox, run: str) -> list[Row]:
    results = sorted(box.project.glob(f"{WORKSPACES}/*/{RESULT_FILE}"), key=lambda file: file.stat().st_mtime)
    return [_row(file.parent, run) for file in results]


def _row(workspace: Path, run: str) -> Row:
    metrics = pd.read_csv(workspace / RESULT_FILE, index_col=0).iloc[:, 0]
    prefix = "1day.excess_return_with_cost."
    manifest_file = workspace / MANIFEST_FILE
    manifest: dict[str, Any] = json.loads(manifest_file.read_text("utf-8")) if manifest_file.is_file() else {}
    return Row(
        run=run,
        model=_model_name(workspace),
        ic=float(metrics.get("IC", math.nan)),
        rank_ic=float(metrics.get("Rank IC", math.nan)),
        annualized_return=float(metrics.get(f"{prefix}annualized_return", math.nan)),
        max_drawdown=float(metrics.get(f"{prefix}max_drawdown", math.nan)),
        features=_recorded_width(workspace),
        digest=manifest["factor_set"]["digest"][7:17] if manifest else "",
    )


def _model_name(workspace: Path) -> str:
    code = (workspace / "model.py").read_text(encoding="utf-8")
    found = re.search(r"^model_cls = (\w+)", code, re.MULTILINE)
    return found.group(1) if found else workspace.name


def _recorded_width(workspace: Path) -> int:
    """Return the network's input width from Qlib's own record: mlflow keeps a parameter in a file."""
    widths = list(workspace.glob("mlruns/*/*/params/model.kwargs.pt_model_kwargs.num_features"))
    return int(max(widths, key=lambda file: file.stat().st_mtime).read_text(encoding="utf-8"))

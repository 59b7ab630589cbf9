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
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from rdagent_sota_bridge.demo.llm import ScriptedLLM
from rdagent_sota_bridge.demo.market import write_market, write_source_data
from rdagent_sota_bridge.demo.sandbox import Sandbox, create
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.locate import RESULT_FILE
from rdagent_sota_bridge.manifest import MANIFEST_FILE

LOOPS = 2
STEPS_OF_LOOP = 5  # RD-Agent's: direct_exp_gen, coding, running, feedback, record
_SIGNING_KEY = Path(".rdagent") / "artifact_signing.key"  # RD-Agent's default, `core/conf.py` of 1.0.0
WORKSPACES = Path("git_ignore_folder") / "RD-Agent_workspace"


@dataclass(frozen=True)
class Stage:
    """One command of the demo.

    Attributes:
        title: What the progress display calls it.
        command: RD-Agent's command.
        steps: How many steps of RD-Agent's loops it takes.
    """

    title: str
    command: str
    steps: int = LOOPS * STEPS_OF_LOOP


FACTORS = Stage("rdagent fin_factor", "fin_factor")
BASELINE = Stage("rdagent fin_model, without the factors", "fin_model")
BRIDGED = Stage("rdagent fin_model, with the factors", "fin_model")
STAGES = (FACTORS, BASELINE, BRIDGED)
RUNS = ("baseline", "bridge")
FOLDERS = ("factors", *RUNS)


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


Show = Callable[[Stage, int], None]


@dataclass(frozen=True)
class _Running:
    """A stage whose command was started."""

    stage: Stage
    box: Sandbox
    process: subprocess.Popen[bytes]
    llm: ScriptedLLM
    output: Path

    @property
    def steps(self) -> int:
        """How many steps are done: RD-Agent leaves a session file after each."""
        return min(len(list(self.box.project.glob("log/*/__session__/*/*_*"))), self.stage.steps)


def tell(folder: Path, show: Show) -> list[Row]:
    """Run the three stages in `folder` and return the models that were trained, in order.

    The models without the factors are trained beside the factor run, which they don't need. Each run has a
    project folder of its own, so that none finds results of another in a cache.

    Args:
        folder: An empty folder.
        show: Called with a stage and the number of its steps that are done.

    Raises:
        BridgeError: if a stage fails; it names the stage's output.
    """
    boxes = {stage: create(folder / name) for stage, name in zip(STAGES, FOLDERS, strict=True)}
    markets = {stage: write_market(box.provider) for stage, box in boxes.items()}
    write_source_data(markets[FACTORS], boxes[FACTORS].project)
    with contextlib.ExitStack() as stack:
        factors = stack.enter_context(_started(FACTORS, boxes[FACTORS], {}))
        baseline = stack.enter_context(
            _started(BASELINE, boxes[BASELINE], {"LOAD_SOTA_FROM_WORKSPACE": "false"})
        )
        _wait_for([factors], [baseline], show)
        settings = {
            "LOAD_SOTA_FROM_WORKSPACE": "true",
            "SOTA_LOG_PATH": str(_log(boxes[FACTORS])),
            "USE_ALPHA_FACTORS": "true",
            # RD-Agent 1.0.0 signs its sessions with a key of the home folder, and each run has its own here.
            "ARTIFACT_SIGNING_KEY_PATH": str(boxes[FACTORS].home / _SIGNING_KEY),
        }
        bridged = stack.enter_context(_started(BRIDGED, boxes[BRIDGED], settings))
        _wait_for([baseline, bridged], [], show)
    return [
        row for stage, run in zip((BASELINE, BRIDGED), RUNS, strict=True) for row in _rows(boxes[stage], run)
    ]


@contextlib.contextmanager
def _started(stage: Stage, box: Sandbox, settings: dict[str, str]) -> Iterator[_Running]:
    """Start a stage's command; at the end of the block nothing of it is left running."""
    output = box.folder / f"{stage.command}.txt"
    rdagent = Path(sys.executable).parent / "rdagent"
    # Qlib's recorder leaves a temporary folder behind for all that it saves. Not below `folder`: torch's
    # workers put sockets there, whose paths may have a hundred characters; with longer ones they hang.
    with (
        tempfile.TemporaryDirectory(prefix="sota-", ignore_cleanup_errors=True) as temporary,
        ScriptedLLM() as llm,
        output.open("wb") as file,
    ):
        process = subprocess.Popen(  # noqa: S603 - our own interpreter's rdagent, with options of our own
            [str(rdagent), stage.command, "--loop_n", str(LOOPS)],
            cwd=box.project,
            env=box.environment(llm.url, TMPDIR=temporary, **settings),
            stdin=subprocess.DEVNULL,
            stdout=file,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # one group, so that its children end with it
        )
        try:
            yield _Running(stage, box, process, llm, output)
        finally:
            _end(process)


def _wait_for(awaited: list[_Running], beside: list[_Running], show: Show) -> None:
    """Wait until the awaited stages have ended well; a stage that ends badly ends the demo at once."""
    while True:
        for running in (*awaited, *beside):
            show(running.stage, running.steps)
            if running.process.poll() is not None:
                _check_ended_well(running)
        if all(running.process.poll() is not None for running in awaited):
            return
        time.sleep(0.5)


def _check_ended_well(running: _Running) -> None:
    status, unknown = running.process.returncode, running.llm.unknown
    if status != 0 or unknown:
        raise BridgeError(
            f"The stage «{running.stage.title}» ended with status {status}"
            + (f"; {len(unknown)} prompts were not in the script" if unknown else ""),
            f"{running.output}; its last lines:\n{_tail(running.output)}",
            "run it again with --keep FOLDER and look at that file",
        )


def _end(process: subprocess.Popen[bytes]) -> None:
    with contextlib.suppress(ProcessLookupError):  # nothing of the group is left
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(file: Path, lines: int = 12) -> str:
    return "\n".join(file.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])


def _log(box: Sandbox) -> Path:
    """Return the log folder of the one run in a sandbox."""
    folders = [found.parent for found in box.project.glob("log/*/__session__")]
    if len(folders) != 1:
        mend = "run it again with --keep FOLDER"
        raise BridgeError("The factor run left no log", str(box.project), mend)
    return folders[0]


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

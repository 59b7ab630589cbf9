"""Real runs of RD-Agent's command line for the end-to-end tests, and what they leave."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import numpy.typing as npt
import pandas as pd

from examples.demo import sandbox
from examples.demo.llm import Request, ScriptedLLM
from examples.demo.market import Market, write_market
from examples.demo.script import SMALL_GRU, SMALL_MLP, Script
from tests.logs import SIGNED
from tests.processes import kill_session

WORKSPACES = Path("git_ignore_folder") / "RD-Agent_workspace"
MLP = Script(models=(SMALL_MLP,))
GRU = Script(models=(SMALL_GRU,))

# Unset, RD-Agent's settings for the factor coder fail on None (`get_factor_env` in
# `rdagent/components/coder/factor_coder/config.py`, 0.8.0 and 1.0.0).
CONDA = {"CONDA_DEFAULT_ENV": sandbox.CONDA_ENVIRONMENT}


@contextmanager
def inside(box: sandbox.Sandbox, **more: str) -> Iterator[None]:
    """Be a process in a sandbox, with its key too: an RD-Agent of another test's may be imported already."""
    variables = box.environment("http://127.0.0.1:1", **more)
    with ExitStack() as stack:
        stack.enter_context(mock.patch.dict(os.environ, variables, clear=True))
        if SIGNED:
            settings = importlib.import_module("rdagent.core.conf").RD_AGENT_SETTINGS
            key = box.home / ".rdagent" / "artifact_signing.key"
            stack.enter_context(mock.patch.object(settings, "artifact_signing_key_path", key))
        yield


def oldest_python() -> Path:
    """Return the Python of the environment with the oldest RD-Agent, which `make test` sets up."""
    place = os.environ.get("OLDEST_RDAGENT_ENVIRONMENT", str(Path(sys.prefix) / "oldest"))
    python = Path(place) / "bin" / "python"
    assert python.is_file(), f"{python} is not there: run the tests with `make test`"
    return python


@dataclass(frozen=True)
class Model:
    """One trained model: its workspace, Qlib's metrics, the input width that Qlib recorded, the manifest."""

    workspace: Path
    metrics: pd.Series
    width: int
    manifest: dict[str, Any] | None


@dataclass(frozen=True)
class Run:
    """One finished command."""

    status: int
    output: str
    requests: list[Request]
    text_log: str
    log_folder: Path | None
    trained: list[Model]
    manifests: list[dict[str, Any]]


def box_with_market(
    folder: Path, python: Path | str = sys.executable, qlib_python: Path | None = None
) -> tuple[sandbox.Sandbox, Market]:
    """Return a sandbox for `rdagent`, with the demo's market in its home folder."""
    box = sandbox.create(folder, python=python, qlib_python=qlib_python)
    return box, write_market(box.provider)


def grow(provider: Path, number: int) -> pd.DatetimeIndex:
    """Append days to a market in Qlib's data, and return them; its days of before stay as they are."""
    calendar = provider / "calendars" / "day.txt"
    text = calendar.read_text()
    days = pd.bdate_range(text.split()[-1], periods=number + 1, inclusive="right")
    calendar.write_text(text + "".join(f"{day:%Y-%m-%d}\n" for day in days))
    for listed in (provider / "instruments").glob("*.txt"):
        listed.write_text(listed.read_text().replace(text.split()[-1], f"{days[-1]:%Y-%m-%d}"))
    random = np.random.default_rng(11)
    for file in sorted(provider.glob("features/*/*.bin")):
        values = np.fromfile(file, "<f4")
        more = values[-1] * (1 + 0.01 * random.standard_normal(number))
        np.append(values, more.astype("<f4")).tofile(file)
    return days


def prices(provider: Path, instrument: str, field: str) -> npt.NDArray[np.float32]:
    """Return a field of an instrument of all days, (days,), as Qlib's data have it."""
    return np.fromfile(provider / "features" / instrument.lower() / f"{field}.day.bin", "<f4")[1:]


def rdagent(box: sandbox.Sandbox, *options: str, script: Script = MLP, **variables: str) -> Run:
    """Run `rdagent` in a sandbox, and return what came of it; nothing of earlier runs there is included."""
    root = workspace_root(box, variables)
    workspaces = set(root.glob("*"))
    logs = set(box.project.glob("log/*"))
    with _started(box, options, script, variables) as (process, llm, output):
        process.wait(900)
        text = output.read_text(encoding="utf-8", errors="replace")
    assert not llm.unknown, [request.user[:200] for request in llm.unknown]
    new = sorted(set(root.glob("*")) - workspaces, key=lambda folder: folder.stat().st_mtime)
    folders = [folder for folder in set(box.project.glob("log/*")) - logs if folder.is_dir()]
    return Run(
        status=process.returncode,
        output=text,
        requests=llm.requests,
        text_log=_text_log(box),
        log_folder=folders[0] if folders else None,
        trained=[model_in(folder) for folder in new if _is_trained_model(folder)],
        manifests=[
            _json(folder / "sota_manifest.json")
            for folder in new
            if (folder / "sota_manifest.json").is_file()
        ],
    )


def killed(
    box: sandbox.Sandbox, *options: str, when: Callable[[], bool], script: Script = MLP, **variables: str
) -> Path:
    """Start `rdagent`, kill it and all that it started once something is so; return its log folder."""
    logs = set(box.project.glob("log/*"))
    with _started(box, options, script, variables) as (process, _, output):
        end = time.monotonic() + 300
        while not when():
            assert process.poll() is None, output.read_text(encoding="utf-8", errors="replace")[-3000:]
            assert time.monotonic() < end, "it did not come to that"
            time.sleep(0.05)
    (folder,) = (folder for folder in set(box.project.glob("log/*")) - logs if folder.is_dir())
    return folder


@contextmanager
def _started(
    box: sandbox.Sandbox, options: tuple[str, ...], script: Script, variables: dict[str, str]
) -> Iterator[tuple[subprocess.Popen[bytes], ScriptedLLM, Path]]:
    """Start `rdagent`, its output in a file; at the end of the block nothing of it is left running."""
    # A short path: Qlib leaves folders there, and torch's workers hang where a socket's path is long.
    with tempfile.TemporaryDirectory(prefix="sota-") as temporary, ScriptedLLM(script) as llm:
        output = Path(temporary) / "output.txt"
        with output.open("wb") as file:
            process = subprocess.Popen(
                [str(box.python.parent / "rdagent"), *options],
                cwd=box.project,
                env=box.environment(llm.url, TMPDIR=temporary, **CONDA, **variables),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        try:
            yield process, llm, output
        finally:
            kill_session(process.pid)
            process.kill()
            process.wait()


def workspace_root(box: sandbox.Sandbox, variables: dict[str, str]) -> Path:
    """Return the folder of all workspaces of runs in a sandbox with these variables."""
    return box.project / variables.get("WORKSPACE_PATH", str(WORKSPACES))


def _text_log(box: sandbox.Sandbox) -> str:
    latest = box.project / "log" / "latest.log"
    return latest.read_text(encoding="utf-8") if latest.is_file() else ""


def _is_trained_model(workspace: Path) -> bool:
    # A factor's workspace has results too, of a back-test with Qlib's LightGBM.
    return all((workspace / name).is_file() for name in ("qlib_res.csv", "model.py"))


def model_in(workspace: Path) -> Model:
    """Return the model that was trained in a workspace."""
    # mlflow keeps a parameter in a file.
    width = finished_run(workspace) / "params" / "model.kwargs.pt_model_kwargs.num_features"
    manifest = workspace / "sota_manifest.json"
    return Model(
        workspace,
        pd.read_csv(workspace / "qlib_res.csv", index_col=0).iloc[:, 0],
        int(width.read_text()),
        _json(manifest) if manifest.is_file() else None,
    )


def finished_run(workspace: Path) -> Path:
    """Return mlflow's folder of the one back-test in a workspace that went to its end.

    One that Qlib's logging race stopped (see the sandbox's qrun) was begun anew, and lies beside it.
    """
    (finished,) = [
        run
        for run in workspace.glob("mlruns/[0-9]*/*/")
        if (run / "params").is_dir() and "\nstatus: 3\n" in (run / "meta.yaml").read_text(encoding="utf-8")
    ]
    return finished


def _json(file: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    return content

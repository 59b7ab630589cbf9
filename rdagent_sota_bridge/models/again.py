"""A recorded model in RD-Agent's workspace and Qlib's environment, outside of any loop.

Each function runs in a child of `models/child.py`: RD-Agent reads its settings as it is imported, and prints
all that Qlib says.
"""

from __future__ import annotations

import json
from importlib import import_module
from pathlib import Path
from types import ModuleType

from rdagent_sota_bridge.bridge import backtest, handoff
from rdagent_sota_bridge.qlib_files import docker
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from rdagent_sota_bridge.system import files

TRAINED = "sota_trained.json"
"""What a training that has a result leaves in its folder: where its batches came from."""

_WORKSPACE = "rdagent.scenarios.qlib.experiment.workspace"
# The first as RD-Agent runs qrun (`developer/model_runner.py`, 0.8.0 and 1.0.0). Without the second Qlib's
# back-test adds returns up in another order each time, and one seed gives figures that differ by 1e-16.
_IN_QLIB = {"PYTHONPATH": "./", "PYTHONHASHSEED": "0"}

# As variables of qrun they reach a container too. Where torch has MKL, that library's own number wins.
_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


def train(folder: str, note: str, threads: str = "") -> None:
    """Train what lies ready in a folder, `model.py` and the YAML, and write `TRAINED`.

    Args:
        folder: The folder.
        note: What the training is of, in one line.
        threads: The number of torch's threads; empty for what the environment, or else torch, chooses.
    """
    _without_llm()
    module = import_module(_WORKSPACE)
    place = Path(folder)
    workspace = module.QlibFBWorkspace(place / "no template")  # a folder of its own is made with files alone
    workspace.workspace_path = place
    script = _template("model_template", backtest.RESULT_SCRIPT)
    workspace.inject_files(**{backtest.RESULT_SCRIPT: script})
    config = files.read_text(place / CONFIG_FILE)
    with handoff.cache_switched(False):  # it would keep a shortened copy of all that Qlib says
        run_env = {**_IN_QLIB, **(dict.fromkeys(_THREADS, threads) if threads else {})}
        trained = backtest.train(workspace.execute, workspace, {CONFIG_FILE: config}, run_env, note)
    if trained.result is not None:
        files.write_whole(place / TRAINED, json.dumps(trained.batches))


def make_factor_data(folder: str) -> None:
    """Let RD-Agent's own script make the data of factors in a folder: `daily_pv_all.h5`, and a smaller one.

    `generate_data_folder_from_qlib` of `scenarios/qlib/experiment/utils.py` (0.8.0, 1.0.0) does so in Docker,
    among RD-Agent's own files.
    """
    files.write_whole(Path(folder) / "generate.py", _template("factor_data_template", "generate.py"))
    run_in_qlib(folder, "generate.py")


def run_in_qlib(folder: str, script: str) -> None:
    """Run a script in a folder in Qlib's environment, as `QlibFBWorkspace.execute` runs its own."""
    env = _without_llm()
    qlib = env.QTDockerEnv() if docker.is_qlib_in_docker() else env.QlibCondaEnv(conf=env.QlibCondaConf())
    qlib.conf.enable_cache = False  # it knows the script's text alone, and would answer for other data
    qlib.prepare()
    with handoff.cache_switched(False):
        qlib.check_output(local_path=folder, entry=f"python {script}", env=_IN_QLIB)


def _template(folder: str, name: str) -> str:
    return files.read_text(Path(str(import_module(_WORKSPACE).__file__)).parent / folder / name)


def _without_llm() -> ModuleType:
    """Return RD-Agent's `utils/env.py` (0.8.0, 1.0.0), which asks an LLM how to shorten a long output."""
    env = import_module("rdagent.utils.env")
    env.filter_redundant_text = str  # type: ignore[attr-defined]
    return env

"""`rdagent-sota compare` with Qlib for real, on a market where only a mined column predicts."""

from __future__ import annotations

import functools
import json
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import psutil
import pytest
from typer.testing import CliRunner, Result

from examples.demo.sandbox import Sandbox
from examples.demo.script import GRU_CODE, MLP_CODE
from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.doctor import rdagent
from tests import runs, seams

pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("compare")]  # RD-Agent is looked at once for all

USED, UNUSED = 0.6, 0.1

Compare = Callable[..., Result]


@pytest.fixture(scope="module")
def box(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Return a sandbox with a set that has a column of the name of a base feature."""
    found, market = runs.box_with_market(tmp_path_factory.mktemp("box") / "b")
    seams.write_set(found.project / "set", seams.factor_frame(market, RESI5=1.0))
    return found


@pytest.fixture(scope="module")
def look() -> Callable[[], Any]:
    """Return the look at RD-Agent, which answers the second time what it answered the first."""
    return functools.cache(rdagent.look_at_rdagent)


@pytest.fixture
def compare(
    box: Sandbox, look: Callable[[], Any], nothing_left: None, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Compare]:
    """Return what runs the command in the sandbox, and see that it leaves no temporary file."""
    monkeypatch.chdir(box.project)
    monkeypatch.setattr(rdagent, "look_at_rdagent", look)
    with runs.inside(box):
        yield lambda *words: CliRunner().invoke(app, ["compare", "set", *words])


def models_of(done: Result) -> dict[str, Any]:
    """Return what the JSON says of the models, each of which found out what only the set shows."""
    assert done.exit_code == 0, done.output
    document: dict[str, Any] = json.loads(done.stdout)
    for name, found in document["models"].items():
        for metric in ("IC", "rank IC"):
            assert abs(found["base"][metric]["mean"]) < UNUSED
            assert found["mined"][metric]["mean"] > USED
            low, mean, high = (found["difference"][metric][name] for name in ("low", "mean", "high"))
            assert USED < low < mean < high
        assert document["verdicts"][name].startswith("the mined columns add 0.")
    models: dict[str, Any] = document["models"]
    return models


def test_tabular_models(compare: Compare, tmp_path: Path) -> None:
    """Ridge, LightGBM and a small net see the planted factor; progress says what is being trained."""
    net = tmp_path / "net.py"
    net.write_text(MLP_CODE, encoding="utf-8")
    done = compare("--json", "--model", str(net))
    assert list(models_of(done)) == ["Ridge", "LightGBM", "net.py"]
    assert "model on 23 columns (mined)" in done.stderr
    assert "Epoch0: train " in done.stderr


def test_a_model_of_time_series(compare: Compare, box: Sandbox, tmp_path: Path) -> None:
    """It takes steps, with RD-Agent's defaults for the rest; fewer training days take less time."""
    net = tmp_path / "net.py"
    net.write_text(GRU_CODE, encoding="utf-8")
    with mock.patch.dict(os.environ, QLIB_MODEL_TRAIN_START="2012-01-01"):
        done = compare("--json", "--model", str(net), "--model-type", "TimeSeries")
    assert list(models_of(done)) == ["Ridge", "LightGBM", "net.py"]


def test_an_interrupt(box: Sandbox, tmp_path: Path) -> None:
    """Ctrl-C while Qlib trains leaves no process and no temporary file, and no traceback."""
    temporary = tmp_path / "t"
    temporary.mkdir()
    variables = box.environment("http://127.0.0.1:1", TMPDIR=str(temporary))
    command = [str(box.python.parent / "rdagent-sota"), "compare", "set"]
    with subprocess.Popen(
        command, cwd=box.project, env=variables, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        assert process.stdout is not None
        said = next(line for line in process.stdout if "Qlib loads" in line)
        (leader,) = psutil.Process(process.pid).children()
        trained = [leader, *leader.children(recursive=True)]
        process.send_signal(signal.SIGINT)
        said += process.stdout.read()
    assert process.returncode != 0 and "Traceback" not in said
    assert not any(one.is_running() for one in trained)
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize(
    ("code", "said"),
    [
        (MLP_CODE.replace("self.layers(x)", "self.layers(x).squeeze(-1)"), "has the shape (7,), not (7, 1)"),
        (MLP_CODE.replace("model_cls =", "model ="), "module 'model' has no attribute 'model_cls'"),
        ("import nowhere", "ModuleNotFoundError: No module named 'nowhere'"),
        (MLP_CODE.replace("nn.Linear(num_features, 32)", "nn.Linear(20, 32)"), "RuntimeError: mat1 and mat2"),
    ],
    ids=["N x N", "no model_cls", "an import", "20 features"],
)
def test_a_net_that_is_refused(code: str, said: str, compare: Compare, tmp_path: Path) -> None:
    """One message before anything is trained, whatever is wrong with the net."""
    net = tmp_path / "net.py"
    net.write_text(code, encoding="utf-8")
    done = compare("--model", str(net))
    assert (done.exit_code, done.stdout) == (1, "")
    assert said in done.stderr and f"where: {net}" in done.stderr
    assert "Ridge" not in done.stderr and "Traceback" not in done.stderr

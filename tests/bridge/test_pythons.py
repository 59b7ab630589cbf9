"""RD-Agent on other Pythons: the hand-off to the end, with Qlib in an environment of its own."""

from __future__ import annotations

import platform
import shutil
import sys
from pathlib import Path

import pytest

from noxfile import PYTHONS, interpreter
from tests import runs, seams

pytestmark = pytest.mark.e2e


@pytest.mark.parametrize("version", PYTHONS)
def test_the_hand_off(version: str, tmp_path: Path) -> None:
    """The set reaches the network: RD-Agent and the package on that Python, Qlib on another, in conda."""
    # All else runs on 3.11, for which Qlib's side is set up. `make test` makes these first, where it can.
    python = Path(sys.prefix) / f"python-{version.replace('.', '-')}" / "bin" / "python"
    if shutil.which(interpreter(version)) is None:
        pytest.skip(f"PYTHON {version} IS NOT ON THIS MACHINE")
    assert python.is_file(), f"{python} is not there: run the tests with `make test`"
    box, market = runs.box_with_market(tmp_path / "box", python, Path(sys.executable))
    seams.write_set(box.project / "set", seams.factor_frame(market))
    variables = {"LOAD_SOTA_FROM_WORKSPACE": "true", "SOTA_WORKSPACE_PATH": "set"}
    run = runs.rdagent(box, "fin_model", "--loop_n", "1", **variables)
    assert run.status == 0, run.output[-3000:]
    (model,) = run.trained
    assert model.metrics["IC"] > 0.6
    assert model.width == 23
    assert model.manifest is not None
    there = model.manifest["versions"]
    assert there["rd_agent_side"]["python"].startswith(f"{version}.")
    assert there["qlib_side"]["python"] == platform.python_version()
    assert "SOTA factors used: Qlib loaded 23 columns" in run.text_log

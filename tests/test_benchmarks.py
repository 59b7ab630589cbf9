"""The benchmarks run to their end: what they write is what the package, RD-Agent and Qlib take today."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


FEW = ("--rows", "20000")


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "words", "figure"),
    [
        ("handoff.py", (*FEW, "--repeats", "1"), "later loops, RD-Agent's own way / ours"),
        ("check.py", (*FEW, "--repeats", "1"), "first look / read_parquet"),
        ("loop.py", ("--scales", "demo", "--epochs", "1"), "| demo, GRU, 1 epoch |"),
        ("windows.py", FEW, "batches "),
    ],
)
def test_a_benchmark(name: str, words: tuple[str, ...], figure: str, tmp_path: Path) -> None:
    """Typed as the README has it, on few rows, it prints its last figures; how high they are is not asked."""
    command = [sys.executable, f"benchmarks/{name}", *words]
    # Beside other tests, threads that wait for each other must not burn what the others need.
    environment = {**os.environ, "TMPDIR": str(tmp_path), "OMP_WAIT_POLICY": "passive"}
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figure in done.stdout

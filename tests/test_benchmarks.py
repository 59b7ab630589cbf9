"""The benchmarks run to their end: what they write is what the package, RD-Agent and Qlib take today."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("name", "figure"),
    [("handoff.py", "later loops, RD-Agent's own way / ours"), ("check.py", "first look / read_parquet")],
)
def test_a_benchmark(name: str, figure: str, tmp_path: Path) -> None:
    """Typed as the README has it, on few rows, it prints its last figures; how high they are is not asked."""
    words = [f"benchmarks/{name}", "--rows", "20000", "--repeats", "1", "--folder", str(tmp_path)]
    done = subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert figure in done.stdout

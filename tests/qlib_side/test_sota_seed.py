"""The seed of a training, in a process of its own as qrun is one."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from rdagent_sota_bridge.qlib_files import seeds

MODEL = """
import numpy, torch
mask = [torch.rand(1).item(), numpy.random.rand()]
torch.manual_seed(3)
model_cls = mask
"""
DRAW = """
import importlib, json, random, sys
import numpy, torch
module, _, name = sys.argv[1].rpartition(".")
found = getattr(importlib.import_module(module), name)
print(json.dumps([found, [torch.rand(1).item(), numpy.random.rand(), random.random()]]))
"""


def drawn(folder: Path, seed: int) -> Any:
    """Return what a model's file drew as it was loaded, and what is drawn after that."""
    folder.mkdir(exist_ok=True)
    (folder / "model.py").write_text(MODEL)
    (folder / seeds.FILE).write_text(seeds.text(seed))
    command = [sys.executable, "-c", DRAW, seeds.SEEDED_NETWORK]
    return json.loads(subprocess.run(command, cwd=folder, capture_output=True, check=True).stdout)


def test_all_draws_follow_the_seed(tmp_path: Path) -> None:
    """Those of the model's file as well, and though that has a seed of its own."""
    first, again, other = (drawn(tmp_path / "w", seed) for seed in (1, 1, 2))
    assert first == again
    for part, part_of_other in zip(first, other, strict=True):
        assert all(one != another for one, another in zip(part, part_of_other, strict=True))

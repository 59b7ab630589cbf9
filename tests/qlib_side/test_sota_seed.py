"""The seed of a training, in processes of their own as qrun is one; forks of one that has loaded torch."""

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
import importlib, json, os, random, sys
import numpy, torch
module, _, name = sys.argv[1].rpartition(".")
for folder in sys.argv[2:]:
    if os.fork() == 0:
        os.chdir(folder)
        found = getattr(importlib.import_module(module), name)
        drawn = [torch.rand(1).item(), numpy.random.rand(), random.random()]
        print(json.dumps([found, drawn]), flush=True)
        os._exit(0)
    assert os.wait()[1] == 0
"""


def drawn(folder: Path, *chosen: int) -> list[Any]:
    """Return for each seed what a model's file drew as it was loaded, and what is drawn after that."""
    places = [folder / str(number) for number in range(len(chosen))]
    for place, seed in zip(places, chosen, strict=True):
        place.mkdir()
        (place / "model.py").write_text(MODEL)
        (place / seeds.FILE).write_text(seeds.text(seed))
    command = [sys.executable, "-c", DRAW, seeds.SEEDED_NETWORK, *map(str, places)]
    done = subprocess.run(command, cwd=folder, capture_output=True, check=True, text=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_all_draws_follow_the_seed(tmp_path: Path) -> None:
    """Those of the model's file as well, and though that has a seed of its own."""
    first, again, other = drawn(tmp_path, 1, 1, 2)
    assert first == again
    for part, part_of_other in zip(first, other, strict=True):
        assert all(one != another for one, another in zip(part, part_of_other, strict=True))

"""Batches from memory: the same bits as those of Qlib's own loader, or Qlib's own loader."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.qlib_side import __file__ as qlib_side

# One Python with Qlib and torch runs all trials.
pytestmark = [pytest.mark.e2e, pytest.mark.xdist_group("batches")]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """Run the trials as qrun runs a training, with the file beside it; return what each kind found."""
    folder = tmp_path_factory.mktemp("trials")
    shutil.copy(Path(qlib_side).with_name("sota_batches.py"), folder)
    shutil.copy(Path(__file__).with_name("trials.py"), folder)
    subprocess.run([sys.executable, "trials.py"], cwd=folder, check=True)
    return {file.parent.name: json.loads(file.read_text()) for file in folder.glob("*/answer.json")}


@pytest.mark.parametrize("workers", [2, 6])
@pytest.mark.parametrize("windows", [False, True], ids=["rows", "windows"])
def test_the_same_training_to_the_bit(windows: bool, workers: int, answers: Any) -> None:
    """Every epoch's losses, the weights and the predictions are those of Qlib's loader, with dropout too."""
    trainings = answers["trainings"]
    assert trainings[f"{windows} memory"] == trainings[f"{windows} {workers}"]
    assert trainings["said"] == {"batches": "memory"}
    assert trainings["True memory"] != trainings["False memory"]


def test_windows_are_the_sampler_s(answers: Any) -> None:
    """Every window equals the sampler's: gaps, all fills, steps, both types, before the first day."""
    found = answers["windows"]
    assert len(found) == 54
    assert {name for name, (same, number) in found.items() if not same or not number} == set()


@pytest.mark.parametrize(
    ("case", "reason"),
    [
        ("torch before 2.0", "torch 1.13.1+cpu asks for one row at a time"),
        ("another argument", "the loader is asked for ['pin_memory']"),
        ("no batches", "the loader is asked for no batches"),
        ("a frame", "the data is a DataFrame"),
        ("integers", "the data is a ndarray"),
        ("three dimensions", "the data is a ndarray"),
        ("another sampler", "the data is a Subclass"),
        ("an attribute is missing", "AttributeError: 'TSDataSampler' object has no attribute 'nan_idx'"),
        ("another fill", "gaps are filled by 'mean'"),
        ("a list of arrays", "the data is a list"),
        ("other values", "TSDataSampler gives other values one by one"),
        ("no memory", "MemoryError: no room"),
        ("no such name", "Qlib's GeneralPTNN has no DataLoader"),
    ],
)
def test_qlib_s_own_way(case: str, reason: str, answers: Any) -> None:
    """What is not known is left to Qlib's own loader, with the reason."""
    assert answers["own ways"][case] == [{"loader": reason}, True]

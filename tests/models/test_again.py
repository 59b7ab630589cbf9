"""What qrun is given where a recorded model is trained again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.bridge import backtest
from rdagent_sota_bridge.models import again
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE

THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@pytest.mark.parametrize(("given", "numbers"), [((), {}), (("2",), dict.fromkeys(THREADS, "2"))])
def test_the_threads(
    given: tuple[str, ...], numbers: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As variables of qrun, which reach a container too; without a number none is set."""
    seen: list[dict[str, str]] = []

    def train(*arguments: Any) -> backtest.Trained:
        seen.append(arguments[3])
        return backtest.Trained(None, "", {})

    monkeypatch.setattr(backtest, "train", train)
    monkeypatch.setattr(again, "_without_llm", lambda: None)  # it changes RD-Agent for the whole process
    (tmp_path / CONFIG_FILE).write_text("# note\n")
    again.train(str(tmp_path), "note", *given)
    assert seen == [{"PYTHONPATH": "./", "PYTHONHASHSEED": "0", **numbers}]

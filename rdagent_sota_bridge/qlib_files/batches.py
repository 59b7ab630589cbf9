"""Batches from memory: the file that a model's workspace gets for it, and what that file answered."""

from __future__ import annotations

from pathlib import Path

from pydantic import TypeAdapter

from rdagent_sota_bridge.qlib_files import yaml_edits
from rdagent_sota_bridge.system.files import read_text

MODULE = "sota_batches"
FILE = f"{MODULE}.py"
ANSWER = f"{MODULE}.json"
MEMORY = {"batches": "memory"}
"""The answer of a training all of whose batches came from memory; others say {"loader": why not}."""

_TEXT = Path(__file__).parents[1] / "qlib_side" / FILE


def adapt(config: str, *, wanted: bool) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return the YAML, the files that it needs beside it, and what is known of the batches before a training.

    Args:
        config: A model's YAML.
        wanted: What `SOTA_FAST_TRAINING` says.
    """
    if not wanted:
        return config, {}, {"loader": "SOTA_FAST_TRAINING=false"}
    try:
        adapted = yaml_edits.with_model_module(config, MODULE)
    except ValueError as error:
        return config, {}, {"loader": str(error)}
    return adapted, {FILE: _TEXT.read_text(encoding="utf-8")}, MEMORY


def answer(workspace: Path) -> dict[str, str]:
    """Return what a training left of its batches; where that can't be read, nothing is claimed."""
    try:
        found = TypeAdapter(dict[str, str]).validate_json(read_text(workspace / ANSWER))
    except (OSError, ValueError):
        found = {}
    known = found == MEMORY or found.keys() == {"loader"}
    return found if known else {"loader": "the training left no word of its batches"}

"""The seed of a training: the file that a model's workspace gets for it, and what names the network then."""

from __future__ import annotations

from pathlib import Path

NETWORK = "model.model_cls"
"""The network in the YAML of RD-Agent's models (`pt_model_uri`, 0.8.0 and 1.0.0)."""

FILE = "sota_seed.py"
SEEDED_NETWORK = "sota_seed.model_cls"

_TEXT = Path(__file__).parents[1] / "qlib_side" / FILE


def text(seed: int) -> str:
    """Return the text of the file for a seed."""
    return _TEXT.read_text(encoding="utf-8").replace("SEED = 0", f"SEED = {seed}")

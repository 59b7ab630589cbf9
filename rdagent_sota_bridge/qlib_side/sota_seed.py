"""Names the network of `model.py` after all that draws is seeded: the `pt_model_uri` of a seeded training.

Qlib's `GeneralPTNN` has a `seed`, and uses it when the network has its weights already (pyqlib 0.9.7).
"""

import random

import numpy as np
import torch

SEED = 0


def _seed() -> None:
    random.seed(SEED)
    np.random.seed(SEED)
    torch.manual_seed(SEED)


_seed()
from model import model_cls  # type: ignore[import-not-found]  # noqa: E402, F401 - what the YAML asks for

_seed()  # the model's file may have a seed of its own

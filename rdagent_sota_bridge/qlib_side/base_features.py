"""Computes features with Qlib's own engine: python base_features.py, in a folder that holds `request.json`.

`rdagent_sota_bridge.base_features` starts it, for Qlib's settings are global, and it leaves folders where it
works. Python 3.8 or later, Qlib, nothing of ours.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

REQUEST = "request.json"
VALUES = "values.npy"
ANSWER = "answer.json"

# What Qlib's expressions are made of; a power could take any time and memory.
_ALLOWED = (
    *(ast.Expression, ast.BinOp, ast.UnaryOp, ast.Compare, ast.Constant, ast.Load),
    *(ast.Add, ast.Sub, ast.Mult, ast.Div, ast.BitAnd, ast.BitOr, ast.USub, ast.UAdd, ast.Invert),
    *(ast.Gt, ast.GtE, ast.Lt, ast.LtE, ast.Eq, ast.NotEq),
)


def main() -> None:
    """Compute what is asked, and write it down.

    The request has `provider_uri`, `kernels`, `days`, `instruments`, `features`, which are pairs of a name
    and an expression, and `cells`: how many (feature, day, instrument) are computed at a time. `values.npy`
    is float32, (features, days, instruments), NaN where Qlib has no value; `answer.json` names the features
    that were not computed, for they are no expressions of Qlib's.
    """
    import numpy as np
    import pandas as pd
    import qlib
    from qlib.data import D

    asked = json.loads(Path(REQUEST).read_text(encoding="utf-8"))
    qlib.init(
        provider_uri=asked["provider_uri"],
        kernels=asked["kernels"],
        expression_cache=None,
        dataset_cache=None,
        logging_level=40,  # errors
    )
    refused = [name for name, expression in asked["features"] if not is_expression(expression)]
    features = [pair for pair in asked["features"] if pair[0] not in refused]
    days = pd.DatetimeIndex(asked["days"])
    codes = asked["instruments"]
    shape = (len(features), len(days), len(codes))
    values = np.lib.format.open_memmap(VALUES, mode="w+", dtype=np.float32, shape=shape)
    values[:] = np.nan
    step = max(1, asked["cells"] // max(1, len(days) * len(features)))
    for start in range(0, len(codes) if features else 0, step):
        part = codes[start : start + step]
        expressions = [expression for _, expression in features]
        frame = D.features(part, expressions, days[0], days[-1], freq="day")
        for code, rows in frame.groupby(level="instrument", sort=False):
            found = rows.droplevel("instrument").reindex(days).to_numpy(dtype=np.float32)
            values[:, :, start + part.index(code)] = found.T
    values.flush()
    Path(ANSWER).write_text(json.dumps({"refused": refused}), encoding="utf-8")


def is_expression(text: str) -> bool:
    """Tell whether a text, as Qlib would hand it to Python's `eval`, is made of fields and operators alone.

    Qlib evaluates any Python (`ExpressionProvider.get_expression_instance` in `qlib/data/data.py`, pyqlib
    0.9.7), and what a report reads may come from somebody else.
    """
    from qlib.utils import parse_field

    try:
        tree = ast.parse(parse_field(text), mode="eval")
    except (SyntaxError, ValueError, MemoryError, RecursionError):
        return False
    return _is_plain(tree)


def _is_plain(node: Any) -> bool:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return set(node.value).isdisjoint("/\\")  # the name of a field or an instrument, and so of a file
    if isinstance(node, ast.Call):
        parts = [*node.args, *(keyword.value for keyword in node.keywords)]
        return _is_operator(node.func) and all(map(_is_plain, parts))
    return isinstance(node, _ALLOWED) and all(map(_is_plain, ast.iter_child_nodes(node)))


def _is_operator(node: Any) -> bool:
    """Tell whether a name is that of a field, or of an operator that Qlib looks up in its own table."""
    if isinstance(node, ast.Name):
        return node.id in ("Feature", "PFeature")
    return (
        isinstance(node, ast.Attribute)
        and isinstance(node.value, ast.Name)
        and node.value.id == "Operators"
        and node.attr[:1].isupper()  # beside its operators the table has methods
    )


if __name__ == "__main__":
    main()

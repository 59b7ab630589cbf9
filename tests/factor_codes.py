"""Codes of factors on a small table of prices, runs that mined them, and models that were trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from rdagent_sota_bridge.factor_set import parquet
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from tests import frames, logs, runs, trained

DAYS = pd.bdate_range("2020-01-01", periods=30)
OLD, LAST = 24, str(DAYS[-1].date())
"""How many days are stored; the last one that there is."""

BEGIN = "import pandas as pd\nclose = pd.read_hdf('daily_pv.h5', key='data')['$close']\n"
CHANGE = "{name} = close / close.groupby(level=1).shift({days}) - 1\n"
END = "pd.concat([{names}], axis=1, keys={keys}).to_hdf('result.h5', key='data')\n"


def code_of(*names: str, days: int = 1, then: str = "") -> str:
    """Return the code of changes over some days; `then` may alter them."""
    body = "".join(CHANGE.format(name=name, days=days + place) for place, name in enumerate(names))
    return BEGIN + body + then + END.format(names=", ".join(names), keys=list(names))


PLAIN = code_of("alpha")


def prices() -> pd.DataFrame:
    """Return the table that RD-Agent gives to factors, for all days."""
    values = frames.factor_frame(("$close",), days=DAYS) / 1e4
    return 10 * np.exp(values)


def values_of(code: str, days: int = len(DAYS)) -> pd.DataFrame:
    """Return what code makes of the first days."""
    names: dict[str, Any] = {"prices": until(prices(), days)}
    lines = code.replace("pd.read_hdf('daily_pv.h5', key='data')", "prices").replace(
        "pd.concat", "made = pd.concat"
    )
    exec(lines.replace(".to_hdf('result.h5', key='data')", ""), names)  # the lines of this file
    made: pd.DataFrame = names["made"]
    return made


def until(frame: pd.DataFrame, days: int) -> pd.DataFrame:
    """Return the rows of the first days."""
    return frame[frame.index.get_level_values("datetime") <= DAYS[days - 1]]


def mine(project: Path, name: str, *loops: dict[str, str], **entry: Any) -> dict[str, Any]:
    """Write the log of a run: of each loop its code by factor; return what a manifest says of its set.

    `entry` is what it says otherwise.
    """
    loop, log, root = logs.new_loop(), project / "log" / name, project / runs.WORKSPACES
    for number, codes in enumerate(loops):
        experiment = logs.factor_experiment(root / f"{name}-{number}", *codes)
        for space, code in zip(experiment.sub_workspace_list, codes.values(), strict=True):
            space.file_dict["factor.py"] = code
        logs.finish(loop, number, experiment, accepted=True)
        logs.dump(loop, log, number)
    path = root / f"{name}-{len(loops) - 1}" / FACTOR_FILE
    return {"path": str(path), "log": str(log), "loop": len(loops) - 1, **entry}


def trained_on(project: Path, values: pd.DataFrame, *mined: dict[str, Any]) -> Path:
    """Return the workspace of a model that was trained on values of these runs' columns."""
    model = trained.write_training(project / runs.WORKSPACES / "model")
    file = frames.write(frames.nested(values), model)
    manifest = json.loads((model / "sota_manifest.json").read_text())
    manifest["factor_set"]["stored"]["digest"] = parquet.current_digest(file)
    manifest["factor_set"]["sources"] = [{"columns": list(values.columns), **source} for source in mined]
    (model / "sota_manifest.json").write_text(json.dumps(manifest))
    return model

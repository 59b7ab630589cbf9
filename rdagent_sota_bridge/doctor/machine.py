"""All lines about this machine, in the order in which they are known."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata

from rdagent_sota_bridge.check.line import Line, State, at_most, worst
from rdagent_sota_bridge.doctor import data, qlib, quick, rdagent
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import SettingsError
from rdagent_sota_bridge.settings import read_settings

_OWN = ("rdagent", rdagent.DRY_RUN)  # what a check says in lines of their own


def lines(look: Callable[[], Seams | Line] = rdagent.look_at_rdagent, factors: State = "warn") -> list[Line]:
    """Return all lines. Takes seconds: RD-Agent's modules are imported, in a child.

    Args:
        look: Returns what was found of RD-Agent.
        factors: The worst state of a line about factor loops alone: `fail` where they are to be run, `pass`
            where they are not, `warn` where nobody knows.
    """
    return [*quick.lines(factors), *later(look, factors)]


def later(look: Callable[[], Seams | Line] = rdagent.look_at_rdagent, factors: State = "warn") -> list[Line]:
    """Return the lines that `quick.lines` leaves."""
    with ThreadPoolExecutor(3) as beside:
        looking, active = beside.submit(look), beside.submit(qlib.look_at_conda)
        side = qlib.look_at_qlib()
        seams = looking.result()
    way = ""
    with contextlib.suppress(SettingsError):  # a line of its own shows it
        way = read_settings().verdict_on_models
    switch, runner, allowed, conda = (
        os.environ.get(name, "").strip()
        for name in (
            "RDAGENT_SOTA_BRIDGE", "QLIB_MODEL_RUNNER", "MLFLOW_ALLOW_FILE_STORE", "CONDA_DEFAULT_ENV",
        )
    )  # fmt: skip
    return [
        *([seams] if isinstance(seams, Line) else rdagent.rdagent_lines(seams, switch, runner, way)),
        at_most(qlib.conda_line(conda, active.result()), factors),
        qlib.qlib_line(side, metadata.version("pandas"), metadata.version("pyarrow")),
        qlib.file_store_line(side, allowed),
        *data.lines(seams, factors),
    ]


def in_check(found: list[Line]) -> list[Line]:
    """Return what a check says of `lines`: RD-Agent and its dry run, and the rest in one line."""
    rest = [line for line in found if line.name not in _OWN and not line.name.startswith(rdagent.SEAM)]
    own = [line for line in found if line.name in _OWN]
    if (state := worst(rest)) == "pass":
        return [*own, Line("machine", "pass", "ok")]
    names = ", ".join(line.name for line in rest if line.state == state)
    return [*own, Line("machine", state, f"see rdagent-sota doctor ({names})", "do what it says")]

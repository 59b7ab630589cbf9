"""The data that a run reads: Qlib's, against the segments' ends, and what factors are made from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from rdagent_sota_bridge.check import factor_settings, truncate
from rdagent_sota_bridge.check.line import Line, State, at_most, lines_of
from rdagent_sota_bridge.doctor import quick
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.qlib_files import docker, market
from rdagent_sota_bridge.qlib_files.model_yaml import QlibStart

QLIB_DATA = "qlib data"
"""What the names of the lines about Qlib's data begin with."""


def lines(seams: Seams | Line, factors: State) -> list[Line]:
    """Return the lines; `factors` is the worst state of one about factor loops alone."""
    asked = () if isinstance(seams, Line) else (("models", seams.asked), ("factors", seams.of_factors))
    starts = {name: one.start for name, one in asked if one is not None}
    # Factor data that is to be made is made in Docker, which downloads Qlib's data first.
    comes = docker.env_type() == "docker" or (factors != "pass" and bool(quick.missing_data()))
    of_loops = {name: qlib_line(name, start, comes) for name, start in starts.items()}
    if "factors" in of_loops:
        of_loops["factors"] = at_most(of_loops["factors"], factors)
    return [*of_loops.values(), at_most(factor_line(starts.get("models")), factors)]


def qlib_line(whose: str, start: QlibStart, comes: bool) -> Line:
    """Return the line about the data that models, or factor loops, are back-tested on.

    It fails where Qlib can't do the back-test in the segments, or the data is not there.

    Args:
        whose: `models` or `factors`.
        start: What Qlib would be started with.
        comes: True where RD-Agent would download what is not there.
    """
    name = f"{QLIB_DATA}, {whose}"
    try:
        task = start.task()
        home = market.read_market(task.provider_uri, task.market)
        late = market.late_end(home, start, task)
    except BridgeError as error:
        return lines_of(error, name)[0]
    if late is not None:
        return lines_of(late, name)[0]
    place = f"market {task.market or '?'} in {docker.shown(task.provider_uri)}"
    figures = {"folder": task.provider_uri, "market": task.market}
    if home is not None:
        first, last = home.calendar[[0, -1]]
        end = task.backtest_end
        until = "" if end is None else f", back-tests to {'its end' if pd.isna(end) else end.date()}"
        figures |= {"first": str(first), "last": str(last)}
        return Line(name, "pass", f"{place}: {first.date()} to {last.date()}{until}", figures=figures)
    if task.unknown:
        text = f"{', '.join(task.unknown)} not known before a training: nothing hands it to the YAML yet"
        return Line(name, "warn", text, "nothing; what Qlib loaded is looked at after each training", figures)
    # `QTDockerEnv.prepare` in `utils/env.py` (0.8.0, 1.0.0) downloads it.
    state: State = "warn" if comes else "fail"
    text = f"{place} is not there yet"
    text += "; RD-Agent downloads Qlib's own in Docker" if comes else ": every back-test would fail"
    fix = "python -m qlib.run.get_data qlib_data --target_dir ~/.qlib/qlib_data/cn_data --region cn"
    return Line(name, state, text, f"in Qlib's environment: {fix}", figures)


def factor_line(start: QlibStart | None) -> Line:
    """Return the line about the data that factors' code reads, against the end of the models' test segment.

    RD-Agent makes it once, and never again.
    """
    folder, tried = factor_settings.data_folders(Path.cwd())
    anew = f"remove {folder} and {tried}: RD-Agent makes them anew, in Docker, with the days that Qlib has"
    if missing := quick.missing_data():
        text = (
            f"{' and '.join(map(str, missing))} not there yet; RD-Agent makes it in Docker, from Qlib's data"
        )
        return Line("factor data", "warn", text, "nothing, where the line docker passes")
    try:
        files = [file for file in truncate.data_files(folder) if file.suffix == ".h5"]
        last = max(filter(None, map(truncate.last_time, files)), default=None)
    except truncate.NotCheckedError as error:
        return Line("factor data", "fail", error.fact, anew)
    if not files:
        return Line("factor data", "fail", f"no .h5 file in {folder}", anew)
    text = f"{folder}: " + ("no last day is known" if last is None else f"to {last.date()}")
    figures = {"folder": str(folder), "last": last and str(last)}
    end = pd.NaT if start is None else _last_test_day(start)
    if last is None or pd.isna(end) or end <= last:
        return Line("factor data", "pass", text, figures=figures)
    text += f", and the test segment of models has days to {end.date()}: factors have no value for the last"
    return Line("factor data", "warn", text, anew, figures)


def _last_test_day(start: QlibStart) -> pd.Timestamp:
    """Return the last day of the test segment that Qlib has; NaT where that is not known."""
    try:
        task = start.task()
        home = market.read_market(task.provider_uri, task.market)
    except BridgeError:  # the line of Qlib's data says so
        return pd.NaT
    if home is None or pd.isna(task.test[0]):
        return pd.NaT
    days = home.calendar if pd.isna(task.test[1]) else home.calendar[home.calendar <= task.test[1]]
    return days[-1].normalize() if len(days) else pd.NaT

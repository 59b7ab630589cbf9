"""What is checked before hours are spent: the machine, and the set that the models are to be trained on."""

from __future__ import annotations

import functools
from collections.abc import Callable

from rdagent_sota_bridge.check import inspect
from rdagent_sota_bridge.check.line import Line, worst
from rdagent_sota_bridge.doctor import data, machine, rdagent
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import JobError, LocateError, SetChangedError
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.locate import Located
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.run.job import JobSet
from rdagent_sota_bridge.settings import read_settings

Show = Callable[[str, list[Line]], None]
"""Shows lines of a check under a heading."""


def check_machine(show: Show, mines: bool, with_holdout: bool = False) -> Seams | Line:
    """Check RD-Agent, Qlib's environment, the segments and the disk, and show the lines that don't pass.

    Returns what was found of RD-Agent, for `check_set`.

    Args:
        show: What they are shown with.
        mines: True where factor loops are to be run.
        with_holdout: True where the job moves the test segments back: then none ends too late.

    Raises:
        SettingsError: if a variable of the package has a value that means nothing.
        JobError: if a line fails.
    """
    read_settings()  # said at once, and not as one line of many
    look = functools.cache(rdagent.look_at_rdagent)
    found = machine.lines(look, "fail" if mines else "pass")
    if with_holdout:
        found = [line for line in found if not line.name.startswith(data.QLIB_DATA)]
    if troubles := [line for line in found if line.state != "pass"]:
        show("Before the run, what does not pass on this machine:", troubles)
    if worst(found) == "fail":
        raise JobError(
            "The machine is not ready for a run: no loop was started",
            "the lines that fail, above",
            "do what they say, then start the command again",
        )
    return look()


def locate_set(logs: tuple[str, ...]) -> tuple[Located, ...]:
    """Return the factor files that some logs accepted.

    Raises:
        LocateError: as `locate.factor_sets` does; NothingAcceptedError among it. It names the option, where
            that would name the variable of the same meaning.
    """
    try:
        return locate.factor_sets((), logs)
    except LocateError as error:
        texts = (text.replace("SOTA_LOG_PATH", "--from-log") for text in (error.fact, error.place, error.fix))
        raise type(error)(*texts) from None


def job_set(located: tuple[Located, ...], digest: str = "") -> JobSet:
    """Return the set that some factor files make."""
    paths = (at.path.parent if at.path.name == FACTOR_FILE else at.path for at in located)
    logs = dict.fromkeys(str(at.log) for at in located if at.log is not None)
    return JobSet(digest, tuple(map(str, paths)), tuple(logs))


def check_set(held: JobSet, located: tuple[Located, ...], show: Show, seams: Seams | Line) -> JobSet:
    """Check a set as a run of RD-Agent with the bridge would, and return it with its digest.

    Args:
        held: The set as the job knows it; with a digest, it must have that one.
        located: Its factor files.
        show: What the lines that don't pass are shown with.
        seams: What `check_machine` found. The factor loops since then may have taken hours, and another
            RD-Agent may be there: fin_model asks its own again, before its first LLM call.

    Raises:
        SetChangedError: if the set is not the one that the job knows.
        BridgeError: if it can't be trained on.
    """
    found = inspect.inspect(read_settings(), rdagent.qlib_start(seams), located)
    lines = [*found.lines, *(Line("log", "warn", note) for at in located for note in at.notes)]
    if troubles := [line for line in lines if line.state != "pass"]:
        show(f"Of the factor set {', '.join(held.paths)}, what does not pass:", troubles)
    found.raise_failures()
    digest = found.quality.factors.digest
    if held.digest not in ("", digest):
        raise SetChangedError(
            f"The factor set is not the one that this job began with: it began with {held.digest}, "
            f"now there is {digest}",
            f"{', '.join(held.paths)}; SOTA_FACTORS, SOTA_FACTORS_EXCLUDE and SOTA_MAX_CORRELATION",
            "put the set back, or the variables, and resume with --resume; or begin a new job with --new",
        )
    return JobSet(digest, held.paths, held.logs)

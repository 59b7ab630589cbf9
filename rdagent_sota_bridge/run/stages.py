"""A stage as a command of RD-Agent's: its options, its environment, and its share of the job's time."""

from __future__ import annotations

import datetime
import difflib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from rdagent_sota_bridge.bridge.stage import NO_CONDA
from rdagent_sota_bridge.errors import HoldoutError, JobError
from rdagent_sota_bridge.run.job import BASELINE, FACTORS, MODELS, SET_BY_JOB, Job, Stage
from rdagent_sota_bridge.settings import NAMES, PATHS, STAGE, SWITCHES

_FORM = re.compile(r"\s*(\d*\.?\d+)\s*([smhd])\s*")  # `log/timer.py`, 0.8.0 and 1.0.0, with the unit required
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
MONTHS = re.compile(r"([1-9]\d{0,2})M")
"""The form of months that `--holdout` keeps back."""

_CACHE = "PICKLE_CACHE_FOLDER_PATH_STR"  # `core/conf.py`, 0.8.0 and 1.0.0; below the project if not set
_LONGEST = 3650 * 86400.0  # RD-Agent adds it to a date

WEIGHTS = {FACTORS: 3, MODELS: 2, BASELINE: 2}
"""How long a factor loop takes against a model loop: 30 to 60 minutes against 20 to 40, on real data."""

USAGE = 2
"""RD-Agent's status for a command line that it does not understand (typer's), before its first step."""

COMMANDS = {FACTORS: "fin_factor", MODELS: "fin_model"}


def find_rdagent() -> str:
    """Return the path of `rdagent`: that of this environment, else the one on PATH.

    Raises:
        JobError: if there is none.
    """
    here = Path(sys.executable).parent
    found = shutil.which("rdagent", path=str(here)) or shutil.which("rdagent")
    if found is None:
        raise JobError(
            "There is no rdagent to run",
            f"looked for in {here} and on PATH",
            "install both into one environment: pip install rdagent rdagent-sota-bridge",
        )
    return found


def check_options(passed_on: Sequence[str], own: Iterable[str], names: Iterable[str]) -> None:
    """Check that RD-Agent's commands take what is to be passed on, by asking each for its help with it.

    Typer reads the whole command line before it shows the help, and fire (0.5.0 to 0.7.0) shows it at once.
    Of values and of words too many it says nothing: the first stage does. Takes seconds for options alone.

    Args:
        passed_on: Options for RD-Agent, as the user wrote them.
        own: The options of `rdagent-sota run`, which one that is misspelt may mean.
        names: The stages whose commands get them.

    Raises:
        JobError: if one does not, or the job sets it.
    """
    for option in passed_on:
        if fix := SET_BY_JOB.get(option.partition("=")[0].replace("_", "-")):
            raise JobError(f"{option} is set by `rdagent-sota run` itself", "options for RD-Agent", fix)
    commands = list(dict.fromkeys(COMMANDS[name] for name in names)) if passed_on else []
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda command: _asked_for_help(command, passed_on), commands))
    for command, answer in zip(commands, answers, strict=True):
        if answer.returncode != USAGE:
            continue
        said = " ".join(re.findall(r"^(?:[│|]|Error:) (.*?) *[│|]?$", answer.stderr, re.MULTILINE))
        strange = re.search(r"No such option: (\S+)", said)
        near = difflib.get_close_matches(strange[1], own, n=2) if strange else []
        raise JobError(
            f"`rdagent-sota run` has no such option, and `rdagent {command}` neither: {said}",
            "the command line: what `rdagent-sota run` has no option for is for RD-Agent",
            f"did you mean {' or '.join(near)}?"
            if near
            else f"leave it out; `rdagent-sota run --help` and `rdagent {command} --help` show the options",
        )


def _asked_for_help(command: str, passed_on: Sequence[str]) -> subprocess.CompletedProcess[str]:
    # Bare words: typer and rich colour them where one of the last three is set, as on a forge.
    plain = {"COLUMNS": "1000", "LITELLM_LOCAL_MODEL_COST_MAP": "True"}
    plain |= {"NO_COLOR": "1", "FORCE_COLOR": "", "PY_COLORS": "", "GITHUB_ACTIONS": ""}
    with tempfile.TemporaryDirectory(prefix="sota-") as folder:  # RD-Agent logs its settings there
        return subprocess.run(  # noqa: S603 - what the stage itself is started with
            [find_rdagent(), command, "--help", *passed_on],
            env={**os.environ, **plain, "LOG_TRACE_PATH": folder},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
        )


def command(
    rdagent: str, stage: Stage, session: Path | None, seconds: float | None, passed_on: Sequence[str]
) -> list[str]:
    """Return the command line of a stage.

    Args:
        rdagent: The path of `rdagent`.
        stage: The stage; its loops are all that it is to finish, those of an earlier start too.
        session: The session file to resume from; None for a stage that begins.
        seconds: The time for it; None for no limit.
        passed_on: Further options, as the user wrote them.
    """
    path = [] if session is None else ["--path", str(session)]
    time = [] if seconds is None else ["--all-duration", f"{seconds:.0f}s"]
    return [rdagent, COMMANDS[stage.name], "--loop-n", str(stage.loops), *path, *time, *passed_on]


def environment(
    environ: Mapping[str, str],
    stage: Stage,
    log: Path,
    set_paths: Sequence[str],
    of_job: Mapping[str, str],
) -> dict[str, str]:
    """Return the environment of a stage.

    Args:
        environ: That of the user.
        stage: The stage.
        log: Its log folder, absolute; a stage that is resumed gets the same again, for RD-Agent writes there
            from its import on (`log/conf.py`, 0.8.0 and 1.0.0).
        set_paths: The workspaces of the factor set.
        of_job: Variables of RD-Agent's that the job sets for all its stages.
    """
    settings = {name: environ.get(name, "") for name in NAMES}
    settings |= dict.fromkeys((*SWITCHES, *PATHS), "")
    settings["LOAD_SOTA_FROM_WORKSPACE"] = "false"
    if stage.name == MODELS:
        settings |= {"LOAD_SOTA_FROM_WORKSPACE": "true", "SOTA_WORKSPACE_PATH": os.pathsep.join(set_paths)}
    variables = {"LOG_TRACE_PATH": str(log), **of_job}
    if not environ.get("CONDA_DEFAULT_ENV"):
        variables["CONDA_DEFAULT_ENV"] = NO_CONDA
    given = {"settings": settings, "variables": variables}
    # RD-Agent's settings take a name in any case, and one that were left out would come back from `.env`.
    same = {name: variables.get(name.upper(), value) for name, value in environ.items()}
    return same | variables | {"PYTHONUNBUFFERED": "1", STAGE: json.dumps(given)}


def seconds_of(text: str) -> float:
    """Return the seconds that a duration of RD-Agent's form says, such as `12h`, `30m`, `90s` or `1.5d`.

    RD-Agent ignores a text of another form in silence, and takes a number without a unit for seconds.

    Raises:
        JobError: for any other text.
    """
    found = _FORM.fullmatch(text)
    seconds = math.nan if found is None else float(found[1]) * _UNITS[found[2]]
    if not 1 <= seconds <= _LONGEST:
        fact = f"--all-duration is no duration: {text!r}"
        raise JobError(fact, "option --all-duration", "write it as 12h, 30m, 90s or 1.5d")
    return seconds


def check_holdout(asked: str) -> None:
    """Check that `--holdout` names months or a day.

    Raises:
        HoldoutError: if it does not.
    """
    try:
        if not MONTHS.fullmatch(asked):
            datetime.datetime.strptime(asked, "%Y-%m-%d")
    except ValueError:
        fix = "write it as 12M, the last twelve months, or as its first day, 2020-01-31"
        raise HoldoutError(f"--holdout is no time: {asked!r}", "option --holdout", fix) from None


def of_holdout(job: Job) -> dict[str, str]:
    """Return the variables of RD-Agent's that keep the holdout of a job from its stages.

    The caches are the job's own: that of the factor runner knows no segments, so a verdict of another run
    could answer that has seen the holdout.
    """
    if job.holdout is None:
        return {}
    kinds = {FACTORS: "FACTOR", MODELS: "MODEL"}
    ends = {f"QLIB_{kinds[name]}_TEST_END": end for name, end in job.holdout.test_ends.items()}
    stamp = job.file.name.removesuffix("_run.json")
    return {**ends, _CACHE: str(Path.cwd() / os.environ.get(_CACHE, "pickle_cache") / stamp)}


def share(job: Job, name: str) -> float | None:
    """Return the seconds that a stage gets of those left, so that those after it keep theirs; None: no limit.

    By the loops of the stages that have not ended, a factor loop counting more, a seed as two models.

    A stage that is resumed from a session gets what that session has left instead: RD-Agent keeps the timer
    in it and ignores the option then (`LoopBase.load` and `run`, `utils/workflow/loop.py`, 0.8.0 and 1.0.0).
    The step that is done again after a kill is not counted twice there, so such a stage may take longer than
    its share, by about a step; the job counts all the time that it ran, and the stages after it get less.
    """
    if not job.options.all_duration:
        return None
    left = seconds_of(job.options.all_duration) - sum(stage.seconds for stage in job.stages)
    weights = {one.name: one.loops * WEIGHTS[one.name] for one in job.stages if one.state != "ended"}
    if BASELINE in weights:
        weights[BASELINE] += 2 * job.options.seeds * WEIGHTS[BASELINE]
    return left * weights[name] / sum(weights.values())

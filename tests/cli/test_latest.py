"""Which log `latest` is: one rule, asked of each command that takes the word."""

from __future__ import annotations

import json
import os
import shutil
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.cli import app
from tests import logs
from tests.frames import factor_frame, write

NOON = datetime.fromisoformat("2026-03-01T12:00:00+00:00")
COMMANDS = ("path", "verify", "report")


def latest(command: str) -> tuple[str, str]:
    """Return the name of the workspace in the log that a command takes, empty for none; and what it says."""
    done = CliRunner().invoke(app, [command, "latest", *["--json"] * (command != "path")])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    if not done.stdout:
        return "", done.stderr
    if command == "path":
        return Path(done.stdout.strip()).name, done.stderr
    found = json.loads(done.stdout)
    (loop,) = (found["runs"][0] if command == "report" else found)["loops"]
    return Path(loop["workspace"]).name, done.stderr


def all_latest() -> tuple[str, ...]:
    """Return the name of the workspace in the log that each command takes."""
    return tuple(latest(command)[0] for command in COMMANDS)


def write_run(name: str, hours: int, kind: str, accepted: bool = True) -> Path:
    """Write a log whose one loop ended so many hours after noon, and its workspace; return the log folder."""
    root = Path.cwd() / "git_ignore_folder" / "RD-Agent_workspace"
    (root / name).mkdir(parents=True, exist_ok=True)
    write(factor_frame(["a"]), root / name)
    loop = (name, () if kind == "ModelRDLoop" else ("a",), accepted)
    return logs.write_run(Path("log") / name, root, loop, kind=kind, ended=NOON + timedelta(hours=hours))


def log_object(log: Path, hours: int) -> None:
    """Leave what a run logs, under the name that RD-Agent gives it."""
    name = f"{NOON + timedelta(hours=hours):%Y-%m-%d_%H-%M-%S-%f}.pkl"
    logs.dump_object("text", log / "Loop_0" / "coding" / "17" / name)


def set_times(order: list[Path]) -> None:
    """Let the files of the last of these logs be the newest."""
    for age, log in enumerate(order):
        for file in log.rglob("*"):
            os.utime(file, (10**9 + age, 10**9 + age))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of six logs; their names and their files' times are in the other order."""
    monkeypatch.chdir(tmp_path)
    written = [
        write_run("f accepted", 1, "FactorRDLoop"),
        write_run("e newest accepted", 2, "FactorRDLoop"),
        write_run("d rejected", 3, "FactorRDLoop", accepted=False),
        write_run("c models", 4, "ModelRDLoop"),
        write_run("b newest models", 5, "ModelRDLoop"),
        write_run("a newest", 6, "FactorRDLoop", accepted=False),
    ]
    set_times(written[::-1])
    return tmp_path / "log"


def copy(folder: Path) -> None:
    """Give all files the time of now."""
    shutil.copytree(folder, folder.parent / "copy", copy_function=shutil.copyfile)
    shutil.rmtree(folder)
    (folder.parent / "copy").rename(folder)


def rename(folder: Path) -> None:
    """Give the logs names in RD-Agent's form, of which the newest is that of the oldest log."""
    for month, log in enumerate(sorted(folder.iterdir()), start=1):
        log.rename(folder / f"2026-{month:02}-01_08-00-00-000000")


def resume(folder: Path) -> None:
    """Let older runs have ended another step after all others, and leave the times of their files."""
    for name, hours, kind in (("c models", 11, "ModelRDLoop"), ("f accepted", 12, "FactorRDLoop")):
        write_run(name, hours, kind)
        set_times([folder / name])


def begin(folder: Path) -> None:
    """Let a newer run have been killed before its first step ended."""
    (folder / "z" / "__session__" / "0").mkdir(parents=True)
    log_object(folder / "z", 9)


def mine(folder: Path) -> None:
    """Add a newer run of fin_quant that has accepted a factor, and trained no model yet."""
    write_run("quant", 9, "QuantRDLoop")


NEWEST = ("e newest accepted", "b newest models", "a newest")


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda folder: None, NEWEST),
        (copy, NEWEST),
        (rename, NEWEST),
        (lambda folder: set_times(sorted(folder.iterdir())), NEWEST),
        (begin, NEWEST),
        (resume, ("f accepted", "c models", "f accepted")),
        (mine, ("quant", "b newest models", "quant")),
    ],
    ids=["as it is", "copied", "renamed", "touched", "none finished a step", "resumed", "fin_quant"],
)
def test_the_times_in_the_sessions_count(change: object, expected: tuple[str, ...], folder: Path) -> None:
    """The newest that accepted a factor, has models, is there: whatever names and times of files say."""
    assert callable(change)
    change(folder)
    assert all_latest() == expected


@pytest.mark.parametrize("hours", [0, 9])
@pytest.mark.parametrize("name", ["2025-01-01_00-00-00-000000", "2027-01-01_00-00-00-000000"])
@pytest.mark.parametrize("age", [0, 10**9])
def test_a_log_that_can_not_be_read(hours: int, name: str, age: int, folder: Path) -> None:
    """What its run logged last, by RD-Agent's names, says if it may be newer; then no other is taken."""
    session = folder / name / "__session__" / "0" / "0_direct_exp_gen"
    logs.dump_object(None, session)
    log_object(folder / name, -1)
    log_object(folder / name, hours)
    os.utime(session, (10**9 + age, 10**9 + age))
    for command, expected in zip(COMMANDS, NEWEST, strict=True):
        found, said = latest(command)
        assert found == ("" if hours else expected)
        assert said.startswith(
            "A log that can't be read may be newer than the latest: " if hours else "note: a log was left out"
        )
        assert str(session) in said


def test_a_log_of_which_nothing_tells_the_time(folder: Path) -> None:
    """A log that can't be read, with nothing beside its sessions, may be newer."""
    logs.dump_object(None, folder / "a copy" / "__session__" / "0" / "0_direct_exp_gen")
    assert all("may be newer" in latest(command)[1] for command in COMMANDS)


@pytest.mark.parametrize(
    ("command", "which"),
    [
        ("path", "that accepted a factor"),
        ("check", "that accepted a factor"),
        ("push", "that accepted a factor"),
        ("run", "that accepted a factor"),
        ("verify", "with models"),
        ("report", "of any command"),
    ],
)
def test_the_help_says_which(command: str, which: str) -> None:
    """Each command that takes the word says which log it is, and by what."""
    shown = CliRunner().invoke(app, [command, "--help"], env={"COLUMNS": "400"}).stdout
    assert f"latest: the newest log below ./log {which}, by the times in the sessions." in shown

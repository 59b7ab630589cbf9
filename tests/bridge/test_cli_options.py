"""Both spellings of RD-Agent's options, at the real command line with its real commands."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

# Importing the command line takes seconds, so one process answers all questions about it: each command's
# callback is replaced by one with the same signature that tells what it was called with.
_ASK = """
import functools, json, sys
import rdagent.app.cli as cli
from typer.testing import CliRunner

called = []

def recording(callback):
    @functools.wraps(callback)
    def record(*args, **kwargs):
        called.append([list(args), kwargs])
    return record

settings = {}
for info in cli.app.registered_commands:
    settings[info.name] = sorted(info.context_settings or {})
    info.callback = recording(info.callback)
answers = []
for line in json.loads(sys.stdin.read()):
    called.clear()
    result = CliRunner().invoke(cli.app, line)
    answers.append({"status": result.exit_code, "called": list(called), "output": result.output})
status = None
if "rdagent_sota_bridge.bridge.seams" in sys.modules:
    seams = sys.modules["rdagent_sota_bridge.bridge.seams"]
    status = [at.state for at in seams.status() if at.seam.name == "options"]
with open(sys.argv[1], "w") as file:
    json.dump({"answers": answers, "settings": settings, "status": status}, file)
"""
FIN_LOOPS = ("fin_factor", "fin_model", "fin_quant")
UNDERSTOOD: dict[str, dict[str, Any]] = {
    **{
        f"{name} {line}": options
        for name in FIN_LOOPS
        for line, options in {
            "--loop_n 3 --all_duration 1h": {"loop_n": 3, "all_duration": "1h"},
            "--loop-n 3 --all-duration 1h": {"loop_n": 3, "all_duration": "1h"},
            "--loop_n=3 --step_n=2": {"loop_n": 3, "step_n": 2},
            "--path my_log/a_b-c --all_duration=1_h": {"path": "my_log/a_b-c", "all_duration": "1_h"},
            "--no_checkout": {"checkout": False},
        }.items()
    },
    "fin_factor_report --report_folder my_reports": {"report_folder": "my_reports"},
    "fin_factor_report --report-folder my_reports": {"report_folder": "my_reports"},
}
REFUSED = {
    **{f"{name} --no_such_option 3": "No such option: --no" for name in FIN_LOOPS},
    **{f"{name} --loop_n three": "Invalid value for '--loop-n'" for name in FIN_LOOPS},
    "fin-model --loop-n 3": "No such command 'fin-model'",
    "data_science --loop_n 3": "No such option: --loop_n",
}
AS_EVER = ("fin_model --help", "data_science --loop-n 3", "ui --log_dir a_b", "ui --log-dir a_b")
LINES = (*UNDERSTOOD, *REFUSED, *AS_EVER)


def ask(folder: Path, **variables: str) -> dict[str, Any]:
    """Call the command line with every line of `LINES`, in one process, and return what came of each."""
    answer = folder / "answer.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ASK, str(answer)],
        input=json.dumps([line.split() for line in LINES]),
        cwd=folder,
        env={**os.environ, "COLUMNS": "200", "LITELLM_LOCAL_MODEL_COST_MAP": "True", **variables},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found: dict[str, Any] = json.loads(answer.read_text())
    found["answers"] = dict(zip(LINES, found["answers"], strict=True))
    return found


def called_with(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the options that the command got, without those at their defaults; fail if it was not called."""
    assert answer["status"] == 0, answer["output"]
    ((args, kwargs),) = answer["called"]
    assert args == []
    return {name: value for name, value in kwargs.items() if value not in (None, True)}


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the command line answers with the package's hook."""
    return ask(tmp_path_factory.mktemp("hooked"), RDAGENT_SOTA_BRIDGE="")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the command line answers with the package turned off."""
    return ask(tmp_path_factory.mktemp("plain"), RDAGENT_SOTA_BRIDGE="0")


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_both_spellings_are_one(hooked: dict[str, Any], plain: dict[str, Any], line: str) -> None:
    """Options and switches are understood in both spellings, and values keep their underscores.

    With the package off RD-Agent is what it was, and refuses the underscore.
    """
    assert called_with(hooked["answers"][line]) == UNDERSTOOD[line]
    without = plain["answers"][line]
    if any("_" in word for word in line.split() if word.startswith("--")):
        assert (without["status"], without["called"]) == (2, [])
        assert "No such option: --" in without["output"]
    else:
        assert without == hooked["answers"][line]


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_wrong_is_still_refused(hooked: dict[str, Any], line: str) -> None:
    """Unknown options, wrong values, a command's name with a dash, and commands that are no fin_*."""
    answer = hooked["answers"][line]
    assert (answer["status"], answer["called"]) == (2, [])
    assert REFUSED[line] in answer["output"]


def test_all_else_is_unchanged(hooked: dict[str, Any], plain: dict[str, Any]) -> None:
    """Help and other commands are as without the package; one setting of the fin_* commands differs."""
    for line in AS_EVER:
        assert hooked["answers"][line] == plain["answers"][line], line
    assert (hooked["status"], plain["status"]) == (["applied"], None)
    assert set(hooked["settings"]) == set(plain["settings"])
    changed = {name for name in plain["settings"] if hooked["settings"][name] != plain["settings"][name]}
    assert changed == {*FIN_LOOPS, "fin_factor_report"}
    assert all(hooked["settings"][name] == ["token_normalize_func"] for name in changed)

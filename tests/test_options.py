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
if "rdagent_sota_bridge.patch" in sys.modules:
    status = [s.state for s in sys.modules["rdagent_sota_bridge.patch"].status() if s.seam.name == "options"]
with open(sys.argv[1], "w") as file:
    json.dump({"answers": answers, "settings": settings, "status": status}, file)
"""
FIN_LOOPS = ("fin_factor", "fin_model", "fin_quant")
LINES: dict[str, list[str]] = {
    **{f"{name} underscore": [name, "--loop_n", "3", "--all_duration", "1h"] for name in FIN_LOOPS},
    **{f"{name} dash": [name, "--loop-n", "3", "--all-duration", "1h"] for name in FIN_LOOPS},
    **{f"{name} equals": [name, "--loop_n=3", "--step_n=2"] for name in FIN_LOOPS},
    **{f"{name} value": [name, "--path", "my_log/a_b-c", "--all-duration=1_h"] for name in FIN_LOOPS},
    **{f"{name} switch": [name, "--no_checkout"] for name in FIN_LOOPS},
    **{f"{name} unknown": [name, "--no_such_option", "3"] for name in FIN_LOOPS},
    **{f"{name} no number": [name, "--loop_n", "three"] for name in FIN_LOOPS},
    "fin_model help": ["fin_model", "--help"],
    "fin_factor_report underscore": ["fin_factor_report", "--report_folder", "my_reports"],
    "fin_factor_report dash": ["fin_factor_report", "--report-folder", "my_reports"],
    "command with dash": ["fin-model", "--loop-n", "3"],
    "data_science underscore": ["data_science", "--loop_n", "3"],
    "data_science dash": ["data_science", "--loop-n", "3"],
    "ui underscore": ["ui", "--log_dir", "a_b"],
    "ui dash": ["ui", "--log-dir", "a_b"],
}


def ask(folder: Path, **variables: str) -> dict[str, Any]:
    """Call the command line with every line of `LINES`, in one process, and return what came of each."""
    answer = folder / "answer.json"
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", _ASK, str(answer)],
        input=json.dumps(list(LINES.values())),
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


def assert_refused(answer: dict[str, Any], option: str) -> None:
    """Fail unless the command line refused an option, by name, before the command was called."""
    assert answer["status"] == 2
    assert answer["called"] == []
    assert f"No such option: {option}" in answer["output"]


@pytest.fixture(scope="module")
def hooked(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the command line answers with the package's hook."""
    return ask(tmp_path_factory.mktemp("hooked"), RDAGENT_SOTA_BRIDGE="")


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Return what the command line answers with the package turned off."""
    return ask(tmp_path_factory.mktemp("plain"), RDAGENT_SOTA_BRIDGE="0")


@pytest.mark.parametrize("command", FIN_LOOPS)
def test_both_spellings_are_one(hooked: dict[str, Any], command: str) -> None:
    """`--loop_n 3` and `--loop-n 3` hand the command the same number, `--all_duration` the same text."""
    expected = {"loop_n": 3, "all_duration": "1h"}
    assert called_with(hooked["answers"][f"{command} underscore"]) == expected
    assert called_with(hooked["answers"][f"{command} dash"]) == expected


@pytest.mark.parametrize("command", FIN_LOOPS)
def test_value_after_an_equals_sign(hooked: dict[str, Any], command: str) -> None:
    """`--loop_n=3` is understood as well."""
    assert called_with(hooked["answers"][f"{command} equals"]) == {"loop_n": 3, "step_n": 2}


@pytest.mark.parametrize("command", FIN_LOOPS)
def test_values_keep_their_underscores(hooked: dict[str, Any], command: str) -> None:
    """A folder's name is handed over as it was written."""
    expected = {"path": "my_log/a_b-c", "all_duration": "1_h"}
    assert called_with(hooked["answers"][f"{command} value"]) == expected


@pytest.mark.parametrize("command", FIN_LOOPS)
def test_switch_with_an_underscore(hooked: dict[str, Any], command: str) -> None:
    """A switch is understood in both spellings too."""
    assert called_with(hooked["answers"][f"{command} switch"]) == {"checkout": False}


@pytest.mark.parametrize("command", FIN_LOOPS)
def test_unknown_option_is_still_refused(hooked: dict[str, Any], command: str) -> None:
    """An option that RD-Agent does not have is refused, not swallowed."""
    answer = hooked["answers"][f"{command} unknown"]
    assert (answer["status"], answer["called"]) == (2, [])
    assert "No such option: --no" in answer["output"]


@pytest.mark.parametrize("command", FIN_LOOPS)
def test_value_is_still_checked(hooked: dict[str, Any], command: str) -> None:
    """The underscore spelling goes through RD-Agent's own check of the value."""
    answer = hooked["answers"][f"{command} no number"]
    assert (answer["status"], answer["called"]) == (2, [])
    assert "Invalid value for '--loop-n'" in answer["output"]


def test_report_command_too(hooked: dict[str, Any], plain: dict[str, Any]) -> None:
    """`fin_factor_report`, the fourth fin_* command, understands both spellings."""
    for spelling in ("underscore", "dash"):
        answer = hooked["answers"][f"fin_factor_report {spelling}"]
        assert called_with(answer) == {"report_folder": "my_reports"}
    assert_refused(plain["answers"]["fin_factor_report underscore"], "--report_folder")


@pytest.mark.parametrize("command", FIN_LOOPS)
def test_turned_off_underscores_are_refused(plain: dict[str, Any], command: str) -> None:
    """With the package off RD-Agent is what it was: `--loop-n` alone. Or this seam would be idle."""
    assert_refused(plain["answers"][f"{command} underscore"], "--loop_n")
    assert called_with(plain["answers"][f"{command} dash"]) == {"loop_n": 3, "all_duration": "1h"}


def test_other_commands_are_unchanged(hooked: dict[str, Any], plain: dict[str, Any]) -> None:
    """Commands that are no fin_* answer every line as without the package, refusals included."""
    for line in (
        "data_science underscore",
        "data_science dash",
        "ui underscore",
        "ui dash",
        "command with dash",
    ):
        assert hooked["answers"][line] == plain["answers"][line], line
    assert_refused(hooked["answers"]["data_science underscore"], "--loop_n")
    assert hooked["answers"]["ui dash"]["called"][0][1]["log_dir"] == "a_b"


def test_names_of_the_commands_are_unchanged(hooked: dict[str, Any]) -> None:
    """Only options have two spellings: `fin-model` is no command."""
    assert hooked["answers"]["command with dash"]["status"] == 2
    assert "No such command 'fin-model'" in hooked["answers"]["command with dash"]["output"]


def test_help_is_unchanged(hooked: dict[str, Any], plain: dict[str, Any]) -> None:
    """The help shows what it showed without the package."""
    assert hooked["answers"]["fin_model help"] == plain["answers"]["fin_model help"]
    assert "--loop-n" in hooked["answers"]["fin_model help"]["output"]


def test_only_the_four_commands_have_another_setting(hooked: dict[str, Any], plain: dict[str, Any]) -> None:
    """One setting of the fin_* commands is all that differs from RD-Agent's own table of commands."""
    assert hooked["status"] == ["applied"]
    assert plain["status"] is None
    assert set(hooked["settings"]) == set(plain["settings"])
    changed = {name for name in plain["settings"] if hooked["settings"][name] != plain["settings"][name]}
    assert changed == {*FIN_LOOPS, "fin_factor_report"}
    assert all(hooked["settings"][name] == ["token_normalize_func"] for name in changed)

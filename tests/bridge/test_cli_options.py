"""Both spellings of RD-Agent's options, at the real command line with its real commands."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdagent_sota_bridge.bridge import cli_options
from tests.forking import Forks

# One process answers all questions about the command line: each command's callback is replaced by one with
# the same signature that writes down what it was called with.
_ASK = """
import functools, json
import rdagent.app.cli as cli
from typer.testing import CliRunner
from rdagent_sota_bridge import patch

called = []

def recording(callback):
    @functools.wraps(callback)
    def record(*args, **kwargs):
        called.append([list(args), kwargs])
    return record

found = {{"settings": {{}}, "answers": {{}}}}
for info in cli.app.registered_commands:
    found["settings"][info.name] = sorted(info.context_settings or {{}})
    info.callback = recording(info.callback)
for line in {lines!r}:
    called.clear()
    result = CliRunner().invoke(cli.app, line.split())
    found["answers"][line] = {{"status": result.exit_code, "called": list(called), "output": result.output}}
found["is_applied"] = patch.is_applied("options")
print(json.dumps(found))
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
SESSIONS = {
    f"{name} {line}": {"path": path, "loop_n": 5}
    for name in FIN_LOOPS
    for line, path in {
        "here/__session__ --loop_n 5": "here/__session__",
        "--loop-n 5 here": "here",
    }.items()
}
REFUSED = {
    **{f"{name} --no_such_option 3": "No such option: --no" for name in FIN_LOOPS},
    # As `rdagent-sota run` asks before its first stage: typer reads it all before it shows the help.
    "fin_model --help --no_such_option 3": "No such option: --no",
    **{f"{name} --loop_n three": "Invalid value for '--loop-n'" for name in FIN_LOOPS},
    **{f"{name} nowhere --loop_n 5": "Got unexpected extra argument(s) (nowhere)" for name in FIN_LOOPS},
    **{f"{name} here here": "Got unexpected extra argument(s) (here)" for name in FIN_LOOPS},
    "fin_model --path here here": "Got unexpected extra argument(s) (here)",
    "fin_factor_report here": "Got unexpected extra argument(s) (here)",
    "fin-model --loop-n 3": "No such command 'fin-model'",
    "data_science --loop_n 3": "No such option: --loop_n",
}
UNCHANGED = (
    "fin_model --help",
    "fin_model --help --loop-n 3",
    "data_science --loop-n 3",
    "ui --log_dir a_b",
    "ui --log-dir a_b",
)


Answers = tuple[dict[str, Any], dict[str, Any]]


@pytest.fixture(scope="module")
def answers(forks_of_rdagent: Forks, tmp_path_factory: pytest.TempPathFactory) -> Answers:
    """Return what the command line answers with the package's hook, and with the package turned off."""
    code = _ASK.format(lines=[*UNDERSTOOD, *SESSIONS, *REFUSED, *UNCHANGED])
    how = {"folder": tmp_path_factory.mktemp("project"), "COLUMNS": "200"}
    (how["folder"] / "here" / "__session__").mkdir(parents=True)
    said = (forks_of_rdagent.output(code, **how, RDAGENT_SOTA_BRIDGE=switch) for switch in ("", "0"))
    hooked, plain = (json.loads(text.splitlines()[-1]) for text in said)
    return hooked, plain


@pytest.mark.parametrize("line", UNDERSTOOD)
def test_both_spellings_are_one(answers: Answers, line: str) -> None:
    """Options and switches are understood in both spellings, and values keep their underscores.

    With the package off RD-Agent is what it was, and refuses the underscore.
    """
    answer, without = (found["answers"][line] for found in answers)
    assert answer["status"] == 0, answer["output"]
    ((arguments, options),) = answer["called"]
    assert arguments == []
    assert {name: value for name, value in options.items() if value not in (None, True)} == UNDERSTOOD[line]
    if any("_" in word for word in line.split() if word.startswith("--")):
        assert (without["status"], without["called"]) == (2, [])
        assert "No such option: --" in without["output"]
    else:
        assert without == answer


@pytest.mark.parametrize("line", SESSIONS)
def test_a_session_without_the_name_of_the_option(answers: Answers, line: str) -> None:
    """A path that is there is the session to resume, as RD-Agent's documents write it; it refuses that."""
    answer, without = (found["answers"][line] for found in answers)
    assert answer["status"] == 0, answer["output"]
    ((arguments, options),) = answer["called"]
    assert (arguments, {name: options[name] for name in ("path", "loop_n")}) == ([], SESSIONS[line])
    assert (without["status"], without["called"]) == (2, [])


@pytest.mark.parametrize("line", REFUSED)
def test_what_is_wrong_is_still_refused(answers: Answers, line: str) -> None:
    """Unknown options, wrong values, a command's name with a dash, and commands that are no fin_*."""
    answer = answers[0]["answers"][line]
    assert (answer["status"], answer["called"]) == (2, [])
    assert REFUSED[line] in answer["output"]


def test_all_else_is_unchanged(answers: Answers) -> None:
    """Help and other commands are as without the package; one setting of the fin_* commands differs."""
    hooked, plain = answers
    for line in UNCHANGED:
        assert hooked["answers"][line] == plain["answers"][line], line
    assert (hooked["is_applied"], plain["is_applied"]) == (True, False)
    assert hooked["settings"].keys() == plain["settings"].keys()
    changed = {name for name, settings in hooked["settings"].items() if settings != plain["settings"][name]}
    assert changed == {*FIN_LOOPS, "fin_factor_report"}
    assert all(hooked["settings"][name] == ["token_normalize_func"] for name in changed)


@pytest.mark.parametrize(
    ("call", "wins"),
    [
        ('load_dotenv(".env")', False),
        ('load_dotenv(".env", override=True)', True),
        ("dotenv.load_dotenv(Path.cwd() / str('.env'),\n    override = True)", True),
        ('load_dotenv(".env", override=False)\nstart(override=True)', False),
    ],
)
def test_a_fork_that_loads_the_file_over_the_environment(
    call: str, wins: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What such a fork does with `.env`, our commands do too."""
    spec = SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    monkeypatch.setattr(cli_options, "find_spec", lambda name: spec)
    (tmp_path / "app").mkdir()
    (tmp_path / "app" / "cli.py").write_text(call)
    assert cli_options.env_file_wins() == wins

"""Both spellings of RD-Agent's options, at the real command line with its real commands."""

from __future__ import annotations

import json
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from rdagent_sota_bridge.bridge import cli_options
from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.run import stages
from rdagent_sota_bridge.run.job import FACTORS, MODELS
from tests import runs
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
    **{f"{name} --loop_n three": "Invalid value for '--loop-n'" for name in FIN_LOOPS},
    **{f"{name} nowhere --loop_n 5": "Got unexpected extra argument(s) (nowhere)" for name in FIN_LOOPS},
    **{f"{name} here here": "Got unexpected extra argument(s) (here)" for name in FIN_LOOPS},
    "fin_model --path here here": "Got unexpected extra argument(s) (here)",
    "fin_factor_report here": "Got unexpected extra argument(s) (here)",
    "fin-model --loop-n 3": "No such command 'fin-model'",
    "data_science --loop_n 3": "No such option: --loop_n",
}
UNCHANGED = ("fin_model --help", "data_science --loop-n 3", "ui --log_dir a_b", "ui --log-dir a_b")


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


@pytest.fixture
def fork(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of an RD-Agent whose text alone is looked at."""
    monkeypatch.setattr(
        cli_options, "find_spec", lambda name: SimpleNamespace(submodule_search_locations=[str(tmp_path)])
    )
    (tmp_path / "app" / "loops").mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize("line", [*UNDERSTOOD, "fin_factor --no_such_option 3", "fin_factor -c 3"])
def test_the_text_tells_what_the_command_line_takes(line: str) -> None:
    """By the text of the installed RD-Agent the same lines are taken as by its commands."""
    command, *words = line.split()
    options = cli_options.options_of(command)
    assert options is not None
    assert stages._not_taken(words, options) == (None if line in UNDERSTOOD else words[line.endswith("-c 3")])


def test_an_option_that_one_stage_alone_takes(monkeypatch: pytest.MonkeyPatch) -> None:
    """0.8.0 has -C for fin_factor, not for fin_model, which would end after all factor loops."""
    if metadata.version("rdagent") != "0.8.0":  # there it is the one that is installed
        (folder,) = runs.oldest_python().parents[1].glob("lib/*/site-packages/rdagent")
        found = SimpleNamespace(submodule_search_locations=[str(folder)])
        monkeypatch.setattr(cli_options, "find_spec", lambda name: found)
    stages.check_options(["-C"], (), (FACTORS,))
    stages.check_options(["--step_n", "1", "--no-checkout"], (), (FACTORS, MODELS))
    with pytest.raises(JobError, match="nor `rdagent fin_model` takes -C"):
        stages.check_options(["-C"], (), (FACTORS, MODELS))


COMMAND = "@app.command(name='fin_model')\ndef run({}): ...\n"
FORMS: dict[str, tuple[str, str, set[str] | None]] = {
    "a default alone": (COMMAND.format("n=1, on=False"), "", {"--n", "--on", "--no-on"}),
    "typer's own names": (
        COMMAND.format("n: int | None = typer.Option(None, '--m_n', '-m')"),
        "",
        {"--m-n", "-m"},
    ),
    "an alias": (
        "On = Annotated[bool, typer.Option('--on')]\n" + COMMAND.format("x: On = True"),
        "",
        {"--on"},
    ),
    "a function of another module": (
        "from rdagent.app.loops.model import main as f\napp.command(name='fin_model')(f)",
        "def main(a_b: str = '', c: bool = True): ...",
        {"--a-b", "--c", "--no-c"},
    ),
    "an alias of another module": ("from x import On\n" + COMMAND.format("x: On = True"), "", None),
    "an argument": (COMMAND.format("path: str"), "", None),
    "an argument of typer's": (COMMAND.format("path: str = typer.Argument('')"), "", None),
    "any option": (COMMAND.format("**options"), "", None),
    "a parser": (COMMAND.format("n: Annotated[int, typer.Option(count=True)] = 0"), "", None),
    "a second decorator": ("@with_options\n" + COMMAND.format("n: int = 1"), "", None),
    "settings": (COMMAND.replace("')", "', context_settings=extra)").format("n: int = 1"), "", None),
    "a module that is elsewhere": (
        "from other import main as f\napp.command(name='fin_model')(f)",
        "def main(a: str = ''): ...",
        None,
    ),
    "fire": ("fire.Fire({'fin_model': fin_model})", "", None),
    "nothing": ("", "", None),
}


@pytest.mark.parametrize("form", FORMS)
def test_forms_of_a_fork(form: str, fork: Path) -> None:
    """What is not sure to be all options is passed on."""
    text, other, options = FORMS[form]
    (fork / "app" / "cli.py").write_text(text)
    (fork / "app" / "loops" / "model.py").write_text(other)
    found = cli_options.options_of("fin_model")
    assert (None if found is None else set(found)) == options

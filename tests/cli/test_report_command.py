"""`rdagent-sota report`: where it writes, what it never writes over, and what it says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.report import page
from tests import logs

NO_LOG = "There is no log: latest names the newest below ./log"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project folder with the log of a model run, which is the current one."""
    monkeypatch.chdir(tmp_path)
    logs.write_run(tmp_path / "log" / "first", tmp_path / "w", ("a" * 32, (), True), kind="ModelRDLoop")
    return tmp_path


def run(*arguments: str) -> Result:
    """Run `rdagent-sota report`."""
    return CliRunner().invoke(app, ["report", *arguments])


@pytest.mark.parametrize("is_there", [False, True])
def test_the_page_is_written_and_its_place_printed(project: Path, is_there: bool) -> None:
    """Without -o the page is report.html in the current folder; an older page is replaced, whole."""
    file = project / "report.html"
    if is_there:
        file.write_text(page.GENERATOR + ' 0.0.1">', encoding="utf-8")
    done = run("log/first")
    assert done.exit_code == 0, done.output
    text = file.read_text(encoding="utf-8")
    assert page.GENERATOR in text and text.endswith("</html>")
    assert re.fullmatch(rf"{re.escape(str(file))} \([\d.]+ MB\)\n", done.stdout)
    assert [entry.name for entry in project.iterdir() if entry.name.startswith(".")] == []


@pytest.mark.parametrize("content", ["", "<html>mine</html>", "notes " * 2000 + page.GENERATOR])
def test_another_file_is_never_written_over(project: Path, content: str) -> None:
    """A file that is no report of ours stays as it is, and one message says so."""
    target = project / "mine.html"
    target.write_text(content, encoding="utf-8")
    done = run("log/first", "-o", str(target))
    assert done.exit_code == 1
    assert "no report" in done.stderr and str(target) in done.stderr and "fix:" in done.stderr
    assert target.read_text(encoding="utf-8") == content


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ("gone/report.html", "No such file or directory"),
        ("log", "Is a directory"),
        ("/proc/report.html", "can't be written"),  # even by root
    ],
)
def test_a_place_that_can_hold_no_file(project: Path, output: str, reason: str) -> None:
    """A missing folder, a folder in the file's place, and one that takes no file, are one message each."""
    done = run("log/first", "-o", output)
    assert done.exit_code == 1
    assert reason in done.stderr and output in done.stderr and "Traceback" not in done.output


@pytest.mark.parametrize(
    ("named", "reason"),
    [
        (["log/first", "nowhere"], "nowhere"),
        (["log/first", "w"], "w"),
        (["~nobody-of-this-name/log"], "~nobody-of-this-name"),
        (["latest"], "There is no log"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_what_is_no_log(
    project: Path, named: list[str], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path without sessions, and `latest` where there is none, end with one message and no page."""
    if named == ["latest"]:
        (project / "empty").mkdir()
        monkeypatch.chdir(project / "empty")
    done = run(*named)
    assert done.exit_code == 1
    assert reason in done.stderr and "where:" in done.stderr and "Traceback" not in done.stderr
    assert not list(project.rglob("report.html"))


def test_a_log_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is neither a job nor a log, that is said."""
    monkeypatch.chdir(tmp_path)
    done = run()
    assert (done.exit_code, done.stderr.splitlines()[0]) == (1, NO_LOG)


def test_json_has_the_figures_and_writes_no_file(project: Path) -> None:
    """--json prints one JSON text without NaN, and no page; a log by two names is one run."""
    done = run("log/first", str(project / "log" / "first"), "--json")
    (one,) = json.loads(done.stdout, parse_constant=pytest.fail)["runs"]
    assert one["command"] == "fin_model"
    assert one["loops"][0]["accepted"] is True
    assert not (project / "report.html").exists()

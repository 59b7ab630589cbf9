"""`rdagent-sota report`: where it writes, what it never writes over, and what it says."""

from __future__ import annotations

import json
import os
import re
from datetime import timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.report import page
from tests import logs


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a project folder with the log of a model run, which is the current one."""
    monkeypatch.chdir(tmp_path)
    logs.write_run(tmp_path / "log" / "first", tmp_path / "w", ("a" * 32, (), True), kind="ModelRDLoop")
    return tmp_path


def run(*arguments: str) -> Result:
    """Run `rdagent-sota report`."""
    return CliRunner().invoke(app, ["report", *arguments])


def test_the_page_is_written_and_its_place_printed(project: Path) -> None:
    """Without -o the page is report.html in the current folder; path and size are printed."""
    done = run("log/first")
    assert done.exit_code == 0, done.output
    file = project / "report.html"
    assert page.GENERATOR in file.read_text(encoding="utf-8")
    assert re.fullmatch(rf"{re.escape(str(file))} \([\d.]+ MB\)\n", done.stdout)


def test_a_page_is_written_anew(project: Path) -> None:
    """A report that is there is replaced, whole."""
    target = project / "out.html"
    target.write_text(page.GENERATOR + ' 0.0.1">', encoding="utf-8")
    assert run("log/first", "-o", "out.html").exit_code == 0
    assert "</html>" in target.read_text(encoding="utf-8")
    assert sorted(entry.name for entry in project.iterdir() if entry.name.startswith(".")) == []


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
    ("output", "told"),
    [("gone/report.html", "No such file or directory"), ("log", "Is a directory")],
)
def test_a_place_that_can_hold_no_file(project: Path, output: str, told: str) -> None:
    """A missing folder, and a folder in the file's place, are told."""
    done = run("log/first", "-o", output)
    assert done.exit_code == 1
    assert told in done.stderr


@pytest.mark.skipif(
    not Path("/proc/self").exists(), reason="only Linux has a folder that root can't write into"
)
def test_a_folder_that_takes_no_file(project: Path) -> None:
    """A folder in which no file can be made is told in one message."""
    done = run("log/first", "-o", "/proc/report.html")
    assert done.exit_code == 1
    assert "can't be written" in done.stderr and "/proc/report.html" in done.stderr


def test_json_has_the_figures_and_writes_no_file(project: Path) -> None:
    """--json prints one JSON text without NaN, and no page."""
    done = run("log/first", "--json")
    told = json.loads(done.stdout, parse_constant=lambda name: pytest.fail(name))
    assert told["runs"][0]["command"] == "fin_model"
    assert told["runs"][0]["loops"][0]["accepted"] is True
    assert not (project / "report.html").exists()


def test_latest_is_the_newest_log(project: Path) -> None:
    """`latest` names the log whose last step ended last, whatever its name, its kind and its files' times."""
    later = logs.BEGIN + timedelta(days=1)
    loop = ("b" * 32, ("gap",), False)
    second = logs.write_run(project / "log" / "earlier name", project / "w", loop, ended=later)
    for file in second.rglob("*"):
        os.utime(file, (1, 1))
    told = json.loads(run("latest", "--json").stdout)
    assert [one["log"] for one in told["runs"]] == [str(second)]


def test_latest_without_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`latest` where there is no log is one message."""
    monkeypatch.chdir(tmp_path)
    done = run("latest")
    assert done.exit_code == 1
    assert "There is no log" in done.stderr


@pytest.mark.parametrize("named", ["nowhere", "w", "~nobody-of-this-name/log"])
def test_what_is_no_log_is_told(project: Path, named: str) -> None:
    """A path without sessions ends with one message and status 1, and no page."""
    done = run("log/first", named)
    assert done.exit_code == 1
    assert "where:" in done.stderr and "Traceback" not in done.stderr
    assert not (project / "report.html").exists()


def test_a_log_named_twice_is_shown_once(project: Path) -> None:
    """The same log by two names is one run."""
    told = json.loads(run("log/first", str(project / "log" / "first"), "--json").stdout)
    assert len(told["runs"]) == 1


def test_a_log_is_needed() -> None:
    """Without a log the command says how it is used."""
    assert run().exit_code == 2

"""What `rdagent-sota verify` prints, and its exit status."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.cli.verify import run
from rdagent_sota_bridge.errors import SessionError
from tests import logs, trained
from tests.report.test_history import model, root_of, skip, write_run


def printed(log: Path | str, *, as_json: bool = False, encoding: str = "utf-8") -> tuple[int, str]:
    """Return the exit status and what was printed, into a stream that is no terminal."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    status = run(str(log), as_json, Console(file=stream, width=80))
    stream.seek(0)
    return status, stream.read()


@pytest.fixture
def mixed(tmp_path: Path) -> Path:
    """Return the log of a run with a loop of every state."""
    root = root_of(tmp_path)
    loop = logs.new_loop("ModelRDLoop")
    broken = trained.write_training(root / "broken")
    (broken / "combined_factors_df.parquet").unlink()
    (root / "cached").mkdir()
    trained.write_manifest(root / "cached", from_cache=True)
    cached = model(root / "cached")
    cached.result = pd.Series(trained.METRICS)
    experiments = (
        model(trained.write_training(root / "trained")),
        cached,
        model(trained.write_baseline(root / "baseline")),
        model(broken),
    )
    for number, experiment in enumerate(experiments):
        logs.finish(loop, number, experiment, False)
    skip(loop, 4, model(root / "skipped"), "model.py is empty")
    logs.dump(loop, tmp_path / "log" / "run", 4)
    return tmp_path / "log" / "run"


def test_text_in_whole(tmp_path: Path) -> None:
    """The run, a line per loop with its mark and state, and the count."""
    log = write_run(tmp_path, model(trained.write_training(root_of(tmp_path) / "w")))
    assert printed(log) == (
        0,
        f"fin_model: {log}\n"
        "✓ factors  loop 0 SmallMLP: trained on factor set sha256:555555555555 "
        "(2 mined + 2 base = 4 columns)\n"
        "1 model loop: 1 claims factors, 1 shown to have them\n",
    )


def test_every_state(mixed: Path) -> None:
    """Each state has its mark, a broken claim its place, and one broken claim makes the status 1."""
    status, text = printed(mixed)
    lines = text.splitlines()
    assert status == 1
    assert lines[1].startswith("✓ factors       loop 0")
    assert lines[2].startswith(
        "? not verified  loop 1 SmallMLP: answered from RD-Agent's cache by release 0.1.0"
    )
    assert lines[4].startswith("- none          loop 2")
    assert lines[5].startswith("✗ broken        loop 3 SmallMLP: claims factor set")
    assert lines[6] == f"  where: {root_of(mixed.parents[1]) / 'broken'}"
    assert lines[7] == "- not trained   loop 4 SmallMLP: model.py is empty"
    assert lines[-1] == "5 model loops: 3 claim factors, 1 shown to have them"


def test_marks_of_a_stream_without_them(mixed: Path) -> None:
    """A stream that holds ASCII alone gets other marks, and no error."""
    _, text = printed(mixed, encoding="ascii")
    assert [line[0] for line in text.splitlines() if "  loop " in line] == ["+", "?", "-", "x", "-"]


@pytest.mark.parametrize(
    ("name", "encoding", "shown"),
    [
        ("网络", "utf-8", "网络"),
        ("网络", "ascii", r"\u7f51\u7edc"),
        ("Net[red]", "utf-8", "Net[red]"),
        (
            "x\x1b[2K\r\n\u202e✓ factors  loop 9 y",
            "utf-8",
            r"x\x1b[2K\r\n\u202e✓ factors  loop 9 y",
        ),
    ],
    ids=["other letters", "other letters in ASCII", "markup of rich", "commands of a terminal"],
)
def test_names_from_an_llm(name: str, encoding: str, shown: str, tmp_path: Path) -> None:
    """A model's name stays on its line as text: it can't write a verdict of its own."""
    experiment = model(trained.write_baseline(root_of(tmp_path) / "w"))
    experiment.sub_tasks[0].name = name
    status, text = printed(write_run(tmp_path, experiment), encoding=encoding)
    assert (status, len(text.splitlines())) == (0, 3)
    assert f"loop 0 {shown}: trained" in text


def test_json_in_whole(mixed: Path) -> None:
    """The JSON stands alone, with every loop's verdict, evidence and contradictions."""
    status, text = printed(mixed, as_json=True)
    document = json.loads(text)
    assert (status, document["holds"], document["command"]) == (1, False, "fin_model")
    assert document["log"] == str(mixed)
    states = ["factors", "not verified", "none", "broken", "not trained"]
    assert [one["state"] for one in document["loops"]] == states
    assert [one["holds"] for one in document["loops"]] == [True, False, True, False, True]
    assert document["loops"][0]["digest"] == trained.DIGEST
    assert document["loops"][0]["contradictions"] == []
    assert document["loops"][2]["digest"] is None
    assert document["loops"][3]["contradictions"] == ["no combined_factors_df.parquet is in its workspace"]


def test_notes_are_printed(tmp_path: Path) -> None:
    """What could not be read is told below the loops."""
    workspace = trained.write_training(root_of(tmp_path) / "w")
    (workspace / "sota_manifest.json").write_text("{")
    status, text = printed(write_run(tmp_path, model(workspace)))
    assert status == 1
    assert f"note: {workspace}/sota_manifest.json can't be read" in text


def test_no_claims(tmp_path: Path) -> None:
    """A run without factors is told as such, with status 0."""
    status, text = printed(write_run(tmp_path, model(trained.write_baseline(root_of(tmp_path) / "w"))))
    assert status == 0
    assert text.endswith("1 model loop: none claims factors\n")


def test_latest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`latest` is the log with model loops that ended last, whatever its name, and no factor run."""
    for name, kind, hours in (("b", "ModelRDLoop", 1), ("a", "ModelRDLoop", 2), ("c", "FactorRDLoop", 3)):
        begin = logs.BEGIN + timedelta(hours=hours)
        factors = ("x",) if kind == "FactorRDLoop" else ()
        logs.write_run(tmp_path / "log" / name, tmp_path / name, ("w", factors, True), kind=kind, ended=begin)
        trained.write_baseline(tmp_path / name / "w")
    monkeypatch.chdir(tmp_path)
    status, text = printed("latest")
    assert status == 0
    assert text.startswith(f"fin_model: {tmp_path}/log/a\n")


def test_latest_with_a_log_that_may_be_newer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A damaged log that may be newer is an error; an older one is a note."""
    log = write_run(tmp_path, model(trained.write_baseline(root_of(tmp_path) / "w")))
    monkeypatch.chdir(tmp_path)
    damaged = tmp_path / "log" / "a" / "__session__" / "0" / "0_coding"
    damaged.parent.mkdir(parents=True)
    damaged.write_bytes(b"damaged")
    os.utime(damaged, (1, 1))
    assert printed("latest")[1].startswith(f"fin_model: {log}\n")
    told = capsys.readouterr().err
    assert told.startswith("note: a log was left out of the search: ")
    assert str(damaged) in told
    damaged.touch()
    with pytest.raises(SessionError, match="may be newer"):
        run("latest")


def test_latest_without_logs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where no run trained models there is nothing to verify."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SessionError, match="No log of a run with models"):
        run("latest")
    logs.write_run(tmp_path / "log" / "f", tmp_path, ("w", ("x",), True))
    with pytest.raises(SessionError) as caught:
        run("latest")
    assert caught.value.fact == "No log of a run with models"


@pytest.mark.parametrize("named", ["gone", "~nobody_of_that_name/log", "\0"])
def test_a_path_that_leads_nowhere(named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong path is told with the folder that it was looked for in."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SessionError, match="Log path not found"):
        run(named)


@pytest.mark.parametrize("named", ["~/log/run", "log/run/__session__"])
def test_a_path_in_the_home_or_the_current_folder(
    named: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A path may begin with ~, as a quoted one does, or be relative to the current folder."""
    write_run(tmp_path, model(trained.write_baseline(root_of(tmp_path) / "w")))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    assert printed(named)[0] == 0


@pytest.mark.parametrize("change", [False, True])
def test_the_command(change: bool, tmp_path: Path) -> None:
    """The command's status is 0 where every claim holds and 1 where one does not."""
    workspace = trained.write_training(root_of(tmp_path) / "w")
    log = write_run(tmp_path, model(workspace))
    if change:
        (workspace / "combined_factors_df.parquet").unlink()
    result = CliRunner().invoke(app, ["verify", str(log), "--json"])
    assert result.exit_code == change
    assert json.loads(result.stdout)["holds"] is not change


def test_a_factor_run_is_a_message(tmp_path: Path) -> None:
    """An error is one message on stderr with status 1, and no traceback."""
    log = logs.write_run(tmp_path / "log" / "f", tmp_path, ("w", ("x",), True))
    command = [str(Path(sys.executable).parent / "rdagent-sota"), "verify", str(log)]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=False)
    assert process.returncode == 1
    assert process.stdout == ""
    assert process.stderr.startswith("The log is one of fin_factor, which has mined factors")
    assert "Traceback" not in process.stderr

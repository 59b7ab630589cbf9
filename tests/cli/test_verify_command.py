"""What `rdagent-sota verify` prints, and its exit status."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.cli import app
from tests import logs, trained
from tests.report.test_history import model, root_of, skip, write_run


def verify(*arguments: Path | str, charset: str = "utf-8") -> tuple[int, str, str]:
    """Run the command into a stream that is no terminal; return status, output and errors."""
    done = CliRunner(charset=charset).invoke(app, ["verify", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, done.stdout, done.stderr


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
    assert verify(log) == (
        0,
        f"fin_model: {log}\n"
        "✓ factors  loop 0 SmallMLP: trained on factor set sha256:5555555555 "
        "(2 mined + 2 base = 4 columns)\n"
        "1 model loop: 1 claims factors, 1 shown to have them\n",
        "",
    )


def test_every_state(mixed: Path) -> None:
    """Each state has its mark, a broken claim its place, and one broken claim makes the status 1."""
    status, text, _ = verify(mixed)
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
    _, text, _ = verify(mixed, charset="ascii")
    assert [line[0] for line in text.splitlines() if "  loop " in line] == ["+", "?", "-", "x", "-"]


def test_json_in_whole(mixed: Path) -> None:
    """The JSON stands alone, with every loop's verdict, evidence and contradictions."""
    status, text, _ = verify(mixed, "--json")
    document = json.loads(text)
    assert (status, document["holds"], document["command"]) == (1, False, "fin_model")
    assert (document["log"], document["notes"]) == (str(mixed), [])
    loops = document["loops"]
    assert [one["state"] for one in loops] == ["factors", "not verified", "none", "broken", "not trained"]
    assert [one["holds"] for one in loops] == [True, False, True, False, True]
    assert (loops[0]["digest"], loops[0]["contradictions"]) == (trained.DIGEST, [])
    assert loops[2]["digest"] is None
    assert loops[3]["contradictions"] == ["no combined_factors_df.parquet is in its workspace"]
    keys = {"loop", "name", "state", "text", "digest", "evidence", "contradictions", "workspace", "holds"}
    assert set(loops[0]) == keys


@pytest.mark.parametrize(
    ("name", "charset", "shown"),
    [
        ("网络", "utf-8", "网络"),
        ("网络", "ascii", r"\u7f51\u7edc"),
        ("Net[red]", "utf-8", "Net[red]"),
        ("x\x1b[2K\r\n\u202e✓ factors  loop 9 y", "utf-8", r"x\x1b[2K\r\n\u202e✓ factors  loop 9 y"),
    ],
    ids=["other letters", "other letters in ASCII", "markup of rich", "commands of a terminal"],
)
def test_names_from_an_llm(name: str, charset: str, shown: str, tmp_path: Path) -> None:
    """A model's name stays on its line as text: it can't write a verdict of its own."""
    experiment = model(trained.write_baseline(root_of(tmp_path) / "w"))
    experiment.sub_tasks[0].name = name
    status, text, _ = verify(write_run(tmp_path, experiment), charset=charset)
    assert (status, len(text.splitlines())) == (0, 3)
    assert f"loop 0 {shown}: trained" in text
    assert text.endswith("1 model loop: none claims factors\n")


def test_notes_are_printed(tmp_path: Path) -> None:
    """What could not be read is named below the loops."""
    workspace = trained.write_training(root_of(tmp_path) / "w")
    (workspace / "sota_manifest.json").write_text("{")
    status, text, _ = verify(write_run(tmp_path, model(workspace)))
    assert status == 1
    assert f"note: {workspace}/sota_manifest.json can't be read" in text


@pytest.mark.parametrize(
    ("named", "fact"),
    [
        ("latest", "No log of a run with models\n"),
        ("log/f", "The log is one of fin_factor, which has mined factors"),
        ("gone", "Log path not found"),
        ("~nobody_of_that_name/log", "Log path not found"),
        ("\0", "Log path not found"),
    ],
)
def test_no_run_with_models(named: str, fact: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong path, and a factor run, are one message with the place and the fix, and status 1."""
    monkeypatch.chdir(tmp_path)
    if named == "latest":
        assert verify("latest")[2].startswith(fact.strip())
    logs.write_run(tmp_path / "log" / "f", tmp_path, ("w", ("x",), True))
    status, output, errors = verify(named)
    assert (status, output) == (1, "")
    assert errors.startswith(fact) and "\n  where: " in errors and "\n  fix:   " in errors


@pytest.mark.parametrize(("named", "holds"), [("~/log/run", True), ("log/run/__session__", False)])
def test_the_installed_command(named: str, holds: bool, tmp_path: Path) -> None:
    """A path may begin with ~ or be relative; the status is 0 where every claim holds, else 1."""
    workspace = trained.write_training(root_of(tmp_path) / "w")
    write_run(tmp_path, model(workspace))
    if not holds:
        (workspace / "combined_factors_df.parquet").unlink()
    command = [str(Path(sys.executable).parent / "rdagent-sota"), "verify", named, "--json"]
    environ = {**os.environ, "HOME": str(tmp_path)}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environ)
    assert done.returncode == (not holds), done.stderr
    assert json.loads(done.stdout)["holds"] is holds

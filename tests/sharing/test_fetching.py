"""A set behind a URL in RD-Agent's model runner: what it hands over, remembers and never shows."""

from __future__ import annotations

import hashlib
import json
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import typer

from examples.demo.market import Market
from rdagent_sota_bridge.bridge import plan
from rdagent_sota_bridge.errors import LocateError, SessionError, SetChangedError
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.sharing.remote import MANIFEST
from tests import seams, servers

SECRET = "0123456789abcdef"


@pytest.fixture
def market(
    market_home: tuple[Path, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Market]:
    """Point HOME at the market, and go to an empty project."""
    folder, made = market_home
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.chdir(tmp_path)
    yield made


def put(files: servers.Files, market: Market, tmp_path: Path, **columns: float) -> str:
    """Put a set onto the server, and return its URL, with a signature."""
    folder = seams.write_set(tmp_path / "elsewhere", seams.factor_frame(market, **columns))
    files.contents[f"/run/{FACTOR_FILE}"] = (folder / FACTOR_FILE).read_bytes()
    return f"{files.url}/run/{FACTOR_FILE}?X-Amz-Signature={SECRET}"


def test_the_set_reaches_the_merge_path(
    files: servers.Files, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file that develop leaves for Qlib holds the pushed values; logs and session have no secret."""
    seams.switch_on(monkeypatch, put(files, market, tmp_path))
    with seams.logged() as lines:
        runner = seams.build_runner()
        requests = len(files.log)
        experiment = seams.develop_up_to_qlib(runner, seams.model_experiment())
    assert len(files.log) == requests  # a loop asks no server
    written = pd.read_parquet(Path(experiment.experiment_workspace.workspace_path) / FACTOR_FILE)
    expected = seams.factor_frame(market).sort_index()["overnight_gap"]
    pd.testing.assert_series_equal(written["feature"]["overnight_gap"], expected, check_names=False)
    record = plan.record_of(runner)
    assert record is not None
    shown = f"{files.url}/run/{FACTOR_FILE}?***"
    assert record["sources"][0]["url"] == shown
    text = "".join(lines)
    assert f"SOTA factors fetched from {shown}" in text
    assert f"SOTA factors loaded from workspace: {record['path']}" in text
    assert record["path"].endswith(f"/{FACTOR_FILE}")
    session = pickle.dumps([runner, experiment])
    assert SECRET not in text
    assert SECRET.encode() not in session


def test_a_change_on_the_server_in_the_middle_of_a_run(
    files: servers.Files, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run keeps the copy that it began with; its resume is stopped, and the fix leads to that copy.

    A run whose server fails uses the copy of its last fetch, and one warning says so.
    """
    seams.switch_on(monkeypatch, put(files, market, tmp_path))
    runner = seams.build_runner()
    began = plan.record_of(runner)
    assert began is not None
    put(files, market, tmp_path, noise=1.0)
    seams.develop_up_to_qlib(runner, seams.model_experiment())
    with pytest.raises(SetChangedError) as caught:
        plan.resume_with(runner, plan.checked_plan())
    assert f"SOTA_WORKSPACE_PATH={began['path']}" in caught.value.fix
    files.status = 503
    with seams.logged() as lines:
        seams.build_runner()
    (warning,) = [
        line for line in lines if line.startswith("WARNING") and "the copy that was fetched" in line
    ]
    assert SECRET not in warning
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", began["path"])
    plan.resume_with(runner, plan.checked_plan())


def test_a_copy_that_is_changed_in_the_middle_of_a_run(
    files: servers.Files,
    market: Market,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The next loop stops where the fetched file is not what it was."""
    seams.switch_on(monkeypatch, put(files, market, tmp_path))
    runner = seams.build_runner()
    record = plan.record_of(runner)
    assert record is not None
    path = Path(record["path"])
    content = path.read_bytes()
    path.unlink()
    path.write_bytes(b"?" + content[1:])
    with seams.logged(), pytest.raises(typer.Exit):
        runner.develop(seams.model_experiment())
    assert "The factor set is not the one that this run began with" in capsys.readouterr().err


@pytest.mark.parametrize("status", [401, 404, 503])
def test_a_set_that_can_not_be_fetched_stops_the_run(
    files: servers.Files, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    """One message before the first loop, without a secret; SOTA_ON_ERROR=baseline makes a warning of it."""
    seams.switch_on(monkeypatch, put(files, market, tmp_path))
    files.status = status
    with pytest.raises(SystemExit) as caught:
        seams.build_runner()
    message = str(caught.value)
    assert "fix:" in message
    assert "Traceback" not in message
    assert SECRET not in message
    monkeypatch.setenv("SOTA_ON_ERROR", "baseline")
    assert plan.record_of(seams.build_runner()) is None


def test_a_manifest_writes_no_line_of_the_log(
    files: servers.Files, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A newline in the run's name that a server gives is shown as one, in the warning that names the run."""
    put(files, market, tmp_path)
    content = files.contents[f"/run/{FACTOR_FILE}"]
    forged = "x\n2026-01-01 09:00:00.000 | INFO     | a:b:1 - SOTA factors used: Qlib loaded 99 columns"
    origin = {"run": forged, "loop": 3, "workspace_id": "w", "accepted": False}
    manifest = {
        "set_manifest_version": 1,
        "state": "complete",
        "digest": f"sha256:{hashlib.sha256(content).hexdigest()}",
        "size": len(content),
        "metrics": {},
        "origin": origin,
    }
    files.contents[f"/run/{MANIFEST}"] = json.dumps(manifest).encode()
    seams.switch_on(monkeypatch, f"{files.url}/run")
    with seams.logged() as lines:
        seams.build_runner()
    (warning,) = [line for line in lines if "SOTA factors used" in line]
    assert warning.startswith("WARNING: ")
    assert "is the set of loop 3 of x\\n2026-01-01" in warning
    assert warning.count("\n") == 1


def test_logs_are_no_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL as a log is one message, without its secrets; and so is one where nothing fetches."""
    with pytest.raises(SessionError, match="logs are read from the disk") as caught:
        locate.factor_sets((), ("s3://alice:pa55word@bucket/log",))
    assert "pa55word" not in str(caught.value)
    with pytest.raises(LocateError, match="not taken here"):
        locate.factor_sets(("s3://bucket/run",), ())


def test_no_driver_is_imported_without_a_url(tmp_path: Path) -> None:
    """A set of this machine is located without the drivers of fsspec."""
    (tmp_path / FACTOR_FILE).write_bytes(b"")
    code = f"""
import sys
from rdagent_sota_bridge.factor_set import locate
from rdagent_sota_bridge.sharing import fetch
locate.factor_sets(({str(tmp_path)!r},), (), fetch.into_store(None, print))
print([name for name in ("s3fs", "aiohttp", "botocore", "gcsfs") if name in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"

"""All lines together, and what `rdagent-sota doctor` makes of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.bridge.seams import SEAMS
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.doctor import children, machine, qlib, quick, rdagent
from rdagent_sota_bridge.doctor.seam_check import Seams

FAILED = Line("qlib", "fail", "not looked at: conda is not on PATH", "install conda")


@pytest.fixture
def no_child(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Answer for RD-Agent and conda."""
    monkeypatch.setattr(quick, "look_at_docker", lambda: "no socket")
    monkeypatch.setattr(qlib, "look_at_conda", lambda: "")
    monkeypatch.setattr(qlib, "look_at_qlib", lambda: FAILED)


def test_without_rdagent(no_child: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RD-Agent its line fails, those that need it are there; a wrong setting stops none."""
    monkeypatch.setenv("SOTA_MODEL_VERDICT", "odd")
    monkeypatch.setattr(children, "installed", lambda name: None)
    names = {line.name: line.state for line in machine.lines()}
    assert names["rdagent"] == names["settings"] == "fail"
    assert {"docker", "llm", "time limits", "disk", "conda", "qlib", "mlflow file store"} <= set(names)
    assert not {"qlib data, models", rdagent.DRY_RUN} & set(names)


@pytest.mark.parametrize(("verbose", "as_json"), [(False, False), (True, False), (False, True)])
def test_command(verbose: bool, as_json: bool, no_child: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Seams have a line each in the JSON and with --verbose; a failed line makes status 1."""
    monkeypatch.setattr(
        machine, "later", lambda: [*rdagent.rdagent_lines(Seams(True, {}), "", "", ""), FAILED]
    )
    done = CliRunner().invoke(
        app, ["doctor", *["--verbose"] * verbose, *["--json"] * as_json], env={"COLUMNS": "200"}
    )
    assert done.exit_code == 1
    assert ("seam text log" in done.stdout) is (verbose or as_json)
    if as_json:
        document = json.loads(done.stdout)
        assert document["state"] == "fail"
        assert {"rdagent_sota_bridge", "python", "system", "checks"} <= set(document)
    else:
        assert done.stdout.count(f"all {len(SEAMS)} seams fit") == 1
        monkeypatch.setattr(machine, "later", lambda: [])
        assert CliRunner().invoke(app, ["doctor"]).exit_code == 0


@pytest.mark.parametrize(("state", "text"), [("pass", "ok"), ("fail", "see rdagent-sota doctor (qlib)")])
@pytest.mark.parametrize("conda", ["pass", "warn"])
def test_in_a_check(state: str, text: str, conda: str) -> None:
    """A check has RD-Agent's line, the dry run's, and one for the rest, which names the worst."""
    found = rdagent.rdagent_lines(Seams(True, {}), "", "", "")
    found += [Line("conda", conda, "as it is"), Line("qlib", state, "as it is")]  # type: ignore[arg-type]
    shown = machine.in_check(found)
    assert [line.name for line in shown] == ["rdagent", "dry run", "machine"]
    if state == "pass" and conda == "warn":
        state, text = conda, "see rdagent-sota doctor (conda)"
    assert (shown[-1].state, shown[-1].text) == (state, text)

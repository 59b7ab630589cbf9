"""The lines about RD-Agent: from given facts, and the facts from a child that imports it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

import rdagent_sota_bridge as package
from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.bridge.seams import DISABLED, SEAMS
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor import children, rdagent
from rdagent_sota_bridge.doctor.rdagent import DRY_RUN, OWN_RUNNER
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import SeamError

VERDICTS = {"mended": "", "rdagent": "RD-Agent's own is in force"}
BOTH = {"mended": "", "rdagent": ""}


def lines_of(seams: Seams, switch: str = "", runner: str = "", way: str = "") -> dict[str, Line]:
    """Return the lines about RD-Agent by name; each that does not pass has a fix."""
    found = {line.name: line for line in rdagent.rdagent_lines(seams, switch, runner, way)}
    assert all(bool(line.fix) is (line.state != "pass") for line in found.values())
    return found


@pytest.mark.parametrize("misfits", [{}, *({seam.name: "too old"} for seam in SEAMS)], ids=str)
def test_the_table_of_seams(misfits: dict[str, str]) -> None:
    """Each seam is a line with its module; a misfit fails where factors pass, else warns."""
    found = lines_of(Seams(True, misfits))
    table = {seam.name: misfits.get(seam.name, "fits") for seam in SEAMS}
    release = metadata.version("rdagent")
    assert found["rdagent"].figures == {"version": release, "hook": True, "patched": False, "seams": table}
    assert found["rdagent"].text.startswith(f"RD-Agent {release}: ")
    states = {seam.name: "fail" if seam.carries_factors else "warn" for seam in SEAMS}
    assert found["rdagent"].state == (states[next(iter(misfits))] if misfits else "pass")
    assert (DRY_RUN in found) is not bool(misfits)
    for seam in SEAMS:
        line = found[f"seam {seam.name}"]
        assert line.state == (states[seam.name] if seam.name in misfits else "pass")
        assert line.text == f"{seam.module}: {'misfit: too old' if seam.name in misfits else 'fits'}"
        assert line.figures["found"] == ("misfit" if seam.name in misfits else "fits")


def test_what_carries_factors_fails() -> None:
    """Without these three no factors reach a model, whatever else fits; all misfits stand in one line."""
    assert {"workspace", "merge", "runner"} == {seam.name for seam in SEAMS if seam.carries_factors}
    line = lines_of(Seams(True, {"options": "one", "runner": "two"}))["rdagent"]
    text = f"2 of {len(SEAMS)} seams do not fit: options: one; runner: two"
    assert (line.state, line.text.partition(": ")[2]) == ("fail", text)


@pytest.mark.parametrize(
    ("hooked", "switch", "runner", "patched", "state"),
    [
        (True, "", "", False, "pass"),
        (True, "On", "", False, "pass"),
        (True, "OFF", "", False, "fail"),
        (True, "0", OWN_RUNNER, False, "warn"),
        (False, "", "", False, "fail"),
        (False, "true", "my.Runner", False, "fail"),
        (False, "", OWN_RUNNER, False, "warn"),
        (True, "0", "", True, "pass"),
        (False, "", "", True, "pass"),
        (True, "maybe", OWN_RUNNER, False, "fail"),
        (True, "maybe", "", True, "fail"),
    ],
)
def test_seams_that_no_run_would_apply(
    hooked: bool, switch: str, runner: str, patched: bool, state: str
) -> None:
    """Fitting seams need the hook switched on, but for our own runner and a patched source."""
    line = lines_of(Seams(hooked, {}, patched=patched), switch, runner)["rdagent"]
    assert line.state == state
    assert ("turns the import hook off" in line.text) is (switch in ("0", "OFF"))
    assert ("rdagent-sota-bridge.pth" in line.text) is not hooked
    assert ("its patched source calls the package" in line.text) is (patched and switch != "maybe")


def test_name_of_our_own_runner() -> None:
    """The name that is compared with QLIB_MODEL_RUNNER is one that RD-Agent can import."""
    module, _, name = OWN_RUNNER.rpartition(".")
    file = Path(package.__file__).parent / f"{module.rpartition('.')[2]}.py"
    assert f"class {name}(" in file.read_text(encoding="utf-8")


def test_runners() -> None:
    """A model runner that can't be given the factors fails, with its variable."""
    assert lines_of(Seams(True, {}))[DRY_RUN].state == "pass"
    line = lines_of(Seams(True, {}, {"QLIB_MODEL_RUNNER": "mine.Runner, whose develop is odd"}))[DRY_RUN]
    assert (line.state, line.text) == (
        "fail",
        "no factors for QLIB_MODEL_RUNNER: mine.Runner, whose develop is odd",
    )
    assert line.fix.startswith("unset QLIB_MODEL_RUNNER, or call super().develop(exp)")


@pytest.mark.parametrize(
    ("verdicts", "way", "state", "text", "fix"),
    [
        (VERDICTS, "mended", "pass", "one of a run with the switch off can't", ""),
        (VERDICTS, "rdagent", "warn", "RD-Agent's own is in force", "unset SOTA_MODEL_VERDICT"),
        ({**VERDICTS, "mended": "its T is odd"}, "mended", "warn", "its T is odd", "release"),
        (BOTH, "mended", "pass", "as RD-Agent itself has it", ""),
        (BOTH, "rdagent", "pass", "as RD-Agent itself has it", ""),
    ],
)
def test_verdicts(verdicts: dict[str, str], way: str, state: str, text: str, fix: str) -> None:
    """A verdict that can't accept a model is a warning with its reason; a wrong setting gives no line."""
    line = lines_of(Seams(True, {}, verdicts=verdicts), way=way)["model verdict"]
    assert (line.state, line.figures) == (state, {"SOTA_MODEL_VERDICT": way})
    assert (text in line.text, fix in line.fix) == (True, True)
    assert "model verdict" not in lines_of(Seams(True, {}, verdicts=verdicts))


def test_an_rdagent_of_another_shape(tmp_path: Path) -> None:
    """Missing modules and missing classes are misfits with a reason each, and stop no check."""
    loop = tmp_path / "rdagent" / "utils" / "workflow" / "loop.py"
    loop.parent.mkdir(parents=True)
    loop.touch()
    for part in (loop.parent, loop.parent.parent, tmp_path / "rdagent"):
        (part / "__init__.py").touch()
    code = "import pathlib; from rdagent_sota_bridge.doctor.seam_check import write_seams; "
    code += "write_seams(pathlib.Path('answer.json'))"
    variables = {"PYTHONPATH": str(tmp_path), "LOAD_SOTA_FROM_WORKSPACE": "true"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **variables}, check=True)
    found = Seams(**json.loads((tmp_path / "answer.json").read_text()))
    assert found.hooked is True
    assert list(found.misfits) == [seam.name for seam in SEAMS]
    assert found.misfits["loop"].startswith("RD-Agent's loop has a form that is not known")
    assert found.misfits["options"].startswith("The command line has no fin_* commands")
    assert "ModuleNotFoundError: No module named 'rdagent.log'" in found.misfits["text log"]
    assert lines_of(found)["rdagent"].state == "fail"
    assert all("is not known: ModuleNotFoundError" in reason for reason in found.verdicts.values())
    with pytest.raises(SeamError, match="What RD-Agent would train with is not known"):
        rdagent.qlib_start(found)


def test_the_installed_rdagent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child finds that every seam of the table fits, and what develop would train with."""
    start = dry_run.of_models().start  # imports RD-Agent here, with the hook on
    monkeypatch.setenv("RDAGENT_SOTA_BRIDGE", "0")
    found = rdagent.look_at_rdagent()
    assert isinstance(found, Seams)
    assert (found.hooked, found.misfits, found.runners) == (True, {}, {})
    assert found.verdicts["mended"] == ""
    assert found.verdicts["rdagent"].startswith("RD-Agent's own is in force (SOTA_MODEL_VERDICT=rdagent)")
    assert rdagent.qlib_start(found) == start
    assert found.of_factors is not None
    assert found.of_factors.start.config_name == "conf_combined_factors.yaml"


def test_no_rdagent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RD-Agent its line fails, and nothing is known of what it would train with."""
    monkeypatch.setattr(children, "installed", lambda name: None)
    line = rdagent.look_at_rdagent()
    assert isinstance(line, Line)
    assert (line.name, line.state, line.figures) == ("rdagent", "fail", {"version": None})
    with pytest.raises(SeamError, match="RD-Agent is not installed"):
        rdagent.qlib_start(line)


def test_an_rdagent_that_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where RD-Agent's modules end the child, its last words stand in the line."""
    monkeypatch.setattr(children, "ask", lambda *_: "ImportError: no pandarallel")
    line = rdagent.look_at_rdagent()
    assert isinstance(line, Line)
    assert (line.name, line.state) == ("rdagent", "fail")
    assert "can't be looked at: ImportError: no pandarallel" in line.text and line.fix


def test_seams_that_are_turned_off(monkeypatch: pytest.MonkeyPatch) -> None:
    """They stand in the line and pass, for the user asked for it; a name that can't be one fails, unasked."""
    found = lines_of(Seams(True, {}, disabled=("text log",)))
    assert f"all {len(SEAMS) - 1} seams fit, {DISABLED} turns off text log" in found["rdagent"].text
    assert (found["rdagent"].state, found["seam text log"].text.endswith(": turned off")) == ("pass", True)
    monkeypatch.setenv(DISABLED, "merge")
    monkeypatch.setattr(children, "ask", lambda *_: pytest.fail("no child is needed"))
    line = rdagent.look_at_rdagent()
    assert isinstance(line, Line)
    assert (line.state, "can't turn off 'merge'" in line.text, bool(line.fix)) == ("fail", True, True)

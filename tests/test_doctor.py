"""The lines of a check about the machine: each from given facts, and the facts from real processes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path

import pytest

from rdagent_sota_bridge import doctor
from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.bridge.seam_check import Seams
from rdagent_sota_bridge.bridge.seams import SEAMS
from rdagent_sota_bridge.check import disk
from rdagent_sota_bridge.check.disk import LEAST_FREE
from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.doctor import OWN_RUNNER, QlibSide
from rdagent_sota_bridge.errors import SeamError
from tests.frames import public_folder, without_privileges
from tests.processes import is_alive
from tests.stand_in import wait_until

NAME = "rdagent4qlib"
VERSIONS = {
    "python": "3.10.4",
    "pyqlib": "0.9.7",
    "torch": "2.13.0",
    "pandas": "2.2.0",
    "pyarrow": "17.0.0",
    "mlflow": "3.17.2",
}
UNSEEN = Line("qlib", "warn", "not looked at: the environment is not there yet", "check again")
REFUSAL = "MlflowException: The filesystem … See https://mlflow.org/docs/migrate-from-file-store"
VERDICTS = {"mended": "", "rdagent": "RD-Agent's own is in force"}
BOTH = {"mended": "", "rdagent": ""}


def lines_of(seams: Seams, switch: str = "", runner: str = "", way: str = "") -> dict[str, Line]:
    """Return the lines about RD-Agent by name; each that does not pass has a fix."""
    found = {line.name: line for line in doctor.seams_lines(seams, switch, runner, way)}
    assert all(bool(line.fix) is (line.state != "pass") for line in found.values())
    return found


# --- lines from facts ---


def test_rdagent() -> None:
    """A release that is installed passes, and none fails with a fix."""
    assert doctor.rdagent_line("1.0.0") == Line("rdagent", "pass", "RD-Agent 1.0.0", "", {"version": "1.0.0"})
    assert (doctor.rdagent_line(None).state, doctor.rdagent_line(None).figures) == ("fail", {"version": None})


@pytest.mark.parametrize("misfits", [{}, *({seam.name: "too old"} for seam in SEAMS)], ids=str)
def test_the_table_of_seams(misfits: dict[str, str]) -> None:
    """Each seam is a line with its module; a misfit fails where factors pass, else warns."""
    found = lines_of(Seams(True, misfits))
    table = {seam.name: misfits.get(seam.name, "fits") for seam in SEAMS}
    assert found["seams"].figures == {"hook": True, "patched": False, "seams": table}
    states = {seam.name: "fail" if seam.carries_factors else "warn" for seam in SEAMS}
    assert found["seams"].state == (states[next(iter(misfits))] if misfits else "pass")
    assert ("runner" in found) is not bool(misfits)
    for seam in SEAMS:
        line = found[f"seam {seam.name}"]
        assert line.state == (states[seam.name] if seam.name in misfits else "pass")
        assert line.text == f"{seam.module}: {'misfit: too old' if seam.name in misfits else 'fits'}"
        assert line.figures["found"] == ("misfit" if seam.name in misfits else "fits")


def test_what_carries_factors_fails() -> None:
    """Without these three no factors reach a model, whatever else fits; all misfits stand in one line."""
    assert {"workspace", "merge", "runner"} == {seam.name for seam in SEAMS if seam.carries_factors}
    line = lines_of(Seams(True, {"options": "one", "runner": "two"}))["seams"]
    count = f"2 of {len(SEAMS)} seams do not fit the installed RD-Agent"
    assert (line.state, line.text) == ("fail", f"{count}: options: one; runner: two")


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
    line = lines_of(Seams(hooked, {}, patched=patched), switch, runner)["seams"]
    assert line.state == state
    assert ("turns the import hook off" in line.text) is (switch in ("0", "OFF"))
    assert ("rdagent-sota-bridge.pth" in line.text) is not hooked
    assert ("its patched source calls the package" in line.text) is (patched and switch != "maybe")


def test_name_of_our_own_runner() -> None:
    """The name that is compared with QLIB_MODEL_RUNNER is one that RD-Agent can import."""
    module, _, name = OWN_RUNNER.rpartition(".")
    file = Path(doctor.__file__).parent / f"{module.rpartition('.')[2]}.py"
    assert f"class {name}(" in file.read_text(encoding="utf-8")


def test_runners() -> None:
    """A model runner that can't be given the factors fails, with its variable."""
    assert lines_of(Seams(True, {}))["runner"].state == "pass"
    line = lines_of(Seams(True, {}, {"QLIB_MODEL_RUNNER": "mine.Runner, whose develop is odd"}))["runner"]
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


@pytest.mark.parametrize(
    ("versions", "state", "part"),
    [
        ({"pandas": "1.5.3"}, "pass", "torch 2.13.0, python 3.10.4, pandas 1.5.3, pyarrow 17.0.0"),
        ({"pandas": "2.0.0"}, "pass", "conda environment rdagent4qlib: pyqlib 0.9.7, torch"),
        ({"pandas": "3.0.0"}, "warn", "can't read the pickle of a newer major version"),
        *(({name: None}, "fail", f"has no {name}: every training") for name in list(VERSIONS)[1:5]),
    ],
    ids=str,
)
def test_qlib(versions: dict[str, str | None], state: str, part: str) -> None:
    """The text shows what trains; a newer pandas there warns, a half made environment fails."""
    there = {name: text for name, text in {**VERSIONS, **versions}.items() if text}
    line = doctor.qlib_line(QlibSide(NAME, there), "2.3.3")
    assert (line.state, line.figures["versions"], bool(line.fix)) == (state, there, state != "pass")
    assert part in line.text


@pytest.mark.parametrize(
    ("side", "allowed", "docker", "state", "fix"),
    [
        ("", "", False, "pass", ""),
        (REFUSAL, "", False, "fail", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("ModuleNotFoundError: No module named 'mlflow'", "", False, "fail", "pip install --upgrade mlflow"),
        (None, "", False, "warn", "set MLFLOW"),
        (None, "yes", False, "warn", "set MLFLOW"),  # a word that mlflow does not take
        (None, "TRUE", False, "pass", ""),
        (None, "1", False, "pass", ""),
        (None, "true", True, "warn", "QLIB_DOCKER_ENV_DICT"),  # the variable does not reach a container
    ],
)
def test_file_store(
    side: str | None, allowed: str, docker: bool, state: str, fix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """mlflow's refusal is fixed by the variable; unseen, it passes only where that will reach mlflow."""
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "docker" if docker else "conda")
    found = UNSEEN if side is None else QlibSide(NAME, VERSIONS, side)
    line = doctor.file_store_line(found, allowed)
    assert (line.state, bool(line.fix), fix in line.fix) == (state, bool(fix), True)
    assert ("not looked at" in line.text) is (side is None)
    assert line.figures.get("error") == (side or None)


@pytest.mark.parametrize(("loops", "state"), [(0.99, "fail"), (1, "warn"), (9.99, "warn"), (10, "pass")])
@pytest.mark.parametrize("copy", [0, 1_400_000_000])
def test_disk(loops: float, state: str, copy: int) -> None:
    """Room for less than one loop fails, for less than ten warns; a loop may take a copy of the set."""
    line = disk.disk_line(copy, int((LEAST_FREE / 10 + copy) * loops), Path("/w"))
    assert (line.state, bool(line.fix)) == (state, state != "pass")
    assert ("every model loop gets a copy of the set, 1.4 GB" in line.text) is bool(copy)


def test_store() -> None:
    """The store passes with the set or room for it; a file in its place, a closed folder, no room fail."""
    with public_folder() as folder:
        (folder / "file").touch()
        (folder / "closed").mkdir(mode=0)
        place, closed = folder / "store", folder / "closed" / "store"
        line = disk.store_line(1000, place, stored=False)
        assert (line.state, line.fix) == ("pass", "")
        assert f"into {place}; it takes 1.0 kB of" in line.text
        full = disk.store_line(10**18, place, stored=False)
        assert (full.state, "SOTA_STORE_PATH" in full.fix) == ("fail", True)
        assert "is no folder" in disk.store_line(1, folder / "file", stored=False).text
        with without_privileges():
            assert f"{folder} can't be written" in disk.store_line(1, place, stored=False).text
            assert disk.store_line(1, place, stored=True).state == "pass"
            line = disk.store_line(1, closed, stored=False)
            assert f"{closed} can't be looked at: Permission denied" in line.text
            assert disk.gets_copies(closed, folder) is False


def test_copies_on_another_file_system(tmp_path: Path) -> None:
    """A store on another file system means copies; a folder to come is measured at the nearest one above."""
    assert disk.gets_copies(tmp_path / "store", tmp_path / "root") is False
    assert disk.gets_copies(Path("/proc/self"), tmp_path) is True
    (tmp_path / "file").touch()
    assert disk.nearest_existing(tmp_path / "file" / "b") == tmp_path


# --- facts from processes ---


@pytest.fixture
def qlib(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Return a function that puts a conda on PATH, and makes the environment whose python is a script."""
    programs, inside = tmp_path / "programs", tmp_path / "with a space" / "bin"
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "conda")

    def script(file: Path, text: str) -> None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(f"#!/bin/sh\n{text}\n")
        file.chmod(0o755)

    def make(python: str = "", conda: str = "", qrun: bool = True) -> Path:
        script(programs / "conda", conda or f'[ "$1" = run ] && echo "PATH={inside}" || exit 1')
        script(inside / "python", python or f'exec {sys.executable} "$@"')
        if qrun:
            script(inside / "qrun", "exit 0")
        return inside

    return make


def unseen(state: str, *words: str) -> None:
    """Fail unless Qlib's side was not looked at, for a reason with these words, and a fix."""
    line = doctor.look_at_qlib()
    assert isinstance(line, Line)
    assert (line.name, line.state, line.text[:15], bool(line.fix)) == ("qlib", state, "not looked at: ", True)
    assert [word for word in words if word not in line.text] == []


@pytest.mark.parametrize(
    ("kind", "conda", "state", "words"),
    [
        ("docker", None, "warn", "Docker"),
        ("podman", None, "fail", "does not know MODEL_CoSTEER_ENV_TYPE=podman"),
        ("conda", None, "fail", "conda is not on PATH"),
        ("conda", "exit 1", "warn", f"the conda environment {NAME} is not there yet"),
        ("conda", f'[ "$1" = env ] && echo "{NAME} /envs/q" || exit 1', "fail", "can't run anything in it"),
        ("conda", "exec sleep 300", "warn", "conda does not answer"),
    ],
    ids=["docker", "unknown", "no conda", "not yet", "listed", "hanging conda"],
)
def test_places_without_a_python(
    kind: str,
    conda: str | None,
    state: str,
    words: str,
    qlib: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Docker and an environment that is still to be made warn; what no run could start fails."""
    monkeypatch.setattr(doctor, "_QLIB_SECONDS", 1.0)
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", kind)
    if conda is not None:
        qlib(conda=conda)
    unseen(state, words)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("echo 'cannot open shared object file' >&2; exit 127", "cannot open shared object file"),
        ("exit 3", "it ended with status 3"),
        ("exit 0", "it ended with status 0"),
        ("", "has no qrun"),
    ],
)
def test_python_that_does_not_answer(python: str, words: str, qlib: Callable[..., Path]) -> None:
    """A Python that ends without an answer fails with its last words, an environment without qrun too."""
    qlib(python, qrun=bool(python))
    unseen("fail", words)


def test_python_that_hangs(
    qlib: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A Python that hangs is given up after the time limit, and its children are ended with it."""
    monkeypatch.setattr(doctor, "_QLIB_SECONDS", 1.0)
    qlib(f"sleep 300 & echo $! > {tmp_path}/child; wait")
    unseen("fail", "no answer within 1 seconds")
    child = int((tmp_path / "child").read_text())
    wait_until(lambda: not is_alive(child))


@pytest.mark.parametrize(("allowed", "name"), [(True, None), (False, "mine")])
def test_asking_a_real_environment(
    allowed: bool, name: str | None, qlib: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This environment, asked as Qlib's, gives its versions; its mlflow refuses without the variable.

    RD-Agent's own settings have the same name of the environment, and the same PATH inside.
    """
    if not allowed:
        monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    if name is not None:
        monkeypatch.setenv("conda_ENV_name", name)
    inside = qlib()
    theirs = import_module("rdagent.utils.env").QlibCondaConf()
    side = doctor.look_at_qlib()
    assert isinstance(side, QlibSide)
    assert (side.name, theirs.bin_path) == (theirs.conda_env_name, str(inside))
    for package in ("pyqlib", "torch", "pandas", "pyarrow", "mlflow"):
        assert side.versions[package] == metadata.version(package)
    assert doctor.file_store_line(side, "").state == ("pass" if allowed else "fail")


def test_an_rdagent_of_another_shape(tmp_path: Path) -> None:
    """Missing modules and missing classes are misfits with a reason each, and stop no check."""
    loop = tmp_path / "rdagent" / "utils" / "workflow" / "loop.py"
    loop.parent.mkdir(parents=True)
    loop.touch()
    for package in (loop.parent, loop.parent.parent, tmp_path / "rdagent"):
        (package / "__init__.py").touch()
    code = "import pathlib; from rdagent_sota_bridge.bridge.seam_check import write_seams; "
    code += "write_seams(pathlib.Path('answer.json'))"
    variables = {"PYTHONPATH": str(tmp_path), "LOAD_SOTA_FROM_WORKSPACE": "true"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **variables}, check=True)
    found = Seams(**json.loads((tmp_path / "answer.json").read_text()))
    assert found.hooked is True
    assert list(found.misfits) == [seam.name for seam in SEAMS]
    assert found.misfits["loop"].startswith("RD-Agent's loop has a form that is not known")
    assert found.misfits["options"].startswith("The command line has no fin_* commands")
    assert "ModuleNotFoundError: No module named 'rdagent.log'" in found.misfits["text log"]
    assert lines_of(found)["seams"].state == "fail"
    assert all("is not known: ModuleNotFoundError" in reason for reason in found.verdicts.values())
    with pytest.raises(SeamError, match="What RD-Agent would train with is not known"):
        doctor.qlib_start(found)


def test_the_installed_rdagent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child finds that every seam of the table fits, and what develop would train with."""
    start = dry_run.of_models().start  # imports RD-Agent here, with the hook on
    monkeypatch.setenv("RDAGENT_SOTA_BRIDGE", "0")
    found = doctor.look_at_rdagent()
    assert isinstance(found, Seams)
    assert (found.hooked, found.misfits, found.runners) == (True, {}, {})
    assert found.verdicts["mended"] == ""
    assert found.verdicts["rdagent"].startswith("RD-Agent's own is in force (SOTA_MODEL_VERDICT=rdagent)")
    assert doctor.qlib_start(found) == start
    assert found.of_factors is not None
    assert found.of_factors.start.config_name == "conf_combined_factors.yaml"


def test_without_rdagent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RD-Agent one line fails, those that need it were not looked at; a wrong setting stops none."""
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setenv("SOTA_MODEL_VERDICT", "odd")
    monkeypatch.setattr(doctor, "installed", lambda name: None)
    first, *others, disk = doctor.lines(1000, Path("store"))
    assert (first.name, first.state, disk.name) == ("rdagent", "fail", "disk")
    assert [(line.name, line.state) for line in others] == [
        ("seams", "warn"),
        ("qlib", "warn"),
        ("mlflow file store", "warn"),
        ("conda", "warn"),
    ]
    assert all("not looked at" in line.text for line in others[:-1])
    monkeypatch.setenv("CONDA_DEFAULT_ENV", "base")
    assert "conda" not in {line.name for line in doctor.lines(1000, Path("store"))}
    with pytest.raises(SeamError, match="RD-Agent is not installed"):
        doctor.qlib_start(others[0])

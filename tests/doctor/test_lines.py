"""The lines of a check about the machine: each from given facts, and the facts from real processes."""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
import time
from importlib import metadata
from pathlib import Path

import pytest

from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.bridge.seams import SEAMS
from rdagent_sota_bridge.doctor import lines as environment
from rdagent_sota_bridge.doctor import qlib_environment
from rdagent_sota_bridge.doctor.lines import (
    LEAST_FREE,
    OWN_RUNNER,
    Seams,
    disk_line,
    gets_copies,
    nearest_existing,
    rdagent_line,
    runner_lines,
    seam_lines,
    seams_line,
    store_line,
    verdict_lines,
)
from rdagent_sota_bridge.doctor.qlib_environment import (
    Place,
    QlibSide,
    Unseen,
    ask_qlib,
    file_store_line,
    qlib_line,
)
from rdagent_sota_bridge.errors import SeamError
from tests.frames import public_folder, without_privileges
from tests.processes import is_alive

PANDAS = "2.3.3"
VERSIONS = {
    "python": "3.10.4",
    "pyqlib": "0.9.7",
    "torch": "2.13.0",
    "pandas": "2.2.0",
    "pyarrow": "17.0.0",
    "mlflow": "3.17.2",
}
NO_CONDA = Unseen("fail", "conda is not on PATH", "install conda")
IN_DOCKER = Unseen("warn", "Qlib runs in Docker", "look later", in_docker=True)
NOT_YET = Unseen("warn", "the environment is not there yet", "check again")
REFUSAL = (
    "MlflowException: The filesystem tracking backend … See https://mlflow.org/docs/migrate-from-file-store"
)
ALL_FIT = Seams(True, {})


def executable(file: Path, text: str) -> Path:
    """Write a script that can be started, and return its path."""
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text, encoding="utf-8")
    file.chmod(file.stat().st_mode | stat.S_IXUSR)
    return file


def place_with(folder: Path, python: str) -> Place:
    """Return a place whose python is a shell script, and whose qrun is there."""
    executable(folder / "bin" / "python", f"#!/bin/sh\n{python}\n")
    executable(folder / "bin" / "qrun", "#!/bin/sh\n")
    return Place("conda", "rdagent4qlib", str(folder / "bin"), True, True)


def here() -> Place:
    """Return this environment as the place where Qlib runs."""
    return Place("conda", "rdagent4qlib", str(Path(sys.executable).parent), True, True)


def unseen(place: Place, folder: Path) -> Unseen:
    """Return why a place was not looked at; fail where it was."""
    found = ask_qlib(place, folder)
    assert isinstance(found, Unseen)
    return found


# --- lines from facts ---


@pytest.mark.parametrize(("version", "state"), [(None, "fail"), ("1.0.0", "pass")])
def test_rdagent(version: str | None, state: str) -> None:
    """A release that is installed passes, and none fails with a fix."""
    line = rdagent_line(version)
    assert (line.state, line.figures["version"]) == (state, version)
    assert bool(line.fix) is (state != "pass")


def test_seams_that_fit() -> None:
    """All seams fit, and each is among the figures."""
    line = seams_line(ALL_FIT, "", "")
    assert (line.state, line.fix) == ("pass", "")
    fit = {seam.name: "fits" for seam in SEAMS}
    assert line.figures == {"hook": True, "patched": False, "seams": fit}


@pytest.mark.parametrize(
    ("name", "state"),
    [
        ("options", "warn"),
        ("text log", "warn"),
        ("loop", "warn"),
        ("verdict", "warn"),
        ("best model", "warn"),
        ("workspace", "fail"),
        ("merge", "fail"),
        ("runner", "fail"),
    ],
)
def test_a_seam_that_does_not_fit(name: str, state: str) -> None:
    """What the hand-off needs fails, a courtesy warns, and both are named with the reason."""
    line = seams_line(Seams(True, {name: "it has another form"}), "", "")
    assert line.state == state
    assert f"{name}: it has another form" in line.text
    assert line.figures["seams"][name] == "it has another form"
    both = seams_line(Seams(True, {"options": "one", name: "two", "runner": "three"}), "", "")
    assert both.state == "fail"
    assert "seams do not fit the installed RD-Agent: options: " in both.text


def test_the_table_of_seams() -> None:
    """Each seam of the table is one line with its module and what was found there, whoever added it."""
    misfits = {"workspace": "too old", "options": "other"}
    lines = seam_lines(Seams(True, misfits))
    assert [line.name for line in lines] == [f"seam {seam.name}" for seam in SEAMS]
    by_name = {line.name.removeprefix("seam "): line for line in lines}
    states = [by_name[name].state for name in ("loop", "workspace", "options")]
    assert states == ["pass", "fail", "warn"]
    assert by_name["loop"].text == "rdagent.utils.workflow.loop: fits"
    assert by_name["workspace"].text.endswith(": misfit: too old")
    assert all(bool(line.fix) is (line.state != "pass") for line in lines)
    assert by_name["workspace"].figures["reason"] == "too old"
    for seam in SEAMS:
        assert by_name[seam.name].figures["module"] == seam.module
    kinds = {name: line.figures["found"] for name, line in by_name.items()}
    assert kinds == {seam.name: "fits" for seam in SEAMS} | {
        "workspace": "misfit",
        "options": "misfit",
    }


def test_no_table_where_nothing_was_looked_at() -> None:
    """Without RD-Agent there is nothing to tell of its seams."""
    assert seam_lines(NOT_YET) == []


@pytest.mark.parametrize(
    ("hooked", "switch", "runner", "state"),
    [
        (True, "1", "", "pass"),
        (True, "On", "", "pass"),
        (True, "0", "", "fail"),
        (True, "OFF", "", "fail"),
        (True, "0", OWN_RUNNER, "warn"),
        (False, "", "", "fail"),
        (False, "true", "", "fail"),
        (False, "", OWN_RUNNER, "warn"),
        (False, "", "my.Runner", "fail"),
        (True, "maybe", "", "fail"),
        (True, "maybe", OWN_RUNNER, "fail"),
    ],
)
def test_seams_that_no_run_would_apply(hooked: bool, switch: str, runner: str, state: str) -> None:
    """Fitting seams help nobody where the package is off or has no hook; our own runner needs neither."""
    line = seams_line(Seams(hooked, {}), switch, runner)
    assert line.state == state
    assert bool(line.fix) is (state != "pass")
    assert ("turns the import hook off" in line.text) is (switch in ("0", "OFF"))
    assert ("rdagent-sota-bridge.pth" in line.text) is not hooked


def test_a_patched_source_needs_no_hook() -> None:
    """Off or missing, the hook is not missed where the source calls the package; a typo still fails."""
    for hooked, switch in ((True, "0"), (False, "")):
        line = seams_line(Seams(hooked, {}, patched=True), switch, "")
        assert (line.state, line.figures["patched"]) == ("pass", True)
        assert "its patched source calls the package" in line.text
    assert seams_line(Seams(True, {}, patched=True), "maybe", "").state == "fail"


def test_name_of_our_own_runner() -> None:
    """The name that is compared with QLIB_MODEL_RUNNER is one that RD-Agent can import."""
    module, _, name = OWN_RUNNER.rpartition(".")
    file = Path(environment.__file__).parent / f"{module.rpartition('.')[2]}.py"
    assert f"class {name}(" in file.read_text(encoding="utf-8")


@pytest.mark.parametrize("pandas", ["2.0.0", "1.5.3", "3.0.0"])
def test_qlib(pandas: str) -> None:
    """The versions that train stand in the text; a newer major version of pandas there warns."""
    versions = {**VERSIONS, "pandas": pandas}
    line = qlib_line(QlibSide("rdagent4qlib", versions), PANDAS)
    text = "conda environment rdagent4qlib: pyqlib 0.9.7, torch 2.13.0, python 3.10.4, pandas"
    assert line.text.startswith(f"{text} {pandas}, pyarrow 17.0.0")
    assert line.figures["versions"] == versions
    assert line.state == ("warn" if pandas == "3.0.0" else "pass")
    assert bool(line.fix) is (line.state == "warn")


@pytest.mark.parametrize("missing", ["pyqlib", "torch", "pandas", "pyarrow"])
def test_qlib_half_made(missing: str) -> None:
    """An environment whose making was broken off fails: RD-Agent looks at its name alone."""
    versions = {name: version for name, version in VERSIONS.items() if name != missing}
    line = qlib_line(QlibSide("rdagent4qlib", versions), PANDAS)
    assert line.state == "fail"
    assert f"has no {missing}" in line.text
    assert line.fix.endswith("conda env remove -n rdagent4qlib")


@pytest.mark.parametrize("reason", [NO_CONDA, IN_DOCKER, NOT_YET])
def test_what_was_not_looked_at_never_passes(reason: Unseen) -> None:
    """Where Qlib's side was not seen, its lines say so in words, and none of them claims anything."""
    first = qlib_line(reason, PANDAS)
    assert (first.state, first.text, first.fix) == (
        reason.state,
        f"not looked at: {reason.reason}",
        reason.fix,
    )
    line = file_store_line(reason, "")
    assert line.state == "warn"
    assert "Qlib's side was not looked at (see qlib)" in line.text
    assert line.fix
    assert seams_line(reason, "", "").text == f"not looked at: {reason.reason}"


@pytest.mark.parametrize(
    ("error", "state", "fix"),
    [
        ("", "pass", ""),
        (REFUSAL, "fail", "MLFLOW_ALLOW_FILE_STORE=true"),
        ("ModuleNotFoundError: No module named 'mlflow'", "fail", "pip install --upgrade mlflow"),
    ],
)
def test_file_store(error: str, state: str, fix: str) -> None:
    """mlflow's own refusal is mended by the variable, another error is shown and mended otherwise."""
    line = file_store_line(QlibSide("rdagent4qlib", VERSIONS, file_store=error), "")
    assert line.state == state
    assert fix in line.fix
    assert line.figures["error"] == (error or None)


@pytest.mark.parametrize(
    ("reason", "allowed", "state"),
    [
        (NOT_YET, "", "warn"),
        (NOT_YET, "false", "warn"),
        (NOT_YET, "yes", "warn"),  # a word that mlflow does not take
        (NOT_YET, "TRUE", "pass"),
        (NOT_YET, "1", "pass"),
        (IN_DOCKER, "true", "warn"),  # the variable does not reach a container
    ],
)
def test_file_store_of_a_side_that_was_not_seen(reason: Unseen, allowed: str, state: str) -> None:
    """Unseen, the line passes only where the variable is set and will reach mlflow."""
    line = file_store_line(reason, allowed)
    assert line.state == state
    assert "not looked at" in line.text
    assert ("QLIB_DOCKER_ENV_DICT" in line.fix) is reason.in_docker


@pytest.mark.parametrize(("loops", "state"), [(0.99, "fail"), (1, "warn"), (9.99, "warn"), (10, "pass")])
@pytest.mark.parametrize("copy", [0, 1_400_000_000])
def test_disk(loops: float, state: str, copy: int) -> None:
    """Room for less than one loop fails, for less than ten warns; a loop may take a copy of the set."""
    line = disk_line(copy, int((LEAST_FREE / 10 + copy) * loops), Path("/w"))
    assert line.state == state
    assert "free in /w" in line.text
    assert ("every model loop gets a copy of the set, 1.4 GB" in line.text) is bool(copy)
    assert bool(line.fix) is (state != "pass")


def test_store(tmp_path: Path) -> None:
    """Where the set is stored, and where there is room for it, the store passes; without room it fails."""
    assert store_line(1000, tmp_path, stored=True).state == "pass"
    line = store_line(1000, tmp_path / "store", stored=False)
    assert (line.state, line.fix) == ("pass", "")
    assert f"into {tmp_path / 'store'}; it takes 1.0 kB of" in line.text
    full = store_line(10**18, tmp_path / "store", stored=False)
    assert full.state == "fail"
    assert "SOTA_STORE_PATH" in full.fix


def test_store_that_can_not_be_written() -> None:
    """A file in the store's place, and a folder that may not be written, fail; not if the set is there."""
    with public_folder() as folder:
        (folder / "file").touch()
        (folder / "closed").mkdir(mode=0)
        assert "is no folder" in store_line(1, folder / "file", stored=False).text
        with without_privileges():
            line = store_line(1, folder / "store", stored=False)
            assert (line.state, line.text.split(" can't")[0]) == ("fail", str(folder))
            assert store_line(1, folder / "store", stored=True).state == "pass"
            closed = folder / "closed" / "store"
            assert "can't be looked at: Permission denied" in store_line(1, closed, stored=False).text
            assert gets_copies(closed, folder) is False


def test_copies_on_another_file_system(tmp_path: Path) -> None:
    """A store on another file system than the workspaces means copies."""
    assert gets_copies(tmp_path / "store", tmp_path / "root") is False
    assert gets_copies(Path("/proc/self"), tmp_path) is True


def test_runners() -> None:
    """A model runner that can't be given the factors fails, with its variable; unknown, nothing is said."""
    assert [line.state for line in runner_lines(ALL_FIT)] == ["pass"]
    unfit = {"QLIB_MODEL_RUNNER": "mine.Runner, whose develop does not lead there"}
    (line,) = runner_lines(Seams(True, {}, unfit))
    assert (line.state, line.text) == (
        "fail",
        "no factors for QLIB_MODEL_RUNNER: mine.Runner, whose develop does not lead there",
    )
    assert line.fix.startswith("unset QLIB_MODEL_RUNNER, or call super().develop(exp)")
    assert runner_lines(Unseen("warn", "no RD-Agent", "install it")) == []
    assert runner_lines(Seams(True, {"merge": "another form"})) == []


VERDICTS = {"mended": "", "rdagent": "RD-Agent's own is in force"}


@pytest.mark.parametrize(
    ("verdicts", "way", "state", "text", "fix"),
    [
        (VERDICTS, "mended", "pass", "one of a run with the switch off can't", ""),
        (VERDICTS, "rdagent", "warn", "RD-Agent's own is in force", "unset SOTA_MODEL_VERDICT"),
        ({**VERDICTS, "mended": "its T is odd"}, "mended", "warn", "its T is odd", "release"),
        ({"mended": "", "rdagent": ""}, "mended", "pass", "as RD-Agent itself has it", ""),
        ({"mended": "", "rdagent": ""}, "rdagent", "pass", "as RD-Agent itself has it", ""),
    ],
)
def test_verdicts(verdicts: dict[str, str], way: str, state: str, text: str, fix: str) -> None:
    """A verdict that can't accept a model is a warning with its reason, and says how to fix it."""
    (line,) = verdict_lines(Seams(True, {}, verdicts=verdicts), way)
    assert (line.name, line.state, line.figures) == ("model verdict", state, {"SOTA_MODEL_VERDICT": way})
    assert text in line.text
    assert fix in line.fix
    assert bool(line.fix) is bool(fix)


def test_verdicts_that_were_not_looked_at() -> None:
    """Where RD-Agent was not seen nothing is said of its verdict."""
    assert verdict_lines(Unseen("warn", "no RD-Agent", "install it"), "mended") == []
    assert verdict_lines(ALL_FIT, "mended") == []


# --- facts from processes ---


def test_nearest_existing_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder that is not there yet is measured at the nearest one above; a file in its way is no folder."""
    (tmp_path / "file").touch()
    assert nearest_existing(tmp_path) == tmp_path
    assert nearest_existing(tmp_path / "a" / "b") == tmp_path
    assert nearest_existing(tmp_path / "file" / "b") == tmp_path
    monkeypatch.chdir(tmp_path)
    assert nearest_existing(Path("a")) == tmp_path


@pytest.mark.parametrize(
    ("place", "state", "words"),
    [
        (Place("docker"), "warn", "Docker"),
        (Place("podman"), "fail", "does not know MODEL_CoSTEER_ENV_TYPE=podman"),
        (Place("conda", "q"), "fail", "conda is not on PATH"),
        (Place("conda", "q", has_conda=True), "warn", "the conda environment q is not there yet"),
        (Place("conda", "q", has_conda=True, listed=True), "fail", "can't run anything in it"),
    ],
)
def test_places_without_a_python(place: Place, state: str, words: str, tmp_path: Path) -> None:
    """Docker and an environment that is still to be made warn; what no run could start fails."""
    found = unseen(place, tmp_path)
    assert found.state == state
    assert words in found.reason
    assert found.fix
    assert found.in_docker is (place.kind == "docker")
    assert list(tmp_path.iterdir()) == []


def test_environment_without_qrun(tmp_path: Path) -> None:
    """An environment that lacks Qlib's command fails, though another one on the user's PATH may have it."""
    place = place_with(tmp_path, "exit 0")
    (tmp_path / "bin" / "qrun").unlink()
    found = unseen(place, tmp_path)
    assert (found.state, "has no qrun" in found.reason) == ("fail", True)


@pytest.mark.parametrize(
    ("python", "words"),
    [
        ("echo 'cannot open shared object file' >&2; exit 127", "cannot open shared object file"),
        ("exit 3", "it ended with status 3"),
        ("exit 0", "it ended with status 0"),
    ],
)
def test_python_that_does_not_answer(python: str, words: str, tmp_path: Path) -> None:
    """A Python that ends without an answer fails, with the last thing that it said."""
    found = unseen(place_with(tmp_path, python), tmp_path)
    assert (found.state, found.reason.endswith(words)) == ("fail", True)


def test_python_that_hangs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Python that hangs is given up after the time limit, and its children are ended with it."""
    monkeypatch.setattr(qlib_environment, "_QLIB_SECONDS", 1.0)
    place = place_with(tmp_path, "sleep 300 & echo $! > child; wait")
    begin = time.monotonic()
    found = unseen(place, tmp_path)
    assert time.monotonic() - begin < 30
    assert found.reason.endswith("no answer within 1 seconds")
    child = int((tmp_path / "probe" / "child").read_text())
    deadline = time.monotonic() + 10
    while is_alive(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_alive(child)


@pytest.mark.parametrize("allowed", [True, False])
def test_asking_a_real_environment(allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This environment, asked as Qlib's, tells its versions; its mlflow refuses without the variable."""
    if not allowed:
        monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    folder = tmp_path / "with a space"
    folder.mkdir()
    side = ask_qlib(here(), folder)
    assert isinstance(side, QlibSide)
    for name in ("pyqlib", "torch", "pandas", "pyarrow", "mlflow"):
        assert side.versions[name] == metadata.version(name)
    line = file_store_line(side, "true" if allowed else "")
    assert line.state == ("pass" if allowed else "fail"), line
    assert (folder / "probe" / "mlruns").is_dir() is allowed


@pytest.mark.e2e
def test_place_that_rdagent_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RD-Agent's own settings say where Qlib runs: Docker where the user chose it, else conda."""
    programs = tmp_path / "bin"
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}/usr/bin{os.pathsep}/bin")
    monkeypatch.delenv("MODEL_CoSTEER_ENV_TYPE", raising=False)
    assert "conda is not on PATH" in looked_at(tmp_path / "none").reason
    executable(programs / "conda", '#!/bin/sh\n[ "$1" = env ] && echo "rdagent4qlib  /envs/q" || exit 1\n')
    assert looked_at(tmp_path / "listed").reason.startswith("conda lists rdagent4qlib")
    monkeypatch.setenv("MODEL_CoSTEER_ENV_TYPE", "docker")
    assert looked_at(tmp_path / "docker").in_docker


def looked_at(folder: Path) -> Unseen:
    """Return why RD-Agent's own place for Qlib was not looked at."""
    folder.mkdir()
    found = qlib_environment.look_at_qlib(folder)
    assert isinstance(found, Unseen)
    return found


def test_an_rdagent_of_another_shape(tmp_path: Path) -> None:
    """Missing modules and missing classes are misfits with a reason each, and stop no check."""
    loop = tmp_path / "rdagent" / "utils" / "workflow" / "loop.py"
    loop.parent.mkdir(parents=True)
    loop.touch()
    for package in (loop.parent, loop.parent.parent, tmp_path / "rdagent"):
        (package / "__init__.py").touch()
    code = "import pathlib, rdagent_sota_bridge.doctor.lines as e; e.tell_seams(pathlib.Path('answer.json'))"
    variables = {"PYTHONPATH": str(tmp_path), "LOAD_SOTA_FROM_WORKSPACE": "true"}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={**os.environ, **variables}, check=True)
    told = json.loads((tmp_path / "answer.json").read_text())
    assert told["hooked"] is True
    assert list(told["misfits"]) == [seam.name for seam in SEAMS]
    assert told["misfits"]["loop"].startswith("RD-Agent's loop has a form that is not known")
    assert "ModuleNotFoundError: No module named 'rdagent.app'" in told["misfits"]["options"]
    assert seams_line(Seams(**told), "", "").state == "fail"
    assert all("is not known: ModuleNotFoundError" in reason for reason in told["verdicts"].values())


def test_the_installed_rdagent(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child says of every seam of the table that it fits, and what develop would train with."""
    monkeypatch.setenv("RDAGENT_SOTA_BRIDGE", "0")
    found = environment.look_at_rdagent()
    assert isinstance(found, Seams)
    assert (found.hooked, found.misfits, found.runners) == (True, {}, {})
    assert found.verdicts["mended"] == ""
    assert found.verdicts["rdagent"].startswith("RD-Agent's own is in force (SOTA_MODEL_VERDICT=rdagent)")
    assert {line.state for line in seam_lines(found)} == {"pass"}
    assert environment.qlib_start(found) == dry_run.of_models().start


@pytest.mark.parametrize("found", [Seams(True, {"runner": "it is odd"}), NOT_YET], ids=["misfit", "unseen"])
def test_what_rdagent_would_train_with_may_not_be_known(found: Seams | Unseen) -> None:
    """Where develop can't be asked, a set is not checked, and the reason stands there."""
    with pytest.raises(SeamError, match="does not tell what it would train with"):
        found.develop()


def test_without_rdagent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without RD-Agent one line fails with the fix, and those that need it were not looked at."""
    monkeypatch.delenv("MLFLOW_ALLOW_FILE_STORE", raising=False)
    monkeypatch.setattr(environment, "installed", lambda name: None)
    first, *others, disk = environment.lines(1000, Path("store"))
    assert (first.name, first.state) == ("rdagent", "fail")
    assert [line.state for line in others] == ["warn"] * 3
    assert all("not looked at" in line.text for line in others)
    assert disk.name == "disk"


def test_settings_that_mean_nothing_stop_no_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check shows the machine too where a setting is wrong, which it tells in another line."""
    monkeypatch.setattr(environment, "installed", lambda name: None)
    monkeypatch.setenv("SOTA_MODEL_VERDICT", "odd")
    assert environment.lines(1000, Path("store"))[0].name == "rdagent"
    assert verdict_lines(Seams(True, {}, verdicts=VERDICTS), environment._verdict_asked_for()) == []

"""What the sessions of a log folder say, and that nothing in them is run."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.errors import SessionError, UntrustedSessionError
from rdagent_sota_bridge.factor_set import safe_pickle, sessions
from rdagent_sota_bridge.system import cache
from tests import logs
from tests.frames import assert_survives_pickling, public_folder, without_privileges


def signed(test: Any) -> Any:
    """Keep a test for an RD-Agent that signs its sessions; `make test` runs both kinds."""
    return test if logs.SIGNED else None


def unsigned(test: Any) -> Any:
    """Keep a test for an RD-Agent that does not sign its sessions."""
    return None if logs.SIGNED else test


THREE = (("first", ("a", "b"), True), ("second", ("c",), True), ("third", ("d",), False))


def refused(path: Path, error_class: type[SessionError] = SessionError) -> SessionError:
    """Return the error of a log that can't be read; fail where it can."""
    with pytest.raises(SessionError) as caught:
        sessions.read_session(path)
    assert type(caught.value) is error_class
    assert_survives_pickling(caught.value)
    return caught.value


@pytest.fixture
def old_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Let the cache take files that were written just now, and begin with an empty one."""
    monkeypatch.setattr(cache, "_COARSE_CLOCK", -(10**12))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_experiments_and_verdicts(tmp_path: Path) -> None:
    """Of every finished loop there is: number, kind, verdict, workspace, factors, and when it ended."""
    root = tmp_path / "root"
    log = logs.write_run(tmp_path / "log", root, *THREE)
    session = sessions.read_session(log)
    assert session.loop_class == "FactorRDLoop"
    assert session.mines_factors
    assert session.unfinished == ()
    assert [(one.loop, one.workspace_id, one.factor_names, one.accepted) for one in session.experiments] == [
        (0, "first", ("a", "b"), True),
        (1, "second", ("c",), True),
        (2, "third", ("d",), False),
    ]
    assert [one.workspace_id for one in session.accepted_factors] == ["first", "second"]
    assert {one.kind for one in session.experiments} == {sessions.FACTOR_EXPERIMENT}
    assert session.experiments[2].recorded_path == str(root / "third")
    assert session.experiments[2].ended == logs.BEGIN + timedelta(hours=2)


@pytest.mark.parametrize("form", ["folder", "__session__", "file", "relative"])
def test_forms_of_the_path(form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log folder and its __session__ lead to the newest session; a file is read as it is named."""
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE)
    first = next((log / "__session__" / "0").iterdir())
    monkeypatch.chdir(tmp_path)
    path = {"folder": log, "__session__": log / "__session__", "file": first, "relative": Path("log")}[form]
    session = sessions.read_session(path)
    assert len(session.experiments) == (1 if form == "file" else 3)
    assert session.file.is_absolute()
    assert sessions.log_folder(path.absolute()) == log
    # A session file that was copied out of its log belongs to none.
    copy = Path(shutil.copy(session.file, tmp_path / "copy"))
    assert sessions.read_session(copy).experiments == session.experiments
    assert sessions.log_folder(copy) is None


def test_of_parallel_loops_the_last_verdict_counts(tmp_path: Path) -> None:
    """A lower loop that ended last has written the newest session; the highest loop's is not all there is."""
    loop = logs.new_loop()
    early, late = (logs.factor_experiment(tmp_path / name, name) for name in ("early", "late"))
    logs.begin(loop, 0, late)
    logs.finish(loop, 1, early, True)
    highest = logs.dump(loop, tmp_path, 1)
    logs.finish(loop, 0, late, True, logs.BEGIN + timedelta(hours=5))
    newest = logs.dump(loop, tmp_path, 0)
    assert sessions.session_file(tmp_path) == highest
    session = sessions.read_session(tmp_path)
    assert session.file == newest
    assert [(one.loop, one.workspace_id) for one in session.experiments] == [(1, "early"), (0, "late")]


def test_of_parallel_loops_the_last_step_counts(tmp_path: Path) -> None:
    """Where no verdict tells two sessions apart, the newest is the one whose last step ended last."""
    loop = logs.new_loop()
    for number, hours in ((1, 1), (0, 2)):
        logs.begin(loop, number, None, logs.BEGIN + timedelta(hours=hours))
        newest = logs.dump(loop, tmp_path, number)
    session = sessions.read_session(tmp_path)
    assert (session.file, session.written) == (newest, (logs.BEGIN + timedelta(hours=2)).timestamp())


@pytest.mark.parametrize("what", ["other times", "damage to an older one", "other files"])
def test_only_sessions_that_may_be_newer_are_read(what: str, tmp_path: Path) -> None:
    """Neither a copy's times, nor damage to an older session, nor what an editor leaves stops the reading."""
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE)
    if what == "other times":
        for age, file in enumerate(sorted(log.rglob("*_*"), reverse=True)):
            os.utime(file, (1_700_000_000 + age, 1_700_000_000 + age))
    elif what == "damage to an older one":
        next((log / "__session__" / "0").iterdir()).write_bytes(b"damaged")
    else:
        for name in ("2/.DS_Store", "9/._x", "9/x_y", "x/9_record"):
            (log / "__session__" / name).parent.mkdir(exist_ok=True)
            (log / "__session__" / name).touch()
        (log / "__session__" / "9" / "0_folder").mkdir()
    assert len(sessions.read_session(log).experiments) == 3


@pytest.mark.parametrize(
    ("kind", "mines"), [("FactorRDLoop", True), ("QuantRDLoop", True), ("ModelRDLoop", False)]
)
def test_kinds_of_runs(kind: str, mines: bool, tmp_path: Path) -> None:
    """The command of a log shows before its first verdict, then which experiments are on factors."""
    loop = logs.new_loop(kind)
    logs.begin(loop, 0, None, logs.BEGIN - timedelta(hours=2))
    logs.dump(loop, tmp_path, 0)
    session = sessions.read_session(tmp_path)
    assert (session.loop_class, session.mines_factors, session.experiments) == (kind, mines, ())
    assert (session.unfinished, session.next_steps) == ((0,), {0: 1})
    assert session.written == (logs.BEGIN - timedelta(hours=2)).timestamp()
    logs.finish(loop, 1, logs.factor_experiment(tmp_path / "f", "a"), True)
    logs.finish(loop, 2, logs.model_experiment(tmp_path / "m"), True)
    logs.dump(loop, tmp_path, 2)
    session = sessions.read_session(tmp_path)
    assert [(one.is_factor, one.kind, one.factor_names) for one in session.experiments] == [
        (True, "QlibFactorExperiment", ("a",)),
        (False, "QlibModelExperiment", ()),
    ]
    assert [one.workspace_id for one in session.accepted_factors] == ["f"]
    assert session.unfinished == (0,)
    assert session.written == (logs.BEGIN + timedelta(hours=2)).timestamp()


def test_a_workspace_recorded_by_another_system(tmp_path: Path) -> None:
    """A session that holds paths of Windows is read everywhere."""

    class Elsewhere:
        def __reduce__(self) -> Any:
            import pathlib

            return pathlib.PureWindowsPath, (r"C:\project\git_ignore_folder\the id",)

    loop = logs.new_loop()
    experiment = logs.factor_experiment(tmp_path, "a")
    experiment.experiment_workspace.workspace_path = Elsewhere()
    logs.finish(loop, 0, experiment, True)
    logs.dump(loop, tmp_path, 0)
    (found,) = sessions.read_session(tmp_path).experiments
    assert found.workspace_id == "the id"


# --- what is never run ---


class _Harmful:
    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.mark),)


def test_code_that_a_session_names_is_not_run(tmp_path: Path) -> None:
    """A session may name any function to be called; none is. The same bytes in `pickle` do call it."""
    loop = logs.new_loop()
    logs.finish(loop, 0, logs.factor_experiment(tmp_path / "w", "a"), True)
    loop.harmful = _Harmful(tmp_path / "mark")
    file = logs.dump(loop, tmp_path, 0)
    assert len(sessions.read_session(tmp_path).experiments) == 1
    assert not (tmp_path / "mark").exists()
    content = file.read_bytes()
    pickle.loads(content[content.index(b"\x80") :] if not logs.SIGNED else content[25 + 32 :])
    assert (tmp_path / "mark").exists()


def test_reading_imports_neither_loops_nor_qlib(tmp_path: Path) -> None:
    """Of RD-Agent only the loader of signed pickles is imported."""
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE)
    code = (
        "import sys; from pathlib import Path; from rdagent_sota_bridge.factor_set import sessions\n"
        f"assert len(sessions.factor_codes(Path({str(log)!r}))) == 4\n"
        "heavy = ('rdagent.app', 'rdagent.utils.workflow', 'rdagent.scenarios', 'torch', 'qlib', 'pandas')\n"
        "print(*(name for name in heavy if name in sys.modules))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.split() == []


# --- what is refused ---


KEYS = ("the key of the run, of 32 bytes at least", "another key, of 32 bytes or more, too")
UNTRUSTED = {
    "one flipped byte": ("Artifact signature verification failed.", "ARTIFACT_SIGNING_KEY_PATH"),
    "another key": ("It was signed with another key", "ARTIFACT_SIGNING_KEY_PATH"),
    "a short key": ("ARTIFACT_SIGNING_KEY must contain at least 32 bytes", ""),
    "unsigned": ("is not signed", "ALLOW_UNSAFE_LEGACY_PICKLE=true"),
}


@signed
@pytest.mark.parametrize("what", UNTRUSTED)
def test_untrusted_sessions(what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was changed, signed with another key, or not signed is refused with file, reason and fix."""
    from rdagent.core.conf import RD_AGENT_SETTINGS

    monkeypatch.setattr(RD_AGENT_SETTINGS, "artifact_signing_key", KEYS[0])
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE)
    file = sessions.read_session(log).file
    content = bytearray(file.read_bytes())
    if what == "one flipped byte":
        content[len(content) // 2] ^= 1
    elif what == "unsigned":
        content = content[25 + 32 :]
    else:
        key = KEYS[1] if what == "another key" else "short"
        monkeypatch.setattr(RD_AGENT_SETTINGS, "artifact_signing_key", key)
    file.write_bytes(content)
    fact, fix = UNTRUSTED[what]
    error = refused(log, SessionError if what == "a short key" else UntrustedSessionError)
    assert fact in error.fact
    assert error.place == str(file)
    assert fix in error.fix
    assert "SOTA_WORKSPACE_PATH" in error.fix
    if what == "unsigned":
        monkeypatch.setattr(RD_AGENT_SETTINGS, "allow_unsafe_legacy_pickle", True)
        assert len(sessions.read_session(log).experiments) == 3


@signed
@pytest.mark.parametrize("change", ["another key", "key file", "no longer allowed"])
def test_what_is_cached_needs_the_same_trust(
    change: str, tmp_path: Path, old_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that was read once is not answered from the cache where RD-Agent would refuse it by now."""
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE)
    if change == "no longer allowed":
        file = sessions.session_file(log)
        assert file is not None
        file.write_bytes(file.read_bytes()[25 + 32 :])
        reading(log, monkeypatch, ALLOW_UNSAFE_LEGACY_PICKLE="true")
    else:
        reading(log, monkeypatch)
    changed = {"another key": {"ARTIFACT_SIGNING_KEY": "another key, of 32 bytes or more, too"}}
    if change == "key file":
        key = tmp_path / "key"
        key.write_bytes(b"x" * 32)
        changed["key file"] = {"ARTIFACT_SIGNING_KEY_PATH": str(key)}
    with pytest.raises(UntrustedSessionError):
        reading(log, monkeypatch, **changed.get(change, {}))


@signed
def test_no_key_is_made_for_a_session_that_has_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the key is missing the error says where it was looked for, and no file appears there."""
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE)
    key = tmp_path / "home" / "artifact_signing.key"
    with pytest.raises(UntrustedSessionError, match="there is no signing key") as caught:
        reading(log, monkeypatch, ARTIFACT_SIGNING_KEY_PATH=str(key))
    assert str(key) in caught.value.place
    assert not key.parent.exists()


def reading(log: Path, monkeypatch: pytest.MonkeyPatch, **variables: str) -> sessions.Session:
    """Read a session as a new process with these variables would."""
    from rdagent.core import serialization
    from rdagent.core.conf import RDAgentSettings

    with monkeypatch.context() as patched:
        for name, value in variables.items():
            patched.setenv(name, value)
        patched.setattr(serialization, "RD_AGENT_SETTINGS", RDAgentSettings())
        serialization._signing_key_from_config.cache_clear()
        return sessions.read_session(log)


@unsigned
def test_a_signed_session_under_an_rdagent_that_signs_nothing(tmp_path: Path) -> None:
    """0.8.0 can't verify a session of 1.0.0: the error says so, and it is not read all the same."""
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE)
    file = sessions.read_session(log).file
    file.write_bytes(b"RDAGENT_SIGNED_PICKLE_V1\n" + bytes(32) + file.read_bytes())
    assert "the installed RD-Agent can't verify signatures" in refused(log, UntrustedSessionError).fact


@unsigned
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_session_that_is_cut_off(share: float, tmp_path: Path) -> None:
    """A run that was killed while it wrote leaves half a session."""
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE)
    file = sessions.read_session(log).file
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])
    error = refused(log)
    assert error.fact.startswith("The session can't be read: ")
    assert "name an earlier session file" in error.fix


@pytest.mark.parametrize("content", [None, {"a": 1}, [1, 2], "text", 7])
def test_a_pickle_that_is_no_session(content: object, tmp_path: Path) -> None:
    """Any other pickle in the place of a session is named as what it is not."""
    logs.dump_object(content, tmp_path / "__session__" / "0" / "0_step")
    assert "no session of RD-Agent's, or of a form that is not known" in refused(tmp_path).fact


def test_a_folder_without_sessions(tmp_path: Path) -> None:
    """A folder that is no log is refused; one that holds logs is answered with one of them."""
    assert refused(tmp_path).fact == "The log folder holds no session of RD-Agent"
    (tmp_path / "__session__").mkdir()
    assert "name the log folder of a run" in refused(tmp_path).fix
    log = logs.write_run(tmp_path / "logs" / "run", tmp_path, *THREE)
    error = refused(tmp_path / "logs")
    assert error.fix == f"name one run's log folder, such as {log} (1 folder with sessions there)"


def test_a_path_that_is_no_log(tmp_path: Path) -> None:
    """What is not there, and a file that lies in no log, are named as that: no signature is asked for."""
    assert refused(tmp_path / "nowhere").fact == "The log is not there"
    (tmp_path / "a.txt").write_text("a")
    assert refused(tmp_path / "a.txt").fact == "The file is no session of RD-Agent, nor any pickle"


def test_a_session_that_may_not_be_read() -> None:
    """A file of another user's is an error of the package's, with the system's reason."""
    with public_folder() as folder:
        file = logs.dump_object(None, folder / "__session__" / "0" / "0_step")
        file.chmod(0o000)
        with without_privileges(), pytest.raises(SessionError, match="Permission denied"):
            sessions.read_session(folder)


# --- code ---


def test_factor_codes(tmp_path: Path) -> None:
    """The code of every factor that the coder got to work is given; of one without feedback, all code."""
    loop = logs.new_loop("QuantRDLoop")
    logs.finish(loop, 0, logs.factor_experiment(tmp_path / "w", "a", "b", gave_up=("b",)), True)
    logs.finish(loop, 1, logs.model_experiment(tmp_path / "m"), True)
    logs.finish(loop, 2, logs.factor_experiment(tmp_path / "v", "c"), False)
    logs.dump(loop, tmp_path, 2)
    found = sessions.factor_codes(tmp_path)
    assert [(one.name, one.loop, one.accepted, one.code) for one in found] == [
        ("a", 0, True, "# the code of a\n"),
        ("c", 2, False, "# the code of c\n"),
    ]
    assert all(Path(one.recorded_path).is_absolute() for one in found)
    experiment = logs.factor_experiment(tmp_path / "x", "d", "e", "f", gave_up=("e",))
    experiment.prop_dev_feedback = None
    experiment.sub_workspace_list[2] = None
    logs.finish(loop, 3, experiment, True)
    logs.dump(loop, tmp_path, 3)
    assert [one.name for one in sessions.factor_codes(tmp_path)] == ["a", "c", "d", "e"]


# --- cache ---


def test_a_session_is_loaded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a session says is kept until its file changes: no error, and not of one written just now."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    log = logs.write_run(tmp_path / "log", tmp_path, *THREE[:2])
    sessions.read_session(log)
    monkeypatch.setattr(cache, "_COARSE_CLOCK", -(10**12))
    damaged = logs.dump_object("no session", tmp_path / "__session__" / "0" / "0_step")
    refused(tmp_path)
    assert not (tmp_path / "cache").exists()
    damaged.unlink()
    loaded: list[Path] = []
    load = safe_pickle.load_logged
    monkeypatch.setattr(safe_pickle, "load_logged", lambda file: loaded.append(file) or load(file))
    first = sessions.read_session(log)
    assert sessions.read_session(log) == first
    assert len(loaded) == 1
    shutil.rmtree(log)
    logs.write_run(log, tmp_path, *THREE)
    assert len(sessions.read_session(log).experiments) == 3
    assert len(loaded) == 2

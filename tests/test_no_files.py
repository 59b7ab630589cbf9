"""Only regular files are opened: nothing waits for a pipe, or reads a device, in the place of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from examples.demo.market import Market
from rdagent_sota_bridge.bridge import dry_run, factor_runner, plan
from rdagent_sota_bridge.check.truncate import NotCheckedError, data_files
from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.doctor import machine, rdagent
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.factor_set import sessions, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, RESULT_FILE
from rdagent_sota_bridge.qlib_files import base_sets, label
from rdagent_sota_bridge.qlib_files.manifest import LOADED_FILE, MANIFEST_FILE
from rdagent_sota_bridge.qlib_files.market import read_market
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from rdagent_sota_bridge.report import page
from rdagent_sota_bridge.run import job
from rdagent_sota_bridge.sharing import fetch, fetched
from rdagent_sota_bridge.system import cache
from tests import logs, seams, trained
from tests.factor_set.test_store import normal_source, wanted_of
from tests.frames import factor_frame, write
from tests.no_files import NO_FILES, REASONS, ending, put_no_file
from tests.report.test_history import model, root_of, write_run

EVERY_KIND = pytest.mark.parametrize("kind", NO_FILES)


@pytest.fixture(scope="session")
def asked() -> dry_run.DryRun:
    """Return what RD-Agent's own `develop` does; its modules take long to import."""
    return dry_run.of_models()


@pytest.fixture(autouse=True)
def nothing_waits(asked: dry_run.DryRun) -> Iterator[None]:
    """Let a test fail where it would wait for ever."""
    with ending():
        yield


@pytest.fixture
def project(project: Path, monkeypatch: pytest.MonkeyPatch, asked: dry_run.DryRun) -> Path:
    """Start in an empty folder, on a machine that has tests of its own."""
    monkeypatch.setattr(machine, "lines", lambda look=None: [])
    monkeypatch.setattr(rdagent, "look_at_rdagent", lambda: Seams(True, {}, asked=asked))
    return project


def command(*arguments: object) -> tuple[int, str]:
    """Run `rdagent-sota`; return status and all that it says, in one line."""
    done = CliRunner().invoke(app, [*map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.exit_code, " ".join(f"{done.stdout} {done.stderr}".split())


# --- a factor file; a folder of that name is another matter ---


@pytest.mark.parametrize("kind", ["pipe", "device", "socket"])
@pytest.mark.parametrize("ask", ["check", "check file", "list", "push", "a run"])
def test_a_factor_file(
    ask: str, kind: str, project: Path, market_home: tuple[Path, Market], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each command and a run's own check name it as what it is; a listing goes on to its end."""
    folder = project / "git_ignore_folder" / "RD-Agent_workspace" / "w"
    file = put_no_file(folder / FACTOR_FILE, kind)
    if ask == "a run":
        monkeypatch.setenv("HOME", str(market_home[0]))
        seams.switch_on(monkeypatch, folder)
        with pytest.raises(BridgeError) as caught:
            plan.checked_plan()
        said = str(caught.value)
    else:
        arguments = {
            "check": ("check", folder),
            "check file": ("check", file),
            "list": ("list", "--json"),
            "push": ("push", folder, f"file://{project}/there"),
        }[ask]
        status, said = command(*arguments)
        assert status == (0 if ask == "list" else 1)
    assert REASONS[kind] in said


@EVERY_KIND
@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_a_base_set(kind: str, suffix: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file of a base set is refused by its reader and by `check`."""
    file = put_no_file(project / f"base.{suffix}", kind)
    with pytest.raises(base_sets.BaseSetError) as caught:
        base_sets.base_set(str(file))
    assert REASONS[kind] in str(caught.value)
    monkeypatch.setenv("ALPHA_FACTORS", str(file))
    write(factor_frame(), project)
    status, said = command("check", project)
    assert status == 1
    assert REASONS[kind] in said


# --- logs ---


@EVERY_KIND
def test_a_session(kind: str, project: Path) -> None:
    """In a log it is no session, and named it is an error; where RD-Agent logs a pickle it is one too."""
    root = project / "w"
    log = logs.write_run(project / "log" / "run", root, ("first", ("a",), True))
    put_no_file(log / "__session__" / "1" / "0_direct_exp_gen", kind)
    assert [one.workspace_id for one in sessions.read_session(log).experiments] == ["first"]
    with pytest.raises(BridgeError):
        sessions.read_session(log / "__session__" / "1" / "0_direct_exp_gen")
    put_no_file(log / "RD_AGENT_SETTINGS" / "1" / "2026-01-05_09-00-00-000000.pkl", kind)
    status, said = command("report", log, "--json")
    assert status == 0
    assert REASONS[kind] in said


@EVERY_KIND
def test_a_signing_key(kind: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """RD-Agent's loader, which would read the key, is not asked."""
    log = logs.write_run(project / "log" / "run", project / "w", ("first", ("a",), True))
    monkeypatch.setenv("ARTIFACT_SIGNING_KEY_PATH", str(put_no_file(project / "key", kind)))
    if logs.SIGNED:
        from rdagent.core import serialization

        monkeypatch.setattr(
            serialization.RD_AGENT_SETTINGS, "artifact_signing_key_path", str(project / "key")
        )
        with pytest.raises(BridgeError) as caught:
            sessions.read_session(log)
        assert REASONS[kind] in str(caught.value)


# --- a workspace ---


IN_A_WORKSPACE = (
    MANIFEST_FILE,
    CONFIG_FILE,
    LOADED_FILE,
    FACTOR_FILE,
    RESULT_FILE,
    "ret.parquet",
    "mlruns/*/*/meta.yaml",
    "mlruns/*/*/params/model.kwargs.pt_model_kwargs.num_features",
    "mlruns/*/*/artifacts/config",
)


@EVERY_KIND
@pytest.mark.parametrize("pattern", IN_A_WORKSPACE)
def test_a_file_of_a_workspace(pattern: str, kind: str, project: Path) -> None:
    """A loop is listed, shown and judged by what is left, and no claim that needs the file holds."""
    workspace = trained.write_training(root_of(project) / "w")
    log = write_run(project, model(workspace))
    (file,) = workspace.glob(pattern)
    put_no_file(file, kind)
    unneeded = (RESULT_FILE, "ret.parquet")  # which no claim is shown by
    assert command("verify", log)[0] == (0 if pattern in unneeded else 1)
    assert command("report", log, "--json")[0] == 0
    assert command("list")[0] == 0


# --- what is ours ---


@EVERY_KIND
@pytest.mark.parametrize("half", ["entry", "copy"])
def test_a_file_of_the_store(half: str, kind: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is no stored set: a listing says so, and a run writes the set anew, or names a folder in its way."""
    place = project / "store"
    monkeypatch.setenv("SOTA_STORE_PATH", str(place))
    wanted = wanted_of(normal_source(project / "source"))
    path = store.keep(wanted, place).path
    put_no_file(path.with_suffix(".json") if half == "entry" else path, kind)
    assert command("store")[0] == 0
    assert command("store", "verify")[0] == 1
    if kind == "folder":
        with pytest.raises(store.StoreError, match="Is a directory"):
            store.keep(wanted, place)
        return
    assert store.keep(wanted, place).note
    assert command("store", "verify")[0] == 0


@EVERY_KIND
def test_a_fetched_set(kind: str, project: Path) -> None:
    """A record that is no file is none, and a copy that is none was changed."""
    place = project / "store"
    url = f"file://{normal_source(project / 'source').parent}"
    found = fetch.fetch(url, place, lambda _: None)
    (record,) = (place / store.FETCHED).glob("*.json")
    put_no_file(record, kind)
    (copy,) = fetched.entries(place)
    assert copy.urls == ()
    put_no_file(found.path, kind)
    assert fetched.changed(copy).endswith(f"can't be read: {REASONS[kind]}")


@EVERY_KIND
def test_the_state_of_a_job(kind: str, project: Path) -> None:
    """`run` names it and begins nothing."""
    (project / "log").mkdir()
    file = put_no_file(job.new(job.Options(), project / "log").file, kind)
    with pytest.raises(job.JobError) as caught:
        job.newest(project / "log")
    assert (caught.value.place, REASONS[kind] in caught.value.fact) == (str(file), True)


@EVERY_KIND
def test_an_entry_of_the_cache(kind: str, project: Path) -> None:
    """It is no answer, and the next one takes its place."""
    cache.put("kind-1", [1], "a")
    (file,) = cache.folder().rglob("*.json")
    put_no_file(file, kind)
    assert cache.get("kind-1", [1]) is None
    if kind != "folder":
        assert cache.find_once("kind-1", [1], lambda: "b") == "b"
        assert file.is_file()


@EVERY_KIND
def test_a_report(kind: str, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page is not written over it."""
    log = logs.write_run(project / "log" / "run", project / "w", ("first", ("a",), True))
    file = put_no_file(project / "r.html", kind)
    monkeypatch.setattr(page, "render", lambda _: "text")
    status, said = command("report", log, "-o", file)
    assert (status, REASONS[kind] in said) == (1, True)


# --- what has no command of its own, and what a run reads ---


def _market(file: Path) -> object:
    return read_market(str(file.parents[1]), "csi300")


READERS: dict[str, tuple[str, Callable[[Path], object], Any]] = {
    "instruments": ("instruments/csi300.txt", _market, None),
    "calendar": ("calendars/day.txt", _market, None),
    "prices": ("features/sh600000/close.day.bin", label._prices, BridgeError),
    "the data of factors": ("data/daily_pv.h5", lambda file: data_files(file.parent), NotCheckedError),
    "a reference": ("sota_reference.json", lambda file: factor_runner._kept_metrics(file, {}), None),
    "what develop wrote": (FACTOR_FILE, lambda file: dry_run.is_sample(file, ("a",)), False),
}


@EVERY_KIND
@pytest.mark.parametrize("what", READERS)
def test_what_a_run_reads(what: str, kind: str, project: Path) -> None:
    """It is as good as not there, or one error."""
    name, read, expected = READERS[what]
    for other in ("instruments/csi300.txt", "calendars/day.txt"):
        (project / other).parent.mkdir()
        (project / other).write_text("")
    file = put_no_file(project / name, kind)
    if isinstance(expected, type):
        with pytest.raises(expected):
            read(file)
    else:
        assert read(file) is expected

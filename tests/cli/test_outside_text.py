"""Texts from outside, such as names of an LLM or of a server: one printable line each."""

from __future__ import annotations

import io
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from rdagent_sota_bridge.check.line import Line
from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.cli.fetching import progress_bar
from rdagent_sota_bridge.cli.lines import show
from rdagent_sota_bridge.errors import BridgeError, FactorFileError, Failure, Reason, is_shown, one_line
from rdagent_sota_bridge.factor_set import parquet, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE, workspace_root
from rdagent_sota_bridge.sharing.remote import MANIFEST
from tests import servers
from tests.frames import factor_frame, nested, write

HOSTILE = "a\x1b]0;x\x07\u202e\u200b\x9b[b]\nSOTA factors used"
SHOWN = r"a\x1b]0;x\x07\u202e\u200b\x9b[b]\nSOTA factors used"


def assert_harmless(text: str) -> None:
    """Fail where a text commands a terminal, hides a part of it, or has a line of somebody else's."""
    assert SHOWN in text
    assert [one for one in text if one != "\n" and not is_shown(one)] == []
    assert not [line for line in text.splitlines() if line.startswith("SOTA factors used")]


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("因子 α_1 [b] é\u3000\xa0👍", "因子 α_1 [b] é\u3000\xa0👍"),
        (HOSTILE, SHOWN),
        ("\r\t\0\x7f\x85\u2028\u2029", r"\r\t\x00\x7f\x85\u2028\u2029"),
        ("\u2066\u200f\ufeff\xad\u2060\U000e0041", r"\u2066\u200f\ufeff\xad\u2060\U000e0041"),
        (os.fsdecode(b"\xe9.parquet"), r"\udce9.parquet"),
    ],
)
def test_one_line(text: str, shown: str) -> None:
    """Letters of every script stay, and what is not seen is an escape; done twice it is the same."""
    assert one_line(text) == shown
    assert one_line(shown) == shown
    assert str(BridgeError(text, text, text)) == f"{shown}\n  where: {shown}\n  fix:   {shown}"
    failure = Failure(Reason.ALL_NAN, text, text, None, (text,))
    expected = (
        f"The factor file can't be used for training: {shown}\n"
        f"  - a column is all NaN [{shown}], such as {shown}; fix: {shown}"
    )
    assert str(FactorFileError(text, (failure,))) == expected


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Go to an empty project, in a wide terminal."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("COLUMNS", "400")
    yield tmp_path


def said(*arguments: str, **variables: str) -> str:
    """Return all that a command prints."""
    done = CliRunner().invoke(app, list(arguments), env=variables)
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output


def listed() -> str:
    """List a set with such a factor name, in such a workspace."""
    folder = workspace_root() / HOSTILE.replace("/", "")
    folder.mkdir(parents=True)
    write(nested(factor_frame((HOSTILE,))), folder)
    for row in json.loads(raw := said("list", "--json")):
        assert row["factors"] == [HOSTILE]
        assert row["id"] == HOSTILE
    assert [one for one in raw if one != "\n" and not is_shown(one)] == []
    return said("list")


def stored() -> str:
    """List a stored set that was made of a file with such a path, and one whose entry is damaged."""
    folder = Path(HOSTILE).absolute()
    folder.mkdir()
    path = write(nested(factor_frame()), folder)
    digest = parquet.current_digest(path)
    store.keep(store.Wanted(digest, ("momentum", "turnover"), ((path, digest),)), store.folder(HOSTILE))
    (store.folder(HOSTILE) / f"{'c' * 64}.sota.parquet").touch()
    texts = [said("store", *command, SOTA_STORE_PATH=HOSTILE) for command in (("list",), ("verify",))]
    prune = ("store", "prune", "--keep-days", "0", "--dry-run")
    for text in (*texts, said(*prune, SOTA_STORE_PATH=HOSTILE)):
        assert_harmless(text)
    return texts[0]


def pathless() -> str:
    """Ask for a path that is not there."""
    return said("path", HOSTILE)


def setting() -> str:
    """Give a setting a value that means nothing."""
    return said("path", SOTA_ON_ERROR=HOSTILE, LOAD_SOTA_FROM_WORKSPACE="true")


def checked() -> str:
    """Show the lines of a check."""
    console = Console(record=True, width=400, file=io.StringIO())
    show([[Line(f"factor {HOSTILE}", "warn", HOSTILE, HOSTILE)]], HOSTILE, console)
    text = console.export_text()
    assert text.count(SHOWN) == 4
    return text


def fetched() -> str:
    """Ask for a set of a server whose manifest names such a run."""
    folder = Path("mined").absolute()
    folder.mkdir()
    content = write(nested(factor_frame()), folder).read_bytes()
    manifest = {
        "set_manifest_version": 1,
        "state": "complete",
        "digest": parquet.current_digest(folder / FACTOR_FILE),
        "size": len(content),
        "metrics": {},
        "origin": {"run": HOSTILE, "loop": 1, "workspace_id": HOSTILE, "accepted": False},
    }
    with servers.http_server() as server:
        server.contents = {f"/{FACTOR_FILE}": content, f"/{MANIFEST}": json.dumps(manifest).encode()}
        return said("path", server.url)


@pytest.mark.parametrize("command", [listed, stored, pathless, setting, checked, fetched])
def test_commands(command: Callable[[], str], project: Path) -> None:
    """A factor's, run's or workspace's name, a path and a setting write no line and command no terminal."""
    assert_harmless(command())


def test_a_path_is_printed_byte_for_byte(project: Path) -> None:
    """`path` is for programs: what stands there is the folder, also where its name is no UTF-8."""
    write(nested(factor_frame()), project)
    folder = project / os.fsdecode(b"a\xe9\x1b")
    folder.mkdir()
    (project / FACTOR_FILE).rename(folder / FACTOR_FILE)
    assert CliRunner().invoke(app, ["path", str(folder)]).stdout_bytes == os.fsencode(folder) + b"\n"


def test_the_bar(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL is no markup and no command for the terminal that shows a bar."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "400")
    with progress_bar() as show:
        show(f"s3://{HOSTILE}", 1, None)
    assert SHOWN in capsys.readouterr().err


def test_the_log() -> None:
    """A message of ours is one line of RD-Agent's log, of the function that wrote it; an error has three."""
    from loguru import logger as loguru

    from rdagent_sota_bridge.bridge import stop

    stop.logger()  # RD-Agent's logger removes all sinks when it is built
    lines = list[str]()
    sink = loguru.add(lambda message: lines.append(str(message)), format="{name}:{function} {message}")
    stop.logger().info(HOSTILE)
    stop.logger().warning(HOSTILE)
    stop.logger().warning(BridgeError(HOSTILE, "there", "fix it"))
    loguru.remove(sink)
    start = f"{__name__}:test_the_log"
    assert lines[:2] == [f"{start} {SHOWN}\n"] * 2
    failed = "Failed to load SOTA factors from workspace"
    assert lines[2] == f"{start} {failed}: {SHOWN}\n  where: there\n  fix:   fix it\n"


def test_the_note_in_yaml_and_script() -> None:
    """The base set's name, which may be a file's, stays inside of the comment that it stands in."""
    from rdagent_sota_bridge.bridge.handoff import HandOff
    from rdagent_sota_bridge.qlib_files.base_sets import BaseSet

    note = HandOff({"digest": "sha256:0"}, BaseSet(HOSTILE, ()), None, ()).note
    assert note.startswith(f"factor set sha256:0, base set {SHOWN} sha256:")

"""Whole JSON that is not what was written is no entry and no record: it is dropped and made anew."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from typer.testing import CliRunner

from rdagent_sota_bridge.bridge import factor_runner
from rdagent_sota_bridge.check import quality
from rdagent_sota_bridge.cli import app
from rdagent_sota_bridge.errors import JobError
from rdagent_sota_bridge.factor_set import parquet, sessions, store
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.qlib_files import manifest
from rdagent_sota_bridge.run import job
from rdagent_sota_bridge.sharing import fetch, fetched
from rdagent_sota_bridge.system import cache
from tests import logs, reports, trained
from tests.factor_set.test_store import normal_source, wanted_of
from tests.report.test_history import model, root_of, write_run

TASK = dataclasses.replace(reports.TASK, train=(pd.Timestamp("2020-01-01"), pd.Timestamp("2020-02-20")))
OTHER = f"sha256:{'0' * 64}"

Spoil = Callable[[Any], Any]
"""From what a record holds to what stands in its place; a text is written as it is."""

SPOILT: dict[str, Spoil] = {
    "other keys": lambda content: {f"my {name}": value for name, value in content.items()},
    "an empty one": lambda content: {},
    "a list": lambda content: [content],
    "a number": lambda content: 5,
    "infinite numbers": lambda content: json.dumps(replaced(content, (int, float), float("inf"))),
    "texts for numbers": lambda content: replaced(content, (int, float), "x"),
    "numbers for texts": lambda content: replaced(content, str, 5),
    "another digest": lambda content: json.dumps(replaced(content, str, OTHER)),
    "nulls": lambda content: dict.fromkeys(content),
    "nested too deep": lambda content: "[" * 100_000,
    "nested deep": lambda content: {**content, **dict.fromkeys(content, nested(content, 900))},
}
EVERY_WAY = pytest.mark.parametrize("how", SPOILT)


def replaced(value: Any, kind: Any, by: object) -> Any:
    """Return JSON with every value of a kind replaced, but for truth values."""
    if isinstance(value, dict):
        return {name: replaced(one, kind, by) for name, one in value.items()}
    if isinstance(value, list):
        return [replaced(one, kind, by) for one in value]
    return by if isinstance(value, kind) and not isinstance(value, bool) else value


def nested(value: Any, depth: int) -> Any:
    """Return a value below so many lists, which Python can still parse."""
    for _ in range(depth):
        value = [value]
    return value


def spoil(file: Path, how: str) -> None:
    """Write something else in the place of a record's JSON."""
    content = SPOILT[how](json.loads(file.read_text(encoding="utf-8")))
    file.write_text(content if isinstance(content, str) else dumped(content), encoding="utf-8")


def dumped(value: Any) -> str:
    """Return JSON, of what is nested so deep that Python's own can't write it as well."""
    if isinstance(value, dict):
        return f"{{{', '.join(f'{json.dumps(name)}: {dumped(one)}' for name, one in value.items())}}}"
    depth = 0
    while isinstance(value, list) and len(value) == 1:
        value, depth = value[0], depth + 1
    return "[" * depth + json.dumps(value) + "]" * depth


# --- the cache ---


def _listed(project: Path) -> str:
    return CliRunner().invoke(app, ["list", "--json"], catch_exceptions=False).stdout


def _looked_at(project: Path) -> bytes:
    found = quality.look([project / "s" / FACTOR_FILE], quality.Wish(), None, TASK)
    return quality._QUALITY.dump_json(found)


ASK: dict[str, Callable[[Path], object]] = {
    "sessions-2": lambda project: sessions.read_session(project / "log" / "run"),
    "digests-1": lambda project: parquet.current_digest(project / "s" / FACTOR_FILE),
    "listing-4": _listed,
    quality._KIND: _looked_at,
}


@EVERY_WAY
@pytest.mark.parametrize("part", ["entry", "content"])
@pytest.mark.parametrize("kind", ASK)
def test_an_entry_of_the_cache(kind: str, part: str, how: str, project: Path) -> None:
    """The answer is the one without a cache, the entry spoilt as a whole or only in what it holds."""
    root = Path("git_ignore_folder") / "RD-Agent_workspace"
    logs.write_run(project / "log" / "run", project / root, ("first", ("a",), True))
    normal_source(project / root / "first")
    normal_source(project / "s")
    right = ASK[kind](project)
    entries = list((cache.folder() / kind).glob("*.json"))
    assert entries
    for file in entries:
        before = file.read_text(encoding="utf-8")
        if part == "content":
            entry = json.loads(before)
            changed = SPOILT[how]({"content": entry["content"]})
            inner = changed if isinstance(changed, str) else dumped(changed)
            file.write_text(f'{json.dumps({**entry, "content": 0})[:-1]}, "content": {inner}}}', "utf-8")
        else:
            spoil(file, how)
        assert file.read_text(encoding="utf-8") != before
    assert ASK[kind](project) == right
    assert ASK[kind](project) == right


# --- records ---


@EVERY_WAY
def test_an_entry_of_the_store(how: str, project: Path) -> None:
    """It is written anew, with a note that says why, and the set is the right one."""
    wanted = wanted_of(normal_source(project / "source"))
    right = store.keep(wanted, project / "store")
    spoil(right.path.with_suffix(".json"), how)
    store.entries(project / "store")
    found = store.keep(wanted, project / "store")
    assert found.note
    assert (found.content, found.columns, found.rows) == (right.content, right.columns, right.rows)
    assert not store.trouble_of(found)


@EVERY_WAY
def test_the_record_of_a_fetched_set(how: str, project: Path) -> None:
    """The set is fetched anew, and the record is what it was."""
    url = f"file://{normal_source(project / 'source').parent}"
    right = fetch.fetch(url, project / "store", str)
    (record,) = (project / "store" / store.FETCHED).glob("*.json")
    spoil(record, how)
    fetched.entries(project / "store")
    said: list[str] = []
    assert fetch.fetch(url, project / "store", said.append).path == right.path
    assert any("is fetched into" in line for line in said)
    assert fetch.read_record(record) is not None


@EVERY_WAY
def test_a_reference(how: str, project: Path) -> None:
    """It is none; the loaded set alone is back-tested again."""
    file, key = project / factor_runner.REFERENCE_FILE, {"set": "sha256:1", "market": "csi300"}
    file.write_text(json.dumps({"key": key, "metrics": {"IC": 0.5, "ICIR": None}}))
    assert factor_runner._kept_metrics(file, key) == {"IC": 0.5, "ICIR": None}
    spoil(file, how)
    assert factor_runner._kept_metrics(file, key) is None


@EVERY_WAY
def test_the_state_of_a_job(how: str, project: Path) -> None:
    """A job is a user's: it is not made anew unasked, and one message says how."""
    written = job.write(job.new(job.Options(), project))
    spoil(written.file, how)
    with pytest.raises(JobError, match="is damaged, or of another release") as caught:
        job.newest(project)
    assert caught.value.place == str(written.file)


@EVERY_WAY
@pytest.mark.parametrize("name", [manifest.MANIFEST_FILE, manifest.LOADED_FILE])
def test_a_record_of_a_training(name: str, how: str, project: Path) -> None:
    """It shows nothing: the claim does not hold, and the report shows the rest of the run."""
    workspace = trained.write_training(root_of(project) / "w")
    log = write_run(project, model(workspace))
    spoil(workspace / name, how)
    for arguments in (["verify", str(log)], ["report", str(log), "--json"]):
        done = CliRunner().invoke(app, arguments)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        assert done.exit_code == (arguments[0] == "verify")
    if name == manifest.LOADED_FILE and how != "another digest":
        assert manifest.read_loaded(workspace) is None


def test_a_path_that_is_no_text(project: Path) -> None:
    """An entry of the store names sources whose paths are no UTF-8, and is read as what it is."""
    folder = normal_source(project / "source").parent.rename(os.fsdecode(os.fsencode(project) + b"/\xff\xfe"))
    source = folder / FACTOR_FILE
    right = store.keep(wanted_of(source), project / "store")
    (found,), troubles = store.entries(project / "store")
    assert (found.sources, troubles) == (((str(source), right.digest),), [])
    assert store.keep(wanted_of(source), project / "store").note == ""

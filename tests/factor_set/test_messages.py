"""Messages that must not mislead: each says what is really wrong, and a fix that leads on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdagent_sota_bridge.errors import BridgeError
from rdagent_sota_bridge.factor_set import locate, panel
from rdagent_sota_bridge.qlib_files import base_sets
from rdagent_sota_bridge.settings import read_settings
from tests.frames import examine, factor_frame, nested, write_table

FRAME = factor_frame()
WSL = "write a Windows path as Linux has it; in WSL it is /mnt/{}".format
QUOTES = "take the quotes off, which are part of the value here"
WRITTEN_OUT = "write the path out: no variable is put in here"
VALUELESS = "a column is all NaN [momentum], 12 in all; fix: leave it out, or mine it again"


def described(**changes: str) -> pa.Table:
    """Return a table whose description by pandas has other words in place of some, or of all."""
    table = pa.Table.from_pandas(FRAME)
    text = table.schema.metadata[b"pandas"].decode()
    for old, new in changes.items():
        text = text.replace(f'"{old}"', new) if old != "all" else new
    return table.replace_schema_metadata({b"pandas": text.encode("latin-1")})


def with_column(name: str, values: pa.Array) -> pa.Table:
    """Return a table with other values in a column or level."""
    table = pa.Table.from_pandas(FRAME)
    return table.set_column(table.schema.get_field_index(name), name, values)


def nat() -> pa.Array:
    """Return days of which one is numpy's NaT, which Arrow takes for a value like others."""
    days = FRAME.index.get_level_values("datetime").to_numpy("datetime64[ns]").copy()
    days[4] = "NaT"
    return pa.Array.from_buffers(pa.timestamp("ns"), len(days), [None, pa.py_buffer(days.tobytes())])


FILES: dict[str, tuple[Callable[[], pa.Table], str]] = {
    **{
        f"a description with {name}": (
            lambda changes=changes: described(**changes),
            "can't be decoded, such as ",
        )
        for name, changes in {
            "no JSON": {"all": "{"},
            "no text": {"all": "\xff\xfe"},
            "other entries": {"all": '{"a": 1}'},
            "a list": {"all": "[]"},
            "a list of words": {"all": '["a"]'},
            "a number": {"all": "1"},
            "no end": {"all": "[" * 100_000},
            "a type of another library": {"float64": '"geometry"'},
            "a level that is not there": {"index_columns": '"index_columns": ["nowhere"], "was"'},
        }.items()
    },
    **{
        f"nulls of {kind}": (lambda kind=kind: with_column("momentum", pa.nulls(12, kind)), VALUELESS)
        for kind in (
            *(pa.null(), pa.string(), pa.bool_(), pa.int64(), pa.float32(), pa.date32(), pa.decimal128(5, 2)),
            *(pa.list_(pa.int8()), pa.dictionary(pa.int8(), pa.string())),
        )
    },
    "NaT": (
        lambda: with_column("datetime", nat()),
        "rows have no date or no instrument [datetime], 1 in all; fix: drop those rows",
    ),
    **{
        f"no {level} at all, as {kind}": (
            lambda level=level, kind=kind: with_column(level, pa.nulls(12, kind)),
            f"no instrument [{level}], 12 in all; fix: write the level anew, for no row has one",
        )
        for level, kind in (
            *(("datetime", pa.null()), ("datetime", pa.timestamp("ns"))),
            *(("instrument", pa.null()), ("instrument", pa.string())),
        )
    },
}

PATHS = {
    "D:\\sets\\run": WSL("d/sets/run"),
    "D:/sets/run": WSL("d/sets/run"),
    " d:\\sets ": WSL("d/sets"),
    "@/f:/Coding/RD-Agent/log": WSL("f/Coding/RD-Agent/log"),
    "@f:\\a": WSL("f/a"),
    '"D:\\my sets"': QUOTES,
    "./own:C:\\a": WSL("c/a"),
    "\\\\server\\share": "write a Windows path as Linux has it, with / in place of \\",
    "log\\run": "write a Windows path as Linux has it, with / in place of \\",
    "@log/run": "take the @ off",
    "$HOME/sets": WRITTEN_OUT,
    "${HOME}/sets": WRITTEN_OUT,
    "%USERPROFILE%\\sets": WRITTEN_OUT,
    '"/sets/run"': QUOTES,
    "'/sets/run'": QUOTES,
    "“/sets/run”": QUOTES,
    './own:"/sets/run"': QUOTES,
}

VALUES = {
    ("SOTA_STORE_PATH", "D:\\store"): WSL("d/store"),
    ("SOTA_STORE_PATH", '"/store"'): QUOTES,
    ("SOTA_STORE_PATH", "$HOME/store"): WRITTEN_OUT,
    ("SOTA_STORE_PATH", '"https://alice:topsecret@host/x"'): QUOTES,
    ("SOTA_WORKSPACE_PATH", '"https://alice:topsecret@host/x"'): QUOTES,
    ("SOTA_WORKSPACE_PATH", "'s3://bucket/run'"): QUOTES,
    ("SOTA_FACTORS", '"momentum,turnover"'): QUOTES,
    ("SOTA_FACTORS_EXCLUDE", "'momentum'"): QUOTES,
    ("ALPHA_FACTORS", '"alpha22"'): QUOTES,
    ("ALPHA_FACTORS", "D:\\base.json"): WSL("d/base.json"),
    ("ALPHA_FACTORS", "$HOME/base.json"): WRITTEN_OUT,
}

CASES = [
    *(pytest.param("file", case, says, id=case) for case, (_, says) in FILES.items()),
    *(
        pytest.param(variable, text, says, id=f"{variable}={text}")
        for text, says in PATHS.items()
        for variable in ("SOTA_WORKSPACE_PATH", "SOTA_LOG_PATH", "argument")
        if variable == "SOTA_WORKSPACE_PATH" or "own:" not in text
    ),
    *(pytest.param(*given, says, id="=".join(given)) for given, says in VALUES.items()),
]


def use(what: str, case: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Do what a run does with a file, or with a variable of that value."""
    if what == "file":
        return examine(write_table(FILES[case][0](), folder))
    if what == "argument":
        return locate.named(case.strip())
    monkeypatch.chdir(folder)
    (folder / "own").mkdir()
    write_table(pa.Table.from_pandas(FRAME), folder / "own")
    monkeypatch.setenv(what, case)
    settings = read_settings()
    if what == "ALPHA_FACTORS":
        return base_sets.base_set(settings.alpha_factors)
    return locate.factor_sets(settings.workspace_paths, settings.log_paths)


@pytest.mark.parametrize(("what", "case", "says"), CASES)
def test_what_a_message_says(
    what: str, case: str, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It names what is wrong, in whole; of a whole file it does not say that it is damaged."""
    with pytest.raises(BridgeError) as caught:
        use(what, case, tmp_path, monkeypatch)
    text = str(caught.value)
    assert says in text
    for misleading in (
        "damaged",
        "numeric",
        "times of day",
        "None and None",
        "not found: D\n",
        "not found: @/f\n",
    ):
        assert misleading not in text


@pytest.mark.parametrize("is_nested", [False, True])
def test_the_fix_of_a_description(is_nested: bool, tmp_path: Path) -> None:
    """Written as the message says, the file is taken, with every value."""
    frame = nested(FRAME) if is_nested else FRAME
    table = pa.Table.from_pandas(frame).replace_schema_metadata({b"pandas": b"{"})
    path = write_table(table, tmp_path)
    with pytest.raises(BridgeError) as caught:
        examine(path)
    exec(str(caught.value.fix).partition(": ")[2].partition("; ")[0], {"pq": pq, "file": path})
    found = examine(path)
    assert len(found.columns) == 2
    for name, column in zip(FRAME, found.columns, strict=True):
        np.testing.assert_array_equal(panel.load(path, found.digest, column), FRAME[name])


@pytest.mark.parametrize("name", ["D:", "$sets", "'quoted'", "@own", "a\\b"])
def test_a_folder_that_is_there_is_taken(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However odd its name, what is there is what was meant."""
    (tmp_path / name / "set").mkdir(parents=True)
    path = write_table(pa.Table.from_pandas(FRAME), tmp_path / name / "set")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SOTA_WORKSPACE_PATH", f"{name}/set")
    monkeypatch.setenv("SOTA_STORE_PATH", f"{name}/set")
    settings = read_settings()
    assert settings.store_path == f"{name}/set"
    assert [at.path for at in locate.factor_sets(settings.workspace_paths, ())] == [path]

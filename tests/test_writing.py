"""Files that are written whole or not at all."""

from __future__ import annotations

import json
import math
import os
import stat
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from rdagent_sota_bridge.writing import as_json, write_bytes_whole, write_whole
from tests.frames import public_folder, without_privileges


@pytest.mark.parametrize("text", ["", "one\n", "因子 é\r\n\0", "x" * 3_000_000])
@pytest.mark.parametrize("old", [None, "something longer than the new one"])
def test_text_is_written(tmp_path: Path, text: str, old: str | None) -> None:
    """Any text is there whole, as UTF-8, in the place of an old one or of none, and no other file is."""
    target = tmp_path / "a.json"
    if old is not None:
        target.write_text(old)
    write_whole(target, text)
    assert target.read_bytes() == text.encode()
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("mask", [0o022, 0o077])
def test_everyone_may_read_it(tmp_path: Path, mask: int) -> None:
    """The file is read by others, such as a container's user, whatever temporary files are like here."""
    target = tmp_path / "a.json"
    target.write_text("old")
    target.chmod(0o600)
    before = os.umask(mask)
    try:
        write_whole(target, "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE(target.stat().st_mode) == 0o644


def test_another_name_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    """A link to the old file is not written through."""
    target, link = tmp_path / "a.json", tmp_path / "link.json"
    target.write_text("old")
    os.link(target, link)
    write_whole(target, "new")
    assert (target.read_text(), link.read_text()) == ("new", "old")


def test_text_that_can_not_be_encoded(tmp_path: Path) -> None:
    """An error in the middle of the writing leaves the old file, and no temporary one."""
    target = tmp_path / "a.json"
    target.write_text("old")
    with pytest.raises(UnicodeEncodeError):
        write_whole(target, "x" * 100_000 + "\udcff")
    assert target.read_text() == "old"
    assert list(tmp_path.iterdir()) == [target]


@pytest.mark.parametrize("folder", ["absent", "file"])
def test_no_folder(tmp_path: Path, folder: str) -> None:
    """Where there is no folder to write to, the error says so and nothing is made."""
    (tmp_path / "file").write_text("old")
    with pytest.raises(OSError, match=folder):
        write_whole(tmp_path / folder / "a.json", "text")
    assert list(tmp_path.iterdir()) == [tmp_path / "file"]


def test_target_is_a_folder(tmp_path: Path) -> None:
    """A folder is not replaced by a file, and no temporary file stays beside it."""
    (tmp_path / "a.json" / "inner").mkdir(parents=True)
    with pytest.raises(OSError, match=r"a\.json"):
        write_whole(tmp_path / "a.json", "text")
    assert list(tmp_path.rglob("*")) == [tmp_path / "a.json", tmp_path / "a.json" / "inner"]


def test_folder_that_can_not_be_written() -> None:
    """In a read-only folder the old file stays as it was."""
    with public_folder() as folder:
        (folder / "a.json").write_text("old")
        folder.chmod(0o555)
        with without_privileges(), pytest.raises(PermissionError):
            write_whole(folder / "a.json", "text")
        assert (folder / "a.json").read_text() == "old"
        assert list(folder.iterdir()) == [folder / "a.json"]


def test_killed_in_the_middle(tmp_path: Path) -> None:
    """Whenever a writer is killed, the file is one whole text, the old one or a new one."""
    target = tmp_path / "a.json"
    target.write_text("a" * 5_000_000)
    code = (
        "import sys, itertools\nfrom pathlib import Path\n"
        "from rdagent_sota_bridge.writing import write_whole\n"
        "print('ready', flush=True)\n"
        "for letter in itertools.cycle('bcd'): write_whole(Path(sys.argv[1]), letter * 5_000_000)"
    )
    for number in range(6):
        writer = subprocess.Popen([sys.executable, "-c", code, str(target)], stdout=subprocess.PIPE)
        with writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            time.sleep(0.005 + 0.013 * number)
            assert writer.poll() is None
            writer.kill()
        text = target.read_text()
        assert text == text[0] * 5_000_000


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o664])
def test_the_mode_of_another_file(tmp_path: Path, mode: int) -> None:
    """Bytes are written as they are, with the mode of the file whose place they take."""
    target = tmp_path / "a.py"
    target.write_text("old")
    target.chmod(mode)
    write_bytes_whole(target, b"\r\n\xff\n", like=target.stat())
    assert target.read_bytes() == b"\r\n\xff\n"
    assert stat.S_IMODE(target.stat().st_mode) == mode


@dataclass(frozen=True)
class Drop:
    """Stands for any dataclass."""

    column: str
    correlation: float


def test_values_as_json() -> None:
    """Numbers of numpy, times, days, paths and dataclasses become what JSON holds; a set is an error."""
    days = pd.DatetimeIndex(["2020-01-02"])
    for value, expected in (
        ({1: float("nan"), "b": -math.inf}, {"1": None, "b": None}),
        ((np.float32(0.5), np.int64(3), np.bool_(True)), [0.5, 3, True]),
        ([days, days[0], pd.NaT, None], [["2020-01-02"], "2020-01-02T00:00:00", None, None]),
        (np.array([1.0, np.inf]), [1.0, None]),
        (Path("/a/\udcff"), "/a/?"),
        (Drop("a", 0.5), {"column": "a", "correlation": 0.5}),
    ):
        found = as_json(value)
        assert found == expected
        json.dumps(found, allow_nan=False).encode()
    with pytest.raises(TypeError, match="a set"):
        as_json({"a": {1}})

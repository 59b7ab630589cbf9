"""The lines of a check about the disk: room for workspaces and for the store's copy of a set."""

from __future__ import annotations

from pathlib import Path

import pytest

from rdagent_sota_bridge.check import disk
from rdagent_sota_bridge.check.disk import LEAST_FREE
from tests.frames import public_folder, without_privileges


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

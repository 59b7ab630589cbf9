"""From what the user named to the factor file."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rdagent_sota_bridge.errors import FactorFileNotFoundError, LocateError, WorkspaceNotFoundError
from rdagent_sota_bridge.locate import FACTOR_FILE, factor_file
from tests.frames import (
    assert_survives_pickling,
    factor_frame,
    public_folder,
    without_privileges,
    write,
)


def workspace(root: Path, name: str, age: int = 0) -> Path:
    """Make a workspace folder with a factor file that is `age` seconds old, and return the folder."""
    folder = root / name
    folder.mkdir()
    file = write(factor_frame(), folder)
    time = file.stat().st_mtime - age
    os.utime(file, (time, time))
    return folder


def test_name_of_the_factor_file() -> None:
    """The name is the one that RD-Agent's factor runner writes."""
    assert FACTOR_FILE == "combined_factors_df.parquet"


def test_no_path_set() -> None:
    """The switch on and no path set, the error names the variable and says what to set it to."""
    with pytest.raises(LocateError) as caught:
        factor_file(None)
    error = caught.value
    assert type(error) is LocateError
    assert error.fact == "LOAD_SOTA_FROM_WORKSPACE is on, and no factor set is named"
    assert error.place == "environment variable or .env entry SOTA_WORKSPACE_PATH (not set)"
    assert FACTOR_FILE in error.mend
    assert_survives_pickling(error)


def test_path_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A path that is not there is named as written, and as looked for."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WorkspaceNotFoundError) as caught:
        factor_file("git_ignore_folder/absent")
    error = caught.value
    assert error.fact == "SOTA workspace path not found: git_ignore_folder/absent"
    assert error.place == f"SOTA_WORKSPACE_PATH, looked for at {tmp_path / 'git_ignore_folder/absent'}"
    assert "a relative path is relative to the folder that the command is started in" in error.mend
    assert_survives_pickling(error)


def test_missing_file_in_an_existing_folder(tmp_path: Path) -> None:
    """A parquet file that is not there is a path that is not there."""
    with pytest.raises(WorkspaceNotFoundError, match=r"^SOTA workspace path not found: .*/set\.parquet\n"):
        factor_file(str(tmp_path / "set.parquet"))


def test_link_to_nowhere(tmp_path: Path) -> None:
    """A link whose target is gone is a path that is not there."""
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    with pytest.raises(WorkspaceNotFoundError):
        factor_file(str(tmp_path / "link"))


@pytest.mark.parametrize(
    ("files", "what"),
    [
        ((), "(an empty folder)"),
        (("factor.py", "daily_pv.h5"), "(a coder's folder: it holds factor.py, the code of one factor)"),
        (("model.py", "conf.yaml"), "(a model's folder: it holds model.py)"),
        (("b.csv", "a.csv"), "(it holds a.csv, b.csv)"),
        (("c", "a", "d", "b"), "(it holds a, b, c, …)"),
    ],
)
def test_folder_without_the_file(tmp_path: Path, files: tuple[str, ...], what: str) -> None:
    """A folder without the file is described, so that a user sees which kind of folder it is."""
    folder = tmp_path / "alone" / "named"
    folder.mkdir(parents=True)
    for name in files:
        (folder / name).touch()
    with pytest.raises(FactorFileNotFoundError) as caught:
        factor_file(str(folder))
    error = caught.value
    assert error.fact == f"SOTA factors file not found: {folder / FACTOR_FILE}"
    assert error.place == f"SOTA_WORKSPACE_PATH={folder} {what}"
    assert error.mend == f"name the workspace of an accepted factor loop, the folder that holds {FACTOR_FILE}"
    assert_survives_pickling(error)


def test_workspace_root_names_the_newest_sets(tmp_path: Path) -> None:
    """The root of all workspaces is answered with the two newest sets, and a warning of rejected loops."""
    root = tmp_path / "RD-Agent_workspace"
    root.mkdir()
    middle = workspace(root, "a-middle", age=50)
    workspace(root, "b-old", age=100)
    newest = workspace(root, "c-newest")
    (root / "d-empty").mkdir()
    with pytest.raises(FactorFileNotFoundError) as caught:
        factor_file(str(root))
    assert caught.value.mend == (
        f"name the workspace of an accepted factor loop; 3 folder(s) there hold a {FACTOR_FILE}, "
        f"the newest {newest} or {middle}. A rejected loop leaves one too: the run's log or its UI "
        "tells which loop was accepted"
    )


def test_wrong_workspace_names_its_neighbours(tmp_path: Path) -> None:
    """A coder's folder beside a real workspace is answered with that workspace."""
    neighbour = workspace(tmp_path, "good")
    (tmp_path / "coder").mkdir()
    (tmp_path / "coder" / "factor.py").touch()
    with pytest.raises(FactorFileNotFoundError) as caught:
        factor_file(str(tmp_path / "coder"))
    assert f"1 folder(s) there hold a {FACTOR_FILE}, the newest {neighbour}. A rejected" in caught.value.mend
    assert "a coder's folder" in caught.value.place


def test_sets_below_win_over_neighbours(tmp_path: Path) -> None:
    """A folder with sets below it is answered with those, not with newer ones beside it."""
    root = tmp_path / "root"
    root.mkdir()
    below = workspace(root, "below", age=100)
    workspace(tmp_path, "beside")
    with pytest.raises(FactorFileNotFoundError) as caught:
        factor_file(str(root))
    assert f"the newest {below}. " in caught.value.mend


def test_folder(tmp_path: Path) -> None:
    """A workspace folder gives the factor file in it."""
    folder = workspace(tmp_path, "w")
    assert factor_file(str(folder)) == (folder / FACTOR_FILE).resolve()


@pytest.mark.parametrize("name", [FACTOR_FILE, "my set.parquet", "因子", "backup.bin"])
def test_file_of_any_name(tmp_path: Path, name: str) -> None:
    """A file is taken as named, whatever its name."""
    file = write(factor_frame(), tmp_path, name)
    assert factor_file(str(file)) == file.resolve()


@pytest.mark.parametrize("named", ["w", "./w", f"w/{FACTOR_FILE}", "../here/w", "w/"])
def test_relative_path_is_relative_to_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str
) -> None:
    """A relative path is relative to the current folder, and comes back absolute."""
    (tmp_path / "here").mkdir()
    folder = workspace(tmp_path / "here", "w")
    monkeypatch.chdir(tmp_path / "here")
    found = factor_file(named)
    assert found == (folder / FACTOR_FILE).resolve()
    assert found.is_absolute()


def test_relative_path_from_another_folder_is_not_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same relative path from another folder finds nothing."""
    workspace(tmp_path, "w")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    with pytest.raises(WorkspaceNotFoundError):
        factor_file("w")


@pytest.mark.parametrize("named", ["~/w", f"~/w/{FACTOR_FILE}"])
def test_home_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named: str) -> None:
    """`~` is the home folder, for a .env file has no shell to expand it."""
    folder = workspace(tmp_path, "w")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert factor_file(named) == (folder / FACTOR_FILE).resolve()


def test_missing_path_below_home_is_shown_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message has the path as written, and the place where it was looked for."""
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(WorkspaceNotFoundError) as caught:
        factor_file("~/absent")
    assert caught.value.fact == "SOTA workspace path not found: ~/absent"
    assert caught.value.place.endswith(f"looked for at {tmp_path / 'absent'}")


def test_links_are_followed(tmp_path: Path) -> None:
    """A linked workspace and a linked file both give the real file, so that one set has one path."""
    folder = workspace(tmp_path, "w")
    (tmp_path / "latest").symlink_to(folder)
    linked = tmp_path / "linked"
    linked.mkdir()
    (linked / FACTOR_FILE).symlink_to(folder / FACTOR_FILE)
    assert factor_file(str(tmp_path / "latest")) == (folder / FACTOR_FILE).resolve()
    assert factor_file(str(linked)) == (folder / FACTOR_FILE).resolve()


def test_home_of_an_unknown_user() -> None:
    """`~nobody-here/` is a path that is not there."""
    with pytest.raises(
        WorkspaceNotFoundError, match=r"^SOTA workspace path not found: ~no-such-user-here/w\n"
    ):
        factor_file("~no-such-user-here/w")


def test_path_that_is_too_long() -> None:
    """A path that no file system can hold is an error of the package's, with the system's reason."""
    with pytest.raises(LocateError, match="File name too long"):
        factor_file("w" * 300)


@pytest.mark.parametrize("mode", [0o000, 0o100, 0o400])
def test_folder_that_may_not_be_entered(mode: int) -> None:
    """A workspace that the user may not enter or list is an error of the package's, not a traceback."""
    with public_folder() as folder:
        closed = folder / "closed"
        closed.mkdir()
        closed.chmod(mode)
        try:
            with without_privileges(), pytest.raises(LocateError):
                factor_file(str(closed))
        finally:
            closed.chmod(0o700)

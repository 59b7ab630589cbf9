"""A factor set in parts: a folder that has the factor file's name."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from rdagent_sota_bridge.bridge import model_runner
from rdagent_sota_bridge.check import quality
from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileError,
    FactorFileNotFoundError,
    Reason,
    RemoteError,
    SetChangedError,
)
from rdagent_sota_bridge.factor_set import locate, panel, parquet, parts
from rdagent_sota_bridge.factor_set.names import FACTOR_FILE
from rdagent_sota_bridge.sharing import push
from tests.factor_set.test_normal_form import kept
from tests.frames import factor_frame, nested, only_failure, public_folder, without_privileges, write


def in_parts(folder: Path, frame: pd.DataFrame, *ends: int) -> Path:
    """Write rows of a frame as parts, as Spark leaves them, and return their folder."""
    place = folder / FACTOR_FILE
    place.mkdir(parents=True)
    for number, (start, end) in enumerate(zip((0, *ends), (*ends, len(frame)), strict=True)):
        write(frame.iloc[start:end], place, f"part-{number:05}-c000.snappy.parquet")
    (place / "_SUCCESS").touch()
    (place / "_metadata").write_bytes(b"PAR1 of dask")
    (place / ".part-00000-c000.snappy.parquet.crc").write_bytes(b"crc")
    return place


def test_it_is_found_by_workspace_and_by_name(tmp_path: Path) -> None:
    """The workspace, the folder, a link to either: one path, whose name leads to it again."""
    place = in_parts(tmp_path / "set", factor_frame(), 5)
    write(factor_frame(["other"]), tmp_path / "set", "other.parquet")
    (tmp_path / "linked").mkdir()
    (tmp_path / "linked" / FACTOR_FILE).symlink_to(place)
    (tmp_path / "spark").mkdir()
    shutil.copytree(place, tmp_path / "spark" / "output")
    (tmp_path / "renamed").mkdir()
    (tmp_path / "renamed" / FACTOR_FILE).symlink_to(tmp_path / "spark" / "output")
    for named in (tmp_path / "set", place, tmp_path / "linked", tmp_path / "renamed"):
        expected = (named if named.name == FACTOR_FILE else named / FACTOR_FILE).absolute()
        for found in (locate.factor_sets((str(named),), ())[0], locate.named(str(named))):
            assert found.path == expected
            assert locate.named(str(found.path)).path == expected
            assert parquet.read_footer(found.path).columns == ("momentum", "turnover")
    with pytest.raises(FactorFileNotFoundError):
        locate.factor_sets((str(tmp_path / "spark" / "output"),), ())


def test_its_digest_is_that_of_names_and_digests(tmp_path: Path) -> None:
    """Sorted names and digests of the parts name the set, wherever it lies; any other part is another set."""
    place = in_parts(tmp_path / "one", factor_frame(), 4, 7)
    names = [f"part-{number:05}-c000.snappy.parquet" for number in range(3)]
    listed = [[name, "sha256:" + hashlib.sha256((place / name).read_bytes()).hexdigest()] for name in names]
    digest = "sha256:" + hashlib.sha256(json.dumps(listed).encode()).hexdigest()
    assert parquet.current_digest(place) == digest
    copy = shutil.copytree(place, tmp_path / "two" / FACTOR_FILE)
    (copy / "_SUCCESS").unlink()
    with panel.opened([copy]) as found:
        assert found.factor_set.digest == digest
    (copy / names[1]).rename(copy / "part-00009.parquet")
    assert parquet.current_digest(copy) != digest


@pytest.mark.parametrize("ends", [(), (5,), (3, 3, 9)], ids=str)
@pytest.mark.parametrize(
    "frame", [nested(factor_frame()), factor_frame().reset_index()], ids=["levels", "columns"]
)
def test_it_goes_through_one_file_of_the_store(
    tmp_path: Path, frame: pd.DataFrame, ends: tuple[int, ...]
) -> None:
    """Parts, an empty one among them, are the store's one file, also where the one part is that already."""
    place = in_parts(tmp_path, frame, *ends)
    stored, plain = (
        kept([path], tmp_path / "store") for path in (place, write(factor_frame(), tmp_path, "f"))
    )
    assert stored.path.read_bytes() == plain.path.read_bytes()
    with panel.opened([place]) as found:
        assert not panel.is_normal(found)
        assert found.files[0].understood.startswith(f"a folder of {len(ends) + 1} parts")
    assert parts.size_of(place) == sum(file.stat().st_size for file in place.glob("part-*"))


def of_other_columns(place: Path) -> None:
    """Put a part with another column into a folder."""
    write(factor_frame(["else"]), place, "part-9.parquet")


def of_other_types(place: Path) -> None:
    """Put a part with other types into a folder."""
    write(factor_frame(dtype="float32"), place, "part-9.parquet")


def partitioned(place: Path) -> None:
    """Put a folder of a partition into a folder."""
    (place / "year=2021").mkdir()
    write(factor_frame(), place / "year=2021", "part-9.parquet")


def empty(place: Path) -> None:
    """Leave a folder without a part."""
    for file in place.glob("part-*"):
        file.unlink()


def without_rows(place: Path) -> None:
    """Leave parts without rows."""
    empty(place)
    write(factor_frame().iloc[:0], place, "part-0.parquet")


def with_a_note(place: Path) -> None:
    """Put a file of another kind into a folder."""
    (place / "README.txt").write_text("parts")


FIRST = "part-00000-c000.snappy.parquet"


@pytest.mark.parametrize(
    ("change", "reason", "examples"),
    [
        (of_other_columns, Reason.PARTS, (f"other columns or types in part-9.parquet than in {FIRST}",)),
        (of_other_types, Reason.PARTS, (f"other columns or types in part-9.parquet than in {FIRST}",)),
        (partitioned, Reason.PARTS, ("year=2021",)),
        (empty, Reason.NO_ROWS, ()),
        (without_rows, Reason.NO_ROWS, ()),
    ],
)
def test_refused(
    tmp_path: Path, change: Callable[[Path], None], reason: Reason, examples: tuple[str, ...]
) -> None:
    """What is not the parts of one table is one message, with the way out."""
    place = in_parts(tmp_path, factor_frame(), 5)
    change(place)
    failure = only_failure(place)
    assert (failure.reason, failure.examples) == (reason, examples)
    assert failure.fix.startswith(f"write one parquet file of {place}") == (reason is Reason.PARTS)


def test_a_file_that_is_no_part_is_named(tmp_path: Path) -> None:
    """A file of another kind, and a part that is cut off, are named by their own paths."""
    place = in_parts(tmp_path, factor_frame(), 5)
    with_a_note(place)
    with pytest.raises(FactorFileError, match=r"README\.txt"):
        parquet.read_footer(place)


def test_a_closed_folder() -> None:
    """A folder that may not be read is refused for the system's reason."""
    with public_folder() as folder:
        in_parts(folder, factor_frame()).chmod(0o000)
        with without_privileges():
            failure = only_failure(folder / FACTOR_FILE)
        (folder / FACTOR_FILE).chmod(0o755)
    assert (failure.reason, failure.examples) == (Reason.UNREADABLE, ("Permission denied",))


def test_each_loop_looks_at_every_part(tmp_path: Path) -> None:
    """Parts that come or go between two loops, and a folder that is gone, stop the run."""
    place = in_parts(tmp_path, factor_frame(), 5)
    found = quality.Source(place, parquet.current_digest(place), ("momentum",))
    record = {"sources": [{"path": str(found.path), "digest": found.digest}]}
    model_runner.check_unchanged(record)
    for change in (of_other_columns, empty):
        copy = Path(shutil.copytree(place, tmp_path / "kept"))
        change(place)
        with pytest.raises(BridgeError) as caught:
            model_runner.check_unchanged(record)
        assert isinstance(caught.value, SetChangedError if change is of_other_columns else FactorFileError)
        shutil.rmtree(place)
        copy.rename(place)
        model_runner.check_unchanged(record)
    shutil.rmtree(place)
    with pytest.raises(FactorFileNotFoundError, match="though the run began with it"):
        model_runner.check_unchanged(record)


def test_it_is_not_pushed(tmp_path: Path) -> None:
    """What is pushed is one file: a folder is refused, with the line that makes one of it."""
    place = in_parts(tmp_path, factor_frame(), 5)
    target = f"file://{tmp_path}/shared"
    with pytest.raises(RemoteError, match="pushed as one file") as caught:
        push.push(locate.Located(place), target, overwrite=False, progress=lambda *_: None)
    assert caught.value.fix == parts.one_file(place)
    assert not (tmp_path / "shared").exists()


def test_a_part_that_is_a_link_to_nowhere(tmp_path: Path) -> None:
    """Its size is none, and whoever opens it says why."""
    place = in_parts(tmp_path, factor_frame())
    (place / "part-9.parquet").symlink_to(tmp_path / "nowhere")
    assert parts.size_of(place) == 0
    with pytest.raises(FactorFileError, match="No such file"):
        parquet.read_footer(place)

"""Sources of the store that are not what was checked: changed, gone, or unlike each other."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge.errors import FactorFileError, SetChangedError, UnequalFactorError
from rdagent_sota_bridge.factor_set import panel, store
from tests.faults import state
from tests.stored import (
    assert_lock_is_free,
    digest_of,
    longer,
    names_of,
    normal_source,
    stored_names,
    wanted_of,
)


def _rewritten(source: Path) -> None:
    normal_source(source.parent, seed=8)


def _same_size_and_time(source: Path) -> None:
    status = source.stat()
    content = bytearray(source.read_bytes())
    content[len(content) // 3] ^= 1
    source.write_bytes(content)
    os.utime(source, ns=(status.st_atime_ns, status.st_mtime_ns))


@pytest.mark.parametrize("change", [_rewritten, _same_size_and_time], ids=lambda change: change.__name__)
@pytest.mark.parametrize(
    ("columns", "known"),
    [(("momentum", "turnover"), False), (("momentum", "turnover"), True), (("turnover",), False)],
)
def test_source_changed_since_the_check(
    tmp_path: Path, place: Path, change: Callable[[Path], None], columns: tuple[str, ...], known: bool
) -> None:
    """A file with another content than was checked is refused with both digests, and nothing is stored."""
    source = normal_source(tmp_path)
    wanted = dataclasses.replace(wanted_of(source, columns=columns), is_normal=known)
    change(source)
    with pytest.raises(SetChangedError) as caught:
        store.keep(wanted, place)
    assert wanted.sources[0][1] in caught.value.fact
    assert digest_of(source) in caught.value.fact
    assert caught.value.place == str(source)
    assert stored_names(place) == []
    assert_lock_is_free(place)


def test_second_source_changed(tmp_path: Path, place: Path) -> None:
    """Of joined files each is looked at, and the one that was changed is named."""
    one, other = normal_source(tmp_path / "one"), normal_source(tmp_path / "other", columns=("c",))
    wanted = wanted_of(one, other, columns=("momentum", "turnover", "c"))
    normal_source(tmp_path / "other", columns=("c",), seed=8)
    with pytest.raises(SetChangedError) as caught:
        store.keep(wanted, place)
    assert caught.value.place == str(other)
    assert stored_names(place) == []


@pytest.mark.parametrize("how", ["replaced", "same size and time", "rewritten"])
def test_source_changed_while_it_is_copied(
    tmp_path: Path, place: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    """A file that another one takes the place of after its digest was compared is refused, and not stored."""
    source, other = normal_source(tmp_path), normal_source(tmp_path / "other", seed=8)
    wanted, after = wanted_of(source), digest_of(other)
    is_normal = panel.is_normal

    def meanwhile(opened: Any) -> bool:
        answer = is_normal(opened)
        if how == "replaced":
            other.replace(source)
        elif how == "rewritten":
            source.write_bytes(other.read_bytes())
        else:
            _same_size_and_time(source)
        return answer

    monkeypatch.setattr(panel, "is_normal", meanwhile)
    if how == "rewritten":
        with pytest.raises(FactorFileError, match="the file was changed while it was read"):
            store.keep(wanted, place)
    else:
        with pytest.raises(SetChangedError) as caught:
            store.keep(wanted, place)
        assert wanted.digest in caught.value.fact
        assert (after if how == "replaced" else digest_of(source)) in caught.value.fact
    assert stored_names(place) == []
    assert_lock_is_free(place)


def test_source_that_is_gone(tmp_path: Path, place: Path) -> None:
    """Without copy and source there is the error of a file that can't be read, and nothing is left."""
    source = normal_source(tmp_path)
    wanted = wanted_of(source)
    source.unlink()
    with pytest.raises(FactorFileError):
        store.keep(wanted, place)
    assert stored_names(place) == []


def test_changed_source_leaves_the_old_copy(tmp_path: Path, place: Path) -> None:
    """Where copy and source both have changed, the error leaves in the store what was there."""
    source = normal_source(tmp_path)
    wanted = wanted_of(source)
    stored = store.keep(wanted, place)
    longer(stored.path)
    before = state(stored.path)
    _rewritten(source)
    with pytest.raises(SetChangedError):
        store.keep(wanted, place)
    assert state(stored.path) == before
    assert stored_names(place) == names_of(wanted)


def test_a_set_that_can_not_be_joined(tmp_path: Path, place: Path) -> None:
    """A factor with other values in two files is refused, and nothing is left in the store."""
    one, other = normal_source(tmp_path / "one"), normal_source(tmp_path / "other", seed=8)
    with pytest.raises(UnequalFactorError):
        store.keep(wanted_of(one, other), place)
    assert stored_names(place) == []

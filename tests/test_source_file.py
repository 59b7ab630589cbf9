"""The diffs in `patches/` on the model runner of the installed RD-Agent, here and with git."""

from __future__ import annotations

import importlib.util
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from rdagent_sota_bridge import diff, source_file
from rdagent_sota_bridge.errors import SourceError
from tests.frames import NOBODY, public_folder, without_privileges

RUNNER = Path("rdagent") / source_file.RUNNER_FILE
RELEASE = metadata.version("rdagent")
OWN_DIFF = f"rdagent-{RELEASE}.patch"


def installed() -> bytes:
    """Return the model runner of the RD-Agent of this environment."""
    spec = importlib.util.find_spec("rdagent")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    return Path(spec.submodule_search_locations[0], source_file.RUNNER_FILE).read_bytes()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return the root of a checkout, with a space in its name, that holds the model runner alone."""
    root = tmp_path / "a checkout"
    (root / RUNNER).parent.mkdir(parents=True)
    (root / RUNNER).write_bytes(installed())
    return root


def change(root: Path, edit: Callable[[bytes], bytes]) -> bytes:
    """Change the model runner of a checkout, and return what it is then."""
    file = root / RUNNER
    before = file.read_bytes()
    file.write_bytes(edit(before))
    assert file.read_bytes() != before
    return file.read_bytes()


def git(root: Path, *words: str | Path) -> bool:
    """Run git as it is without anybody's settings, and return whether it succeeded."""
    environment = {**os.environ, "GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1"}
    environment |= {"GIT_CEILING_DIRECTORIES": str(root.parent)}
    return subprocess.run(["git", *words], cwd=root, env=environment, capture_output=True).returncode == 0


def by_hand(path: Path, content: bytes) -> bytes:
    """Return what a diff makes of the model runner."""
    patched, misfits = diff.apply(diff.hunks(path.read_bytes()), content)
    assert misfits == ()
    return patched


def test_apply_and_revert(root: Path) -> None:
    """The diff of this release is taken; twice is once; what comes back is the file, with its mode."""
    file = root / RUNNER
    file.chmod(0o640)
    found = source_file.find(root)
    assert (found.file, found.state, found.diff.name) == (file, "none", OWN_DIFF)
    assert file.read_bytes() == installed(), "a look changes nothing"
    source_file.write(found)
    assert file.read_bytes() == by_hand(found.diff, installed())
    assert stat.S_IMODE(file.stat().st_mode) == 0o640

    applied = source_file.find(root)
    assert (applied.state, applied.diff) == ("applied", found.diff)
    source_file.write(applied)
    assert file.read_bytes() == installed()
    assert stat.S_IMODE(file.stat().st_mode) == 0o640
    assert list(file.parent.iterdir()) == [file]


def test_what_it_looks_like_patched(root: Path) -> None:
    """The bridge is imported beside pandas, and called on the last line, with the way back above it."""
    source_file.write(source_file.find(root))
    lines = (root / RUNNER).read_text().splitlines()
    assert lines[:3] == ["import pandas as pd", "from rdagent_sota_bridge import source as sota_bridge", ""]
    assert lines[-1] == "sota_bridge.apply(__name__)"
    assert lines[-2].startswith("# ")
    assert lines[-2].endswith("rdagent-sota patch revert")
    assert lines[-4:-2] == ["", ""]


@pytest.mark.parametrize("path", source_file.diffs(), ids=lambda path: path.name)
def test_each_diff_fits_its_release_alone(path: Path, root: Path) -> None:
    """What git says of a diff on this release is what we say, and what it writes is what we write."""
    fits = path.name == OWN_DIFF
    patched, misfits = diff.apply(diff.hunks(path.read_bytes()), installed())
    assert (misfits == ()) is git(root, "apply", "--check", path) is fits
    if not fits:
        return
    assert git(root, "apply", "--whitespace=error-all", path)
    assert (root / RUNNER).read_bytes() == patched
    assert source_file.find(root).state == "applied"
    assert not git(root, "apply", "--check", path), "twice"
    assert git(root, "apply", "-R", path)
    assert (root / RUNNER).read_bytes() == installed()
    if shutil.which("patch"):
        with path.open("rb") as text:
            subprocess.run(["patch", "-p1", "-F0", "-s"], stdin=text, cwd=root, check=True)
        assert (root / RUNNER).read_bytes() == patched


FITTING: dict[str, Callable[[bytes], bytes]] = {
    "licence": lambda text: b"# Copyright\n# of a fork\n" + text,
    "import": lambda text: text.replace(b"import pandas as pd\n", b"import numpy\nimport pandas as pd\n"),
    "threshold": lambda text: text.replace(b"_list) > 1:", b"_list) >= 1:"),
    "develop": lambda text: text.replace(b"        exp.stdout = stdout\n", b"        exp.stdout = 1\n" * 9),
}
CHANGED: dict[str, Callable[[bytes], bytes]] = {
    "imports": lambda text: text.replace(b"import CachedRunner\n", b"import CachedRunner, Cached\n"),
    "last line": lambda text: text.replace(b"\n        return exp\n", b"\n        return self.keep(exp)\n"),
    "spaces": lambda text: text.replace(b"\n        return exp\n", b"\n        return exp  \n"),
    "more": lambda text: text + b"\n\nclass Another(QlibModelRunner):\n    pass\n",
    "nothing": lambda text: b"",
}


@pytest.mark.parametrize("name", FITTING)
def test_a_development_version_takes_the_diff(name: str, root: Path) -> None:
    """Where only other places differ the diff fits, at other lines too; git agrees to the byte."""
    before = change(root, FITTING[name])
    found = source_file.find(root)
    assert (found.state, found.diff.name) == ("none", OWN_DIFF)
    source_file.write(found)
    ours = (root / RUNNER).read_bytes()
    source_file.write(source_file.find(root))
    assert (root / RUNNER).read_bytes() == before
    assert git(root, "apply", found.diff)
    assert (root / RUNNER).read_bytes() == ours


@pytest.mark.parametrize("name", CHANGED)
def test_a_file_that_changed_in_the_place_is_refused(name: str, root: Path) -> None:
    """The lines there are shown against those of the diff, and nothing is written; git refuses too."""
    before = change(root, CHANGED[name])
    found = source_file.find(root)
    assert (found.state, found.is_touched, found.changed) == ("misfit", False, b"")
    assert not any(git(root, "apply", "--check", path) for path in source_file.diffs())
    with pytest.raises(SourceError, match="is not as the patch expects it, and was left as it is") as raised:
        source_file.write(found)
    assert (root / RUNNER).read_bytes() == before
    assert str(root / RUNNER) in raised.value.place
    shown = {
        "imports": ("    | from rdagent.components.runner import CachedRunner\n", "CachedRunner, Cached"),
        "last line": ("    |         return exp\n", "    |         return self.keep(exp)"),
        "spaces": ("    |         return exp\n", "found from line"),
        "more": ("    |         return exp\n", "    |     pass"),
        "nothing": ("    |         return exp\n", "found from line 1 on:\n    |"),
    }[name]  # fmt: skip
    for text in shown:
        assert text in raised.value.place, text
    assert f"expected by {OWN_DIFF}" in raised.value.place or name == "nothing"


def without_line(number: int) -> Callable[[bytes], bytes]:
    """Return an edit that takes a line out of a file."""
    return lambda text: b"".join(
        line for at, line in enumerate(text.splitlines(True)) if at != number % len(text.splitlines())
    )


EDITED: dict[str, Callable[[bytes], bytes]] = {
    "without the import": without_line(1),
    "without the call": without_line(-1),
    "without the comment": without_line(-2),
    "another call": lambda text: text.replace(b"apply(__name__)", b"apply(__name__, fast=True)"),
    "something after it": lambda text: text + b"print('imported')\n",
    "another diff's import": lambda text: text.replace(
        b"import source as sota_bridge\n\n", b"import source as sota_bridge\n"
    ),
}


@pytest.mark.parametrize("name", EDITED)
def test_half_a_patch_is_refused(name: str, root: Path) -> None:
    """What is patched in part, or was edited, is neither patched nor unpatched; the lines are shown."""
    source_file.write(source_file.find(root))
    before = change(root, EDITED[name])
    found = source_file.find(root)
    assert (found.state, found.is_touched) == ("misfit", True)
    with pytest.raises(SourceError, match="a part of the patch, or an edited one") as raised:
        source_file.write(found)
    assert (root / RUNNER).read_bytes() == before
    assert "sota_bridge" in raised.value.place
    assert "found from line" in raised.value.place
    assert f"git checkout {root / RUNNER} takes them out too" in " ".join(raised.value.fix.split())


def test_files_as_editors_write_them(root: Path) -> None:
    """A file with CRLF, a byte order mark and no last line end is patched with CRLF, and comes back."""
    before = change(root, lambda text: b"\xef\xbb\xbf" + text.replace(b"\n", b"\r\n").removesuffix(b"\r\n"))
    source_file.write(source_file.find(root))
    patched = (root / RUNNER).read_bytes()
    assert patched.count(b"\n") == patched.count(b"\r\n") == before.count(b"\n") + 5
    assert patched.endswith(b"\r\nsota_bridge.apply(__name__)")
    source_file.write(source_file.find(root))
    assert (root / RUNNER).read_bytes() == before


def test_other_names_of_the_file(root: Path, tmp_path: Path) -> None:
    """A link to the file stays a link; a hard link, as of uv's cache, is not written through."""
    cached = tmp_path / "cached.py"
    os.link(root / RUNNER, cached)
    other = tmp_path / "other"
    (other / RUNNER).parent.mkdir(parents=True)
    (other / RUNNER).symlink_to(root / RUNNER)
    source_file.write(source_file.find(other))
    assert (other / RUNNER).is_symlink()
    assert source_file.find(root).state == "applied"
    assert cached.read_bytes() == installed()


def test_the_package_folder_is_a_source_too(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """DIR is the repository's root or its package, absolute or not."""
    assert source_file.find(root / "rdagent").file == root / RUNNER
    monkeypatch.chdir(root)
    assert source_file.find(Path()).file == root / RUNNER
    assert source_file.find(Path("rdagent")).file == root / RUNNER


def test_the_installed_one_is_found_and_not_imported() -> None:
    """Without a DIR it is the RD-Agent of this environment, which is looked at as a file."""
    code = (
        "import sys; from rdagent_sota_bridge import source_file; found = source_file.find(None);"
        "print(found.file, found.state, found.diff.name, 'rdagent' in sys.modules, sep='|')"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    file, state, name, imported = said.stdout.strip().split("|")
    assert Path(file).read_bytes() == installed()
    assert (state, name, imported) == ("none", OWN_DIFF, "False")


def test_no_rdagent_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is none, the message says how to name one."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(SourceError, match="not installed") as raised:
        source_file.find(None)
    assert "--source DIR" in raised.value.fix


@pytest.mark.parametrize("place", ["nowhere", "a file", "empty", "old"])
def test_no_rdagent_is_there(place: str, tmp_path: Path) -> None:
    """A DIR that is missing, a file, no RD-Agent, or one without the model runner: both places are named."""
    (tmp_path / "a file").touch()
    (tmp_path / "empty").mkdir()
    (tmp_path / "old" / "rdagent").mkdir(parents=True)
    with pytest.raises(SourceError, match="no RD-Agent with a model runner for Qlib") as raised:
        source_file.find(tmp_path / place)
    assert str(RUNNER) in raised.value.place
    assert place in raised.value.place


@pytest.mark.parametrize("patched", [False, True])
def test_a_read_only_file(patched: bool, root: Path) -> None:
    """A file that its owner made read-only is neither patched nor reverted, by root either."""
    if patched:
        source_file.write(source_file.find(root))
    file = root / RUNNER
    before = file.read_bytes()
    file.chmod(0o444)
    with pytest.raises(SourceError, match="is read-only for this user, and was not changed"):
        source_file.write(source_file.find(root))
    assert file.read_bytes() == before
    assert list(file.parent.iterdir()) == [file]


def test_a_folder_that_can_not_be_written() -> None:
    """In a folder of somebody else's the file stays, and no other is left."""
    with public_folder() as folder:
        (folder / RUNNER).parent.mkdir(parents=True)
        (folder / RUNNER).write_bytes(installed())
        (folder / RUNNER).chmod(0o666)
        (folder / RUNNER).parent.chmod(0o555)
        found = source_file.find(folder)
        with without_privileges(), pytest.raises(SourceError, match="can't be written, and was not changed"):
            source_file.write(found)
        assert (folder / RUNNER).read_bytes() == installed()
        assert list((folder / RUNNER).parent.iterdir()) == [folder / RUNNER]
        (folder / RUNNER).parent.chmod(0o755)


def test_a_file_of_somebody_else() -> None:
    """Who may write the folder, and not the file, does not replace it."""
    with public_folder() as folder:
        file = folder / RUNNER
        file.parent.mkdir(parents=True)
        file.write_bytes(installed())
        file.chmod(0o644 if os.geteuid() == 0 else 0o444)
        file.parent.chmod(0o777)
        found = source_file.find(folder)
        with without_privileges(), pytest.raises(SourceError, match="is read-only for this user"):
            source_file.write(found)
        assert file.read_bytes() == installed()


def test_a_file_that_can_not_be_read() -> None:
    """A file that this user may not read is a message too."""
    with public_folder() as folder:
        (folder / RUNNER).parent.mkdir(parents=True)
        (folder / RUNNER).write_bytes(installed())
        (folder / RUNNER).chmod(0o000)
        with without_privileges(), pytest.raises(SourceError, match="can't be read"):
            source_file.find(folder)


@pytest.mark.parametrize("closed", [".", "rdagent", RUNNER.parent])
def test_a_folder_that_can_not_be_entered(closed: str | Path) -> None:
    """A folder that this user may not enter, at any depth, is a message that names the file."""
    with public_folder() as folder:
        (folder / RUNNER).parent.mkdir(parents=True)
        (folder / RUNNER).write_bytes(installed())
        (folder / closed).chmod(0o000)
        with without_privileges(), pytest.raises(SourceError, match="Permission denied") as caught:
            source_file.find(folder)
        assert caught.value.place == str(folder / RUNNER)
        (folder / closed).chmod(0o755)


def test_root_leaves_the_file_to_its_owner(root: Path) -> None:
    """What root writes belongs to whom it belonged; another user has only files of his own to write."""
    owner, group = (NOBODY, NOBODY) if os.geteuid() == 0 else (os.geteuid(), os.getegid())
    os.chown(root / RUNNER, owner, group)
    source_file.write(source_file.find(root))
    at = (root / RUNNER).stat()
    assert (at.st_uid, at.st_gid) == (owner, group)


def test_diffs_that_are_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An installation without the diffs says so."""
    monkeypatch.setattr(source_file, "__file__", str(tmp_path / "a" / "b.py"))
    with pytest.raises(SourceError, match="diffs of this package are missing"):
        source_file.diffs()

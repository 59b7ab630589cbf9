"""The start of a Python: what the import hook costs and changes where RD-Agent is not imported."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import rdagent_sota_bridge as startup
from rdagent_sota_bridge.bridge import seams
from rdagent_sota_bridge.settings import FALSE_WORDS
from tests.forking import Forks

ROOT = Path(__file__).parent.parent
BARE = ("-I", "-S")  # neither site nor .pth


def python(code: str, *options: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new Python."""
    return subprocess.run(
        [sys.executable, *options, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **variables},
    )


def modules_of(code: str, *options: str, **variables: str) -> set[str]:
    """Return the modules that a new Python has loaded after `code`."""
    code += "\nimport sys\nloaded = [*sys.modules]\nimport json\nprint(json.dumps(loaded))"
    found = python(code, *options, **variables)
    assert found.returncode == 0, found.stderr
    return set(json.loads(found.stdout))


def test_an_idle_start_loads_one_module_of_ours_and_no_other() -> None:
    """An unrelated Python gets the hook, and nothing that it had not anyway, or that a bare one has not."""
    with_hook, without = modules_of("pass"), modules_of("pass", RDAGENT_SOTA_BRIDGE="0")
    assert "rdagent_sota_bridge" in with_hook, "the package is not activated by its .pth in this environment"
    assert with_hook == without | {"rdagent_sota_bridge"}
    path = f"import sys, os; sys.path.insert(0, {str(ROOT)!r})"
    bare, imported = (modules_of(path + code, *BARE) for code in ("", "; import rdagent_sota_bridge"))
    assert imported - bare == {"rdagent_sota_bridge"}


@pytest.mark.parametrize("word", ["0", "false", "No", "OFF"])
def test_the_variable_turns_the_hook_off(word: str) -> None:
    """RDAGENT_SOTA_BRIDGE=0 leaves the finders as they are."""
    code = "import sys; print(any(getattr(f, '__name__', '') == 'SeamFinder' for f in sys.meta_path))"
    assert python(code, RDAGENT_SOTA_BRIDGE=word).stdout.strip() == "False"


def test_a_value_that_means_nothing_stops_rdagent_and_no_other_python() -> None:
    """A typo in RDAGENT_SOTA_BRIDGE is an error where RD-Agent is imported, and nowhere else."""
    quiet, loud = (python(code, RDAGENT_SOTA_BRIDGE="maybe") for code in ("pass", "import rdagent.log"))
    assert (quiet.returncode, quiet.stderr) == (0, "")
    assert loud.returncode == 1
    assert loud.stderr.startswith("RDAGENT_SOTA_BRIDGE has an unknown value: 'maybe'")
    assert "Traceback" not in loud.stderr


def test_a_start_without_the_package_is_silent() -> None:
    """A .pth that outlived its package (a moved checkout) says nothing and fails nothing."""
    line = (ROOT / "rdagent_sota_bridge" / "rdagent-sota-bridge.pth").read_text()
    assert line.startswith("import ")
    assert line.count("\n") == 1
    found = python(f"exec({line!r}); print('fine')", *BARE)
    assert (found.stdout, found.stderr) == ("fine\n", "")


def test_registering_twice_is_registering_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A virtual environment runs a .pth twice; unregistering takes the hook away whole."""
    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path])
    for act, count in ((startup.register, 1), (startup.unregister, 0)):
        act()
        act()
        assert sys.meta_path.count(startup.SeamFinder) == count  # type: ignore[arg-type]


def test_the_hook_agrees_with_what_it_can_not_import() -> None:
    """It waits for the modules of the table of seams, and is off by the words that mean "off" everywhere."""
    assert {seam.module for seam in seams.SEAMS} == startup.SEAM_MODULES
    assert set(startup.OFF_WORDS) == set(FALSE_WORDS)


def test_a_reloaded_module_is_patched_again(forks_of_rdagent: Forks) -> None:
    """importlib.reload makes new classes: they get the seams that the old ones had."""
    forks_of_rdagent.output(
        """
        import importlib
        from rdagent.scenarios.qlib.developer import model_runner
        from rdagent_sota_bridge import patch
        from rdagent_sota_bridge.bridge import dry_run
        importlib.reload(model_runner)
        for expected in (True, False):
            assert dry_run.is_ours(model_runner.QlibModelRunner.develop) == expected
            assert dry_run.is_ours(model_runner.process_factor_data) == expected
            patch.revert()
        """
    )


@pytest.fixture
def applied(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """Return the names of the modules whose seams the hook applied; they are forgotten afterwards."""
    names: list[str] = []
    monkeypatch.setattr(seams, "apply_module", lambda module: names.append(module.__name__))
    monkeypatch.setattr(startup, "SEAM_MODULES", frozenset({"seam_frozen", "seam_file", "seam_broken"}))
    monkeypatch.setattr(sys, "meta_path", [startup.SeamFinder, *sys.meta_path])
    yield names
    for name in ("seam_file", "seam_frozen", "other_frozen"):
        sys.modules.pop(name, None)


def test_a_loader_that_is_a_class_keeps_its_method(
    applied: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frozen and compiled modules have classes for loaders: exec_module comes back after each."""
    ran = []

    class ClassLoader:
        @staticmethod
        def create_module(spec: ModuleSpec) -> None:
            """Let Python make the module."""

        @staticmethod
        def exec_module(module: ModuleType) -> None:
            """Run."""
            ran.append(module.__name__)

    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            """Find two modules."""
            return ModuleSpec(name, ClassLoader) if name.endswith("_frozen") else None  # type: ignore[arg-type]

    sys.meta_path.insert(1, Finder)  # type: ignore[arg-type]
    for name in ("seam_frozen", "other_frozen"):
        importlib.import_module(name)
    assert ran == ["seam_frozen", "other_frozen"]
    assert applied == ["seam_frozen"]


class Walking:
    """A finder that asks the others, as ours does."""

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        """Return what the first of the others finds."""
        others = [finder for finder in sys.meta_path if finder is not self]
        found = (finder.find_spec(name, path, target) for finder in others)
        return next(filter(None, found), None) if name in startup.SEAM_MODULES else None


class Guarded:
    """A finder that asks all finders, as that of wrapt does, and then returns None itself."""

    def __init__(self) -> None:
        self.asks = False

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return what is found without this one."""
        if self.asks or name not in startup.SEAM_MODULES:
            return None
        self.asks = True
        try:
            return importlib.util.find_spec(name)
        finally:
            self.asks = False


class Leaving:
    """A finder that is not among the finders while it asks them."""

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return what is found without this one."""
        if name not in startup.SEAM_MODULES:
            return None
        sys.meta_path.remove(self)
        try:
            return importlib.util.find_spec(name)
        finally:
            sys.meta_path.insert(0, self)


@pytest.mark.parametrize("place", [0, 1])
@pytest.mark.parametrize("kind", [Walking, Guarded, Leaving])
def test_another_finder_of_the_same_make(
    kind: type[Any], place: int, applied: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before ours or after it, one that asks all finders lets the module have its seams once."""
    (tmp_path / "seam_file.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    sys.meta_path.insert(place, kind())
    importlib.import_module("seam_file")
    assert applied == ["seam_file"]


def test_a_module_that_two_threads_look_for(
    applied: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A look in one thread hides the seams from no other thread; nor, once it failed, from that one."""
    (tmp_path / "seam_file.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    looks, may_end = threading.Event(), threading.Event()
    found = []

    class Failing:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> None:
            """Wait and fail, once and in the thread."""
            if threading.current_thread() is thread and not may_end.is_set():
                looks.set()
                may_end.wait(60)
                raise ImportError(name)

    def look_twice() -> None:
        with pytest.raises(ImportError):
            startup.SeamFinder.find_spec("seam_file")  # by itself: an import would lock out the other thread
        found.append(startup.SeamFinder.find_spec("seam_file"))

    sys.meta_path.insert(1, Failing)  # type: ignore[arg-type]
    thread = threading.Thread(target=look_twice)
    thread.start()
    assert looks.wait(60)
    importlib.import_module("seam_file")
    assert applied == ["seam_file"]
    may_end.set()
    thread.join(60)
    assert found[0].name == "seam_file"


def test_a_loader_is_as_it_was_after_its_module_has_run(
    applied: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook leaves module, spec and loader as the other finders made them, also where the import fails."""
    (tmp_path / "seam_file.py").write_text("value = 1\n")
    (tmp_path / "seam_broken.py").write_text("raise RuntimeError('its own')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    module = importlib.import_module("seam_file")
    assert module.value == 1
    assert module.__spec__ is not None
    assert vars(module.__spec__.loader).keys() == vars(type(module.__spec__.loader)("a", "b")).keys()  # type: ignore[call-arg]
    with pytest.raises(RuntimeError, match="its own"):
        importlib.import_module("seam_broken")
    assert applied == ["seam_file"]
    assert importlib.util.find_spec("no_such_module_at_all") is None

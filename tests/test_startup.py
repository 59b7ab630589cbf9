"""The start of a Python: what the import hook costs and changes where RD-Agent is not imported."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

import rdagent_sota_bridge as startup
from rdagent_sota_bridge.bridge import seams
from rdagent_sota_bridge.settings import FALSE_WORDS

ROOT = Path(__file__).parent.parent


def modules_of(code: str, **variables: str) -> set[str]:
    """Return the modules that a new Python has loaded after `code`."""
    program = f"{code}\nimport sys\nbefore = sorted(sys.modules)\nimport json\nprint(json.dumps(before))"
    environment = {**os.environ, **variables}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    return set(json.loads(found.stdout))


def test_an_idle_start_loads_one_module_of_ours_and_no_other() -> None:
    """An unrelated Python gets the hook, and nothing that it had not anyway."""
    with_hook = modules_of("pass")
    without = modules_of("pass", RDAGENT_SOTA_BRIDGE="0")
    ours = {"rdagent_sota_bridge"}
    assert ours <= with_hook, "the package is not activated by its .pth in this environment"
    assert with_hook == without | ours
    bare = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    needed = (
        modules_of(f"import sys; sys.path.insert(0, {str(ROOT)!r}); import rdagent_sota_bridge") - with_hook
    )
    assert needed == set()
    assert "sys" in bare.stdout.split()


def test_the_hook_imports_only_what_a_bare_python_has() -> None:
    """Started with neither site nor .pth, importing the hook loads os and nothing else."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import os; before = set(sys.modules)\n"
        "import rdagent_sota_bridge; print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) <= {
        "rdagent_sota_bridge",
    }


@pytest.mark.parametrize("word", ["0", "false", "No", "OFF"])
def test_the_variable_turns_the_hook_off(word: str) -> None:
    """RDAGENT_SOTA_BRIDGE=0 leaves the finders as they are."""
    code = "import sys; print(any(getattr(f, '__name__', '') == 'SeamFinder' for f in sys.meta_path))"
    environment = {**os.environ, "RDAGENT_SOTA_BRIDGE": word}
    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True
    )
    assert found.stdout.strip() == "False"


def test_a_value_that_means_nothing_stops_rdagent_and_no_other_python() -> None:
    """A typo in RDAGENT_SOTA_BRIDGE is an error where RD-Agent is imported, and nowhere else."""
    environment = {**os.environ, "RDAGENT_SOTA_BRIDGE": "maybe"}
    quiet = subprocess.run([sys.executable, "-c", "pass"], capture_output=True, text=True, env=environment)
    assert (quiet.returncode, quiet.stderr) == (0, "")
    loud = subprocess.run(
        [sys.executable, "-c", "import rdagent.log"], capture_output=True, text=True, env=environment
    )
    assert loud.returncode == 1
    assert loud.stderr.startswith("RDAGENT_SOTA_BRIDGE has an unknown value: 'maybe'")
    assert "Traceback" not in loud.stderr


def test_registering_twice_is_registering_once() -> None:
    """A virtual environment runs a .pth twice; unregistering takes the hook away whole."""
    was_there = startup.SeamFinder in sys.meta_path
    try:
        startup.register()
        startup.register()
        assert sys.meta_path.count(startup.SeamFinder) == 1  # type: ignore[arg-type]
        startup.unregister()
        startup.unregister()
        assert startup.SeamFinder not in sys.meta_path
    finally:
        if was_there:
            startup.register()


def test_the_hook_waits_for_exactly_the_modules_of_the_table() -> None:
    """The standard-library list of module names and the table of seams say the same."""
    assert {seam.module for seam in seams.SEAMS} == startup.SEAM_MODULES


def test_the_two_lists_of_off_words_are_one() -> None:
    """What turns the hook off is what reads as "off" everywhere; the hook can't import the settings."""
    assert set(startup.OFF_WORDS) == set(FALSE_WORDS)


def test_a_reloaded_module_is_patched_again() -> None:
    """importlib.reload makes new classes: they get the seams that the old ones had."""
    code = """
        import importlib
        from rdagent.scenarios.qlib.developer import model_runner
        from rdagent_sota_bridge.bridge import seams as patch
        importlib.reload(model_runner)
        runner = model_runner.QlibModelRunner
        print(patch.is_ours(runner, "develop"), patch.is_ours(model_runner, "process_factor_data"))
        patch.revert()
        print(patch.is_ours(model_runner.QlibModelRunner, "develop"))
    """
    found = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "True", "False"]


def test_a_start_without_the_package_is_silent(tmp_path: Path) -> None:
    """A .pth that outlived its package (a moved checkout) says nothing and fails nothing."""
    line = (ROOT / "rdagent_sota_bridge" / "rdagent-sota-bridge.pth").read_text()
    assert line.startswith("import ")
    assert line.count("\n") == 1
    code = f"exec({line!r}); print('fine')"
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, cwd=tmp_path
    )
    assert (found.stdout, found.stderr) == ("fine\n", "")


def test_a_loader_that_is_a_class_keeps_its_method(monkeypatch: pytest.MonkeyPatch) -> None:
    """Frozen and compiled modules have classes for loaders: exec_module comes back after each."""
    from importlib.machinery import ModuleSpec
    from types import ModuleType

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
            return ModuleSpec(name, ClassLoader) if name.startswith("frozen_") else None  # type: ignore[arg-type]

    monkeypatch.setattr(startup, "SEAM_MODULES", frozenset({"frozen_one"}))
    applied: list[str] = []
    monkeypatch.setattr(seams, "apply_module", lambda module: applied.append(module.__name__))
    monkeypatch.setattr(sys, "meta_path", [startup.SeamFinder, Finder, *sys.meta_path])
    for name in ("frozen_one", "frozen_two"):
        importlib.import_module(name)
        del sys.modules[name]
    assert ran == ["frozen_one", "frozen_two"]
    assert applied == ["frozen_one"]


def test_a_loader_is_as_it_was_after_its_module_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook leaves module, spec and loader as the other finders made them, also where the import fails."""
    import importlib.util

    from rdagent_sota_bridge.errors import SeamError

    (tmp_path / "stand_in.py").write_text("value = 1\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('as ever')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(startup, "SEAM_MODULES", frozenset({"stand_in", "broken"}))
    applied = []
    monkeypatch.setattr(seams, "apply_module", lambda module: applied.append(module.__name__))
    startup.register()
    try:
        module = importlib.import_module("stand_in")
        assert (module.value, applied) == (1, ["stand_in"])
        assert vars(module.__spec__.loader).keys() == vars(type(module.__spec__.loader)("a", "b")).keys()
        with pytest.raises(RuntimeError, match="as ever"):
            importlib.import_module("broken")
        assert applied == ["stand_in"]
        assert importlib.util.find_spec("no_such_module_at_all") is None
    finally:
        sys.modules.pop("stand_in", None)
    assert issubclass(SeamError, Exception)

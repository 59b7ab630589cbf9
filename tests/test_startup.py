"""The start of a Python: what the import hook costs and changes where RD-Agent is not imported."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rdagent_sota_bridge import _startup, patch

ROOT = Path(__file__).parent.parent


def modules_of(code: str, **variables: str) -> set[str]:
    """Return the modules that a new Python has loaded after `code`."""
    program = f"{code}\nimport sys\nbefore = sorted(sys.modules)\nimport json\nprint(json.dumps(before))"
    environment = {**os.environ, **variables}
    found = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment, check=True
    )
    return set(json.loads(found.stdout))


def test_an_idle_start_loads_two_modules_of_ours_and_no_other() -> None:
    """An unrelated Python gets the package's empty front and the hook, and nothing that it had not anyway."""
    with_hook = modules_of("pass")
    without = modules_of("pass", RDAGENT_SOTA_BRIDGE="0")
    ours = {"rdagent_sota_bridge", "rdagent_sota_bridge._startup"}
    assert ours <= with_hook, "the package is not activated by its .pth in this environment"
    assert with_hook == without | ours
    bare = subprocess.run(
        [sys.executable, "-I", "-S", "-c", "import sys; print(*sorted(sys.modules))"],
        capture_output=True,
        text=True,
        check=True,
    )
    needed = (
        modules_of(f"import sys; sys.path.insert(0, {str(ROOT)!r}); import rdagent_sota_bridge._startup")
        - with_hook
    )
    assert needed == set()
    assert "sys" in bare.stdout.split()


def test_the_hook_imports_only_what_a_bare_python_has() -> None:
    """Started with neither site nor .pth, importing the hook loads os and nothing else."""
    code = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import os; before = set(sys.modules)\n"
        "import rdagent_sota_bridge._startup; print(*sorted(set(sys.modules) - before))"
    )
    found = subprocess.run(
        [sys.executable, "-I", "-S", "-c", code], capture_output=True, text=True, check=True
    )
    assert set(found.stdout.split()) <= {
        "__future__",
        "rdagent_sota_bridge",
        "rdagent_sota_bridge._startup",
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
    was_there = _startup.SeamFinder in sys.meta_path
    try:
        _startup.register()
        _startup.register()
        assert sys.meta_path.count(_startup.SeamFinder) == 1  # type: ignore[arg-type]
        _startup.unregister()
        _startup.unregister()
        assert _startup.SeamFinder not in sys.meta_path
    finally:
        if was_there:
            _startup.register()


def test_the_hook_waits_for_exactly_the_modules_of_the_table() -> None:
    """The standard-library list of module names and the table of seams say the same."""
    assert {seam.module for seam in patch.SEAMS} == _startup.SEAM_MODULES


def test_a_loader_is_as_it_was_after_its_module_has_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The hook leaves module, spec and loader as the other finders made them, also where the import fails."""
    import importlib.util

    from rdagent_sota_bridge.errors import SeamError

    (tmp_path / "stand_in.py").write_text("value = 1\n")
    (tmp_path / "broken.py").write_text("raise RuntimeError('as ever')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(_startup, "SEAM_MODULES", frozenset({"stand_in", "broken"}))
    applied = []
    monkeypatch.setattr(patch, "apply_module", lambda module: applied.append(module.__name__))
    _startup.register()
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

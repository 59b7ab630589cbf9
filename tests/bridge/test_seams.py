"""The seam table: applied and reverted by identity, in a process of its own for each test."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Callable
from importlib import metadata
from pathlib import Path

import pytest

from examples.demo.market import Market
from rdagent_sota_bridge import __version__
from rdagent_sota_bridge.bridge import plan, seams
from tests import forks
from tests import seams as sets
from tests.forking import Forks

START = f"""
import importlib, os, sys
import rdagent_sota_bridge as startup
from rdagent_sota_bridge import patch
from rdagent_sota_bridge.bridge import dry_run, seams
FORK, FACTOR_RUNNER = {forks.MODULE!r}, "rdagent.scenarios.qlib.developer.factor_runner"

def import_all():
    for seam in seams.SEAMS:
        importlib.import_module(seam.module)

def states():
    return {{at.state for at in patch.status()}}
"""
Run = Callable[..., str]


@pytest.fixture
def run(forks_of_rdagent: Forks) -> Run:
    """Return a function that runs code in a new Python and returns what it prints."""
    return lambda code, **how: forks_of_rdagent.output(START + textwrap.dedent(code), **how)


def test_revert_restores_by_identity(run: Run) -> None:
    """After apply twice and revert twice every raw attribute is the very object that it was; then again.

    `QlibModelRunner` inherits its constructor: it has none of its own afterwards.
    """
    run(
        """
        startup.unregister()
        import_all()
        places = [
            (owner, name, vars(owner).get(name))
            for seam in seams.SEAMS for owner, name, _ in seam.replacements(sys.modules[seam.module])
        ]
        assert len({seam.name for seam in seams.SEAMS}) == len(seams.SEAMS)
        assert len(places) >= 20 and {"__init__", "load", "_log", "json"} <= {name for _, name, _ in places}
        for _ in range(2):
            patch.apply(); patch.apply()
            assert all(vars(owner)[name] is not before for owner, name, before in places)
            assert states() == {"applied"}
            patch.revert(); patch.revert()
            assert all(vars(owner).get(name) is before for owner, name, before in places)
            assert states() == {"waiting"}
            assert startup.SeamFinder not in sys.meta_path
        runner = sys.modules[FORK].QlibModelRunner
        assert "__init__" not in vars(runner)
        """,
        RDAGENT_SOTA_BRIDGE="",
    )


def test_what_somebody_else_replaced_after_us_stays(run: Run) -> None:
    """Revert touches only what is still ours."""
    run(
        """
        runner = importlib.import_module(FORK).QlibModelRunner
        assert "__init__" in vars(runner)
        def theirs(self, exp): return exp
        runner.develop = theirs
        patch.revert()
        assert vars(runner)["develop"] is theirs
        assert "__init__" not in vars(runner)
        """
    )


@pytest.mark.parametrize("again", ["", "spec.loader.exec_module(module); seams.apply_module(module)"])
def test_a_replacement_that_was_taken_over_is_not_what_comes_back(
    run: Run, tmp_path: Path, again: str
) -> None:
    """What a fork replaces in another module comes back in all, after an import from there or a reload."""
    fork = tmp_path / "model_runner.py"
    fork.write_text(forks.text_with(*forks.FITTING["merge through its module"]), encoding="utf-8")
    run(
        f"""
        from importlib.util import module_from_spec, spec_from_file_location
        from rdagent.scenarios.qlib.developer import utils
        original = utils.process_factor_data
        spec = spec_from_file_location(FORK, {str(fork)!r})
        module = sys.modules[FORK] = module_from_spec(spec)
        spec.loader.exec_module(module)
        for _ in range(2):
            patch.apply()
            {again}
            assert utils.process_factor_data is not original
            sys.modules.pop(FACTOR_RUNNER, None)
            took_over = importlib.import_module(FACTOR_RUNNER)
            assert dry_run.is_ours(took_over.process_factor_data)
            assert took_over.process_factor_data is not utils.process_factor_data
            patch.revert()
            assert utils.process_factor_data is original
            assert took_over.process_factor_data is original
        """
    )


@pytest.mark.parametrize("where", ["variable", ".env"])
def test_turned_off_nothing_is_replaced(run: Run, tmp_path: Path, where: str) -> None:
    """RDAGENT_SOTA_BRIDGE=0 leaves every module as RD-Agent wrote it; in .env too, which it loads first."""
    (tmp_path / ".env").write_text("RDAGENT_SOTA_BRIDGE=off\n" if where == ".env" else "")
    run(
        f"""
        os.chdir({str(tmp_path)!r})
        import_all()
        assert states() == {{"waiting"}}
        runner = sys.modules[FORK]
        assert not dry_run.is_ours(runner.QlibModelRunner.develop)
        assert not dry_run.is_ours(runner.process_factor_data)
        """,
        **({"RDAGENT_SOTA_BRIDGE": "0"} if where == "variable" else {}),
    )


def test_a_seam_that_does_not_fit_is_left_alone_and_named(run: Run) -> None:
    """A module of another shape is one line on stderr, a misfit in status, and is not replaced in part."""
    said = run(
        """
        import contextlib, io, types
        module = types.ModuleType("rdagent.log.logger")
        module.RDAgentLog = type("RDAgentLog", (), {"_log": lambda self: None})
        before = {**vars(module)}
        heard = io.StringIO()
        with contextlib.redirect_stderr(heard):
            seams.apply_module(module)
        assert vars(module) == before
        sys.modules["rdagent.log.logger"] = module
        try:
            patch.apply()
        except seams.SeamError as error:
            print(error.place)
        (status,) = [at for at in patch.status() if at.seam.name == "text log"]
        print(status.state, status.reason, heard.getvalue(), sep="\\n")
        """
    )
    place, state, reason, line = said.splitlines()[:4]
    assert (state, line) == ("misfit", f"rdagent-sota-bridge: {reason} ({place})")


@pytest.mark.parametrize("where", ["variable", ".env"])
def test_a_seam_that_is_turned_off(run: Run, tmp_path: Path, where: str) -> None:
    """It alone is left as RD-Agent wrote it, by the variable or by .env; the others are applied."""
    line = "RDAGENT_SOTA_BRIDGE_DISABLED='Text  log, options,'\n"
    (tmp_path / ".env").write_text(line if where == ".env" else "")
    run(
        f"""
        os.chdir({str(tmp_path)!r})
        import_all()
        off = {{at.seam.name for at in patch.status() if at.state == "disabled"}}
        assert off == {{"text log", "options"}}, off
        assert states() == {{"disabled", "applied"}}
        assert not dry_run.is_ours(sys.modules["rdagent.log.logger"].RDAgentLog._log)
        assert seams.shown().startswith("turned off: options, text log; patched: loop, docker, ")
        patch.revert()
        """,
        **({"RDAGENT_SOTA_BRIDGE_DISABLED": "Text  log, options,"} if where == "variable" else {}),
    )


@pytest.mark.parametrize(
    ("value", "said"),
    [
        ("text log, merge", "can't turn off 'merge': a hand-off needs that seam"),
        ("workspace", "can't turn off 'workspace'"),
        ("runner", "can't turn off 'runner'"),
        ("factor merge", "can't turn off 'factor merge'"),
        ("textlog", "has no seam to turn off by the name 'textlog'"),
    ],
)
def test_seams_that_cannot_be_turned_off(value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a hand-off needs is refused, as is a name of no seam; the fix names those that may be."""
    monkeypatch.setenv(seams.DISABLED, value)
    with pytest.raises(seams.SettingsError, match=re.escape(said)) as caught:
        seams.disabled()
    assert "options, text log" in caught.value.fix and "RDAGENT_SOTA_BRIDGE=false" in caught.value.fix


def test_the_factor_loops_of_fin_quant_can_be_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their two seams go together: with the runner's alone off the merge has nothing to do."""
    for value, names in {"factor merge, factor runner": 2, "factor runner": 1, "": 0, " , ": 0}.items():
        monkeypatch.setenv(seams.DISABLED, value)
        assert len(seams.disabled()) == names


def test_a_run_says_what_was_patched(
    market_home: tuple[Path, Market], project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the switch on one line names both releases and the seams; with the switch off there is none."""
    home, market = market_home
    monkeypatch.setenv("HOME", str(home))
    sets.write_set(project / "set", sets.factor_frame(market, RESI5=1.0))
    with sets.logged() as lines:
        plan.checked_plan()
        assert lines == []
        sets.switch_on(monkeypatch, project / "set")
        plan.checked_plan()
    release = metadata.version("rdagent")
    (line,) = (line for line in lines if "SOTA seams: " in line)
    assert f"SOTA seams: rdagent-sota-bridge {__version__} on RD-Agent {release}: " in line
    assert all(seam.name in line for seam in seams.SEAMS)

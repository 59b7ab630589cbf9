"""The seam table: applied and reverted by identity, in a process of its own for each test."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from rdagent_sota_bridge.bridge import seams
from tests import forks
from tests.forking import Forks

IMPORTS = """
import importlib, os, sys
os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"
import rdagent_sota_bridge as startup
from rdagent_sota_bridge.bridge import seams as patch
"""
RAW = """
def raw():
    cli = sys.modules["rdagent.app.cli"]
    loop = sys.modules["rdagent.utils.workflow.loop"].LoopBase
    logger = sys.modules["rdagent.log.logger"]
    workspace = sys.modules["rdagent.scenarios.qlib.experiment.workspace"].QlibFBWorkspace
    runner = sys.modules["rdagent.scenarios.qlib.developer.model_runner"]
    feedback = sys.modules["rdagent.scenarios.qlib.developer.feedback"]
    proposal = sys.modules["rdagent.scenarios.qlib.proposal.model_proposal"]
    docker = sys.modules["rdagent.utils.env"].QTDockerEnv
    return [
        *(vars(info)["context_settings"] for info in cli.app.registered_commands),
        vars(loop)["load"], vars(loop)["__init__"], vars(loop)["run"],
        vars(logger.RDAgentLog)["_log"], vars(logger.RDAgentLog)["log_object"], logger.get_caller_info,
        vars(workspace)["execute"],
        vars(runner.QlibModelRunner).get("__init__"), vars(runner.QlibModelRunner)["develop"],
        runner.process_factor_data,
        feedback.T, feedback.json, vars(feedback.QlibModelExperiment2Feedback)["generate_feedback"],
        vars(proposal.QlibModelHypothesisGen)["prepare_context"],
        vars(proposal.QlibModelHypothesis2Experiment)["prepare_context"],
        vars(docker)["__init__"], vars(docker)["prepare"],
    ]
"""


Run = Callable[..., str]


@pytest.fixture
def run(forks_of_rdagent: Forks) -> Run:
    """Return a function that runs code in a new Python and returns what it prints."""

    def in_fork(code: str, **variables: str) -> str:
        found = forks_of_rdagent.run(IMPORTS + RAW + textwrap.dedent(code), **variables)
        assert found.returncode == 0, found.stderr
        return found.stdout

    return in_fork


def test_revert_restores_by_identity(run: Run) -> None:
    """After apply twice and revert twice every raw attribute is the very object that it was; then again."""
    run(
        """
        startup.unregister()
        for seam in patch.SEAMS:
            importlib.import_module(seam.module)
        before = raw()
        for _ in range(2):
            patch.apply(); patch.apply()
            during = raw()
            assert all(now is not then for now, then in zip(during[-17:], before[-17:])), during
            assert all(status.state == "applied" for status in patch.status())
            patch.revert(); patch.revert()
            after = raw()
            assert all(now is then for now, then in zip(after, before))
            assert all(status.state == "waiting" for status in patch.status())
            assert startup.SeamFinder not in sys.meta_path
        """,
        RDAGENT_SOTA_BRIDGE="",
    )


def test_a_runner_without_an_init_of_its_own_gets_none_back(run: Run) -> None:
    """`QlibModelRunner` inherits its constructor: revert takes ours away and puts no copy in its place."""
    run(
        """
        from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner
        assert "__init__" in vars(QlibModelRunner)
        patch.revert()
        assert "__init__" not in vars(QlibModelRunner)
        """
    )


def test_what_somebody_else_replaced_after_us_stays(run: Run) -> None:
    """Revert touches only what is still ours."""
    run(
        """
        from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner
        def theirs(self, exp): return exp
        QlibModelRunner.develop = theirs
        patch.revert()
        assert vars(QlibModelRunner)["develop"] is theirs
        """
    )


@pytest.mark.parametrize("again", ["", "spec.loader.exec_module(module); patch.apply_module(module)"])
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
        factor_runner = "rdagent.scenarios.qlib.developer.factor_runner"
        spec = spec_from_file_location({forks.MODULE!r}, {str(fork)!r})
        module = sys.modules[{forks.MODULE!r}] = module_from_spec(spec)
        spec.loader.exec_module(module)
        for _ in range(2):
            patch.apply()
            {again}
            assert utils.process_factor_data is not original
            sys.modules.pop(factor_runner, None)
            took_over = importlib.import_module(factor_runner)
            assert patch.is_ours(took_over, "process_factor_data")
            assert took_over.process_factor_data is not utils.process_factor_data
            patch.revert()
            assert utils.process_factor_data is original
            assert took_over.process_factor_data is original
        """
    )


def test_turned_off_nothing_is_replaced(run: Run) -> None:
    """With RDAGENT_SOTA_BRIDGE=0 every module is as RD-Agent wrote it."""
    said = run(
        """
        for seam in patch.SEAMS:
            importlib.import_module(seam.module)
        print(*(status.state for status in patch.status()))
        print(any("rdagent_sota_bridge" in str(getattr(value, "__module__", "")) or
                  getattr(getattr(value, "__func__", value), "__code__", None) is not None and
                  "rdagent_sota_bridge" in getattr(value, "__func__", value).__code__.co_filename
                  for value in raw() if value is not None))
        """,
        RDAGENT_SOTA_BRIDGE="0",
    )
    assert said.splitlines() == ["waiting " * (len(seams.SEAMS) - 1) + "waiting", "False"]


def test_dotenv_may_turn_it_off(run: Run, tmp_path_factory: pytest.TempPathFactory) -> None:
    """RDAGENT_SOTA_BRIDGE in .env counts too: the command line loads that file first."""
    folder = tmp_path_factory.mktemp("project")
    (folder / ".env").write_text("RDAGENT_SOTA_BRIDGE=off\n")
    said = run(
        f"""
        os.chdir({str(folder)!r})
        import rdagent.app.cli
        print(*{{status.state for status in patch.status()}})
        """
    )
    assert said.split() == ["waiting"]


def test_a_seam_that_does_not_fit_is_left_alone_and_named(run: Run) -> None:
    """A module of another shape is said once on stderr, in status, and is not replaced in part."""
    said = run(
        """
        import contextlib, io, types
        module = types.ModuleType("rdagent.log.logger")
        module.RDAgentLog = type("RDAgentLog", (), {"_log": lambda self: None})
        heard = io.StringIO()
        with contextlib.redirect_stderr(heard):
            patch.apply_module(module)
        print(heard.getvalue().count("rdagent-sota-bridge:"))
        print(next(status for status in patch.status() if status.seam.name == "text log").state)
        print(vars(module).keys() & {"get_caller_info"})
        try:
            patch._apply_seam(patch.SEAMS[1], module)
        except Exception as error:
            print(type(error).__name__)
        """
    )
    assert said.splitlines() == ["1", "misfit", "set()", "SeamError"]


def test_the_table_names_functions_that_exist() -> None:
    """Every seam leads to a function of the package, and says what it is for."""
    import importlib

    for seam in seams.SEAMS:
        module, function = seam.patches.split(":")
        assert callable(getattr(importlib.import_module(module), function))
        assert seam.purpose
    assert len({seam.name for seam in seams.SEAMS}) == len(seams.SEAMS)

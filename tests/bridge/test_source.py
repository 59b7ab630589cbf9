"""A patched copy of the real RD-Agent, with the import hook and without: every seam once, every way back."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import textwrap
from collections.abc import Callable
from pathlib import Path

import pytest

from examples.demo.market import Market
from rdagent_sota_bridge import source
from rdagent_sota_bridge.bridge import source_patch
from rdagent_sota_bridge.bridge.plan import record_of
from rdagent_sota_bridge.doctor.rdagent import rdagent_lines
from rdagent_sota_bridge.doctor.seam_check import Seams
from rdagent_sota_bridge.errors import SeamError
from tests import runs, seams
from tests.forking import Forks

ROOT = Path(__file__).parents[2]
RUNNER = "rdagent.scenarios.qlib.developer.model_runner"
FACTOR_RUNNER = "rdagent.scenarios.qlib.developer.factor_runner"
START = f"import importlib, json, sys\nRUNNER = {RUNNER!r}\n"


@pytest.fixture(scope="module")
def patched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a patched copy of this environment's RD-Agent: the shared one is left alone."""
    spec = importlib.util.find_spec("rdagent")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    folder = tmp_path_factory.mktemp("patched source")
    shutil.copytree(spec.submodule_search_locations[0], folder / "rdagent")
    found = source_patch.find(folder)
    source_patch.write(found.file, source_patch.with_block(found.bare))
    return folder


Unhooked = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def unhooked(patched: Path, forks_of_rdagent: Forks) -> Unhooked:
    """Return a function that runs code in a folder, with the patched copy and without the hook."""

    def run(code: str, folder: Path, **variables: str) -> subprocess.CompletedProcess[str]:
        places = (folder, patched, ROOT)
        variables["RDAGENT_SOTA_BRIDGE"] = "0"
        return forks_of_rdagent.run(START + textwrap.dedent(code), folder=folder, path=places, **variables)

    return run


def test_without_the_hook_the_source_applies_the_seams(
    unhooked: Unhooked, patched: Path, tmp_path: Path
) -> None:
    """Off is the hook alone. Without the package the import fails, loudly; with it every seam is there that
    a run needs, and no command line was imported for one; `revert` restores each by identity.
    """
    said = unhooked(
        """
        ours = sys.modules.pop("rdagent_sota_bridge")
        sys.modules["rdagent_sota_bridge"] = None
        try:
            importlib.import_module(RUNNER)
        except ModuleNotFoundError as error:
            print(error.name)
        sys.modules["rdagent_sota_bridge"] = ours

        from rdagent_sota_bridge import patch
        assert {at.state for at in patch.status()} == {"waiting"}
        module = importlib.import_module(RUNNER)
        print(module.__file__)
        print(json.dumps({at.seam.name: at.state for at in patch.status()}))
        print("rdagent.app.cli" in sys.modules, ours.SeamFinder in sys.meta_path)
        runner = module.QlibModelRunner
        raw, merge = vars(runner)["develop"].__wrapped__, module.process_factor_data.__wrapped__
        patch.revert()
        print(vars(runner)["develop"] is raw, module.process_factor_data is merge, "__init__" in vars(runner))
        print(raw.__code__.co_filename, {at.state for at in patch.status()})
        """,
        tmp_path,
    )
    assert said.returncode == 0, said.stderr
    missing, file, states, loaded, reverted, raw = said.stdout.splitlines()
    assert missing == "rdagent_sota_bridge"
    assert Path(file).is_relative_to(patched)
    found = json.loads(states)
    assert found.pop("options") == "waiting", "its module is the command line, which nobody had imported"
    assert set(found.values()) == {"applied"}
    assert loaded == "False False"
    assert reverted == "True True False"
    assert raw == f"{patched / 'rdagent' / 'core' / 'utils.py'} {{'waiting'}}"


def test_source_and_hook_act_once(
    forks_of_rdagent: Forks, patched: Path, market_home: tuple[Path, Market], tmp_path: Path
) -> None:
    """With both, one wrapper lies on RD-Agent's own, after a reload too; the set is handed over once."""
    home, market = market_home
    seams.write_set(tmp_path / "set", seams.factor_frame(market))
    code = """
        from rdagent_sota_bridge.bridge.dry_run import is_ours
        from rdagent_sota_bridge import patch
        module = importlib.import_module(RUNNER)
        loop, workspace = (importlib.import_module(f"rdagent.{name}") for name in (
            "utils.workflow.loop", "scenarios.qlib.experiment.workspace"
        ))

        def wrapped():
            for owner, name in (
                (module.QlibModelRunner, "develop"),
                (module.QlibModelRunner, "__init__"),
                (module, "process_factor_data"),
                (loop.LoopBase, "run"),
                (workspace.QlibFBWorkspace, "execute"),
            ):
                function = vars(owner)[name]
                assert is_ours(function), name
                assert not is_ours(function.__wrapped__), name
            return vars(module.QlibModelRunner)["develop"].__wrapped__

        wrapped()
        importlib.reload(module)
        raw = wrapped()
        from tests import seams
        with seams.logged() as lines:
            runner = seams.build_runner()
            seams.develop_up_to_qlib(runner, seams.model_experiment())
        for text in ("SOTA factors loaded from", "added to based_experiments", "SOTA factor processing"):
            assert sum(text in line for line in lines) == 1, (text, lines)
        patch.revert()
        assert vars(module.QlibModelRunner)["develop"] is raw
        assert "__init__" not in vars(module.QlibModelRunner)
        assert not hasattr(module.process_factor_data, "__wrapped__")
        importlib.reload(module)
        wrapped()
        """
    said = forks_of_rdagent.run(
        START + textwrap.dedent(code),
        folder=tmp_path,
        path=(patched, ROOT),
        HOME=str(home),
        LOAD_SOTA_FROM_WORKSPACE="true",
        SOTA_WORKSPACE_PATH="set",
    )
    assert said.returncode == 0, said.stderr[-3000:]


def test_an_unknown_caller_is_refused() -> None:
    """A module without a seam that calls would get nothing: it is an error."""
    with pytest.raises(SeamError, match="has no seam") as raised:
        source.apply("rdagent.scenarios.mine.model_runner")
    assert raised.value.place == "rdagent.scenarios.mine.model_runner"


WRITE_SEAMS = """
import pathlib
from rdagent_sota_bridge.doctor import seam_check
seam_check.write_seams(pathlib.Path("answer.json"))
"""


def test_a_patched_develop_of_another_shape(
    unhooked: Unhooked, patched: Path, market_home: tuple[Path, Market], tmp_path: Path
) -> None:
    """A run that asked for the factors is stopped where its `develop` can't be bridged; `check` says why.

    Importing the module asks nothing.
    """
    file = patched / "rdagent" / source_patch.RUNNER_FILE
    content = file.read_bytes()
    file.write_bytes(content.replace(b"combined_factors_df.parquet", b"factors.parquet"))
    try:
        build = "importlib.import_module(RUNNER).QlibModelRunner(None)"
        workspace = str(seams.write_set(tmp_path / "set", seams.factor_frame(market_home[1])))
        stopped = unhooked(build, tmp_path, LOAD_SOTA_FROM_WORKSPACE="true", SOTA_WORKSPACE_PATH=workspace)
        plain = unhooked(build, tmp_path)
        looked = unhooked(WRITE_SEAMS, tmp_path, LOAD_SOTA_FROM_WORKSPACE="true")
    finally:
        file.write_bytes(content)
    assert (stopped.returncode, plain.returncode) == (1, 0)
    assert stopped.stderr.count("it writes no combined_factors_df.parquet") == 1
    assert "Traceback" not in stopped.stderr
    assert "combined_factors_df.parquet" not in plain.stderr
    assert looked.returncode == 0, looked.stderr
    misfits = json.loads((tmp_path / "answer.json").read_text())["misfits"]
    assert "it writes no combined_factors_df.parquet" in misfits["runner"]


def test_check_knows_a_patched_source(unhooked: Unhooked, tmp_path: Path) -> None:
    """`rdagent-sota check` does not fail for the hook that is off: the source needs none."""
    looked = unhooked(WRITE_SEAMS, tmp_path)
    assert looked.returncode == 0, looked.stderr
    answer = json.loads((tmp_path / "answer.json").read_text())
    assert not answer["hooked"]
    assert answer["patched"]
    assert (answer["misfits"], answer["runners"]) == ({}, {})
    assert answer["asked"]["keeps_frame"]
    assert answer["verdicts"]["mended"] == "", "the source applies that seam too"
    line = rdagent_lines(Seams(**answer), "0", "", "")[0]
    assert (line.state, line.figures["patched"]) == ("pass", True)
    assert "its patched source calls the package; RDAGENT_SOTA_BRIDGE=0 turns" in line.text
    assert rdagent_lines(Seams(**answer | {"patched": False}), "0", "", "")[0].state == "fail"


LOOP = '''
from rdagent.utils.workflow import LoopBase, LoopMeta


class QuantRDLoop(LoopBase, metaclass=LoopMeta):
    """Named as RD-Agent names the loop of fin_quant, with the part of it that matters here."""

    def __init__(self, factor_runner, model_runner):
        self.factor_runner, self.model_runner = factor_runner, model_runner
        super().__init__()

    def running(self, previous):
        return "done"
'''
RESUME = """
import resumed
assert RUNNER not in sys.modules
loop = resumed.QuantRDLoop.load("log/run/__session__/0/0_running", checkout=True)
assert RUNNER in sys.modules
from rdagent_sota_bridge.bridge import plan
before = plan.record_of(loop.model_runner)
from tests import seams
with seams.logged() as lines:
    loop.run().close()
after = plan.record_of(loop.model_runner)
assert plan.record_of(loop.factor_runner) == after
print("", json.dumps([before and before["digest"], after and after["digest"]]), sep="\\n")
assert sum("SOTA factors loaded from" in line for line in lines) == (after is not None), lines
sys.stderr.write("".join(line for line in lines if line.startswith("WARNING")))
loop.run().close()
"""


def test_a_resumed_run_without_the_hook(
    unhooked: Unhooked, market_home: tuple[Path, Market], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`load` unpickles the patched runner and can't be caught: the run is checked when it begins, once."""
    from datetime import datetime, timezone

    from rdagent.utils.workflow.loop import LoopTrace

    home, market = market_home
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "resumed.py").write_text(LOOP)
    seams.switch_on(monkeypatch, seams.write_set(tmp_path / "set", seams.factor_frame(market)))
    factor_runner = importlib.import_module(FACTOR_RUNNER).QlibFactorRunner(None)
    loop = importlib.import_module("resumed").QuantRDLoop(factor_runner, seams.build_runner())
    assert record_of(factor_runner) is not None
    now = datetime.now(timezone.utc)
    loop.session_folder = tmp_path / "log" / "run" / "__session__"
    loop.loop_trace[0].append(LoopTrace(now, now, step_idx=0))
    loop.dump(loop.session_folder / "0" / "0_running")
    variables = {
        "HOME": str(home), "LOAD_SOTA_FROM_WORKSPACE": "true", "SOTA_WORKSPACE_PATH": str(tmp_path / "set")
    }  # fmt: skip

    same = unhooked(RESUME, tmp_path, **variables)
    assert same.returncode == 0, same.stderr[-3000:]
    digests = json.loads(same.stdout.splitlines()[-1])
    assert digests[0] == digests[1] is not None

    off = unhooked(RESUME, tmp_path, **{**variables, "LOAD_SOTA_FROM_WORKSPACE": "false"})
    assert off.returncode == 0, off.stderr[-3000:]
    assert json.loads(off.stdout.splitlines()[-1]) == [digests[0], None]
    assert "goes on without it: LOAD_SOTA_FROM_WORKSPACE is off" in off.stderr

    seams.write_set(tmp_path / "set", seams.factor_frame(market) * 2)
    changed = unhooked(RESUME, tmp_path, **variables)
    assert changed.returncode == 1
    assert "The factor set is not the one that this run began with" in changed.stderr
    assert "Traceback" not in changed.stderr


def test_a_runner_that_can_not_be_given_the_factors(
    unhooked: Unhooked, market_home: tuple[Path, Market], tmp_path: Path
) -> None:
    """A new loop is looked at when it is built, as with the hook: a runner that drops the set is refused."""
    home, market = market_home
    (tmp_path / "resumed.py").write_text(LOOP)
    seams.write_set(tmp_path / "set", seams.factor_frame(market))
    refused = unhooked(
        """
        import resumed
        parent = importlib.import_module(RUNNER).QlibModelRunner
        runner = type("Own", (parent,), {"develop": lambda self, exp: exp})
        resumed.QuantRDLoop(None, runner(None))
        """,
        tmp_path,
        HOME=str(home),
        LOAD_SOTA_FROM_WORKSPACE="true",
        SOTA_WORKSPACE_PATH="set",
    )
    assert refused.returncode == 1
    assert "the run's model runner can't be given the factors" in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.e2e
def test_a_run_of_a_patched_source(patched: Path, tmp_path: Path) -> None:
    """The hook off, the patch on: the network is trained on the factors, and the log says so."""
    box, market = runs.box_with_market(tmp_path / "box")
    frame = seams.factor_frame(market)
    workspace = seams.write_set(box.project / "set", frame)
    run = runs.rdagent(
        box,
        "fin_model",
        "--loop-n",
        "1",
        RDAGENT_SOTA_BRIDGE="0",
        PYTHONPATH=str(patched),
        LOAD_SOTA_FROM_WORKSPACE="true",
        SOTA_WORKSPACE_PATH="set",
    )
    assert run.status == 0, run.output[-3000:]
    (model,) = run.trained
    assert model.metrics["IC"] > 0.6
    assert model.width == 23
    assert model.manifest is not None
    assert "overnight_gap" in model.manifest["qlib_loaded"]["columns"]
    for line in (
        f"SOTA factors loaded from workspace: {workspace}/combined_factors_df.parquet",
        f"SOTA factors shape: ({len(frame)}, 1)",
        "SOTA factor experiment added to based_experiments",
        "SOTA factor processing ...",
        "叠加Alpha因子: 22个",
        "SOTA factors used: Qlib loaded 23 columns (1 mined, 22 base), num_features 23",
    ):
        assert run.output.count(line) == run.text_log.count(line) == 1, line

"""What `develop` answers: that of the installed RD-Agent, of factor runners, of a user's own classes.

What each imitation of a fork answers is seen in test_forks, by what its models are trained on.
"""

from __future__ import annotations

import functools
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.bridge.dry_run import ASTRAY, CACHED, MERGE, DryRun, has_result_cache, merge_places
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from tests import forks, seams
from tests.forks import Edit

UTILS = "rdagent.scenarios.qlib.developer.utils"
FACTOR_RUNNER = "rdagent.scenarios.qlib.developer.factor_runner"


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, *edits: Edit) -> ModuleType:
    """Return a fork's module without seams."""
    return forks.load(folder / "fork", forks.text_with(*edits), monkeypatch)


def keeps_frame(module: ModuleType) -> bool:
    """Ask a module's runner that can be given the factors."""
    dry_run.ask_model_runner.cache_clear()
    found = dry_run.ask_model_runner(module.QlibModelRunner)
    assert isinstance(found, DryRun), found
    return found.keeps_frame


# --- RD-Agent's own ---


def test_the_installed_release() -> None:
    """Both installed runners are asked once a process, and name their YAML with the variables for it."""
    found = dry_run.of_models()
    assert found.keeps_frame
    assert found.start.config_name == CONFIG_FILE
    assert "combined_factors_df.parquet" in found.start.config
    assert found.start.run_env["dataset_cls"] == "DatasetH"
    assert found.start.run_env["num_features"] == "22"
    assert dry_run.of_models() is found
    of_factors = dry_run.ask_factor_runner(import_module(FACTOR_RUNNER).QlibFactorRunner)
    assert isinstance(of_factors, DryRun), of_factors
    assert of_factors.start.config_name == "conf_combined_factors.yaml"


@pytest.mark.parametrize("fork", [(), forks.FORCED_KEY], ids=["installed", "a cache that is always on"])
def test_a_dry_run_leaves_nothing(
    fork: tuple[Edit, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    nothing_left: None,
) -> None:
    """Files, log lines, caches, settings and every attribute of RD-Agent are the same before and after."""
    from rdagent.core.conf import RD_AGENT_SETTINGS
    from rdagent.log import rdagent_logger

    module = loaded(tmp_path, monkeypatch, *fork)
    forks.apply_seams(module, monkeypatch)
    factor_runner = import_module(FACTOR_RUNNER)
    dry_run.of_models()  # RD-Agent's modules that are imported now write a log of their own
    dry_run.ask_factor_runner(factor_runner.QlibFactorRunner)
    dry_run.ask_model_runner.cache_clear()
    dry_run.ask_factor_runner.cache_clear()
    workspace = import_module("rdagent.scenarios.qlib.experiment.workspace").QlibFBWorkspace
    env = import_module("rdagent.utils.env").Env
    places = (
        *(module, module.QlibModelRunner, factor_runner, factor_runner.QlibFactorRunner, workspace, env),
        *(sys.modules[UTILS], RD_AGENT_SETTINGS, rdagent_logger),
    )

    def state() -> Any:
        folders = (tmp_path, Path.cwd(), rdagent_logger.storage.path, RD_AGENT_SETTINGS.workspace_path)
        found = [file for folder in folders for file in Path(folder).rglob("*")]
        sizes = {file: file.is_file() and (file.stat().st_size, file.stat().st_mtime_ns) for file in found}
        return sizes, [dict(vars(at)) for at in places]

    before = state()
    capfd.readouterr()
    with seams.logged() as lines:
        dry_run.of_models()
        dry_run.ask_factor_runner(factor_runner.QlibFactorRunner)
    assert not lines
    assert capfd.readouterr() == ("", "")
    assert state() == before


def test_it_is_not_asked_while_rdagent_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seams are applied to a module that has just run, whatever its develop does; a run with the switch
    off asks nothing."""
    module = loaded(tmp_path, monkeypatch, *forks.MISFITS["another file"][0])
    forks.apply_seams(module, monkeypatch)
    module.QlibModelRunner(None)
    assert dry_run.ask_model_runner.cache_info().currsize == 0


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("process_factor_data(", "list(", f"does not ask {MERGE} for the factors"),
        ("conf_combined_factors.yaml", "other.yaml", "takes other.yaml in place of"),
        ("conf_combined_factors_sota_model.yaml", "other.yaml", "takes other.yaml in place of"),
        ("combined_factors_df.parquet", "other.parquet", "writes no combined_factors_df.parquet"),
    ],
    ids=["no merge", "LightGBM's YAML", "the model's YAML", "another file"],
)
def test_factor_runners_that_do_not_fit(
    old: str, new: str, reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answer names what a fork's factor runner does otherwise."""
    original = Path(str(import_module(FACTOR_RUNNER).__file__)).read_text(encoding="utf-8")
    assert old in original
    module = forks.load(tmp_path, original.replace(old, new), monkeypatch, FACTOR_RUNNER)
    found = dry_run.ask_factor_runner(module.QlibFactorRunner)
    assert isinstance(found, str)
    assert reason in found


# --- where the merge is held ---


@pytest.mark.parametrize(
    ("fork", "owner", "name"),
    [
        ("threshold > 0", forks.MODULE, MERGE),
        ("merge in methods", forks.MODULE, MERGE),
        ("merge by another name", forks.MODULE, "merged"),
        ("merge through its module", UTILS, MERGE),
        ("merge imported in develop", UTILS, MERGE),
    ],
)
def test_where_the_merge_is_held(
    fork: str, owner: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is found by identity, under any name; the answer is the same before the seams and after."""
    module = loaded(tmp_path, monkeypatch, *forks.FITTING[fork])
    for _ in range(2):
        assert (owner, name) in [(at.__name__, found) for at, found in merge_places(module)]
        assert keeps_frame(module)
        forks.apply_seams(module, monkeypatch)
        assert dry_run.is_ours(getattr(sys.modules[owner], name))


def test_a_merge_or_a_develop_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork's own function of that name is the merge, and an inherited develop's is found in its file."""
    own = f"def {MERGE}(experiments):\n    raise RuntimeError\n\n\nclass QlibModelRunner("
    module = loaded(tmp_path, monkeypatch, ("class QlibModelRunner(", own))
    assert (module, MERGE) in merge_places(module)
    assert keeps_frame(module)

    inherited = loaded(tmp_path, monkeypatch)
    inherited.__name__ = "rdagent.fork_runner"
    monkeypatch.setitem(sys.modules, inherited.__name__, inherited)
    module = ModuleType(forks.MODULE)
    monkeypatch.setitem(sys.modules, forks.MODULE, module)
    module.QlibModelRunner = type("QlibModelRunner", (inherited.QlibModelRunner,), {})  # type: ignore[attr-defined]
    assert (inherited, MERGE) in merge_places(module)
    assert keeps_frame(module)
    forks.apply_seams(module, monkeypatch)
    assert keeps_frame(module)


# --- a run's own runner class ---


def own_runner(base: type, text: str) -> type:
    """Return a class derived from another, with a `develop` of one expression."""
    names: dict[str, Any] = {"base": base}
    exec(f"class Own(base):\n    def develop(self, exp):\n        {text}", names)
    found: type = names["Own"]
    return found


@pytest.mark.parametrize("derived_from", ["RD-Agent's runner", "SotaModelRunner"])
@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("return super().develop(exp)", ""),
        ("return base.develop(self, exp)", ""),
        ("exp.based_experiments = []; return super().develop(exp)", ""),
        ("return exp", ASTRAY),
        ("raise ValueError('no GPU')", f"{ASTRAY} (ValueError: no GPU)"),
        (
            "exp.sub_workspace_list.clear(); return super().develop(exp)",
            "ends before it starts Qlib (IndexError",
        ),
    ],
)
def test_a_runner_class_of_the_runs_own(text: str, reason: str, derived_from: str) -> None:
    """It is asked as RD-Agent's is, and has to lead to it."""
    base = import_module(forks.MODULE).QlibModelRunner
    if derived_from == "SotaModelRunner":
        base = import_module("rdagent_sota_bridge.runner").SotaModelRunner
    found = dry_run.ask_model_runner(own_runner(base, text))
    assert (found.startswith(reason) and reason != "") if isinstance(found, str) else not reason, found


@pytest.mark.parametrize("kind", ["model", "factor"])
def test_a_runner_class_with_a_cache_or_of_another_family(kind: str) -> None:
    """A result cache around our develop answers before it, and another family never leads there."""
    from rdagent.components.runner import CachedRunner
    from rdagent.core.utils import cache_with_pickle

    if kind == "model":
        ask, base = dry_run.ask_model_runner, import_module(forks.MODULE).QlibModelRunner
    else:
        ask, base = dry_run.ask_factor_runner, import_module(FACTOR_RUNNER).QlibFactorRunner
    own: Any = own_runner(base, "return super().develop(exp)")
    own.develop = cache_with_pickle(CachedRunner.get_cache_key)(own.develop)
    assert ask(own) == CACHED
    assert ask(own_runner(object, "return exp")) == ASTRAY


@pytest.mark.parametrize(
    ("fork", "cached"),
    [
        ((), True),
        (forks.FITTING["decorator of its own"], True),
        (forks.FITTING["key that counts"], True),
        (forks.FORCED_KEY, True),
        (forks.FITTING["no cache"], False),
    ],
    ids=["installed", "behind a decorator", "own key", "always on", "none"],
)
def test_the_cache_around_a_develop(
    fork: tuple[Edit, ...], cached: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The result cache is found behind other decorators, and bound."""
    module = loaded(tmp_path, monkeypatch, *fork)
    assert has_result_cache(module.QlibModelRunner.develop) is cached
    assert has_result_cache(functools.partial(module.QlibModelRunner(None).develop)) is cached

"""What `develop` answers: that of the installed RD-Agent, of imitations of forks, of a user's own classes."""

from __future__ import annotations

import functools
import importlib.util
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from rdagent_sota_bridge.bridge import dry_run
from rdagent_sota_bridge.bridge.dry_run import ASTRAY, CACHED, MERGE, DryRun, merge_places, result_cache
from rdagent_sota_bridge.errors import SeamError
from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE
from tests import forks, seams
from tests.forks import Edit

UTILS = "rdagent.scenarios.qlib.developer.utils"
FACTOR_RUNNER = "rdagent.scenarios.qlib.developer.factor_runner"


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, *edits: Edit) -> ModuleType:
    """Return a fork's module without seams."""
    return forks.load(folder / "fork", forks.text_with(*edits), monkeypatch)


def asked(runner_class: type) -> DryRun:
    """Ask a runner class that can be given the factors."""
    found = dry_run.ask_model_runner(runner_class)
    assert isinstance(found, DryRun), found
    return found


# --- RD-Agent's own ---


def test_the_installed_release() -> None:
    """The installed RD-Agent keeps the frame, and tells its YAML with the variables for it."""
    found = dry_run.of_models()
    assert found.keeps_frame
    assert found.start.config_name == CONFIG_FILE
    assert "combined_factors_df.parquet" in found.start.config
    assert found.start.run_env["dataset_cls"] == "DatasetH"
    assert found.start.run_env["num_features"] == "22"
    assert dry_run.of_models() is found, "it is asked once a process"


def test_the_installed_factor_runner() -> None:
    """The factor runner is asked with and without a model before it, and tells its YAML for LightGBM."""
    found = dry_run.ask_factor_runner(import_module(FACTOR_RUNNER).QlibFactorRunner)
    assert isinstance(found, DryRun), found
    assert found.start.config_name == "conf_combined_factors.yaml"


def everything(*folders: Path) -> dict[Path, Any]:
    """Return all folders and files below some folders, files with their sizes and times."""
    return {
        file: file.is_file() and (file.stat().st_size, file.stat().st_mtime_ns)
        for folder in folders
        for file in folder.rglob("*")
    }


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
    places = (module, module.QlibModelRunner, factor_runner, factor_runner.QlibFactorRunner, workspace, env)

    def state() -> list[dict[str, Any]]:
        return [dict(vars(at)) for at in (*places, sys.modules[UTILS], RD_AGENT_SETTINGS, rdagent_logger)]

    folders = (
        Path.cwd(),
        tmp_path,
        Path(rdagent_logger.storage.path),
        Path(RD_AGENT_SETTINGS.workspace_path),
    )
    before, files = state(), everything(*folders)
    capfd.readouterr()
    with seams.logged() as lines:
        dry_run.of_models()
        dry_run.ask_factor_runner(factor_runner.QlibFactorRunner)
    assert everything(*folders) == files
    assert not lines
    assert capfd.readouterr() == ("", "")
    assert all(now == then and now.keys() == then.keys() for now, then in zip(state(), before, strict=True))


def test_it_is_not_asked_while_rdagent_is_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seams are applied to a module that has just run, whatever its develop does; a run with the switch
    off asks nothing, and one with the switch on is refused."""
    module = loaded(tmp_path, monkeypatch, *forks.MISFITS["another file"][0])
    forks.apply_seams(module, monkeypatch)
    module.QlibModelRunner(None)
    assert dry_run.ask_model_runner.cache_info().currsize == 0
    with pytest.raises(SeamError, match=r"not known: it writes no combined_factors_df\.parquet"):
        dry_run.of_models()


# --- forks ---


@pytest.mark.parametrize("fork", forks.FITTING)
def test_forks_that_fit(fork: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fork keeps the frame, and answers the same once the seams are applied."""
    module = loaded(tmp_path, monkeypatch, *forks.FITTING[fork])
    before = asked(module.QlibModelRunner)
    assert before.keeps_frame
    dry_run.ask_model_runner.cache_clear()
    forks.apply_seams(module, monkeypatch)
    assert asked(module.QlibModelRunner) == before


@pytest.mark.parametrize("fork", forks.MISFITS)
def test_forks_that_do_not_fit(fork: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The answer says what each fork does in place of what it has to, or what it raised."""
    edits, reason = forks.MISFITS[fork]
    found = dry_run.ask_model_runner(loaded(tmp_path, monkeypatch, *edits).QlibModelRunner)
    assert isinstance(found, str)
    assert reason in found


@pytest.mark.parametrize("change", forks.CHANGING)
def test_forks_that_change_the_frame(change: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork that filters, fills or converts the merged frame is told from one that keeps it."""
    module = loaded(tmp_path, monkeypatch, forks.CHANGING[change])
    assert not asked(module.QlibModelRunner).keeps_frame


@pytest.mark.parametrize(
    ("edits", "reason"),
    [
        ((("process_factor_data(", "list("),), f"does not ask {MERGE} for the factors"),
        ((("conf_combined_factors.yaml", "other.yaml"),), "takes other.yaml in place of"),
        ((("conf_combined_factors_sota_model.yaml", "other.yaml"),), "takes other.yaml in place of"),
        ((("combined_factors_df.parquet", "other.parquet"),), "writes no combined_factors_df.parquet"),
    ],
    ids=["no merge", "LightGBM's YAML", "the model's YAML", "another file"],
)
def test_factor_runners_that_do_not_fit(
    edits: tuple[Edit, ...], reason: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a fork's factor runner does otherwise is said."""
    original = Path(str(import_module(FACTOR_RUNNER).__file__)).read_text(encoding="utf-8")
    file = tmp_path / "factor_runner.py"
    for old, new in edits:
        assert old in original
        original = original.replace(old, new)
    file.write_text(original, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(FACTOR_RUNNER, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, FACTOR_RUNNER, module)
    spec.loader.exec_module(module)
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
    """The place is found by identity, under any name, before the seams and after."""
    module = loaded(tmp_path, monkeypatch, *forks.FITTING[fork])
    for _ in range(2):
        assert (owner, name) in [(at.__name__, found) for at, found in merge_places(module)]
        forks.apply_seams(module, monkeypatch)
        assert dry_run.is_ours(getattr(sys.modules[owner], name))


def test_a_merge_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A fork's own function of that name in its file is the merge, too."""
    own = f"def {MERGE}(experiments):\n    raise RuntimeError\n\n\nclass QlibModelRunner("
    module = loaded(tmp_path, monkeypatch, ("class QlibModelRunner(", own))
    assert (module, MERGE) in merge_places(module)
    assert asked(module.QlibModelRunner).keeps_frame


def test_a_develop_of_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A develop that is inherited from another file is asked, and its merge is found there."""
    inherited = loaded(tmp_path, monkeypatch)
    inherited.__name__ = "rdagent.fork_runner"
    monkeypatch.setitem(sys.modules, inherited.__name__, inherited)
    module = ModuleType(forks.MODULE)
    monkeypatch.setitem(sys.modules, forks.MODULE, module)
    module.QlibModelRunner = type("QlibModelRunner", (inherited.QlibModelRunner,), {})  # type: ignore[attr-defined]
    assert (inherited, MERGE) in merge_places(module)
    assert asked(module.QlibModelRunner).keeps_frame
    forks.apply_seams(module, monkeypatch)
    dry_run.ask_model_runner.cache_clear()
    assert asked(module.QlibModelRunner).keeps_frame


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


def test_a_runner_class_with_a_cache_or_of_another_family() -> None:
    """A result cache around our develop answers before it, and another family never leads there."""
    from rdagent.components.runner import CachedRunner
    from rdagent.core.utils import cache_with_pickle

    own = own_runner(import_module(forks.MODULE).QlibModelRunner, "return super().develop(exp)")
    own.develop = cache_with_pickle(CachedRunner.get_cache_key)(own.develop)  # type: ignore[attr-defined]
    assert dry_run.ask_model_runner(own) == CACHED
    assert dry_run.ask_model_runner(own_runner(object, "return exp")) == ASTRAY


# --- the cache ---


def test_the_key_that_the_cache_has_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The variables of the decorator are found, behind other decorators and our seams, and bound."""
    from rdagent.components.runner import CachedRunner

    def key_of(develop: Any) -> Any:
        return (result_cache(develop) or {}).get("hash_func")

    assert key_of(import_module(forks.MODULE).QlibModelRunner.develop) is CachedRunner.get_cache_key
    module = loaded(tmp_path, monkeypatch, *forks.FITTING["decorator of its own"])
    assert key_of(module.QlibModelRunner.develop) is CachedRunner.get_cache_key
    module = loaded(tmp_path, monkeypatch, *forks.FITTING["key that counts"])
    assert key_of(module.QlibModelRunner.develop) is module.own_key
    assert key_of(functools.partial(module.QlibModelRunner(None).develop)) is module.own_key
    module = loaded(tmp_path, monkeypatch, *forks.FITTING["no cache"])
    assert result_cache(module.QlibModelRunner.develop) is None
    for edits, forced in ((forks.FORCED_KEY, True), (forks.FITTING["key that counts"], False)):
        found = result_cache(loaded(tmp_path, monkeypatch, *edits).QlibModelRunner.develop)
        assert found is not None
        assert found["force"] is forced

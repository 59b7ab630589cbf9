"""Small imitations of forks: the installed RD-Agent's model runner, or its YAML, with one change each."""

from __future__ import annotations

import importlib.util
import re
import sys
from importlib import resources
from pathlib import Path
from types import ModuleType

import pytest

from rdagent_sota_bridge.qlib_files.model_yaml import CONFIG_FILE

MODULE = "rdagent.scenarios.qlib.developer.model_runner"

_CACHED = "    @cache_with_pickle(CachedRunner.get_cache_key, CachedRunner.assign_cached_result)\n"
_CLASS = "class QlibModelRunner("
_DEVELOP = "    def develop(self, exp: QlibModelExperiment) -> QlibModelExperiment:\n"
_IMPORT = "from rdagent.scenarios.qlib.developer.utils import process_factor_data\n"
_MERGE = "                SOTA_factor = process_factor_data(sota_factor_experiments_list)\n"
_EXECUTE = "exp.experiment_workspace.execute("
WRITE = '                combined_factors.to_parquet(target_path, engine="pyarrow")\n'

Edit = tuple[str, str]

_RETRY = """\
    def _run_with_retry(self, exp, **kwargs):
        for attempt in range(3):
            try:
                return exp.experiment_workspace.execute(**kwargs)
            except Exception as error:
                logger.warning(f"attempt {attempt}: {error}")
        return None, "it failed three times"

"""
_FALLBACK = """\
    def _run(self, exp, **kwargs):
        try:
            result, stdout = exp.experiment_workspace.execute(**kwargs)
        except Exception:
            result = None
        if result is None:
            kwargs["qlib_config_name"] = "conf_baseline_factors_model.yaml"
            result, stdout = exp.experiment_workspace.execute(**kwargs)
        return result, stdout

"""
_INLINE = """\
        def run(**kwargs):
            last = None
            for _ in range(3):
                try:
                    return exp.experiment_workspace.execute(**kwargs)
                except Exception as error:
                    last = error
            raise last

"""
TRAINED = """\
                result, stdout = exp.experiment_workspace.execute(
                    qlib_config_name="conf_sota_factors_model.yaml", run_env=env_to_use
                )
"""
_LOOPED = """\
                for _ in range(3):
                    try:
                        result, stdout = exp.experiment_workspace.execute(
                            qlib_config_name="conf_sota_factors_model.yaml", run_env=env_to_use
                        )
                        break
                    except Exception as error:
                        result, stdout = None, str(error)
"""
_METHODS = """\
    def _merge(self, experiments):
        return [process_factor_data(found) for found in [experiments]][0]

    def _write(self, exp, frame):
        frame.to_parquet(exp.experiment_workspace.workspace_path / SET_FILE, engine="pyarrow")

"""
_KEY = """\
def own_key(self, exp):
    from rdagent.oai.llm_utils import md5_hash

    return md5_hash("".join(task.get_task_information() for at in {experiments} for task in at.sub_tasks))


"""
_COUNTING_KEY = """\
def own_key(self, exp):
    return f"{exp.sub_tasks[0].name}-{len(exp.based_experiments)}"


"""
_DECORATOR = """\
def logged(function):
    def run(*args, **kwargs):
        logger.info("a model is developed")
        return function(*args, **kwargs)

    return run


"""
_NAMED = """\
def config_name():
    return "NAME"


"""
_RENDERED = """\
def run_rendered(exp, qlib_config_name, run_env):
    from jinja2 import Template

    text = exp.experiment_workspace.file_dict[qlib_config_name]
    exp.experiment_workspace.inject_files(**{NAME: Template(text).render(**run_env)})
    return exp.experiment_workspace.execute(qlib_config_name=NAME, run_env=run_env)


"""
_BY_FUNCTION = 'qlib_config_name="conf_sota_factors_model.yaml"', "qlib_config_name=config_name()"
_ENV = "from rdagent.utils.env import QlibCondaEnv\n\n\n"
_OWN_CACHED = _CACHED.replace("CachedRunner.get_cache_key", "own_key")
_ALL, _OWN = "[*exp.based_experiments, exp]", "[exp]"


def _with_key(key: str, cached: str = _OWN_CACHED) -> tuple[Edit, ...]:
    return (_CLASS, key + _CLASS), (_CACHED, cached)


FITTING: dict[str, tuple[Edit, ...]] = {
    "threshold >= 1": (("sota_factor_experiments_list) > 1:", "sota_factor_experiments_list) >= 1:"),),
    "threshold > 0": (("sota_factor_experiments_list) > 1:", "sota_factor_experiments_list) > 0:"),),
    "key of all experiments": _with_key(_KEY.format(experiments=_ALL)),
    "key of the model alone": _with_key(_KEY.format(experiments=_OWN)),
    "key that counts": _with_key(_COUNTING_KEY),
    "no cache": ((_CACHED, ""),),
    "retry in a method": ((_EXECUTE, "self._run_with_retry(exp, "), (_CACHED, _RETRY + _CACHED)),
    "retry in a loop": ((TRAINED, _LOOPED),),
    "retry in a function": ((_EXECUTE, "run("), (_DEVELOP, _DEVELOP + _INLINE)),
    "baseline after a failure": ((_EXECUTE, "self._run(exp, "), (_CACHED, _FALLBACK + _CACHED)),
    "merge in methods": (
        (_CLASS, 'SET_FILE = "combined_factors_df.parquet"\n\n\n' + _CLASS),
        (_CACHED, _METHODS + _CACHED),
        (_MERGE, _MERGE.replace("process_factor_data", "self._merge")),
        (WRITE, "                self._write(exp, combined_factors)\n"),
        ('exp.experiment_workspace.workspace_path / "combined_factors_df.parquet"', "None"),
    ),
    "merge that may fail": (
        (
            _MERGE,
            f"                try:\n    {_MERGE}                except Exception:\n"
            "                    SOTA_factor = None\n",
        ),
    ),
    "merge by another name": (
        (_IMPORT, _IMPORT.replace("process_factor_data", "process_factor_data as merged")),
        (_MERGE, _MERGE.replace("process_factor_data", "merged")),
    ),
    "merge through its module": (
        (_IMPORT, "from rdagent.scenarios.qlib.developer import utils\n"),
        (_MERGE, _MERGE.replace("process_factor_data", "utils.process_factor_data")),
    ),
    "merge imported in develop": (
        (_IMPORT, ""),
        (_DEVELOP, f"{_DEVELOP}        {_IMPORT}"),
    ),
    "config name by a function": (
        _BY_FUNCTION,
        (_CLASS, _NAMED.replace("NAME", "conf_sota_factors_model.yaml") + _CLASS),
    ),
    "rendered YAML": (
        (_EXECUTE, "run_rendered(exp, "),
        (_CLASS, _RENDERED.replace("NAME", "qlib_config_name") + _CLASS),
    ),
    "decorator of its own": ((_CLASS, _DECORATOR + _CLASS), (_CACHED, "    @logged\n" + _CACHED)),
}
"""From what a fork does to how its text differs; each of them can be bridged."""

_SORT = "                combined_factors = combined_factors.sort_index()\n"


def _then(statement: str) -> tuple[tuple[Edit, ...], str]:
    return ((_SORT, f"{_SORT}                {statement}\n"),), statement


CHANGING: dict[str, tuple[tuple[Edit, ...], str]] = {
    "filter of dates": _then('combined_factors = combined_factors.loc["2010-01-01":]'),
    "filter that takes all of the sample": _then('combined_factors = combined_factors.loc["2010":"2019"]'),
    "filter of an exchange": _then(
        "combined_factors = combined_factors[combined_factors.index.get_level_values(1).str[:2] == 'SH']"
    ),
    "dropna": _then("combined_factors = combined_factors.dropna()"),
    "dropna of columns": _then("combined_factors = combined_factors.dropna(axis=1, thresh=9)"),
    "dropped column": _then('combined_factors = combined_factors.drop(columns="noise")'),
    "another type": _then('combined_factors = combined_factors.astype("float32")'),
    "clipped by quantiles": _then(
        "combined_factors = combined_factors.clip("
        "combined_factors.quantile(0.01), combined_factors.quantile(0.99), axis=1)"
    ),
    "fillna": _then("combined_factors = combined_factors.fillna(0)"),
}
"""From what a fork does with the merged factors to how its text differs, and the statement that it adds."""

_NO_MERGE = "does not ask process_factor_data for the factors"
MISFITS: dict[str, tuple[tuple[Edit, ...], str]] = {
    "merge removed": (
        ((_MERGE, "                SOTA_factor = sota_factor_experiments_list[-1].frame\n"),),
        f"{_NO_MERGE} (AttributeError: 'QlibFactorExperiment' object has no attribute 'frame')",
    ),
    "tasks renamed": ((("sub_tasks", "tasks"),), "object has no attribute 'tasks'"),
    "merge bound in a default": (
        (
            (_DEVELOP, _DEVELOP.replace("exp: QlibModelExperiment", "exp, merge=process_factor_data")),
            (_MERGE, _MERGE.replace("process_factor_data", "merge")),
        ),
        _NO_MERGE,
    ),
    "another file": (
        (("combined_factors_df.parquet", "factors.parquet"),),
        "writes no combined_factors_df.parquet",
    ),
    "another YAML": (
        (("conf_sota_factors_model.yaml", "conf_baseline_factors_model.yaml"),),
        "takes conf_baseline_factors_model.yaml in place of conf_sota_factors_model.yaml",
    ),
    "another YAML by a function": (
        (_BY_FUNCTION, (_CLASS, _NAMED.replace("NAME", "mine.yaml") + _CLASS)),
        "takes mine.yaml in place of conf_sota_factors_model.yaml",
    ),
    "rendered YAML of another name": (
        ((_EXECUTE, "run_rendered(exp, "), (_CLASS, _RENDERED.replace("NAME", '"mine.yaml"') + _CLASS)),
        "takes mine.yaml in place of conf_sota_factors_model.yaml",
    ),
    "Qlib started by itself": (
        ((_EXECUTE, 'QlibCondaEnv(conf=None).check_output("", "", '), (_CLASS, _ENV + _CLASS)),
        "starts Qlib by itself",
    ),
    "baseline for few rows": (
        (("not SOTA_factor.empty:", "len(SOTA_factor) > 1000:"),),
        "takes conf_baseline_factors_model.yaml in place of conf_sota_factors_model.yaml",
    ),
    "error for few rows": (
        _then('assert len(combined_factors.loc["2010":]) > 1000, "no rows"')[0],
        "ends before it starts Qlib (AssertionError: no rows)",
    ),
}
"""From what a fork does to how its text differs, and what its `develop` then lacks."""

FORCED_KEY = _with_key(
    _KEY.format(experiments=_OWN),
    _OWN_CACHED.replace("assign_cached_result)", "assign_cached_result, force=True)"),
)
"""A key that ignores the experiments before, in a cache that no setting turns off."""


def text_with(*edits: Edit) -> str:
    """Return the text of the installed module with edits; each must apply."""
    file = resources.files("rdagent") / "scenarios" / "qlib" / "developer" / "model_runner.py"
    text = file.read_text(encoding="utf-8")
    for old, new in edits:
        assert old in text, old
        text = text.replace(old, new)
    return text


def load(folder: Path, text: str, monkeypatch: pytest.MonkeyPatch, replaced: str = MODULE) -> ModuleType:
    """Import a fork's text in place of the installed module, without seams; until the test ends."""
    folder.mkdir(exist_ok=True)
    file = folder / f"{replaced.rpartition('.')[2]}.py"
    file.write_text(text, encoding="utf-8")
    spec = importlib.util.spec_from_file_location(replaced, file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, replaced, module)
    spec.loader.exec_module(module)
    return module


def apply_seams(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    """Apply the seams of the model runner to a module, until the test ends."""
    from rdagent_sota_bridge.bridge import model_runner

    for patches in (model_runner.merge_patches, model_runner.runner_patches):
        for owner, attribute, replacement in patches(module):
            monkeypatch.setattr(owner, attribute, replacement, raising=False)


# --- the YAML ---

CHOSEN = ("KLEN", "ROC5", "VSTD5")
"""The base features that the forks' YAMLs choose; two of them are not in RD-Agent's own 20."""

_FEATURES = re.compile(r"^ {24}feature:\n(?: {25,}.*\n)+", re.MULTILINE)
_BEFORE_NORM = "    infer_processors:\n"
_AFTER_NORM = "    learn_processors:\n"
_AT_THE_END = "          kwargs:\n              fields_group: label\n"
_FLOW = """\
        - class: FilterCol
          kwargs:
              fields_group: feature
              col_list: ["KLEN", "ROC5",  # the trend
                         "VSTD5"]
"""
_BLOCK = """\
        - kwargs:
            col_list:
            - KLEN
            - ROC5
            # the volume
            - "VSTD5"
          class: qlib.data.dataset.processor.FilterCol
"""
_ONE_LINE = "        - {class: FilterCol, kwargs: {col_list: {{ feature_names }}}}\n"
_BLOCK_LISTS = """\
                        feature:
                            -
                                - ($high-$low)/$open
                                - Ref($close, 5)/$close
                                - Std($volume, 5)/($volume+1e-12)  # mine
                            - - KLEN
                              - ROC5
                              - VSTD5
"""
_FLOW_LISTS = """\
                        feature: [["($high-$low)/$open", "Ref($close, 5)/$close",
                            "Std($volume, 5)/($volume+1e-12)"], [KLEN, ROC5, VSTD5]]
"""
_OLD_LISTS = """\
                        feature:
                            - ["($high-$low)/$open", "Ref($close, 5)/$close",
                               "Std($volume, 5)/($volume+1e-12)"]
                            - ["KLEN", "ROC5",
                               "VSTD5"]
"""


def yaml_text(features: str | None, *edits: Edit) -> str:
    """Return the installed YAML with other features, unless they are None, and edits, each once."""
    package = resources.files("rdagent.scenarios.qlib.experiment")
    text = (package / "model_template" / CONFIG_FILE).read_text(encoding="utf-8")
    if features is not None:
        text, found = _FEATURES.subn(features, text)
        assert found == 1
    for old, new in edits:
        assert text.count(old) == 1, old
        text = text.replace(old, new)
    return text


YAMLS = {
    "lists as in 0.8.0": yaml_text(_OLD_LISTS),
    "lists in blocks": yaml_text(_BLOCK_LISTS),
    "lists in one flow": yaml_text(_FLOW_LISTS),
    "a filter of all 158": yaml_text("", (_BEFORE_NORM, _BEFORE_NORM + _FLOW)),
    "a filter after the norm": yaml_text("", (_AFTER_NORM, _BLOCK + _AFTER_NORM)),
    "a filter for learning, too": yaml_text(
        "", (_BEFORE_NORM, _BEFORE_NORM + _BLOCK), (_AT_THE_END, _AT_THE_END + _FLOW)
    ),
    "a filter by an alias": yaml_text(
        "",
        ("market: &market", "chosen: &chosen [KLEN, ROC5, VSTD5]\nmarket: &market"),
        (_BEFORE_NORM, _BEFORE_NORM + _ONE_LINE.replace("{{ feature_names }}", "*chosen")),
    ),
}
"""From how a fork writes its base features into the YAML to that YAML."""

WITH_A_PLACEHOLDER = yaml_text(None, (_BEFORE_NORM, _BEFORE_NORM + _ONE_LINE))
"""A filter that names the features by the variable of RD-Agent 1.0.0, which has no mined ones."""

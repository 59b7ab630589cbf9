"""What `develop` is recognised by: in the installed RD-Agent, in imitations of forks, in small classes."""

from __future__ import annotations

import functools
import types
from collections.abc import Callable
from importlib import import_module, metadata
from pathlib import Path
from typing import Any

import pytest

from rdagent_sota_bridge import recognition
from rdagent_sota_bridge.recognition import MERGE, Found, fingerprint, merge_places, recognise, result_cache
from tests import forks
from tests.forks import Edit

VERSION = metadata.version("rdagent")


def loaded(folder: Path, monkeypatch: pytest.MonkeyPatch, *edits: Edit) -> types.ModuleType:
    """Return a fork's module without seams."""
    return forks.load(folder / "fork", forks.text_with(*edits), monkeypatch)


def develop_of(module: types.ModuleType) -> Any:
    """Return the `develop` of a module's runner."""
    return module.QlibModelRunner.develop


# --- releases ---


def test_the_installed_release_is_known() -> None:
    """The installed RD-Agent is known by its version, with our seams applied and without a warning."""
    found = recognise(import_module(forks.MODULE))
    assert found.kind == "known"
    assert VERSION in found.releases
    assert VERSION in str(found)


def test_every_release_has_one_fingerprint() -> None:
    """The table names each release once."""
    releases = [release for found in recognition.RELEASES.values() for release in found]
    assert len(set(releases)) == len(releases) == 6


COMMENTED: tuple[Edit, ...] = (
    (
        "        exist_sota_factor_exp = False\n",
        "        # mine\n\n        exist_sota_factor_exp = False  # too\n",
    ),
)


def test_comments_and_blank_lines_do_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A source checkout with other comments, further down in its file, is the release that it was."""
    module = loaded(
        tmp_path, monkeypatch, ("import pandas as pd\n", "\n\n# mine\nimport pandas as pd\n"), *COMMENTED
    )
    assert VERSION in recognise(module).releases


@pytest.mark.parametrize(
    "edit",
    [
        ('"100"', '"200"'),
        ("exist_sota_factor_exp = False", "exist_sota_factor_exp = False # "),
        ("CachedRunner.get_cache_key, ", "lambda *_: None, "),
        ("# Save the combined factors", "x = '# Save'  #"),
    ],
)
def test_any_other_change_is_another_develop(
    edit: Edit, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Code, the decorator's line and a mark inside a text count; what is a comment does not."""
    found = recognise(loaded(tmp_path, monkeypatch, edit))
    assert found.kind == ("known" if edit[1].endswith("# ") else "unknown")


def test_a_wrapper_around_a_release_is_another_develop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was put around a release's develop after its class was made is no release's."""
    module = loaded(tmp_path, monkeypatch)
    assert recognise(module).kind == "known"
    before = develop_of(module)

    @functools.wraps(before)
    def develop(self: Any, exp: Any) -> Any:
        return before(self, exp)

    module.QlibModelRunner.develop = develop
    assert recognise(module) == Found("unknown")


def test_a_source_that_can_not_be_read_is_unknown(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without its source a develop is recognised by what it does, and is no known one."""
    text = forks.text_with()
    module = types.ModuleType(forks.MODULE)
    monkeypatch.setitem(forks.sys.modules, forks.MODULE, module)
    exec(compile(text, str(tmp_path / "gone.py"), "exec"), vars(module))
    assert fingerprint(develop_of(module)) is None
    assert recognise(module) == Found("unknown")
    assert fingerprint(len) is None


# --- forks ---


@pytest.mark.parametrize("fork", forks.FITTING)
def test_forks_that_fit(fork: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each fork is unknown but fitting, and so it stays once the seams are applied."""
    module = loaded(tmp_path, monkeypatch, *forks.FITTING[fork])
    assert recognise(module) == Found("unknown")
    forks.apply_seams(module, monkeypatch)
    assert recognise(module) == Found("unknown")


@pytest.mark.parametrize("fork", forks.MISFITS)
def test_forks_that_do_not_fit(fork: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each fork lacks is named, and nothing else."""
    edits, missing = forks.MISFITS[fork]
    found = recognise(loaded(tmp_path, monkeypatch, *edits))
    assert (found.kind, found.missing) == ("misfit", (missing,))
    assert missing in str(found)


@pytest.mark.parametrize(
    ("fork", "owner", "name"),
    [
        ("threshold > 0", forks.MODULE, MERGE),
        ("merge in methods", forks.MODULE, MERGE),
        ("merge by another name", forks.MODULE, "merged"),
        ("merge through its module", "rdagent.scenarios.qlib.developer.utils", MERGE),
        ("merge imported in develop", "rdagent.scenarios.qlib.developer.utils", MERGE),
    ],
)
def test_where_the_merge_is_looked_up(
    fork: str, owner: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one place is found where develop takes the merge from, before the seams and after."""
    module = loaded(tmp_path, monkeypatch, *forks.FITTING[fork])
    for _ in range(2):
        assert [(at.__name__, found) for at, found in merge_places(module)] == [(owner, name)]
        forks.apply_seams(module, monkeypatch)


def test_a_develop_of_another_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A develop that is inherited from another file is followed there, and its merge is found there."""
    inherited = loaded(tmp_path, monkeypatch)
    module = types.ModuleType("fork.runner")
    module.QlibModelRunner = type("QlibModelRunner", (inherited.QlibModelRunner,), {})  # type: ignore[attr-defined]
    assert VERSION in recognise(module).releases
    assert merge_places(module) == [(inherited, MERGE)]


# --- small classes ---

ALL = """
def develop(self, exp):
    if exp.based_experiments:
        frame = process_factor_data(exp.based_experiments)
        frame.to_parquet(exp.experiment_workspace.workspace_path / "combined_factors_df.parquet")
    return exp.experiment_workspace.execute("conf_sota_factors_model.yaml", exp.sub_tasks)
"""
TRAINING = """
class Training:
    def run(self, *arguments):
        return exp.experiment_workspace.execute(*arguments)
"""
MERGED = """
    @staticmethod
    def merged(experiments):
        return process_factor_data(experiments)
"""
MODULE_TEXT = f"""
def process_factor_data(experiments): ...

class QlibModelRunner:
{ALL.replace(chr(10), chr(10) + "    ")}
"""


def module_of(text: str) -> types.ModuleType:
    """Return a module of a text."""
    module = types.ModuleType("small")
    exec(text, vars(module))
    return module


def replaced(*edits: Edit) -> types.ModuleType:
    """Return the small module with edits; each must apply."""
    text = MODULE_TEXT
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    return module_of(text)


@pytest.mark.parametrize(
    "edits",
    [
        (),
        (("exp.sub_tasks", "(lambda: [one for one in exp.sub_tasks])()"),),
        (
            ('"conf_sota_factors_model.yaml"', "NAME"),
            ("class Q", 'NAME = "conf_sota_factors_model.yaml"\nclass Q'),
        ),
        (
            ('"conf_sota_factors_model.yaml"', "self.name"),
            ("Runner:", 'Runner:\n    name = "conf_sota_factors_model.yaml"'),
        ),
        (
            ("(self, exp)", '(self, exp, name="conf_sota_factors_model.yaml")'),
            ('execute("conf_sota_factors_model.yaml"', "execute(name"),
        ),
        (("def process_factor_data", "process_factor_data = lambda experiments: None\ndef another"),),
        (("exp.experiment_workspace.execute(", "Training().run("), ("class Q", f"{TRAINING}\nclass Q")),
        (("frame = process_factor_data(", "frame = self.merged("), ("Runner:", f"Runner:\n{MERGED}")),
    ],
    ids=["plain", "lambda", "constant", "attribute", "default", "other name", "class", "static method"],
)
def test_where_a_develop_may_have_what_it_does(edits: tuple[Edit, ...]) -> None:
    """Names and texts count in all that develop reaches in its file."""
    assert recognise(replaced(*edits)) == Found("unknown")


@pytest.mark.parametrize(
    ("edits", "missing"),
    [
        ((("exp.sub_tasks", "None"), ("class Q", "def unused(exp): exp.sub_tasks\nclass Q")), ("sub_tasks",)),
        ((("to_parquet", "to_pickle"),), ("to_parquet",)),
        (
            (("def process_factor_data", "def another"),),
            (f"a {MERGE} that is looked up in a module when it is called",),
        ),
        ((("def develop", "def other"),), ("QlibModelRunner.develop in Python code",)),
        ((("class QlibModelRunner", "class Other"),), ("QlibModelRunner.develop in Python code",)),
        (
            (("    def develop", "    develop = len\n    def other"),),
            ("QlibModelRunner.develop in Python code",),
        ),
    ],
)
def test_what_a_develop_lacks(edits: tuple[Edit, ...], missing: tuple[str, ...]) -> None:
    """What stands in the file and is not reached does not count, and a develop without code is a misfit."""
    assert recognise(replaced(*edits)) == Found("misfit", missing=missing)


# --- the cache ---


def key_of(develop: Any) -> Callable[..., str | None] | None:
    """Return the key function of the cache around a develop."""
    found = result_cache(develop)
    return None if found is None else found.key


def test_the_key_that_the_cache_has_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The function in the decorator's closure is found, behind other decorators and our seams, and bound."""
    from rdagent.components.runner import CachedRunner

    assert key_of(develop_of(import_module(forks.MODULE))) is CachedRunner.get_cache_key
    module = loaded(tmp_path, monkeypatch, *forks.FITTING["decorator of its own"])
    assert key_of(develop_of(module)) is CachedRunner.get_cache_key
    module = loaded(tmp_path, monkeypatch, *forks.FITTING["key that counts"])
    assert key_of(develop_of(module)) is module.own_key
    runner = module.QlibModelRunner(None)
    assert key_of(functools.partial(runner.develop)) is module.own_key
    module = loaded(tmp_path, monkeypatch, *forks.FITTING["no cache"])
    assert result_cache(develop_of(module)) is None


def test_a_cache_that_no_setting_turns_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """`force=True` is told from a cache that the setting turns off."""
    for edits, forced in ((forks.FORCED_KEY, True), (forks.FITTING["key that counts"], False)):
        found = result_cache(develop_of(loaded(tmp_path, monkeypatch, *edits)))
        assert found is not None
        assert found.forced is forced

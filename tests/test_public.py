"""What other people's code may use: the names in `__all__`, and the examples of their docstrings."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.forking import Forks

PACKAGE = Path(__file__).parent.parent / "rdagent_sota_bridge"
PUBLIC = {
    "rdagent_sota_bridge": {"__version__"},
    "rdagent_sota_bridge.patch": {"SeamStatus", "applied", "apply", "is_applied", "revert", "status"},
    "rdagent_sota_bridge.runner": {"SotaModelRunner"},
    "rdagent_sota_bridge.source": {"apply"},
}
# In place of RD-Agent's model runner, whose name the example of `source` has for its own.
RUN = """
import doctest, importlib
module = importlib.import_module({!r})
names = {{"__name__": "rdagent.scenarios.qlib.developer.model_runner"}}
if module.__name__ == "rdagent_sota_bridge.source":
    importlib.import_module(names["__name__"])
(example,) = [found for found in doctest.DocTestFinder().find(module, globs=names) if found.examples]
assert example.name == module.__name__
print(doctest.DocTestRunner().run(example).failed)
print(sorted(module.__all__))
"""


@pytest.mark.parametrize("hook", ["", "0"])
@pytest.mark.parametrize("name", PUBLIC)
def test_the_example_runs(name: str, hook: str, forks_of_rdagent: Forks) -> None:
    """In a Python of its own, with RD-Agent, with the import hook and without."""
    said = forks_of_rdagent.output(RUN.format(name), RDAGENT_SOTA_BRIDGE=hook)
    failed, names = said.splitlines()[-2:]
    assert failed == "0", said
    assert set(ast.literal_eval(names)) == PUBLIC[name]


def test_no_other_module_promises_names() -> None:
    """`__all__` stands in the public modules alone."""
    files = [file for file in PACKAGE.rglob("*.py") if "__all__ = " in file.read_text(encoding="utf-8")]
    names = {".".join(file.relative_to(PACKAGE.parent).with_suffix("").parts) for file in files}
    assert {name.removesuffix(".__init__") for name in names} == set(PUBLIC)

"""The seam of the proposals: recognised in RD-Agent, in forks, and left alone where it is mended."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest

from rdagent_sota_bridge import best_model
from rdagent_sota_bridge.errors import SeamError


def proposals(context: Any) -> ModuleType:
    """Return a module of proposals whose classes have that `prepare_context`."""
    module = ModuleType("model_proposal")
    for name in ("QlibModelHypothesisGen", "QlibModelHypothesis2Experiment"):
        setattr(module, name, type(name, (), {"prepare_context": context}))
    return module


def as_released(self: Any, trace: Any) -> tuple[dict[str, str], bool]:
    """Give the best model as 0.5.0 to 1.0.0 do."""
    return {"SOTA_hypothesis_and_feedback": "the best", "RAG": ""}, True


def mended(self: Any, trace: Any) -> tuple[dict[str, str], bool]:
    """Give the best model under the name that is looked up."""
    return {"sota_hypothesis_and_feedback": "the best", "RAG": ""}, True


def without(self: Any, trace: Any) -> tuple[dict[str, str], bool]:
    """Give no best model."""
    return {"RAG": ""}, True


def test_the_installed_rdagent_has_the_shape() -> None:
    """Both classes are replaced in the installed release, and a second look finds the same."""
    from rdagent.scenarios.qlib.proposal import model_proposal

    owners = [model_proposal.QlibModelHypothesisGen, model_proposal.QlibModelHypothesis2Experiment]
    for _ in range(2):
        found = best_model.patches(model_proposal)
        assert [(owner, name) for owner, name, _ in found] == [(owner, "prepare_context") for owner in owners]


def test_a_fork_that_writes_it_alike_is_left_alone() -> None:
    """Where the name is the one that is looked up, nothing is replaced."""
    assert best_model.patches(proposals(mended)) == []


@pytest.mark.parametrize("context", [without, None, 7])
def test_another_shape_is_refused(context: Any) -> None:
    """A proposal that gives no best model is named, and nothing is replaced."""
    with pytest.raises(SeamError, match=r"QlibModelHypothesisGen\.prepare_context does not give"):
        best_model.patches(proposals(context))
    with pytest.raises(SeamError, match=r"QlibModelHypothesisGen"):
        best_model.patches(ModuleType("empty"))


class Quant:
    """Stands for the scenario of fin_quant."""


class Trace:
    """A trace of a scenario."""

    def __init__(self, scen: object) -> None:
        self.scen = scen


@pytest.mark.parametrize(
    ("switch", "way", "scen", "given"),
    [
        ("true", "", object(), True),
        ("true", "mended", object(), True),
        ("true", "rdagent", object(), False),
        ("false", "mended", object(), False),
        ("", "", object(), False),
        ("true", "mended", Quant(), False),
    ],
)
def test_when_the_best_model_is_given(
    monkeypatch: pytest.MonkeyPatch, switch: str, way: str, scen: object, given: bool
) -> None:
    """With the switch on and the verdict mended, in fin_model alone; all else in the context stays."""
    monkeypatch.setenv("LOAD_SOTA_FROM_WORKSPACE", switch)
    monkeypatch.setenv("SOTA_MODEL_VERDICT", way)
    module = proposals(as_released)
    vars(module)["QlibQuantScenario"] = Quant
    for owner, _, replacement in best_model.patches(module):
        for context, flag in (replacement(owner(), Trace(scen)), replacement(owner(), trace=Trace(scen))):
            assert flag is True
            assert context.get("sota_hypothesis_and_feedback") == ("the best" if given else None)
            assert {"SOTA_hypothesis_and_feedback", "RAG"} <= set(context)
            assert len(context) == 2 + given

"""What an answer says, and how RD-Agent or a fork asks for verdicts and proposals: known, or refused."""

from __future__ import annotations

import json
from types import ModuleType, SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from rdagent_sota_bridge.bridge import verdict
from rdagent_sota_bridge.bridge.verdict import DECISION, REPLACE, Asked, read
from rdagent_sota_bridge.errors import SeamError

# --- what an answer says ---

YES = (True, "true", " YES ", "ok")
NO = (False, "False", "no ")
UNREADABLE = ("", "yes or no", "Yes.", "1", 1, 1.0, None, [], {"Decision": True})


@pytest.mark.parametrize("value", [*YES, *NO, *UNREADABLE])
def test_the_words_are_rdagents(value: Any) -> None:
    """Yes and no are in either form what RD-Agent's own `convert2bool` takes for them."""
    from rdagent.utils import convert2bool

    answers = [read({"Reasoning": "r", key: value})[:2] for key in (DECISION, REPLACE)]
    try:
        assert answers == 2 * [(convert2bool(value), True)]
    except ValueError:  # RD-Agent ends the run on it
        assert value in UNREADABLE
        assert answers == 2 * [(False, False)]
        assert not read({DECISION: value, REPLACE: "yes"})[0]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({DECISION: True}, (True, True, 'it says "Decision": true')),
        (
            {DECISION: True, REPLACE: "Yes"},
            (True, True, 'it says "Decision": true, "Replace Best Result": "Yes"'),
        ),
        (
            {DECISION: False, REPLACE: "yes"},
            (False, False, 'it contradicts itself ("Decision": false, "Replace Best Result": "yes")'),
        ),
        ({"decision": True}, (False, False, 'it has neither "Decision" nor "Replace Best Result"')),
        (
            {DECISION: "well,\n" * 100},
            (False, False, 'it says neither yes nor no ("Decision": "' + 8 * r"well,\n" + "wel)"),
        ),
    ],
)
def test_both_forms_are_read(content: dict[str, Any], expected: tuple[bool, bool, str]) -> None:
    """Both have to agree; a long text in place of a verdict is cut, and stays on one line."""
    assert read(content) == expected


@pytest.mark.parametrize(
    ("response", "answered", "says_yes"),
    [
        ('{"Replace Best Result": "no"}', (REPLACE,), False),
        ('{"Decision": true, "Replace Best Result": "yes"}', (DECISION, REPLACE), True),
        ("[true]", (), False),
        ("no JSON", (), False),
        ("[" * 100_000, (), False),
    ],
)
def test_a_logged_request(response: str, answered: tuple[str, ...], says_yes: bool) -> None:
    """The keys that the prompt shows and that the answer has, whatever an LLM answered."""
    found = verdict.asked('Respond in JSON: {"Replace Best Result": "yes or no"}', response)
    assert found == Asked((REPLACE,), answered, says_yes)


# --- how RD-Agent, or a fork, asks ---


class Asks:
    """Ways to write `generate_feedback`; none is called."""

    def as_released(self, T: Any, quant: bool, answer: dict[str, Any]) -> Any:  # noqa: N803
        """0.5.0 to 1.0.0."""
        if quant:
            prompt = T("scenarios.qlib.prompts:model_feedback_generation.system")
        else:
            prompt = T("scenarios.qlib.prompts:factor_feedback_generation.system")
        return (
            prompt,
            T("scenarios.qlib.prompts:model_feedback_generation.user"),
            answer.get("Decision", "false"),
        )

    def in_a_helper_inside(self, T: Any, answer: dict[str, Any]) -> Any:  # noqa: N803
        """As released, in a function inside."""

        def ask() -> Any:
            return T(".prompts:factor_feedback_generation.system")

        return ask(), answer["Decision"]

    def with_the_model_prompt(self, T: Any, answer: dict[str, Any]) -> Any:  # noqa: N803
        """No longer shows scenarios.qlib.prompts:factor_feedback_generation.system to anybody."""
        return T("scenarios.qlib.prompts:model_feedback_generation.system"), answer.get("Decision", "false")

    def with_prompts_by_name(self, prompts: dict[str, Any], answer: dict[str, Any]) -> Any:
        """0.4.0."""
        return prompts["model_feedback_generation"]["system"], answer.get("Decision", "false")

    def that_reads_both(self, T: Any, answer: dict[str, Any]) -> Any:  # noqa: N803
        """Shows the factor prompt, and reads what it asks for."""
        prompt = T("scenarios.qlib.prompts:factor_feedback_generation.system")
        return prompt, [answer[key] for key in ("Decision", "Replace Best Result") if key in answer]

    def without_prompt(self, answer: dict[str, Any]) -> Any:
        """Asks elsewhere."""
        return answer.get("Decision", "false")

    def without_verdict(self, T: Any) -> Any:  # noqa: N803
        """Reads elsewhere."""
        return T("scenarios.qlib.prompts:factor_feedback_generation.system")


@pytest.mark.parametrize(
    ("judge", "way", "misfit", "expected"),
    [
        (Asks.as_released, "mended", "", ""),
        (Asks.as_released, "rdagent", "", "own is in force (SOTA_MODEL_VERDICT=rdagent)"),
        (Asks.in_a_helper_inside, "mended", "its T is odd", "own is in force (its T is odd)"),
        (Asks.with_the_model_prompt, "rdagent", "", ""),
        (Asks.with_prompts_by_name, "mended", "its T is odd", ""),
        (Asks.that_reads_both, "rdagent", "", ""),
        (Asks.without_prompt, "mended", "its T is odd", "is not known"),
        (Asks.without_verdict, "rdagent", "", "is not known"),
        (None, "mended", "", "is not known"),
        (len, "mended", "", "is not known"),
    ],
)
def test_what_follows_for_a_run(judge: Any, way: str, misfit: str, expected: str) -> None:
    """Trouble is named where no model could be accepted, or where that is not known; and nowhere else."""
    trouble = verdict.trouble(judge, way, misfit)
    assert bool(trouble) is bool(expected)
    assert expected in trouble


class Templates:
    """Templates with an address."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def r(self, **context: Any) -> str:
        """Render."""
        return self.uri


class Nameless:
    """Templates without an address."""

    r = Templates.r


def module_of(judge: Any, **names: Any) -> ModuleType:
    """Return a module whose verdict on models is written that way."""
    module = ModuleType("rdagent.scenarios.qlib.developer.feedback")
    given = {"T": Templates, "json": json, "convert2bool": bool, **names}
    vars(module).update({name: value for name, value in given.items() if value is not None})
    vars(module)["QlibModelExperiment2Feedback"] = type("Feedback", (), {"generate_feedback": judge})
    return module


@pytest.mark.parametrize(
    "fork", [Asks.with_the_model_prompt, Asks.with_prompts_by_name, Asks.that_reads_both]
)
def test_a_fork_that_repaired_it_is_left_alone(fork: Any) -> None:
    """Nothing of it is replaced, whatever else its module has."""
    assert verdict.patches(module_of(fork, T=None, json=None)) == []


@pytest.mark.parametrize(
    ("module", "expected"),
    [
        (ModuleType("empty"), "None names no prompt"),
        (module_of(Asks.without_prompt), "names no prompt"),
        (module_of(Asks.without_verdict), "reads no verdict"),
        (module_of(Asks.as_released, T=None), "its T is no class of templates"),
        (module_of(Asks.as_released, json=None), "with json and convert2bool"),
        (module_of(Asks.as_released, convert2bool=None), "with json and convert2bool"),
        (module_of(Asks.as_released, T=print), "its T is no class of templates"),
        (module_of(Asks.as_released, T=Nameless), "its T is no class of templates"),
        (module_of(Asks.as_released, json=pd), "with json and convert2bool"),
    ],
)
def test_another_shape_is_refused(module: ModuleType, expected: str) -> None:
    """A verdict that can't be steered is named with the reason, and nothing is replaced."""
    before = dict(vars(module))
    with pytest.raises(SeamError, match=expected):
        verdict.patches(module)
    assert vars(module) == before


# --- the proposals ---


def proposals(context: Any) -> ModuleType:
    """Return a module of proposals whose classes have that `prepare_context`."""
    module = ModuleType("model_proposal")
    for name in ("QlibModelHypothesisGen", "QlibModelHypothesis2Experiment"):
        setattr(module, name, type(name, (), {"prepare_context": context}))
    return module


def as_released(self: Any, trace: Any) -> tuple[dict[str, str], bool]:
    """Give the best model as 0.5.0 to 1.0.0 do."""
    return {"SOTA_hypothesis_and_feedback": "the best", "RAG": ""}, True


def test_a_fork_that_writes_it_alike_is_left_alone() -> None:
    """Where the name is the one that is looked up, nothing is replaced."""
    assert verdict.proposal_patches(proposals(lambda _: {"sota_hypothesis_and_feedback": "the best"})) == []


@pytest.mark.parametrize("context", [lambda _: {"RAG": ""}, None, 7])
def test_another_proposal_is_refused(context: Any) -> None:
    """A proposal that gives no best model is named, and nothing is replaced."""
    for module in (proposals(context), ModuleType("empty")):
        with pytest.raises(SeamError, match=r"QlibModelHypothesisGen\.prepare_context does not give"):
            verdict.proposal_patches(module)


class Quant:
    """Stands for the scenario of fin_quant."""


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
    trace = SimpleNamespace(scen=scen)
    expected = as_released(None, trace)[0] | ({"sota_hypothesis_and_feedback": "the best"} if given else {})
    replaced = verdict.proposal_patches(module)
    assert len(replaced) == 2
    for owner, name, replacement in replaced:
        assert name == "prepare_context"
        for found in (replacement(owner(), trace), replacement(owner(), trace=trace)):
            assert found == (expected, True)

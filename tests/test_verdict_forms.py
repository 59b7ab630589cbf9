"""What an answer to RD-Agent's request for a verdict says, and how the request is recognised."""

from __future__ import annotations

import json
from typing import Any

import pytest

from rdagent_sota_bridge import verdict_forms as forms
from rdagent_sota_bridge.errors import SeamError
from rdagent_sota_bridge.verdict_forms import Answer

YES = (True, "true", "True", " YES ", "yes", "ok")
NO = (False, "false", "No", "no ")
UNREADABLE = ("", "maybe", "yes or no", "Yes.", "1", 1, 0, 1.0, None, [], {"Decision": True})


@pytest.mark.parametrize("key", [forms.DECISION, forms.REPLACE])
@pytest.mark.parametrize("value", [*YES, *NO])
def test_either_form_counts(key: str, value: Any) -> None:
    """A clear answer in one form says what it says, without a doubt."""
    answer = forms.read({"Reasoning": "r", key: value})
    assert (answer.accepted, answer.doubt) == (value in YES, "")
    assert answer.said == f'"{key}": {json.dumps(value)}'


@pytest.mark.parametrize("first", YES)
@pytest.mark.parametrize("second", YES)
def test_both_forms_that_agree(first: Any, second: Any) -> None:
    """Yes in both forms is yes, in whatever words."""
    answer = forms.read({forms.DECISION: first, forms.REPLACE: second})
    assert (answer.accepted, answer.doubt) == (True, "")


@pytest.mark.parametrize(("first", "second"), [(True, "no"), (False, "yes")])
def test_an_answer_that_contradicts_itself(first: bool, second: str) -> None:
    """It accepts nothing, and both of its verdicts are shown."""
    answer = forms.read({forms.DECISION: first, forms.REPLACE: second})
    said = f'"Decision": {json.dumps(first)}, "Replace Best Result": "{second}"'
    assert answer == Answer(False, said, "it contradicts itself")


@pytest.mark.parametrize("value", UNREADABLE)
@pytest.mark.parametrize("other", [{}, {forms.REPLACE: "yes"}])
def test_an_answer_that_says_neither(value: Any, other: dict[str, Any]) -> None:
    """What is neither yes nor no accepts nothing, beside a yes in the other form too."""
    answer = forms.read({forms.DECISION: value, **other})
    assert (answer.accepted, answer.doubt) == (False, "it says neither yes nor no")


def test_an_answer_in_neither_form() -> None:
    """Without a verdict nothing is accepted, and what was looked for is named."""
    answer = forms.read({"decision": True})
    assert answer == Answer(False, "", 'it has neither "Decision" nor "Replace Best Result"')


def test_a_long_answer_is_shown_on_one_short_line() -> None:
    """What an LLM wrote in place of a verdict is cut, and its line breaks are escaped."""
    said = forms.read({forms.DECISION: "well,\n" * 100}).said
    assert len(said) < 100
    assert "\n" not in said


@pytest.mark.parametrize("value", [*YES, *NO, *UNREADABLE])
def test_the_words_are_rdagents(value: Any) -> None:
    """Yes and no are what RD-Agent's own `convert2bool` takes for them, and it raises on all else."""
    from rdagent.utils import convert2bool

    if value in UNREADABLE and not isinstance(value, bool):
        with pytest.raises(ValueError, match=r"Can not convert|Unknown value type"):
            convert2bool(value)
    else:
        assert convert2bool(value) is forms.read({forms.DECISION: value}).accepted


@pytest.mark.parametrize(
    ("response", "answered", "says_yes"),
    [
        ('{"Replace Best Result": "yes"}', (forms.REPLACE,), True),
        ('{"Replace Best Result": "no"}', (forms.REPLACE,), False),
        ('{"Decision": true, "Replace Best Result": "yes"}', (forms.DECISION, forms.REPLACE), True),
        ('{"Observations": ""}', (), False),
        ("[true]", (), False),
        ("no JSON", (), False),
        ("[" * 100_000, (), False),
    ],
)
def test_what_a_logged_request_tells(response: str, answered: tuple[str, ...], says_yes: bool) -> None:
    """The keys that the prompt shows and that the answer has, whatever an LLM answered."""
    found = forms.asked('Respond in JSON: {"Replace Best Result": "yes or no"}', response)
    assert found == forms.Asked((forms.REPLACE,), answered, says_yes)


# --- recognition, on imitations of forks ---


class Asks:
    """Ways to write `generate_feedback`; nothing here is called but by name."""

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
    ("judge", "expected"),
    [
        (Asks.as_released, False),
        (Asks.in_a_helper_inside, False),
        (Asks.with_the_model_prompt, True),
        (Asks.with_prompts_by_name, True),
        (Asks.that_reads_both, True),
    ],
)
def test_forks_are_told_by_what_they_do(judge: Any, expected: bool) -> None:
    """A verdict is known by the prompts that it names and the keys that it reads."""
    assert forms.reads_what_it_asks(judge) is expected


@pytest.mark.parametrize("judge", [Asks.without_prompt, Asks.without_verdict, None, len])
def test_another_shape_is_refused(judge: Any) -> None:
    """What names no prompt or reads no verdict is not guessed at."""
    with pytest.raises(SeamError, match="a shape that is not known"):
        forms.reads_what_it_asks(judge)


@pytest.mark.parametrize(
    ("judge", "way", "misfit", "expected"),
    [
        (Asks.as_released, "mended", "", ""),
        (Asks.as_released, "rdagent", "", "own is in force (SOTA_MODEL_VERDICT=rdagent)"),
        (Asks.as_released, "mended", "its T is odd", "own is in force (its T is odd)"),
        (Asks.with_the_model_prompt, "rdagent", "", ""),
        (Asks.with_the_model_prompt, "mended", "its T is odd", ""),
        (Asks.without_prompt, "mended", "its T is odd", "is not known"),
        (Asks.without_prompt, "rdagent", "", "is not known"),
    ],
)
def test_what_follows_for_a_run(judge: Any, way: str, misfit: str, expected: str) -> None:
    """Trouble is told where no model could be accepted, or where that is not known; and nowhere else."""
    trouble = forms.trouble(judge, way, misfit)
    assert bool(trouble) is bool(expected)
    assert expected in trouble

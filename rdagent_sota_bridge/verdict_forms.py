"""The two forms in which RD-Agent asks for a verdict on a loop, and what an answer in them says.

`fin_factor` asks for `"Replace Best Result": "yes or no"`, `fin_quant` asks of a model `"Decision": <true or
false>`. In `fin_model` RD-Agent (0.5.0 to 1.0.0) asks of a model in the first form and reads the second.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import CodeType
from typing import Any

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError

DECISION = "Decision"
"""What `QlibModelExperiment2Feedback` reads, and the prompt `model_feedback_generation` asks for."""

REPLACE = "Replace Best Result"
"""What the prompt `factor_feedback_generation` asks for."""

FACTOR_PROMPT = "factor_feedback_generation"
MODEL_PROMPT = "model_feedback_generation"

# The words of RD-Agent's `convert2bool` (`utils/__init__.py`, 0.5.0 to 1.0.0), which raises on all others.
_WORDS = {"true": True, "yes": True, "ok": True, "false": False, "no": False}
_SHOWN = 60  # characters of an LLM's value that a log line shows


@dataclass(frozen=True)
class Answer:
    """What an LLM's answer says of a model.

    Attributes:
        accepted: True where it says yes in one form, and nothing else in the other.
        said: What it says in each form, as text on one line; empty where it has neither.
        doubt: Why it is no clear answer; empty where it is one.
    """

    accepted: bool
    said: str
    doubt: str = ""


def read(content: Mapping[str, Any]) -> Answer:
    """Return what an answer says in either form, or in both.

    Yes has to be said clearly: an answer without a verdict, with one that can't be read, or with two that
    contradict each other does not accept the model.
    """
    told = {key: content[key] for key in (DECISION, REPLACE) if key in content}
    said = ", ".join(f'"{key}": {_shown(value)}' for key, value in told.items())
    if not told:
        return Answer(False, said, f'it has neither "{DECISION}" nor "{REPLACE}"')
    verdicts = {_yes_or_no(value) for value in told.values()}
    if None in verdicts:
        return Answer(False, said, "it says neither yes nor no")
    if len(verdicts) > 1:
        return Answer(False, said, "it contradicts itself")
    return Answer(True in verdicts, said)


def _yes_or_no(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    return _WORDS.get(value.strip().lower()) if isinstance(value, str) else None


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


@dataclass(frozen=True)
class Asked:
    """How the LLM was asked for the verdict on a model, and what it said, as RD-Agent logged it.

    Attributes:
        shown: The keys of a verdict that its prompt shows.
        answered: Those that its answer has.
        says_yes: True where the answer says yes, in whatever form.
    """

    shown: tuple[str, ...]
    answered: tuple[str, ...]
    says_yes: bool


def asked(system_prompt: str, response: str) -> Asked:
    """Return what a request for a verdict and its answer tell."""
    try:
        content = json.loads(response)
    except (ValueError, RecursionError):  # RD-Agent ended the run on it
        content = None
    content = content if isinstance(content, dict) else {}
    keys = (DECISION, REPLACE)
    return Asked(
        tuple(key for key in keys if f'"{key}"' in system_prompt),
        tuple(key for key in keys if key in content),
        read(content).accepted,
    )


def reads_what_it_asks(generate_feedback: Any) -> bool:
    """Return True where RD-Agent's verdict on a model in `fin_model` is read in the form that it is asked in.

    Args:
        generate_feedback: That of `QlibModelExperiment2Feedback`, wrapped or not. It is recognised by the
            prompts that it names and the keys that it reads, for forks have changed it.

    Raises:
        SeamError: if it names no such prompt, or reads no such key.
    """
    texts = constants(generate_feedback)
    names = {name for name in (FACTOR_PROMPT, MODEL_PROMPT) if any(_is_prompt(text, name) for text in texts)}
    if not names or not texts & {DECISION, REPLACE}:
        raise SeamError(
            "The verdict on a model has a shape that is not known: "
            f"{_of(generate_feedback)} {'reads no verdict' if names else 'names no prompt'}",
            "rdagent.scenarios.qlib.developer.feedback: QlibModelExperiment2Feedback",
            OTHER_RELEASE,
        )
    return FACTOR_PROMPT not in names or REPLACE in texts


def trouble(generate_feedback: Any, way: str, misfit: str = "") -> str:
    """Return why `fin_model` can't accept a model, or why that is not known; empty where it can.

    Args:
        generate_feedback: As above.
        way: What `SOTA_MODEL_VERDICT` says, of `settings.VERDICT_WAYS`.
        misfit: Why the seam is not applied; empty where it is.
    """
    try:
        if reads_what_it_asks(generate_feedback):
            return ""
    except SeamError as error:
        return f"whether fin_model can accept a model is not known. {error.fact}"
    if way == "mended" and not misfit:
        return ""
    reason = "SOTA_MODEL_VERDICT=rdagent" if way == "rdagent" else misfit
    return (
        f'RD-Agent\'s own is in force ({reason}): fin_model asks the LLM for "{REPLACE}" and reads '
        f'"{DECISION}", so no model of an LLM that answers as asked is accepted'
    )


def _is_prompt(text: str, name: str) -> bool:
    """Return True for the address of a prompt, such as `scenarios.qlib.prompts:<name>.system`."""
    return re.fullmatch(rf"([\w.]*:)?{name}(\.\w+)?", text) is not None


def constants(function: Any) -> set[str]:
    """Return the texts in a function's own code, wrapped or not; none of what has no Python code."""
    code = getattr(inspect.unwrap(function), "__code__", None) if callable(function) else None
    return set() if code is None else set(_texts(code.co_consts))


def _texts(constants: Iterable[Any]) -> Iterator[str]:
    for constant in constants:
        if isinstance(constant, str):
            yield constant
        elif isinstance(constant, (tuple, frozenset)):  # the keys of a dictionary stand there together
            yield from _texts(constant)
        elif isinstance(constant, CodeType):
            yield from _texts(constant.co_consts)


def _of(function: Any) -> str:
    return str(getattr(function, "__qualname__", function))

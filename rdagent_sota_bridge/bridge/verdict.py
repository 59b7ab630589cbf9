"""The verdict on models: `fin_model` asks for it as `fin_quant` does, and shows the best model so far.

`fin_factor` asks for `"Replace Best Result": "yes or no"`, `fin_quant` asks of a model `"Decision": <true or
false>`. In `fin_model` RD-Agent (0.5.0 to 1.0.0) asks of a model in the first form and reads the second.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from rdagent_sota_bridge.bridge import stop
from rdagent_sota_bridge.errors import OTHER_RELEASE, BridgeError, SeamError
from rdagent_sota_bridge.settings import is_enabled, read_settings

DECISION = "Decision"
"""What `QlibModelExperiment2Feedback` reads, and the prompt `model_feedback_generation` asks for."""

REPLACE = "Replace Best Result"
"""What the prompt `factor_feedback_generation` asks for."""

_FACTOR_PROMPT = "factor_feedback_generation"
_MODEL_PROMPT = "model_feedback_generation"

# The words of RD-Agent's `convert2bool` (`utils/__init__.py`, 0.5.0 to 1.0.0), which raises on all others.
_WORDS = {"true": True, "yes": True, "ok": True, "false": False, "no": False}
_SHOWN = 60  # characters of an LLM's value that a log line shows

_NEEDED = ("T", "json", "convert2bool")
"""What `generate_feedback` has to look up in its module: templates, and how it reads an answer."""

_GIVEN = "SOTA_hypothesis_and_feedback"
"""What `prepare_context` calls the best model so far."""

_LOOKED_UP = "sota_hypothesis_and_feedback"
"""What a proposal's prompt is made with (`components/proposal/__init__.py`)."""

_PROPOSALS = ("QlibModelHypothesisGen", "QlibModelHypothesis2Experiment")


# --- what an answer says ---


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


# --- how RD-Agent, or a fork, asks ---


def reads_what_it_asks(generate_feedback: Any) -> bool:
    """Return True where RD-Agent's verdict on a model in `fin_model` is read in the form that it is asked in.

    Args:
        generate_feedback: That of `QlibModelExperiment2Feedback`, wrapped or not. It is recognised by the
            prompts that it names and the keys that it reads, for forks have changed it.

    Raises:
        SeamError: if it names no such prompt, or reads no such key.
    """
    texts = _constants(generate_feedback)
    names = {
        name for name in (_FACTOR_PROMPT, _MODEL_PROMPT) if any(_is_prompt(text, name) for text in texts)
    }
    if not names or not texts & {DECISION, REPLACE}:
        raise SeamError(
            "The verdict on a model has a shape that is not known: "
            f"{_of(generate_feedback)} {'reads no verdict' if names else 'names no prompt'}",
            "rdagent.scenarios.qlib.developer.feedback: QlibModelExperiment2Feedback",
            OTHER_RELEASE,
        )
    return _FACTOR_PROMPT not in names or REPLACE in texts


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


def _constants(function: Any) -> set[str]:
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


# --- the seam of the verdict ---


@dataclass
class _Request:
    """A verdict that is being asked for.

    Attributes:
        shown: True once the model prompt was shown in place of the factor prompt.
        answer: What the LLM's last answer to it says.
    """

    shown: bool = False
    answer: Answer | None = None


_request: ContextVar[_Request | None] = ContextVar("rdagent_sota_bridge_model_verdict", default=None)


def patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/developer/feedback.py` (0.5.0 to 1.0.0); or nothing.

    There `QlibModelExperiment2Feedback.generate_feedback` shows the LLM of `fin_model` the factor prompt,
    which asks for "Replace Best Result", reads "Decision" from the answer, and takes its absence for false.
    What it looks up in its module is steered while it runs: the templates' class `T`, and `json`. A fork that
    reads what it asks is left alone.
    """
    feedback_class = getattr(module, "QlibModelExperiment2Feedback", None)
    feedback_before = getattr(feedback_class, "generate_feedback", None)
    if feedback_class is None or feedback_before is None:
        raise _unknown("there is no QlibModelExperiment2Feedback.generate_feedback", module)
    if reads_what_it_asks(feedback_before):
        return []
    missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise _unknown(f"its module has no {' and no '.join(missing)}", module)
    if module.json is not json or not _has_addresses(module.T):
        raise _unknown("its T is no class of templates with a uri, or its json is not Python's", module)

    @functools.wraps(feedback_before)
    def generate_feedback(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _request.get() is not None or not is_mended():
            return feedback_before(self, *args, **kwargs)
        asked = _Request()
        token = _request.set(asked)
        try:
            feedback = feedback_before(self, *args, **kwargs)
        finally:
            _request.reset(token)
        _tell(asked)
        return feedback

    return [
        (module, "T", _steered_templates(module.T)),
        (module, "json", _SteeredJson()),
        (feedback_class, "generate_feedback", generate_feedback),
    ]


def _unknown(reason: str, module: ModuleType) -> SeamError:
    return SeamError(
        f"The verdict on a model has a shape that is not known: {reason}", module.__name__, OTHER_RELEASE
    )


def is_mended() -> bool:
    """Return True where a run asked for the factors, and leaves `SOTA_MODEL_VERDICT` at `mended`."""
    try:
        return is_enabled() and read_settings().verdict_on_models == "mended"
    except BridgeError as error:
        stop.stop_in_step(error)


def _has_addresses(template_class: Any) -> bool:
    """Return True for a class of templates whose constructor keeps the address, as RD-Agent's `RDAT` does."""
    code = getattr(getattr(template_class, "__init__", None), "__code__", None)
    names = () if code is None else code.co_names
    return isinstance(template_class, type) and hasattr(template_class, "r") and "uri" in names


def _steered_templates(template_class: Any) -> type:
    """Return the class of templates; in place of a model's factor prompt it renders the model prompt.

    It has no constructor of its own: RD-Agent's finds a template of a relative address by the frame that
    calls it (`utils/agent/tpl.py`, 0.5.0 to 1.0.0).
    """
    render_before = template_class.r

    @functools.wraps(render_before)
    def r(self: Any, **context: Any) -> Any:
        asked = _request.get()
        if asked is None or not str(self.uri).endswith(f"{_FACTOR_PROMPT}.system"):
            return render_before(self, **context)
        address = str(self.uri).replace(_FACTOR_PROMPT, _MODEL_PROMPT)
        rendered = template_class(address).r(**context)
        asked.shown = True
        return rendered

    return type(template_class.__name__, (template_class,), {"r": r, "__module__": template_class.__module__})


class _SteeredJson:
    """Python's `json`, which gives a model's verdict the form that RD-Agent reads."""

    def __getattr__(self, name: str) -> Any:
        return getattr(json, name)

    def loads(self, *args: Any, **kwargs: Any) -> Any:
        """Load JSON; of an answer to the model prompt, `Decision` is true or false by either form."""
        content = json.loads(*args, **kwargs)
        asked = _request.get()
        if asked is None or not asked.shown or not isinstance(content, dict):
            return content
        asked.answer = read(content)
        return {**content, DECISION: asked.answer.accepted}


def _tell(asked: _Request) -> None:
    """Log what was done: nothing in `fin_quant`, where RD-Agent itself shows the model prompt."""
    if asked.answer is None:
        return
    answer = asked.answer
    outcome = "accepted" if answer.accepted else "not accepted"
    line = (
        "SOTA model verdict: the LLM was shown the model prompt, and its answer counts in either form "
        f"(SOTA_MODEL_VERDICT=mended): {outcome}"
    )
    if answer.doubt:
        stop.logger().warning(f"{line}, for {answer.doubt}{f' ({answer.said})' if answer.said else ''}")
    else:
        stop.logger().info(f"{line}, for it says {answer.said}")


# --- the seam of the proposals ---


def proposal_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/proposal/model_proposal.py` (0.5.0 to 1.0.0).

    Both classes there give the best model so far as "SOTA_hypothesis_and_feedback", and their parents look up
    "sota_hypothesis_and_feedback": an accepted model never reaches its place in a proposal's prompt. A fork
    that writes it alike is left alone.
    """
    found = []
    for name in _PROPOSALS:
        owner = getattr(module, name, None)
        before = vars(owner).get("prepare_context") if isinstance(owner, type) else None
        texts = _constants(before)
        if not texts & {_GIVEN, _LOOKED_UP}:
            raise SeamError(
                "The proposal of a model has a shape that is not known: "
                f"{name}.prepare_context does not give the best model so far",
                module.__name__,
                OTHER_RELEASE,
            )
        if _LOOKED_UP not in texts:
            quant = getattr(module, "QlibQuantScenario", ())
            found.append((owner, "prepare_context", _with_the_best(before, quant)))
    return found


def _with_the_best(before: Any, quant: Any) -> Any:
    @functools.wraps(before)
    def prepare_context(self: Any, *args: Any, **kwargs: Any) -> Any:
        context, json_flag = before(self, *args, **kwargs)
        # In fin_quant, whose scenario is another, the proposals stay RD-Agent's own.
        traces = [value for value in (*args, *kwargs.values()) if hasattr(value, "scen")]
        if is_mended() and not any(isinstance(trace.scen, quant) for trace in traces):
            context = {_LOOKED_UP: context[_GIVEN], **context}
        return context, json_flag

    return prepare_context

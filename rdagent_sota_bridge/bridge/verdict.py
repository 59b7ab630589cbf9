"""The verdict on models: `fin_model` asks for it as `fin_quant` does, and shows the best model so far.

`fin_factor` asks for `"Replace Best Result": "yes or no"`, `fin_quant` asks of a model `"Decision": <true or
false>`. In `fin_model` RD-Agent (0.5.0 to 1.0.0) asks of a model in the first form and reads the second.
"""

from __future__ import annotations

import functools
import inspect
import json
import re
from collections.abc import Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from types import CodeType, ModuleType
from typing import Any

from rdagent_sota_bridge.bridge import stop
from rdagent_sota_bridge.errors import OTHER_RELEASE, BridgeError, SeamError
from rdagent_sota_bridge.settings import is_enabled, read_settings

_FACTOR_PROMPT = "factor_feedback_generation"
_MODEL_PROMPT = "model_feedback_generation"

DECISION = "Decision"
"""What `QlibModelExperiment2Feedback` reads, and the model prompt asks for."""

REPLACE = "Replace Best Result"
"""What the factor prompt asks for."""

# The address of a prompt, such as `scenarios.qlib.prompts:model_feedback_generation.system`.
_PROMPT = re.compile(rf"(?:[\w.]*:)?({_FACTOR_PROMPT}|{_MODEL_PROMPT})(?:\.\w+)?")

# The words of RD-Agent's `convert2bool` (`utils/__init__.py`, 0.5.0 to 1.0.0), which raises on all others.
_WORDS = {"true": True, "yes": True, "ok": True, "false": False, "no": False}

_GIVEN = "SOTA_hypothesis_and_feedback"  # what `prepare_context` calls the best model so far
_LOOKED_UP = "sota_hypothesis_and_feedback"  # what a prompt is made with (`components/proposal/__init__.py`)


# --- what an answer says ---


def read(content: Mapping[str, Any]) -> tuple[bool, bool, str]:
    """Return what an LLM's answer says of a model, in either form or in both.

    Returns:
        Whether the model is accepted, which takes a clear yes; whether the answer is clear; and why.
    """
    given = {key: content[key] for key in (DECISION, REPLACE) if key in content}
    if not given:
        return False, False, f'it has neither "{DECISION}" nor "{REPLACE}"'
    verdicts = {
        value if isinstance(value, bool) else _WORDS.get(str(value).strip().lower(), "neither")
        for value in given.values()
    }
    # A long value is cut.
    said = ", ".join(f'"{key}": {json.dumps(value, ensure_ascii=False):.60}' for key, value in given.items())
    if not verdicts <= {True, False}:
        return False, False, f"it says neither yes nor no ({said})"
    if len(verdicts) > 1:
        return False, False, f"it contradicts itself ({said})"
    return verdicts == {True}, True, f"it says {said}"


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
    """Return what the log of a request for a verdict shows, by its prompt and its answer."""
    try:
        content = json.loads(response)
    except (ValueError, RecursionError):  # RD-Agent ended the run on it
        content = None
    content = content if isinstance(content, dict) else {}
    keys = (DECISION, REPLACE)
    return Asked(
        tuple(key for key in keys if f'"{key}"' in system_prompt),
        tuple(key for key in keys if key in content),
        read(content)[0],
    )


# --- how RD-Agent, or a fork, asks ---


def trouble(generate_feedback: Any, way: str, misfit: str = "") -> str:
    """Return why `fin_model` can't accept a model, or why that is not known; empty where it can.

    Args:
        generate_feedback: That of `QlibModelExperiment2Feedback`, wrapped or not.
        way: What `SOTA_MODEL_VERDICT` says, of `settings.VERDICT_WAYS`.
        misfit: Why the seam is not applied; empty where it is.
    """
    try:
        if _reads_what_it_asks(generate_feedback):
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


def _reads_what_it_asks(generate_feedback: Any) -> bool:
    """Return True where the verdict is read in the form that it is asked in: forks have changed it.

    Raises:
        SeamError: if it names no such prompt, or reads no such key.
    """
    texts = _texts_in(generate_feedback)
    names = {found[1] for text in texts if (found := _PROMPT.fullmatch(text))}
    if not names or not texts & {DECISION, REPLACE}:
        name = getattr(generate_feedback, "__qualname__", generate_feedback)
        raise _unknown(f"{name} {'reads no verdict' if names else 'names no prompt'}")
    return _FACTOR_PROMPT not in names or REPLACE in texts


def _unknown(reason: str) -> SeamError:
    return SeamError(
        f"The verdict on a model has a shape that is not known: {reason}",
        "rdagent.scenarios.qlib.developer.feedback: QlibModelExperiment2Feedback.generate_feedback",
        OTHER_RELEASE,
    )


def _texts_in(function: Any) -> set[str]:
    """Return the texts in a function's own code, wrapped or not; none of what has no Python code."""
    found = set()
    constants = [getattr(inspect.unwrap(function), "__code__", None)]
    for constant in constants:
        if isinstance(constant, str):
            found.add(constant)
        elif isinstance(constant, CodeType):
            constants += constant.co_consts
        elif isinstance(constant, (tuple, frozenset)):  # the keys of a dictionary stand there together
            constants += constant
    return found


# --- the seam of the verdict ---


@dataclass
class _Request:
    """Whether the model prompt was shown in place of the factor one, and what `read` says of the answer."""

    shown: bool = False
    answer: tuple[bool, bool, str] | None = None


_request: ContextVar[_Request | None] = ContextVar("rdagent_sota_bridge_model_verdict", default=None)


def patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/developer/feedback.py` (0.5.0 to 1.0.0); or nothing.

    What `QlibModelExperiment2Feedback.generate_feedback` looks up in its module is steered while it runs: the
    templates' class `T`, and `json`. A fork that reads what it asks is left alone.
    """
    feedback_class: Any = getattr(module, "QlibModelExperiment2Feedback", None)
    feedback_before: Any = getattr(feedback_class, "generate_feedback", None)
    if _reads_what_it_asks(feedback_before):
        return []
    templates: Any = getattr(module, "T", None)
    # RD-Agent's `RDAT` keeps the address that its constructor gets.
    constructor = getattr(getattr(templates, "__init__", None), "__code__", None)
    keeps_address = isinstance(templates, type) and "uri" in getattr(constructor, "co_names", ())
    if not keeps_address or not hasattr(templates, "r"):
        raise _unknown("its T is no class of templates with a uri")
    if getattr(module, "json", None) is not json or not hasattr(module, "convert2bool"):
        raise _unknown("it does not read its answer with json and convert2bool")

    @functools.wraps(feedback_before)
    def generate_feedback(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_changed():
            return feedback_before(self, *args, **kwargs)
        request = _Request()
        token = _request.set(request)
        try:
            feedback = feedback_before(self, *args, **kwargs)
        finally:
            _request.reset(token)
        if request.answer is not None:  # in fin_quant RD-Agent itself shows the model prompt
            _log(*request.answer)
        return feedback

    return [
        (module, "T", _steered_templates(templates)),
        (module, "json", _SteeredJson()),
        (feedback_class, "generate_feedback", generate_feedback),
    ]


def _is_changed() -> bool:
    """Return True where a run asked for the factors, and leaves `SOTA_MODEL_VERDICT` at `mended`."""
    try:
        return is_enabled() and read_settings().verdict_on_models == "mended"
    except BridgeError as error:
        stop.stop_in_step(error)


def _steered_templates(template_class: Any) -> type:
    """Return the class of templates; in place of a model's factor prompt it renders the model prompt.

    It has no constructor of its own: RD-Agent's finds a template of a relative address by the frame that
    calls it (`utils/agent/tpl.py`, 0.5.0 to 1.0.0).
    """
    render_before = template_class.r

    @functools.wraps(render_before)
    def r(self: Any, **context: Any) -> Any:
        request = _request.get()
        if request is None or not str(self.uri).endswith(f"{_FACTOR_PROMPT}.system"):
            return render_before(self, **context)
        rendered = template_class(str(self.uri).replace(_FACTOR_PROMPT, _MODEL_PROMPT)).r(**context)
        request.shown = True
        return rendered

    return type(template_class.__name__, (template_class,), {"r": r, "__module__": template_class.__module__})


class _SteeredJson:
    """Python's `json`, which gives a model's verdict the form that RD-Agent reads."""

    def __getattr__(self, name: str) -> Any:
        return getattr(json, name)

    def loads(self, *args: Any, **kwargs: Any) -> Any:
        """Load JSON; of an answer to the model prompt, `Decision` is true or false by either form."""
        content = json.loads(*args, **kwargs)
        request = _request.get()
        if request is None or not request.shown or not isinstance(content, dict):
            return content
        request.answer = read(content)
        return {**content, DECISION: request.answer[0]}


def _log(accepted: bool, is_clear: bool, why: str) -> None:
    log = stop.logger().info if is_clear else stop.logger().warning
    log(
        "SOTA model verdict: the LLM was shown the model prompt, and its answer counts in either form "
        f"(SOTA_MODEL_VERDICT=mended): {'accepted' if accepted else 'not accepted'}, for {why}"
    )


# --- the seam of the proposals ---


def proposal_patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/proposal/model_proposal.py` (0.5.0 to 1.0.0).

    Both classes there give the best model so far under a name that their parents do not look up: an accepted
    model never reaches its place in a proposal's prompt. A fork that writes it alike is left alone.
    """
    found = []
    for name in ("QlibModelHypothesisGen", "QlibModelHypothesis2Experiment"):
        owner = getattr(module, name, None)
        before = vars(owner).get("prepare_context") if isinstance(owner, type) else None
        texts = _texts_in(before)
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
        scenarios = [value.scen for value in (*args, *kwargs.values()) if hasattr(value, "scen")]
        if _is_changed() and not any(isinstance(scenario, quant) for scenario in scenarios):
            context = {_LOOKED_UP: context[_GIVEN], **context}
        return context, json_flag

    return prepare_context

"""What happens at the seam of the verdict on models: `fin_model` asks for it as `fin_quant` does."""

from __future__ import annotations

import functools
import json
from contextvars import ContextVar
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from rdagent_sota_bridge import stop
from rdagent_sota_bridge import verdict_forms as forms
from rdagent_sota_bridge.errors import OTHER_RELEASE, BridgeError, SeamError
from rdagent_sota_bridge.settings import is_enabled, read_settings

_NEEDED = ("T", "json", "convert2bool")
"""What `generate_feedback` has to look up in its module: templates, and how it reads an answer."""


@dataclass
class _Asked:
    """A verdict that is being asked for.

    Attributes:
        shown: True once the model prompt was shown in place of the factor prompt.
        answer: What the LLM's last answer to it says.
    """

    shown: bool = False
    answer: forms.Answer | None = None


_asked: ContextVar[_Asked | None] = ContextVar("rdagent_sota_bridge_model_verdict", default=None)


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
    if forms.reads_what_it_asks(feedback_before):
        return []
    missing = [name for name in _NEEDED if not hasattr(module, name)]
    if missing:
        raise _unknown(f"its module has no {' and no '.join(missing)}", module)
    if module.json is not json or not _has_addresses(module.T):
        raise _unknown("its T is no class of templates with a uri, or its json is not Python's", module)

    @functools.wraps(feedback_before)
    def generate_feedback(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _asked.get() is not None or not is_mended():
            return feedback_before(self, *args, **kwargs)
        asked = _Asked()
        token = _asked.set(asked)
        try:
            feedback = feedback_before(self, *args, **kwargs)
        finally:
            _asked.reset(token)
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
        asked = _asked.get()
        if asked is None or not str(self.uri).endswith(f"{forms.FACTOR_PROMPT}.system"):
            return render_before(self, **context)
        address = str(self.uri).replace(forms.FACTOR_PROMPT, forms.MODEL_PROMPT)
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
        asked = _asked.get()
        if asked is None or not asked.shown or not isinstance(content, dict):
            return content
        asked.answer = forms.read(content)
        return {**content, forms.DECISION: asked.answer.accepted}


def _tell(asked: _Asked) -> None:
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

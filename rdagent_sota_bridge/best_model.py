"""What happens at the seam of the proposals: the LLM that proposes a model is shown the best one so far."""

from __future__ import annotations

import functools
from types import ModuleType
from typing import Any

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError
from rdagent_sota_bridge.model_verdict import is_mended
from rdagent_sota_bridge.verdict_forms import constants

GIVEN = "SOTA_hypothesis_and_feedback"
"""What `prepare_context` calls it."""

LOOKED_UP = "sota_hypothesis_and_feedback"
"""What the prompt is made with (`components/proposal/__init__.py`)."""

_CLASSES = ("QlibModelHypothesisGen", "QlibModelHypothesis2Experiment")


def patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/scenarios/qlib/proposal/model_proposal.py` (0.5.0 to 1.0.0).

    Both classes there give the best model so far as "SOTA_hypothesis_and_feedback", and their parents look up
    "sota_hypothesis_and_feedback": an accepted model never reaches its place in a proposal's prompt. A fork
    that writes it alike is left alone.
    """
    found = []
    for name in _CLASSES:
        owner = getattr(module, name, None)
        before = vars(owner).get("prepare_context") if isinstance(owner, type) else None
        texts = constants(before)
        if not texts & {GIVEN, LOOKED_UP}:
            raise SeamError(
                "The proposal of a model has a shape that is not known: "
                f"{name}.prepare_context does not give the best model so far",
                module.__name__,
                OTHER_RELEASE,
            )
        if LOOKED_UP not in texts:
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
            context = {LOOKED_UP: context[GIVEN], **context}
        return context, json_flag

    return prepare_context

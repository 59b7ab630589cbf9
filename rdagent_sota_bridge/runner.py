"""The model runner for people who want no import hook.

`QLIB_MODEL_RUNNER=rdagent_sota_bridge.runner.SotaModelRunner` names it to RD-Agent. It does the check and the
hand-off, and fixes the verdict on models. What needs other seams of RD-Agent is missing: underscore options,
the text log, the check before a resume. A session that it wrote names this class: it does not load after the
package is uninstalled. Nothing outside of `__all__` is promised from one release to the next.

Example:
    >>> from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner
    >>> from rdagent_sota_bridge.runner import SotaModelRunner
    >>> class MyRunner(SotaModelRunner):
    ...     def develop(self, exp):
    ...         return super().develop(exp)
    >>> issubclass(MyRunner, QlibModelRunner)
    True
"""

from __future__ import annotations

import contextlib
from typing import Any

from rdagent.scenarios.qlib.developer.model_runner import QlibModelRunner

from rdagent_sota_bridge.bridge import model_runner, seams, stop
from rdagent_sota_bridge.errors import SeamError

__all__ = ["SotaModelRunner"]


class SotaModelRunner(QlibModelRunner):  # type: ignore[misc]
    """RD-Agent's model runner with the factor set handed over.

    Raises:
        SystemExit: if the set that the environment names can't be used, before the first loop.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        """Build RD-Agent's runner with its own arguments, and check the set that the environment names."""
        super().__init__(*args, **kwargs)
        model_runner.check_when_built(self)

    def develop(self, exp: Any) -> Any:
        """Train and back-test one model on the factor set and the base set.

        Args:
            exp: RD-Agent's model experiment, with one task and its code.

        Returns:
            The experiment; its `result` is the Series of Qlib's metrics: IC and Rank IC are correlations,
            returns and drawdowns shares of the capital (0.1 is 10 %).

        Raises:
            typer.Exit: if the model was not trained on the set, with one message on stderr.
        """
        return model_runner.hand_over(super().develop, self, exp)


# At import, so that a process that unpickles a session has them too; idle outside of a hand-off.
for _name in ("workspace", "merge"):
    try:
        seams.apply_seam(_name)
    except SeamError as _error:
        stop.refuse(_error)
for _name in ("verdict", "best model"):
    with contextlib.suppress(SeamError):  # the run's log says what follows from it, and a check the reason
        seams.apply_seam(_name)

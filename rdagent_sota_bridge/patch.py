"""The seams of RD-Agent in this process: put in, taken out, and looked at.

The import hook does the same by itself; with `RDAGENT_SOTA_BRIDGE=0` only modules that are imported already
are changed. Nothing outside of `__all__` is promised from one release to the next.

Example:
    >>> from rdagent.scenarios.qlib.developer import model_runner
    >>> from rdagent_sota_bridge import patch
    >>> with patch.applied():
    ...     patch.is_applied("runner")  # and RD-Agent's loops train on the set that the environment names
    True
    >>> patch.is_applied("runner")
    False
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import rdagent_sota_bridge
from rdagent_sota_bridge.bridge import seams
from rdagent_sota_bridge.bridge.seams import SeamStatus, is_applied, status

__all__ = ["SeamStatus", "applied", "apply", "is_applied", "revert", "status"]


def apply() -> None:
    """Apply every seam: now where its module is imported already, else when it is imported. Idempotent.

    Raises:
        SeamError: if an imported module of RD-Agent has a shape that is not known.
    """
    rdagent_sota_bridge.register()
    seams.apply_imported()


def revert() -> None:
    """Put back, by identity, everything that was replaced, and stop waiting for modules. Idempotent.

    What somebody else has replaced after us is left as it is.
    """
    rdagent_sota_bridge.unregister()
    seams.revert()


@contextmanager
def applied() -> Iterator[None]:
    """Apply every seam for the length of a `with` block, and put back what was there, by identity.

    Raises:
        SeamError: if an imported module of RD-Agent has a shape that is not known.
    """
    apply()
    try:
        yield
    finally:
        revert()

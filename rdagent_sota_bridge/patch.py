"""The seams of RD-Agent in this process: put in, taken out, and looked at.

    from rdagent_sota_bridge import patch

    with patch.applied():
        ...  # RD-Agent's loops, with the factor set that the environment names

The import hook does the same by itself. `apply` raises `SeamError` where an imported module of RD-Agent has a
shape that is not known.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rdagent_sota_bridge.bridge.seams import apply, is_applied, revert, status

__all__ = ["applied", "apply", "is_applied", "revert", "status"]


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

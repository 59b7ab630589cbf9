"""What a patched source of RD-Agent calls, for runs without the import hook.

`patches/block.txt`, at the end of `rdagent/scenarios/qlib/developer/model_runner.py`, imports this module and
calls `apply`. Nothing outside of `__all__` is promised from one release to the next.

Example:
    At the end of RD-Agent's model runner, as `rdagent-sota patch apply` writes it:

    >>> from rdagent_sota_bridge import source as sota_bridge
    >>> sota_bridge.apply(__name__)
"""

from __future__ import annotations

import importlib
import importlib.util
import sys

import rdagent_sota_bridge as startup
from rdagent_sota_bridge.bridge import seams
from rdagent_sota_bridge.errors import SeamError

__all__ = ["apply"]

# RD-Agent loads the rest of this package when it builds a loop: some of it before the model runner, some (the
# classes that judge) a moment later. None of it imports the model runner (0.8.0, 1.0.0).
_PACKAGE = "rdagent.scenarios.qlib."


def apply(name: str) -> None:
    """Apply the seams of the module that calls this at its end, and those of the others that a run needs.

    These are what is imported already, and RD-Agent's other modules for Qlib; the command line is not
    imported for its seam. Where the import hook is active too, each seam is applied once.
    `RDAGENT_SOTA_BRIDGE=0` turns off the hook, so not this. A resumed run imports the module in the middle of
    `LoopBase.load`: it is checked when it is run (see `bridge.loop`).

    Args:
        name: `__name__` of that module.

    Raises:
        SeamError: if there is no seam in that module.
        SystemExit: if the module has a shape that is not known, in a run that asked for the factors.
    """
    if name not in startup.SEAM_MODULES:
        raise SeamError(
            "The module that calls sota_bridge.apply has no seam",
            name,
            "call it in rdagent/scenarios/qlib/developer/model_runner.py alone, as patches/block.txt does",
        )
    startup.called_by_source.add(name)
    seams.apply_module(sys.modules[name])
    for seam in seams.SEAMS:
        here = seam.module in sys.modules
        if here or (seam.module.startswith(_PACKAGE) and importlib.util.find_spec(seam.module)):
            # The hook, where there is one, applies the seam in the course of this import.
            seams.apply_waiting(seam, importlib.import_module(seam.module))

"""Trains RD-Agent's models on the factors that its factor loops accepted, and proves it.

Promised from one release to the next, with the names in their `__all__`: `rdagent_sota_bridge.patch`,
`rdagent_sota_bridge.runner`, `rdagent_sota_bridge.source`, and `__version__` here; nothing else.

This module is the import hook too: when an RD-Agent module with a seam is imported, that seam is applied. It
is loaded at every start of every Python in the environment, so it imports nothing that a starting Python has
not loaded already, and is one module: a second import would double what an idle start pays.

Example:
    >>> import rdagent_sota_bridge
    >>> rdagent_sota_bridge.__version__.count(".")
    2
"""

import os
import sys
from _thread import _local  # threading.local, without the import of threading

TYPE_CHECKING = False  # typing's own constant would cost its import, and so would __future__'s annotations
if TYPE_CHECKING:
    from typing import Any

__all__ = ["__version__"]
__version__ = "0.2.0"

# The modules of `bridge.seams.SEAMS`; a test holds the two together.
SEAM_MODULES = frozenset(
    {
        "rdagent.app.cli",
        "rdagent.log.logger",
        "rdagent.scenarios.qlib.developer.factor_runner",
        "rdagent.scenarios.qlib.developer.feedback",
        "rdagent.scenarios.qlib.developer.model_runner",
        "rdagent.scenarios.qlib.experiment.workspace",
        "rdagent.scenarios.qlib.proposal.model_proposal",
        "rdagent.utils.env",
        "rdagent.utils.workflow.loop",
    }
)

# Modules of a patched source (`patches/`) that asked for their seams as they ran: the hook lets them be.
called_by_source: "set[str]" = set()

# The modules that each thread looks for: another finder of this make asks all finders, and so this one again.
_being_found = _local()

OFF_WORDS = ("0", "false", "no", "off")


def is_off() -> bool:
    """Return True if `RDAGENT_SOTA_BRIDGE` turns off what acts by itself: the hook."""
    return os.environ.get("RDAGENT_SOTA_BRIDGE", "").strip().lower() in OFF_WORDS


class SeamFinder:
    """A meta path finder that lets the other finders find a module, and applies its seams once it has run."""

    @staticmethod
    def find_spec(name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """Return the spec of a module with a seam, whose loader applies the seam; None for all others.

        None too where another finder asks for the module while this one looks for it.
        """
        names = vars(_being_found)
        if name not in SEAM_MODULES or name in names:
            return None
        names[name] = True
        try:
            for finder in sys.meta_path:
                if finder is SeamFinder or not hasattr(finder, "find_spec"):
                    continue
                spec = finder.find_spec(name, path, target)
                if spec is not None:
                    if spec.loader is not None:
                        _apply_after(spec.loader)
                    return spec
            return None
        finally:
            del names[name]


def _apply_after(loader: "Any") -> None:
    """Make this one loader apply the seams of the module that it executes.

    The attribute of the instance hides the method of its class and is gone when the module has run: the
    module keeps the loader that it would have without us.
    """
    execute = loader.exec_module
    own = vars(loader).get("exec_module")  # of a loader that is a class, or that somebody else has changed

    def exec_module(module: "Any") -> None:
        if own is None:
            del loader.exec_module
        else:
            loader.exec_module = own
        called_by_source.discard(module.__name__)  # it runs anew
        execute(module)
        # Asked again here: RD-Agent's command line has loaded .env by now, and it may hold the variable.
        if module.__name__ not in called_by_source and not is_off():
            from rdagent_sota_bridge.bridge import seams

            seams.apply_module(module)

    loader.exec_module = exec_module


def register() -> None:
    """Put the finder in front of the others; idle the second time (a venv runs a .pth twice)."""
    if SeamFinder not in sys.meta_path and not is_off():
        sys.meta_path.insert(0, SeamFinder)


def unregister() -> None:
    """Take the finder away; idle where there is none."""
    while SeamFinder in sys.meta_path:
        sys.meta_path.remove(SeamFinder)

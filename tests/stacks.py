"""`inspect.stack` without source lines: RD-Agent asks for the stack at each line it logs, and each template.

It uses the frames alone (`rdagent/log/utils/__init__.py`, `rdagent/utils/agent/tpl.py`, 0.8.0, 1.0.0). The
lines cost more than all else in most tests of the bridge: for each frame without a file, of which a test has
many, Python looks through all modules.
"""

from __future__ import annotations

import inspect
import sys
from traceback import walk_stack


def leave_out_source() -> None:
    """Replace `inspect.stack` in this process."""
    inspect.stack = _stack


def _stack(context: int = 1) -> list[inspect.FrameInfo]:
    return [
        inspect.FrameInfo(frame, frame.f_code.co_filename, line, frame.f_code.co_name, None, None)
        for frame, line in walk_stack(sys._getframe(1))
    ]

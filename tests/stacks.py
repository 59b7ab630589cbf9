"""`inspect.stack` without source lines: RD-Agent asks for the stack at each line it logs, and each template.

It uses the frames alone (`rdagent/log/utils/__init__.py`, `rdagent/utils/agent/tpl.py`, 0.8.0, 1.0.0). The
lines cost more than all else in most tests of the bridge: for each frame without a file, of which a test has
many, Python looks through all modules.
"""

from __future__ import annotations

import inspect
import sys
from inspect import FrameInfo
from types import FrameType


def leave_out_source() -> None:
    """Replace `inspect.stack` in this process."""
    inspect.stack = _stack


def _stack(context: int = 1) -> list[FrameInfo]:
    found: list[FrameInfo] = []
    frame: FrameType | None = sys._getframe(1)
    while frame is not None:
        code = frame.f_code
        found.append(FrameInfo(frame, code.co_filename, frame.f_lineno, code.co_name, None, None))
        frame = frame.f_back
    return found

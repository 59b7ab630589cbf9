"""`log/latest.log`: what RD-Agent logs, as plain text (RD-Agent writes only pickles)."""

from __future__ import annotations

import functools
import multiprocessing
import os
import re
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

from rdagent_sota_bridge.errors import SeamError
from rdagent_sota_bridge.factor_set.names import LATEST_LOG

# Tells the processes of a run, which go on in its file, from the next run, which starts it anew.
_VARIABLE = "_RDAGENT_SOTA_LATEST_LOG"
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# RD-Agent logs its settings whole. A text log is what people send to each other.
_SECRETS = re.compile(r"(\b\w*(?:key|token|secret|password)\w*\s*[=:]\s*(['\"]))[^'\"]+(?=\2)", re.IGNORECASE)
_FIRST_OF_A_RUN = "scenario"  # the tag, in `components/workflow/rd_loop.py` and `app/qlib_rd_loop/quant.py`
_BUFFER_LIMIT = 10_000


class _Text:
    """The text log of this process: lines wait in a buffer until the run has a folder."""

    def __init__(self) -> None:
        self.waiting: list[str] = []
        self.file: Path | None = None
        self.broken = False
        self.fed = False
        self.inside_line = False

    def start(self, run_folder: Path, *, anew: bool = True) -> None:
        """Begin to write beside `run_folder`: anew for a run, further on in that run's processes."""
        if self.file is not None or self.broken:
            return
        file = run_folder.absolute().parent / LATEST_LOG
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.is_symlink():
                file.unlink()  # what it points to is not ours
            if anew and not _goes_on(run_folder):
                file.write_bytes(b"")
                os.environ[_VARIABLE] = str(run_folder.absolute())
        except OSError as error:
            self._give_up(file, error)
            return
        self.file = file
        waiting, self.waiting = self.waiting, []
        self._append("".join(waiting))

    def add(self, text: str, *, whole_line: bool) -> None:
        """Write text without colour codes and secrets; whole lines begin on a line of their own."""
        text = _SECRETS.sub(r"\1***", _COLOURS.sub("", text))
        if whole_line:
            text = ("\n" if self.inside_line else "") + text + "\n"
        if not text:
            return
        self.inside_line = not text.endswith("\n")
        if self.file is not None:
            self._append(text)
        elif not self.broken and len(self.waiting) < _BUFFER_LIMIT:
            self.waiting.append(text)

    def _append(self, text: str) -> None:
        assert self.file is not None  # noqa: S101 - the callers have looked
        try:
            # One write in append mode: lines of a run's processes don't mix. No handle lives on over a fork.
            descriptor = os.open(self.file, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            try:
                os.write(descriptor, text.encode("utf-8", "replace"))
            finally:
                os.close(descriptor)
        except OSError as error:
            self._give_up(self.file, error)

    def _give_up(self, file: Path, error: OSError) -> None:
        # The text log is a courtesy: a full disk or a read-only folder must not end a run of hours for it.
        self.broken, self.file, self.waiting = True, None, []
        sys.stderr.write(
            f"rdagent-sota-bridge: {file} can't be written ({error.strerror}); the run goes on\n"
        )


def _goes_on(run_folder: Path) -> bool:
    """Return True in a process of a run that has started the text log: a fork, or a Python of its pool."""
    begun = os.environ.get(_VARIABLE)
    same = begun == str(run_folder.absolute()) or multiprocessing.parent_process() is not None
    return begun is not None and same


_text = _Text()


def write_line(level: str, message: str, run_folder: Path | None = None) -> None:
    """Write a line of the package's own to the text log alone, not to the console.

    Args:
        level: Such as ERROR.
        message: The text; may have several lines.
        run_folder: The run's log folder, where the run has not started to write into it: the line is added
            to what an earlier run left.
    """
    if not _text.fed:
        return  # the runner class alone is in use: there is no text log
    if run_folder is not None:
        _text.start(run_folder, anew=False)
    _text.add(_line(level, message, sys._getframe(1)), whole_line=True)


def patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/log/logger.py` (0.8.0, 1.0.0).

    `_log` and `log_object`, rather than a sink of loguru's: RD-Agent removes all sinks when its logger is
    built, and 0.8.0 does so again at every streamed message. The wrapper of `_log` is one more frame between
    a message and its caller, so `get_caller_info` has to look further up: by that frame and by its own.
    """
    logger_class = getattr(module, "RDAgentLog", None)
    original_info = getattr(module, "get_caller_info", None)
    original_log = getattr(logger_class, "_log", None)
    original_object = getattr(logger_class, "log_object", None)
    if original_info is None or original_log is None or original_object is None:
        raise SeamError(
            "RD-Agent's logger has a form that is not known; there will be no log/latest.log",
            "rdagent.log.logger: RDAgentLog._log, RDAgentLog.log_object, get_caller_info",
            "use a release of RD-Agent that README lists, or tell us about this one",
        )

    @functools.wraps(original_log)
    def _log(self: Any, level: str, msg: Any, *args: Any, **kwargs: Any) -> Any:
        text, raw = str(msg), bool(kwargs.get("raw"))
        _text.add(text if raw else _line(level, text, sys._getframe(2)), whole_line=not raw)
        return original_log(self, level, msg, *args, **kwargs)

    @functools.wraps(original_object)
    def log_object(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A run stores its scenario first, and a resumed one what belongs to a step. What other commands store
        # (their settings, when they are imported) begins no run: `rdagent ui` must not empty a run's log.
        if kwargs.get("tag") == _FIRST_OF_A_RUN or getattr(self, "_tag", ""):
            _text.start(Path(self.storage.path))
        return original_object(self, *args, **kwargs)

    @functools.wraps(original_info)
    def get_caller_info(level: int = 2, *args: Any, **kwargs: Any) -> Any:
        return original_info(level + 2, *args, **kwargs)

    _text.fed = True
    return [
        (logger_class, "_log", _log),
        (logger_class, "log_object", log_object),
        (module, "get_caller_info", get_caller_info),
    ]


def _line(level: str, message: str, frame: FrameType) -> str:
    """Return a line in loguru's format, which RD-Agent's users know from the console."""
    caller = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_name}:{frame.f_lineno}"
    return f"{datetime.now():%Y-%m-%d %H:%M:%S.%f}"[:-3] + f" | {level.upper():<8} | {caller} - {message}"

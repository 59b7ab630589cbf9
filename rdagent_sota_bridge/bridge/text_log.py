"""`log/latest.log`, and one in each run's folder: what RD-Agent logs, as text (it writes only pickles)."""

from __future__ import annotations

import errno
import functools
import multiprocessing
import os
import re
import sys
from datetime import datetime
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Literal

from rdagent_sota_bridge.errors import OTHER_RELEASE, SeamError, one_line
from rdagent_sota_bridge.factor_set.names import LATEST_LOG
from rdagent_sota_bridge.system.files import open_file

_MARK = "# rdagent-sota-bridge: text log of "  # begins the file, and the run's folder ends the line
# What a line of a release before the mark begins with, and the module that it names.
_LINE = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3} \| [A-Z]+ *\| (\S*?):")
# The folder of the run that began `log/latest.log`: its processes add to it, the next run starts it anew.
_VARIABLE = "_RDAGENT_SOTA_LATEST_LOG"
_COLOURS = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]")
# RD-Agent logs its settings whole. A text log is what people send to each other.
# A whole word in the name of a secret: `hf_token`, `apiKey` and `API_KEY`, but no `tokenizer` or `monkey`.
_WORD = (
    r"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z]))"
    r"(?i:(?:api|auth|access|secret|private)?keys?|tokens?|secrets?|passwords?|passwd|passphrase|pwd|credentials?"
    r"|authorization)(?![a-z])(?!(?<=[A-Z])[A-Z])[\w-]{0,40}"
)
_SECRETS = (
    # A value in quotes: name='…', "name": "…", and such JSON inside a text.
    re.compile(rf"({_WORD}\\*['\"]?\s*[=:]\s*(?:SecretStr\()?[bru]?(\\*['\"]))(?:(?!(?<!\\)\2).)+"),
    # Without quotes: a variable as a shell has it, and what is in a URL's query.
    re.compile(
        r"(\b(?:[A-Z0-9]+_){0,8}(?:(?:API)?KEY|TOKEN|SECRET|PASSWORD|PASSWD|(?<=_)PWD)(?:_[A-Z0-9_]{0,40})?=)"
        r"(?!\d+\b)[^\s'\"\\]+"
    ),
    re.compile(
        r"((?<![A-Za-z])(?:[a-z0-9]+_){0,8}(?:api_?key|token|secret|password|passwd|pwd)=)"
        r"(?!\d+\b|None\b|SecretStr\(|[bru]?\\*['\"])[^\s'\"\\&#,)]+"
    ),
    re.compile(rf"([?&][\w-]{{0,40}}?(?:{_WORD}|(?i:signature|sig))=)[^&#\s'\"\\]+"),
    # With an end, or each of many `://a` in one word would be looked through to the end of that word.
    re.compile(r"(://)(?:[^\s/'\"]+|[^\s/:@'\"]+:[^\s'\"@]{1,1000})(?=@)"),
    re.compile(r"((?i:\bauthorization): *|\bBearer +|\bbearer +(?=\S{8}))[^\r\n'\"\\,]+"),
)
_FIRST_OF_A_RUN = "scenario"  # the tag, in `components/workflow/rd_loop.py` and `app/qlib_rd_loop/quant.py`
_BUFFER_LIMIT = 10_000


class _TextLog:
    """The text logs of this process: lines wait in a buffer until the run has a folder."""

    def __init__(self) -> None:
        self.is_on = False  # the seam is applied; with the runner class alone there is no text log
        self.waiting: list[str] = []
        self.has_begun = False
        self.files: list[Path] = []
        self.is_inside_line = False

    def start(self, run_folder: Path, *, anew: bool) -> None:
        """Begin to write, once a process: into the run's folder, where all stays, and into the usual file.

        Args:
            run_folder: The run's log folder.
            anew: True to empty the usual file, which is beside that folder, where the run has not begun yet.
        """
        if self.has_begun:
            return
        self.has_begun = True
        run_folder = run_folder.absolute()
        own, usual = run_folder / LATEST_LOG, run_folder.parent / LATEST_LOG
        begun = os.environ.get(_VARIABLE)
        is_of_run = begun is not None and (
            begun == str(run_folder) or multiprocessing.parent_process() is not None
        )
        begins = anew and not is_of_run
        self._open(own, run_folder, "ab")
        if _is_ours(usual):
            self._open(usual, run_folder, "wb" if begins else "ab")
        elif self.files and not is_of_run:
            sys.stderr.write(
                f"rdagent-sota-bridge: {one_line(str(usual))} is not known as this package's, and "
                f"stays as it is; the text log of this run is {one_line(str(own))}\n"
            )
        if begins:
            os.environ[_VARIABLE] = str(run_folder)
        waiting, self.waiting = self.waiting, []
        self._write("".join(waiting))

    def _open(self, file: Path, run_folder: Path, mode: Literal["ab", "wb"]) -> None:
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if not _is_ours(file):
                raise FileExistsError(errno.EEXIST, "it is there, and no text log of this package")
            with file.open(mode) as content:
                if content.tell() == 0:
                    content.write(f"{_MARK}{run_folder}\n".encode("utf-8", "replace"))
        except OSError as error:
            self._give_up(file, error)
        else:
            self.files.append(file)

    def add(self, text: str, *, whole_line: bool) -> None:
        """Add text without colour codes and secrets; whole lines begin on a line of their own."""
        text = _COLOURS.sub("", text)
        for pattern in _SECRETS:
            text = pattern.sub(r"\1***", text)
        if whole_line:
            text = ("\n" if self.is_inside_line else "") + text + "\n"
        if not text:
            return
        self.is_inside_line = not text.endswith("\n")
        if not self.has_begun and len(self.waiting) < _BUFFER_LIMIT:
            self.waiting.append(text)
        self._write(text)

    def _write(self, text: str) -> None:
        for file in tuple(self.files):
            try:
                # One write in append mode: lines of a run's processes don't mix. No handle outlives a fork.
                with file.open("ab", buffering=0) as content:
                    content.write(text.encode("utf-8", "replace"))
            except OSError as error:
                self.files.remove(file)
                self._give_up(file, error)

    def _give_up(self, file: Path, error: OSError) -> None:
        # The text log is a courtesy: a full disk or a read-only folder must not end a run of hours for it.
        text = f"rdagent-sota-bridge: {file} can't be written ({error.strerror}); the run goes on"
        sys.stderr.write(f"{one_line(text)}\n")


def _is_ours(file: Path) -> bool:
    """Return True for a text log of this package, and where nothing is yet; a link is somebody else's."""
    if file.is_symlink():
        return False
    try:
        with open_file(file) as content:
            head = [content.readline(1 << 16).decode("utf-8", "replace") for _ in range(10)]
    except FileNotFoundError:
        return True
    except OSError:  # no file, or one that may not be read
        return False
    lines = [line for line in head if line]
    modules = [found[1] if (found := _LINE.match(line)) else None for line in lines]
    by_form = None not in modules and any(str(module).startswith("rdagent") for module in modules)
    return not lines or lines[0].startswith(_MARK) or by_form


_text_log = _TextLog()


def write_line(level: str, message: str, run_folder: Path | None = None) -> None:
    """Write a line of the package's own to the text log alone, not to the console.

    Args:
        level: Such as ERROR.
        message: The text; may have several lines.
        run_folder: The run's log folder, where the run has not started to write into it: the line is added
            to what an earlier run left.
    """
    if not _text_log.is_on:
        return
    if run_folder is not None:
        _text_log.start(run_folder, anew=False)
    _text_log.add(_line(level, message, sys._getframe(1)), whole_line=True)


def patches(module: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/log/logger.py` (0.8.0, 1.0.0).

    `_log` and `log_object`, rather than a sink of loguru's: RD-Agent removes all sinks when its logger is
    built, and 0.8.0 does so again at every streamed message. The wrapper of `_log` is one more frame between
    a message and its caller, so `get_caller_info` has to look further up: by that frame and by its own.
    """
    logger_class: Any = getattr(module, "RDAgentLog", None)
    info_before = getattr(module, "get_caller_info", None)
    if info_before is None or not hasattr(logger_class, "_log") or not hasattr(logger_class, "log_object"):
        raise SeamError(
            "RD-Agent's logger has a form that is not known; there will be no log/latest.log",
            "rdagent.log.logger: RDAgentLog._log, RDAgentLog.log_object, get_caller_info",
            OTHER_RELEASE,
        )
    log_before, object_before = logger_class._log, logger_class.log_object

    @functools.wraps(log_before)
    def _log(self: Any, level: str, msg: Any, *args: Any, **kwargs: Any) -> Any:
        text, raw = str(msg), bool(kwargs.get("raw"))
        _text_log.add(text if raw else _line(level, text, sys._getframe(2)), whole_line=not raw)
        return log_before(self, level, msg, *args, **kwargs)

    @functools.wraps(object_before)
    def log_object(self: Any, *args: Any, **kwargs: Any) -> Any:
        # A run stores its scenario first, and a resumed one what belongs to a step. What other commands store
        # (their settings, when they are imported) begins no run: `rdagent ui` must not empty a run's log.
        if kwargs.get("tag") == _FIRST_OF_A_RUN or getattr(self, "_tag", ""):
            _text_log.start(Path(self.storage.path), anew=True)
        return object_before(self, *args, **kwargs)

    @functools.wraps(info_before)
    def get_caller_info(level: int = 2, *args: Any, **kwargs: Any) -> Any:
        return info_before(level + 2, *args, **kwargs)

    _text_log.is_on = True
    return [
        (logger_class, "_log", _log),
        (logger_class, "log_object", log_object),
        (module, "get_caller_info", get_caller_info),
    ]


def _line(level: str, message: str, frame: FrameType) -> str:
    """Return a line in loguru's format, which RD-Agent's users know from the console."""
    caller = f"{frame.f_globals.get('__name__')}:{frame.f_code.co_name}:{frame.f_lineno}"
    return f"{datetime.now():%Y-%m-%d %H:%M:%S.%f}"[:-3] + f" | {level.upper():<8} | {caller} - {message}"

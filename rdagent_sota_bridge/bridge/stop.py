"""How a run that can't have the factors ends, or continues without them; and RD-Agent's logger."""

from __future__ import annotations

import sys
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import typer

from rdagent_sota_bridge.bridge import text_log
from rdagent_sota_bridge.errors import (
    BridgeError,
    FactorFileNotFoundError,
    HandOffError,
    SetChangedError,
    StoreError,
    WorkspaceNotFoundError,
    one_line,
)
from rdagent_sota_bridge.settings import is_enabled, read_settings

_NAMES_THE_FACTORS = (
    WorkspaceNotFoundError, FactorFileNotFoundError, HandOffError, SetChangedError, StoreError,
)  # fmt: skip


def refuse(error: BridgeError) -> None:
    """Handle a shape of RD-Agent that is not known: stop a run that asked for the factors, or warn it."""
    try:
        on_error = read_settings().on_error if is_enabled() else None
    except BridgeError as settings_error:
        stop_before_loop(settings_error)
    if on_error == "fail":
        stop_before_loop(error)
    if on_error is None:
        say(error)
    else:
        continue_without_factors(error)


def say(error: BridgeError) -> None:
    """Write one line to stderr about what a run that can do without it lacks."""
    sys.stderr.write(f"rdagent-sota-bridge: {error.fact} ({error.place})\n")


def stop_before_loop(error: BridgeError, run_folder: Path | None = None) -> NoReturn:
    """End the process with one message and status 1, outside of a loop's steps.

    SystemExit rather than an exception of typer's: the command line would show that with a traceback here.

    Args:
        error: What the message says.
        run_folder: The log folder of a run that was to be resumed; None for a new run.
    """
    text = _text_of(error)
    text_log.write_line("ERROR", text, run_folder or Path(logger().storage.path))
    raise SystemExit(text) from error


def stop_in_step(error: BridgeError) -> NoReturn:
    """End the run with one message and status 1, inside a step.

    There `asyncio.run` makes a traceback of a SystemExit; typer's Exit ends cleanly, from a process pool too.
    """
    text = _text_of(error)
    text_log.write_line("ERROR", text)
    sys.stderr.write(text + "\n")
    sys.stderr.flush()
    raise typer.Exit(1) from error


def continue_without_factors(error: BridgeError) -> None:
    """Log why the factors can't be used, and that `SOTA_ON_ERROR=baseline` lets the run continue."""
    logger().warning(error)
    logger().warning("SOTA_ON_ERROR=baseline: the run goes on without the factors")


class Logger:
    """RD-Agent's logger, for messages of one printable line and for errors.

    It calls `_log` as the logger's own `info` does (`log/logger.py`, 0.8.0, 1.0.0), which takes the second
    frame above for the caller.
    """

    def __init__(self, logger: Any) -> None:
        self.storage = logger.storage
        self._log = logger._log

    def info(self, message: str) -> None:
        """Log what a run does."""
        self._log("info", one_line(message))

    def warning(self, message: str | BridgeError) -> None:
        """Log what a run lacks."""
        self._log("warning", _text_of(message) if isinstance(message, BridgeError) else one_line(message))


def logger() -> Logger:
    """Return RD-Agent's logger. Imported late: the seams are applied while RD-Agent is being imported."""
    return Logger(import_module("rdagent.log").rdagent_logger)


def _text_of(error: BridgeError) -> str:
    """Return the text that users grep for, with the place and the fix."""
    start = "" if isinstance(error, _NAMES_THE_FACTORS) else "Failed to load SOTA factors from workspace: "
    return f"{start}{error}"

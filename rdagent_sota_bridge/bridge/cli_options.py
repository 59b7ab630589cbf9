"""RD-Agent's command line: both spellings of its options (`--loop_n`, as its own documents write it, and
`--loop-n`), and how it loads `.env`.
"""

from __future__ import annotations

import ast
import re
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rdagent_sota_bridge.errors import SeamError


def with_dashes(token: str) -> str:
    """Return an option's name as typer declares it."""
    return token.replace("_", "-")


def patches(cli: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/app/cli.py` (0.8.0, 1.0.0): its `fin_*` commands' context settings.

    Typer turns the parameter `loop_n` into `--loop-n` and refuses `--loop_n`. Of the commands, not of the
    group: there the command's own name, `fin_model`, would be changed as well. 0.5.0 to 0.7.0 are made with
    fire, which takes both spellings: there is nothing to replace.
    """
    registered = getattr(getattr(cli, "app", None), "registered_commands", ())
    commands = [info for info in registered if str(info.name or info.callback.__name__).startswith("fin_")]
    if not commands and not hasattr(cli, "fire"):
        raise _misfit("app.registered_commands")
    return [
        (info, "context_settings", {"token_normalize_func": with_dashes, **(info.context_settings or {})})
        for info in commands
    ]


def check_text() -> None:
    """Check by the text of `rdagent/app/cli.py` whether there is something to replace.

    Raises:
        SeamError: if not.
    """
    # As 0.8.0 and 1.0.0 write it, with the command's name or the function's; or fire's import.
    if not re.search(rb"\.command\(.*?\bfin_|^import fire\b", _text(), re.DOTALL | re.MULTILINE):
        raise _misfit("its text")


def env_file_wins() -> bool:
    """Return True where the installed RD-Agent loads `.env` over the environment, as some forks do."""
    return any(
        isinstance(call, ast.Call)
        and "load_dotenv" in ast.unparse(call.func)
        and any(one.arg == "override" and ast.unparse(one.value) == "True" for one in call.keywords)
        for call in ast.walk(ast.parse(_text()))
    )


def _text() -> bytes:
    """Return the text of `rdagent/app/cli.py`, for its import takes seconds; empty where there is none."""
    spec = find_spec("rdagent")
    folders = (spec.submodule_search_locations if spec is not None else None) or ()
    files = [Path(folder, "app", "cli.py") for folder in folders]
    return b"\n".join(file.read_bytes() for file in files if file.is_file())


def _misfit(where: str) -> SeamError:
    return SeamError(
        "The command line has no fin_* commands to teach the underscore spelling",
        f"rdagent.app.cli: {where}",
        "write the options with dashes (--loop-n)",
    )

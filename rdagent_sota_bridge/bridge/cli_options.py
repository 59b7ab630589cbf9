"""RD-Agent's command line: both spellings of its options (`--loop_n`, as its own documents write it, and
`--loop-n`), and how it loads `.env`.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from typer.core import TyperCommand

from rdagent_sota_bridge.errors import SeamError


def with_dashes(token: str) -> str:
    """Return an option's name as typer declares it."""
    return token.replace("_", "-")


def patches(cli: ModuleType) -> list[tuple[Any, str, Any]]:
    """Return what to replace in `rdagent/app/cli.py` (0.8.0, 1.0.0): its `fin_*` commands' context settings.

    Typer turns the parameter `loop_n` into `--loop-n` and refuses `--loop_n`, and a session without `--path`.
    Of the commands, not of the group: there the command's own name, `fin_model`, would be changed as well.
    0.5.0 to 0.7.0 are made with fire, which takes both spellings: there is nothing to replace.
    """
    registered = getattr(getattr(cli, "app", None), "registered_commands", ())
    commands = [info for info in registered if str(info.name or info.callback.__name__).startswith("fin_")]
    if not commands and not hasattr(cli, "fire"):
        raise _misfit("app.registered_commands")
    settings = [
        (info, "context_settings", {"token_normalize_func": with_dashes, **(info.context_settings or {})})
        for info in commands
    ]
    return [*settings, *((info, "cls", _taking_a_session(info.cls or TyperCommand)) for info in commands)]


def _taking_a_session(kind: Any) -> type:
    """Return the class of a command that takes its first parameter, `path`, without the option's name."""

    class Command(kind):  # type: ignore[misc]  # RD-Agent's, or typer's own
        def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
            ctx.allow_extra_args = bool(self.params) and self.params[0].name == "path"
            rest: list[str] = super().parse_args(ctx, args)
            if rest and ctx.params.get("path") is None and Path(rest[0]).exists():
                ctx.params["path"], *rest = rest
            if rest:
                ctx.fail(f"Got unexpected extra argument(s) ({' '.join(rest)})")
            ctx.args = rest
            return rest

    return Command


def check_text() -> None:
    """Check by the text of `rdagent/app/cli.py` whether there is something to replace.

    Raises:
        SeamError: if not.
    """
    # As 0.8.0 and 1.0.0 write it, with the command's name or the function's; or fire's import.
    known = re.compile(rb"\.command\(.*?\bfin_|^import fire\b", re.DOTALL | re.MULTILINE)
    if not any(map(known.search, _texts())):
        raise _misfit("its text")


def env_file_wins() -> bool:
    """Return True where the installed RD-Agent loads `.env` over the environment, as some forks do."""
    overriding = re.compile(rb"\bload_dotenv\((?:[^()]|\([^()]*\))*?\boverride\s*=\s*True\b")
    return any(map(overriding.search, _texts()))


def _texts() -> Iterable[bytes]:
    """Yield the text of the installed RD-Agent's `app/cli.py`, or nothing: its import takes seconds."""
    spec = find_spec("rdagent")
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        file = Path(folder, "app", "cli.py")
        if file.is_file():
            yield file.read_bytes()


def _misfit(where: str) -> SeamError:
    return SeamError(
        "The command line has no fin_* commands to teach the underscore spelling",
        f"rdagent.app.cli: {where}",
        "write the options with dashes (--loop-n)",
    )

"""RD-Agent's command line: both spellings of its options (`--loop_n`, as its own documents write it, and
`--loop-n`), which options its commands have, and how it loads `.env`.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from typer.core import TyperCommand

from rdagent_sota_bridge.errors import SeamError

# What is known to leave an option as its name and `bool` say: names in annotations, keywords of typer's.
_TYPES = {"str", "int", "float", "bool", "Path", "Optional", "Union", "Annotated", "typing", "typer"}
_KEYWORDS = {"help", "min", "max"}


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


def options_of(command: str) -> dict[str, bool] | None:
    """Return the options of a command of the installed RD-Agent, each with whether it takes a value.

    By the text of `rdagent/app/cli.py`, and of the module that it takes a function from: their import takes
    seconds. 1.0.0 has the commands' functions there; 0.8.0 registers the `main` of each loop's module.

    Returns:
        None where the text has a form that does not tell: a fork's, or that of 0.5.0 to 0.7.0 (fire).
    """
    found = next((one for tree in _modules("app.cli") if (one := _registered(tree, command))), None)
    return None if found is None else _options(*found)


def _registered(tree: ast.Module, command: str) -> tuple[ast.FunctionDef, ast.Module] | None:
    """Return the function that is registered as a command, and its module."""

    def registers(node: ast.expr) -> bool:
        return isinstance(node, ast.Call) and ast.unparse(node).endswith(f".command(name={command!r})")

    functions = {one.name: one for one in tree.body if isinstance(one, ast.FunctionDef)}
    for function in functions.values():
        if any(map(registers, function.decorator_list)):
            return (function, tree) if len(function.decorator_list) == 1 else None
    for call in (one.value for one in tree.body if isinstance(one, ast.Expr)):
        if isinstance(call, ast.Call) and registers(call.func):
            name = ast.unparse(call.args[0])
            return (functions[name], tree) if name in functions else _imported(tree, name)
    return None


def _imported(tree: ast.Module, name: str) -> tuple[ast.FunctionDef, ast.Module] | None:
    """Return the function that a module imports under a name from another of RD-Agent's, and that module."""
    for statement in (one for one in tree.body if isinstance(one, ast.ImportFrom)):
        own = next((alias.name for alias in statement.names if name == (alias.asname or alias.name)), None)
        for module in _modules(str(statement.module).removeprefix("rdagent.")) if own else ():
            for function in module.body:
                if isinstance(function, ast.FunctionDef) and function.name == own:
                    return (function, module) if not function.decorator_list else None
    return None


def _options(function: ast.FunctionDef, module: ast.Module) -> dict[str, bool] | None:
    aliases = {ast.unparse(one.targets[0]): one.value for one in module.body if isinstance(one, ast.Assign)}
    given = function.args
    if given.vararg or given.kwarg or given.kwonlyargs or len(given.args) != len(given.defaults):
        return None
    options: dict[str, bool] = {}
    for parameter, default in zip(given.args, given.defaults, strict=True):
        kind = parameter.annotation or ast.Name("bool" if isinstance(_constant(default), bool) else "str")
        kind = aliases.get(ast.unparse(kind), kind)
        types = {one.id for one in ast.walk(kind) if isinstance(one, ast.Name)}
        calls = [one for part in (kind, default) for one in ast.walk(part) if isinstance(one, ast.Call)]
        said = [_constant(one) for call in calls for one in call.args]
        if (
            not types
            or types - _TYPES
            or any(ast.unparse(call.func) != "typer.Option" for call in calls)
            or any(key.arg not in _KEYWORDS for call in calls for key in call.keywords)
            or ... in said
        ):
            return None
        is_switch, name = "bool" in types, with_dashes(parameter.arg)
        names = [one for one in said if isinstance(one, str) and one.startswith("-")]
        names = names or ([f"--{name}/--no-{name}"] if is_switch else [f"--{name}"])
        options |= {with_dashes(one): not is_switch for text in names for one in text.split("/")}
    return options


def _constant(node: ast.expr) -> object:
    return node.value if isinstance(node, ast.Constant) else ...


def check_text() -> None:
    """Check by the text of `rdagent/app/cli.py` whether there is something to replace.

    Raises:
        SeamError: if not.
    """
    # As 0.8.0 and 1.0.0 write it, with the command's name or the function's; or fire's import.
    known = re.compile(rb"\.command\(.*?\bfin_|^import fire\b", re.DOTALL | re.MULTILINE)
    if not any(map(known.search, _texts("app.cli"))):
        raise _misfit("its text")


def env_file_wins() -> bool:
    """Return True where the installed RD-Agent loads `.env` over the environment, as some forks do."""
    return any(
        isinstance(call, ast.Call)
        and "load_dotenv" in ast.unparse(call.func)
        and any(one.arg == "override" and ast.unparse(one.value) == "True" for one in call.keywords)
        for tree in _modules("app.cli")
        for call in ast.walk(tree)
    )


def _modules(name: str) -> Iterable[ast.Module]:
    return map(ast.parse, _texts(name))


def _texts(name: str) -> Iterable[bytes]:
    """Yield the text of the installed RD-Agent's module of a name below `rdagent`, or nothing.

    Their import would take seconds.
    """
    spec = find_spec("rdagent")
    for folder in (spec.submodule_search_locations if spec is not None else None) or ():
        file = Path(folder, *name.split(".")).with_suffix(".py")
        if file.is_file():
            yield file.read_bytes()


def _misfit(where: str) -> SeamError:
    return SeamError(
        "The command line has no fin_* commands to teach the underscore spelling",
        f"rdagent.app.cli: {where}",
        "write the options with dashes (--loop-n)",
    )

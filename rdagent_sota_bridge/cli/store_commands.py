"""The commands `rdagent-sota store …`: what they take."""

from __future__ import annotations

from typing import Annotated

import typer

from rdagent_sota_bridge.cli.options import Json

app = typer.Typer(help="The copies of factor sets that models' workspaces link.")


@app.callback(invoke_without_command=True)
def main(context: typer.Context) -> None:
    """List the stored sets, where no command of the store is named."""
    if context.invoked_subcommand is None:
        list_command()


@app.command(name="list")
def list_command(as_json: Json = False) -> None:
    """List the stored sets: what they were made of, size, links, last use. Last used last."""
    from rdagent_sota_bridge.cli import store

    store.show(as_json)


@app.command(name="verify")
def verify_command() -> None:
    """Read every stored set whole: status 0 if all are as they were written, else 1."""
    from rdagent_sota_bridge.cli import store

    raise typer.Exit(store.verify())


@app.command(name="prune")
def prune_command(
    keep_days: Annotated[
        float, typer.Option(min=0, max=36_500, help="Keep what was used in so many days.")
    ] = 30,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")] = False,
) -> None:
    """Remove stored sets that were not used for some days. Models' workspaces keep what they link."""
    from rdagent_sota_bridge.cli import store

    store.prune(keep_days, dry_run)

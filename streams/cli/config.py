"""`tidecast config`: the settings as they are in force."""

from __future__ import annotations

import json

import typer

app = typer.Typer(no_args_is_help=True, help="Show the settings.")


@app.callback()
def _group() -> None:
    """Keep `show` a subcommand."""


@app.command()
def show() -> None:
    """Print the settings in force as JSON, secrets masked."""
    from streams.settings import load_settings, masked

    typer.echo(json.dumps(masked(load_settings()), indent=2))

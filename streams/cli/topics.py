"""`tidecast topics`: create what is missing, refuse what does not fit."""

from __future__ import annotations

import typer

app = typer.Typer(no_args_is_help=True, help="Create the topics.")


@app.callback()
def _group() -> None:
    """Keep `create` a subcommand."""


@app.command()
def create() -> None:
    """Create the topics that are missing, with partitions, retention and LogAppendTime set."""
    from streams.settings import load_settings
    from streams.topics import create as create_topics

    for name, result in sorted(create_topics(load_settings()).items()):
        typer.echo(f"{name}\t{result}")

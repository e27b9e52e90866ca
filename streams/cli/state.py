"""`tidecast state`: look at a task's checkpoint beside the log, and let it be rebuilt."""

from __future__ import annotations

import json
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at and reset a task's state.")

_TASK = Annotated[str, typer.Argument(help="stage and number, as in score-3; or the name that an error gave")]


@app.command()
def show(
    task: _TASK,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show checkpoint, committed offsets and log of a task, and where its next start would begin."""
    from streams.resetting import Place, inspect
    from streams.settings import load_settings

    settings = load_settings()
    found = inspect(Place.parse(task, settings), settings)
    if as_json:
        typer.echo(json.dumps(found.as_data(), indent=2))
    else:
        typer.echo("\n".join(found.lines()))


@app.command()
def reset(
    task: _TASK,
    yes: Annotated[bool, typer.Option("--yes", help="do not ask")] = False,
) -> None:
    """Delete a task's checkpoint and rows, so that its next start rebuilds them from the log.

    Committed offsets are kept: no prediction is made twice. Only where they contradict the log (it was recreated, or
    lost records that were not read) are they moved to its first record, which needs all workers of the stage stopped.
    """
    from streams.resetting import Place, inspect, repair
    from streams.settings import load_settings

    settings = load_settings()
    place = Place.parse(task, settings)
    found = inspect(place, settings)
    typer.echo("\n".join(found.lines()), err=True)
    if not yes:
        typer.confirm(f"Delete checkpoint and {found.keys} keys of {place.name}?", abort=True, err=True)
    for line in repair(place, found, settings):
        typer.echo(line)

"""`tidecast state`: look at a task's checkpoint beside the log, and let it be rebuilt."""

from __future__ import annotations

import json
from enum import StrEnum
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="Look at, prepare and reset the state of tasks.")

_TASK = Annotated[str, typer.Argument(help="stage and number, as in score-3; or the name that an error gave")]


class _Stage(StrEnum):
    score = "score"
    demand = "demand"
    learn = "learn"


@app.command("list")
def list_tasks(as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False) -> None:
    """List the tasks that have a checkpoint, those of other versions or settings too."""
    from streams.resetting import stored
    from streams.settings import load_settings

    found = stored(load_settings())
    if as_json:
        typer.echo(json.dumps([{"task": name, "current": current} for name, current in found], indent=2))
        return
    for name, current in found:
        old = f"  of another version or other settings; where none runs, 'tidecast state reset {name}' deletes it"
        typer.echo(name + ("" if current else old))


@app.command()
def prepare(
    stage: Annotated[_Stage, typer.Argument(help="whose rows to build")],
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Build the rows that this version needs from the log, while workers of the old version serve.

    A version with other features reads rows under another name. Run this with the new version and its settings, then
    restart the stage's workers with it: they go on at once instead of being silent until the log has rebuilt their
    rows. What serves is not touched; interrupted, it goes on where it was. Of learn, examples of other features teach
    nothing: its model begins anew either way.
    """
    from streams.cli._progress import EventProgress
    from streams.preparing import prepare as build
    from streams.roles import stage_of, wall_ms
    from streams.settings import load_settings

    settings = load_settings()
    with EventProgress(f"prepare {stage.value}", "records") as shown:

        def tell(task: str, rebuilt: int, total: int, time_ms: int) -> None:
            shown.update(rebuilt, time_ms, rebuilt / total if total else 1.0)

        found = list(build(stage_of(stage.value, settings), settings, wall_ms, tell))
    if as_json:
        typer.echo(json.dumps([{"task": p.name, "rebuilt": p.rebuilt, "behind": p.behind} for p in found], indent=2))
        return
    for one in found:
        typer.echo(f"{one.name}: {one.rebuilt:,} records read; a worker that starts now rebuilds {one.behind:,} more")
    typer.echo(f"ready: restart the {stage.value} workers with this version")


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

"""`tidecast replay`: a shop's own files into the topics, as its events happened."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from streams.settings import Settings

app = typer.Typer(help="Stream a shop's files into the topics.")


@app.command()
def replay(
    source: Annotated[Path, typer.Argument(help="SOURCE.toml: what the shop's files look like", show_default=False)],
    speed: Annotated[str, typer.Option(help="max, or event time as a multiple of wall time: 1x, 3600x")] = "max",
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; else kafka.bootstrap_servers")] = None,
    start: Annotated[str | None, typer.Option("--from", help="leave out clicks and orders before this time")] = None,
    end: Annotated[str | None, typer.Option("--to", help="stop before this time")] = None,
    state: Annotated[Path | None, typer.Option(help="where to note how far it came", show_default=False)] = None,
    restart: Annotated[bool, typer.Option(help="start over, whatever the state says")] = False,
) -> None:
    """Stream SOURCE's files into the topics in the order of their event times, across its tables.

    Stopped in the middle and run again, it goes on from the last acknowledged event; what it may send twice has equal
    event ids, which count once. The workers' time zone is that of the settings: a warning says where it is not the
    source's. Times for --from and --to are ISO 8601, in the source's time zone where they name none. The last line of
    standard output is JSON: rows read, filtered by rule, sent by topic, unreadable.
    """
    import json

    from streams.cli._progress import EventProgress
    from streams.cli._times import time_of
    from streams.kafka import base_config
    from streams.settings import load_settings
    from streams.sources import open_source
    from streams.sources.replay import Progress, ReplayOptions, parse_speed
    from streams.sources.replay import replay as run
    from streams.sources.shop import warn_of_misfit

    pace = parse_speed(speed)
    shop = open_source(source)
    settings = load_settings()
    if bootstrap is not None:
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap})
        settings = settings.model_copy(update={"kafka": kafka})
    base_config(settings)
    warn_of_misfit(settings, shop)
    noted = state or Path(".tidecast") / "replay" / f"{shop.name}.json"
    if restart:
        noted.unlink(missing_ok=True)
    options = ReplayOptions(pace, time_of(start, shop.timezone, "--from"), time_of(end, shop.timezone, "--to"), noted)
    # A killed replay sends its last events again, which are late and known: nothing to warn of.
    watermark = None if _is_unfinished(noted) else _watermark(settings)
    with EventProgress(f"replay {shop.name}") as shown:

        def report(progress: Progress) -> None:
            nonlocal watermark
            shown.update(progress.events, progress.time_ms, progress.done)
            if watermark is not None and progress.events:
                if progress.time_ms < watermark:
                    typer.echo(_late(progress.time_ms, watermark), err=True)
                watermark = None  # the first events tell; what is in order stays so

        counts = run(shop, settings, options, report=report)
    typer.echo(json.dumps(counts))


def _is_unfinished(state: Path) -> bool:
    import json

    try:
        return json.loads(state.read_bytes())["done"] is False
    except (OSError, ValueError, KeyError, TypeError):
        return False


def _watermark(settings: Settings) -> int | None:
    """Return the time (UTC ms) before which every score task refuses events, None where none has said so."""
    from streams.cli.status import published

    workers = published(settings).values()
    tasks = [task for one in workers if one.get("stage") == "score" for task in one.get("tasks", {}).values()]
    return min((task["watermark"] for task in tasks if task.get("watermark") is not None), default=None)


def _late(reached_ms: int, watermark_ms: int) -> str:
    from datetime import UTC, datetime

    reached, watermark = (datetime.fromtimestamp(at / 1_000, UTC) for at in (reached_ms, watermark_ms))
    return (
        f"warning: the events up to {reached:%Y-%m-%d %H:%M:%SZ} are late, for the workers have come to "
        f"{watermark:%Y-%m-%d %H:%M:%SZ}: they go to the dead letters. History goes first into a fresh system: a new "
        "--data-dir, or another kafka.prefix and redis.prefix"
    )

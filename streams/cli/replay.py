"""`tidecast replay`: a shop's own files into the topics, as its events happened."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

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
    event ids, which count once. Times for --from and --to are ISO 8601, in the source's time zone where they name none.
    The last line of standard output is JSON: rows read, filtered by rule, sent by topic, unreadable.
    """
    import json

    from streams.cli._progress import EventProgress
    from streams.settings import load_settings
    from streams.sources import open_source
    from streams.sources.replay import ReplayOptions, parse_speed
    from streams.sources.replay import replay as run

    pace = parse_speed(speed)
    shop = open_source(source)
    settings = load_settings()
    if bootstrap is not None:
        kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap})
        settings = settings.model_copy(update={"kafka": kafka})
    noted = state or Path(".tidecast") / "replay" / f"{shop.name}.json"
    if restart:
        noted.unlink(missing_ok=True)
    options = ReplayOptions(pace, _time(start, shop.timezone, "--from"), _time(end, shop.timezone, "--to"), noted)
    with EventProgress(f"replay {shop.name}") as shown:
        counts = run(shop, settings, options, report=lambda p: shown.update(p.events, p.time_ms, p.done))
    typer.echo(json.dumps(counts))


def _time(text: str | None, timezone: str, option: str) -> int | None:
    from streams.errors import ConfigurationError
    from streams.sources.values import BadValue, time_reader

    if text is None:
        return None
    try:
        return time_reader(None, None, timezone)(text)
    except BadValue:
        raise ConfigurationError(f"{option} {text}: is no time; give ISO 8601, such as 2014-07-01T00:00:00Z") from None

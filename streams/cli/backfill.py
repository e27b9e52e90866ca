"""`tidecast backfill`: the past through the same code, into training tables."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make training tables of the past.")


@app.command()
def backfill(
    out: Annotated[Path, typer.Option(help="folder for the table; made if needed", show_default=False)],
    source: Annotated[
        Path | None, typer.Option(help="SOURCE.toml: a shop's files; else the topics", show_default=False)
    ] = None,
    start: Annotated[str | None, typer.Option("--from", help="write rows for clicks from this time on")] = None,
    end: Annotated[str | None, typer.Option("--to", help="write rows for clicks before this time")] = None,
) -> None:
    """Replay clicks and orders through the door, the engine and the product rows that serve; write a row a click.

    Writes part-00000.parquet and so on, and backfill.json, into the folder of --out: prediction id, user, session,
    time, every feature, the versions of the product's and the category's row in this replay, and label_<horizon>s with
    the time known_at, null where the horizon is not over. Nothing stamped after a click counts in its features. Rows
    are in the order of time. Times are ISO 8601, in the shop's time zone where they name none; what was before --from
    counts in features, and what comes after --to in labels. The last line of standard output is backfill.json on one
    line. Needs pyarrow (the extra `parquet`).
    """
    import json

    from streams.errors import ConfigurationError
    from streams.kafka import base_config
    from streams.settings import load_settings
    from streams.sources import open_source

    settings = load_settings()
    shop = None if source is None else open_source(source)
    if shop is None:
        base_config(settings)  # a missing address is said now, not after numba was loaded
    from streams.backfill.log import INPUTS
    from streams.backfill.run import Request, backfill_source, backfill_topics
    from streams.cli._progress import EventProgress
    from streams.cli._times import time_of
    from streams.logs import KafkaTopics
    from streams.sources.shop import warn_of_misfit, with_shop_of

    zone = settings.shop.timezone if shop is None else shop.timezone
    request = Request(out, time_of(start, zone, "--from") or 0, time_of(end, zone, "--to"))
    if request.to_ms is not None and request.to_ms <= request.from_ms:
        raise ConfigurationError(f"--to {end}: is not after --from {start}; nothing lies between")
    if shop is not None:
        warn_of_misfit(with_shop_of(settings, shop), shop)
    with EventProgress(f"backfill {'topics' if shop is None else shop.name}") as shown:
        if shop is not None:
            card = backfill_source(shop, settings, request, lambda p: shown.update(p.events, p.time_ms, p.done))
        else:
            topics = KafkaTopics(settings, INPUTS)
            card = backfill_topics(topics, settings, request, lambda p: shown.update(p.events, p.time_ms, p.done))
    typer.echo(json.dumps(card))
    if not card["rows"]:
        typer.echo("warning: no row was written: there is no click of a known user in that time", err=True)
        raise typer.Exit(1)

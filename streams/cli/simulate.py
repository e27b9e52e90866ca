"""`tidecast simulate`: a shop whose truth is known, as files or straight into the topics."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Make a shop whose truth is known.")


@app.command()
def simulate(
    out: Annotated[Path | None, typer.Option(help="write a source and its truth into this folder")] = None,
    to_kafka: Annotated[
        bool, typer.Option("--to-kafka", help="send the events to the topics, faults included")
    ] = False,
    users: Annotated[int, typer.Option(help="users of the shop")] = 2_000,
    products: Annotated[int, typer.Option(help="products it sells")] = 200,
    days: Annotated[int, typer.Option(help="days, the last of which ends at --end")] = 60,
    seed: Annotated[int, typer.Option(help="equal seeds make equal shops")] = 1,
    end: Annotated[str | None, typer.Option(help="where simulated time ends, ISO 8601; else now")] = None,
    drift: Annotated[str | None, typer.Option(help="from this time on visitors behave by other rules")] = None,
    name: Annotated[str, typer.Option(help="the source's name, the first part of event ids")] = "simulated",
    rate: Annotated[float | None, typer.Option(help="events per second (with --to-kafka); else all at once")] = None,
    duration: Annotated[float | None, typer.Option(help="stop after so many seconds (with --to-kafka)")] = None,
    bootstrap: Annotated[str | None, typer.Option(help="host:port of Kafka; else kafka.bootstrap_servers")] = None,
    clean: Annotated[bool, typer.Option("--clean", help="no duplicates, lateness or damage (with --to-kafka)")] = False,
) -> None:
    """Simulate a shop: seasons, promotions, prices, stock-outs, new products, bots.

    With --out its files, in the form that `tidecast replay` reads, and the truth: the purchase probability after each
    click and the mean demand of each product and day. With --to-kafka its events as they reach a log: duplicated,
    late, disordered, some damaged. The last line of standard output is JSON.
    """
    import json
    import time

    from pydantic import ValidationError

    from streams.cli._progress import EventProgress
    from streams.cli._times import time_of
    from streams.errors import ConfigurationError
    from streams.simulator import FaultRates, Shop, ShopConfig

    if (out is None) == (not to_kafka):
        raise ConfigurationError("give either --out FOLDER or --to-kafka")
    now_ms = int(time.time() * 1_000)
    given = {"users": users, "products": products, "days": days, "seed": seed, "name": name}
    given |= {
        "end_ms": now_ms if end is None else time_of(end, "UTC", "--end"),
        "drift_at_ms": time_of(drift, "UTC", "--drift"),
    }
    try:
        config = ShopConfig.model_validate(given | ({"faults": FaultRates.none()} if clean else {}))
    except ValidationError as error:
        wrong = error.errors()[0]
        raise ConfigurationError(f"--{wrong['loc'][0]} {wrong['input']}: {wrong['msg']}") from None
    shop = Shop(config)
    span = max(1, config.end_ms - config.start_ms)
    with EventProgress(f"simulate {config.name}") as shown:

        def report(events: int, time_ms: int) -> None:
            shown.update(events, time_ms, min(0.999, max(0.0, (time_ms - config.start_ms) / span)))

        if out is not None:
            from streams.simulator.files import write_shop

            source = write_shop(shop, out, report)
            counts = {"source": str(source), "clicks": len(shop.truth.purchase_probabilities())}
        else:
            from streams.settings import load_settings
            from streams.simulator.sending import SimulateOptions, send_shop

            settings = load_settings()
            if bootstrap is not None:
                kafka = settings.kafka.model_copy(update={"bootstrap_servers": bootstrap})
                settings = settings.model_copy(update={"kafka": kafka})
            counts = send_shop(shop, settings, SimulateOptions(rate, duration), report=report)
    typer.echo(json.dumps(counts))

"""`tidecast backtest`: the same topologies over files, without a broker."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

app = typer.Typer(no_args_is_help=True, help="Run the same topologies over files, and score what they say.")

_Source = Annotated[Path, typer.Argument(help="SOURCE.toml: what the shop's files look like", show_default=False)]
_Out = Annotated[Path, typer.Option(help="folder for what comes out; made if needed", show_default=False)]


@app.callback()
def _group() -> None:
    """Keep the kinds of backtest subcommands."""


@app.command()
def purchase(
    source: _Source,
    out: _Out,
    start: Annotated[str | None, typer.Option("--from", help="write rows for clicks from this time on")] = None,
    horizon: Annotated[int | None, typer.Option(help="seconds; else score.horizon_s", min=60, max=7_776_000)] = None,
) -> None:
    """Predict each click of SOURCE with what was known then, and learn from outcomes as they became known.

    Writes predictions.csv, metrics.json and report.html into the folder of --out; the last line of standard output is
    metrics.json on one line. --from is ISO 8601, in the source's time zone where it names none; what was before is
    learnt from, but has no rows.
    """
    import json

    from streams.backtest.purchase import backtest_purchase
    from streams.cli._progress import EventProgress
    from streams.cli._times import time_of
    from streams.settings import load_settings
    from streams.sources import open_source
    from streams.sources.shop import warn_of_misfit, with_shop_of

    shop = open_source(source)
    settings = load_settings()
    warn_of_misfit(with_shop_of(settings, shop), shop)
    from_ms = time_of(start, shop.timezone, "--from") or 0
    with EventProgress(f"backtest {shop.name}") as shown:
        metrics = backtest_purchase(
            shop,
            settings,
            out,
            from_ms=from_ms,
            horizon_s=horizon,
            report=lambda p: shown.update(p.events, p.time_ms, p.done),
        )
    typer.echo(json.dumps(metrics))
    counts = metrics["counts"]
    if not counts["labelled"]:
        unread = sum(counts["rows_unreadable"].values())
        _end_empty(
            f"{counts['clicks']:,} clicks were read ({unread:,} rows were unreadable), {counts['predicted_from']:,} "
            "were predicted, and of none is the outcome known; is --from too late, or --horizon too long?"
        )


@app.command()
def demand(
    source: _Source,
    out: _Out,
    freq: Annotated[Literal["D", "W"], typer.Option(help="periods: days, or weeks from Monday", show_default=False)],
    origins: Annotated[str, typer.Option(help="DATE[,DATE…]: first periods forecast", show_default=False)],
    horizon: Annotated[int, typer.Option(help="periods ahead", min=1, max=366)] = 28,
    top: Annotated[int | None, typer.Option(help="the N that sold most before the first origin", min=1)] = None,
    keys: Annotated[Path | None, typer.Option(help="a file of keys, one a line", show_default=False)] = None,
    level: Annotated[Literal["product", "category"], typer.Option(help="what a series is of")] = "product",
    train: Annotated[
        bool | None, typer.Option("--train/--no-train", help="the sequence model too; default: where torch is there")
    ] = None,
) -> None:
    """Forecast the demand of SOURCE at rolling origins, each from what was known before it, and score what came.

    Writes forecasts.csv, metrics.json and report.html into the folder of --out; the last line of standard output is
    metrics.json on one line. Days and weeks are the shop's own: by shop.timezone where it is set, else by the source's.
    """
    import json
    import sys

    from streams.errors import ConfigurationError

    # Before the packages that work with numbers are loaded, which takes seconds.
    if (top is None) == (keys is None):
        raise ConfigurationError("give either --top N or --keys FILE, to say which series to forecast")
    from streams.backtest.demand import DemandRequest, Watching, backtest_demand
    from streams.backtest.forecasters import torch_is_here
    from streams.backtest.origins import read_keys
    from streams.cli._progress import EventProgress
    from streams.cli._training import TrainingProgress
    from streams.settings import load_settings
    from streams.sources import open_source
    from streams.sources.shop import warn_of_misfit, with_shop_of

    learn = torch_is_here() if train is None else train
    if train is None and not learn:
        sys.stderr.write(
            "the sequence model is left out: torch is not installed; pip install -e '.[train]' (in Tidecast's folder)\n"
        )
    elif learn and not torch_is_here():
        raise ConfigurationError(
            "--train needs torch: pip install -e '.[train]' (in Tidecast's folder), or leave it out"
        )
    shop = open_source(source)
    settings = load_settings()
    warn_of_misfit(with_shop_of(settings, shop), shop)
    chosen = None if keys is None else tuple(read_keys(keys))
    request = DemandRequest(freq, horizon, origins, top, chosen, level, learn)
    with EventProgress(f"backtest {shop.name}") as shown, TrainingProgress() as training:
        watching = Watching(shown.update, training.update, training.note)
        metrics = backtest_demand(shop, settings, request, out, watching)
    typer.echo(json.dumps(metrics))
    if not any(figures.get("values") for figures in metrics["models"].values()):
        # The days after the data are what a forecast is for; it only cannot be judged.
        typer.echo(f"warning: no period from {origins} on is over in the data, so nothing could be scored", err=True)


def _end_empty(why: str) -> None:
    """Say on standard error that nothing could be scored, and end with exit code 1; the files are written."""
    typer.echo(f"warning: {why}", err=True)
    raise typer.Exit(1)

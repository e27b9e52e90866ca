"""`tidecast train`: train the sequence model on the closed buckets, and announce it."""

from __future__ import annotations

import json
import sys
import time
from math import isnan
from typing import Annotated

import typer

app = typer.Typer(help="Train the sequence model.")


@app.command()
def train(
    epochs: Annotated[int | None, typer.Option(min=1, help="at most this many; default: train.epochs")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, max=2**63 - 1, help="equal seeds train alike; default: train.seed")
    ] = None,
    device: Annotated[str | None, typer.Option(help="auto, cpu, cuda, cuda:0, mps; default: train.device")] = None,
    fresh: Annotated[bool, typer.Option("--fresh/--resume", help="drop a run that was interrupted")] = False,
) -> None:
    """Train on tidecast.history, backtest against the seasonal forecast, sign, register and announce.

    A run that was interrupted goes on from its last checkpoint. The figures are the last line, as JSON.
    """
    from streams.kafka import base_config
    from streams.settings import load_settings

    settings = load_settings()
    base_config(settings)  # a missing address is said now, not after torch was loaded
    from streams.cli._training import TrainingProgress
    from streams.train import run_training

    asked = {"epochs": epochs, "seed": seed, "device": device}
    changed = settings.train.model_copy(update={name: value for name, value in asked.items() if value is not None})
    settings = settings.model_copy(update={"train": changed})
    with TrainingProgress() as progress:
        figures = run_training(
            settings,
            now_ms=time.time_ns() // 1_000_000,
            fresh=fresh,
            progress=progress.update,
            note=lambda line: progress.note(line),
        )
    sys.stderr.write(_in_words(figures) + "\n")
    typer.echo(json.dumps(figures))


def _in_words(figures: dict[str, object]) -> str:
    if figures["version"] is None:
        return f"not trained: {figures['reason']}"
    lstm, seasonal, win = (figures.get(name, float("nan")) for name in ("wql_lstm", "wql_seasonal", "win"))
    verdict = "promoted" if figures["decision"] == "promoted" else "stays in shadow"
    if isnan(float(str(seasonal))):
        return (
            f"{figures['version']}: {verdict}, for neither can win: nothing was sold in the buckets held out; "
            "train again once the latest buckets hold sales"
        )
    return f"{figures['version']}: WQL {lstm:.4f}, seasonal forecast {seasonal:.4f} ({win:+.1%}): {verdict}"

"""`tidecast demo`: everything at once on a simulated shop, live."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(help="Show everything live on a simulated shop.")


@app.command()
def demo(
    source: Annotated[Path | None, typer.Option(help="a source description instead of the simulated shop")] = None,
    seconds: Annotated[float, typer.Option(help="about how long", min=20, max=3600)] = 110,
    seed: Annotated[int, typer.Option(help="of the simulated shop")] = 1,
) -> None:
    """Stream a simulated shop (or SOURCE) through embedded servers and show predictions beside the truth.

    Ctrl-C ends it early, with exit code 0.
    """
    from streams.demo.run import run_demo

    # A quoted path keeps its tilde.
    raise typer.Exit(run_demo(source.expanduser() if source is not None else None, seconds, seed))

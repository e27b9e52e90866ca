"""The demo's screen: tables on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime

from rich.columns import Columns
from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table

from streams.demo.figures import Figures


def screen(figures: Figures, expected: Callable[[str, int], float]) -> RenderableType:
    """Return the live view; `expected` gives a product's true mean demand in the bucket that starts at a time."""
    bar = ProgressBar(total=max(1, figures.total), completed=figures.sent, width=40)
    header = Table.grid(padding=(0, 2))
    header.add_row("shop time", when(figures.at), "events sent", f"{figures.sent:,} of {figures.total:,}", bar)
    lag = max(0, figures.sent - figures.purchases)
    header.add_row(
        "scored", f"{figures.rate():,.0f} clicks/s", "clicks scored", f"{figures.purchases:,}", f"waiting {lag:,}"
    )
    return Group(
        Panel(header, title="Tidecast", border_style="cyan"),
        Columns([_shoppers(figures), _products(figures, expected)], padding=(0, 2)),
        Panel(quality(figures), title="learning", border_style="green"),
    )


def line(figures: Figures) -> str:
    """Return one plain line for where there is no terminal."""
    return (
        f"{when(figures.at)}  sent {figures.sent:,}  scored {figures.purchases:,} ({figures.rate():,.0f}/s)  "
        f"forecasts {figures.demands:,}  {quality(figures)}"
    )


def quality(figures: Figures) -> str:
    """Return what the online model has learnt so far, in words."""
    losses = figures.log_losses()
    if losses is None:
        return "the online model has not learnt yet: labels are known an hour of shop time after the click"
    loss, base = losses
    gap = figures.truth_gap()
    told = f"; mean distance from the true probability {gap:.3f}" if gap is not None else ""
    return (
        f"model {figures.version}: prequential log loss {loss:.4f}, base rate {base:.4f} ({loss / base - 1:+.1%}){told}"
    )


def when(time_ms: int) -> str:
    """Return a time for people."""
    return datetime.fromtimestamp(time_ms / 1_000, UTC).strftime("%Y-%m-%d %H:%M") if time_ms else "–"


def _shoppers(figures: Figures) -> Table:
    table = Table(title="about to buy, within an hour", title_justify="left")
    table.add_column("shopper")
    table.add_column("probability", justify="right")
    table.add_column("truth", justify="right")
    for shopper in reversed(figures.shoppers.values()):
        truth = f"{shopper.truth:.1%}" if shopper.truth is not None else "–"
        table.add_row(shopper.user, f"{shopper.probability:.1%}", truth)
    return table


def _products(figures: Figures, expected: Callable[[str, int], float]) -> Table:
    table = Table(title="will sell, next day (units)", title_justify="left")
    for name in ("product", "day", "forecast", "80% interval", "true mean"):
        table.add_column(name, justify="left" if name in ("product", "day") else "right")
    best = sorted(figures.products.values(), key=lambda product: (-product.mean, product.product))[:8]
    for product in best:
        interval = f"{product.low:.1f} – {product.high:.1f}"
        truth = expected(product.product, product.start)
        day = when(product.start)[:10]
        table.add_row(product.product, day, f"{product.mean:.1f}", interval, f"{truth:.1f}" if truth else "–")
    return table

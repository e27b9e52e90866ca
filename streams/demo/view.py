"""The demo's words: tables that fit the terminal, a plain line now and then elsewhere, and the summary."""

from __future__ import annotations

from datetime import datetime
from heapq import nlargest
from textwrap import wrap
from zoneinfo import ZoneInfo

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from streams.demo.figures import Figures
from streams.demo.shops import DemoShop

_MOST_ROWS = 8
# The upper panel, the lower one's frame, a table's title and head, and the line of the cursor.
_OTHER_LINES = 4 + 2 + 2 + 1
# Narrower, the tables stand one above the other.
_BESIDE_WIDTH = 78


def screen(figures: Figures, shop: DemoShop, width: int, height: int) -> RenderableType:
    """Return the live view for a terminal of this size."""
    beside = width >= _BESIDE_WIDTH
    learnt = quality(figures)
    left = height - _OTHER_LINES - len(wrap(learnt, width - 4))
    rows = max(1, min(_MOST_ROWS, left if beside else (left - 2) // 2))
    name_width = max(8, min(24, 8 + (width - 80) // 2))
    shoppers = _shoppers(figures, rows, name_width, truth=shop.true_mean is not None)
    products = _products(figures, shop, rows, name_width)
    if beside:
        tables = Table.grid(padding=(0, 3))
        tables.add_row(shoppers, products)
    learning = Panel(Text(learnt), title="learning", border_style="green")
    return Group(_header(figures, shop), *([tables] if beside else [shoppers, products]), learning)


def line(figures: Figures) -> str:
    """Return one plain line for where there is no terminal."""
    return (
        f"{when(figures.at, figures.timezone)}  sent {figures.sent:,}  {_clicks(figures)} ({figures.rate():,.0f}/s)  "
        f"forecasts {figures.demands:,}  {quality(figures)}"
    )


def quality(figures: Figures) -> str:
    """Return what the online model has learnt so far, in words."""
    losses = figures.log_losses()
    if losses is None:
        return (
            "no figures yet: a click is judged when an hour of shop time has passed, and the first version of the "
            "online model follows after 64 known outcomes"
        )
    loss, base = losses
    judged = int(figures.metrics.get("scored", 0))
    verdict = f"{abs(loss / base - 1):.1%} {'better' if loss < base else 'worse'} than" if base > 0 else "beside"
    gap = figures.truth_gap()
    told = f"; mean distance from the true probability {gap:.3f}" if gap is not None else ""
    return (
        f"model {figures.version}: log loss {loss:.4f} over {judged:,} judged clicks, {verdict} the base rate's "
        f"{base:.4f}{told}"
    )


def summary(figures: Figures, shop: DemoShop) -> list[str]:
    """Return what was done, a line each."""
    lines = []
    if figures.first_prediction_s is not None:
        lines.append(f"first prediction after {figures.first_prediction_s:.1f} s")
    share = "" if figures.sent == figures.total else f" of {figures.total:,}"
    lines.append(
        f"{figures.sent:,}{share} events sent, {_clicks(figures)}, {figures.demands:,} demand forecasts, "
        f"{figures.doubled:,} doubled ids"
    )
    if shop.rows is not None:
        lines.append(f"in the files: {shop.rows}")
    if figures.refused:
        lines.append(f"refused by the workers, with the reason in tidecast.deadletters: {_counts(figures)}")
    if figures.purchases:
        lines.append(quality(figures))
    return lines


def why_nothing(figures: Figures, lacking: dict[str, str], waited_s: float) -> str:
    """Return why neither a click was scored nor a day forecast."""
    if lacking:
        reasons = ", ".join(f"{role} ({reason})" for role, reason in lacking.items())
        return f"not all workers were ready after {waited_s:.0f} s: {reasons}"
    if figures.refused:
        return f"the workers refused what they were sent: {_counts(figures)}"
    if not figures.clicks:
        return "the shop has no clicks, and no day of its orders was over"
    if figures.clicks == figures.anonymous:
        return "no click names a user: say in the source which column does ([clicks] user = ...)"
    return f"no worker said anything within {waited_s:.0f} s"


def when(time_ms: int, timezone: str) -> str:
    """Return a time for people, by the shop's clock."""
    return datetime.fromtimestamp(time_ms / 1_000, ZoneInfo(timezone)).strftime("%Y-%m-%d %H:%M") if time_ms else "–"


def _clicks(figures: Figures) -> str:
    without = f", {figures.anonymous:,} without user" if figures.anonymous else ""
    waiting = f", {len(figures.waiting):,} waiting" if figures.waiting else ""
    return f"{figures.purchases:,} clicks scored{waiting}{without}"


def _counts(figures: Figures) -> str:
    return ", ".join(f"{reason} {count:,}" for reason, count in figures.refused.most_common())


def _header(figures: Figures, shop: DemoShop) -> Panel:
    progress = Table.grid(padding=(0, 2), expand=True)
    progress.add_column(no_wrap=True)
    progress.add_column(ratio=1)
    progress.add_row(
        f"shop time {when(figures.at, figures.timezone)}  {figures.sent:,} of {figures.total:,} events sent",
        ProgressBar(total=max(1, figures.total), completed=figures.sent),
    )
    scored = Text(f"{figures.rate():,.0f} clicks/s  {_clicks(figures)}", no_wrap=True, overflow="ellipsis")
    return Panel(Group(progress, scored), title=f"Tidecast: {shop.name}", border_style="cyan")


def _table(name: str, name_width: int, *numbers: str) -> Table:
    table = Table(box=None, pad_edge=False)
    table.add_column(name, no_wrap=True, overflow="ellipsis", max_width=name_width)
    for each in numbers:
        table.add_column(each, justify="right", no_wrap=True)
    return table


def _titled(title: str, table: Table) -> Group:
    # A title of the table's own would be wrapped to the table's width.
    return Group(Text(title, style="italic", no_wrap=True), table)


def _shoppers(figures: Figures, rows: int, name_width: int, *, truth: bool) -> RenderableType:
    table = _table("shopper", name_width, "chance", *(["truth"] if truth else []))
    for shopper in list(reversed(figures.shoppers.values()))[:rows]:
        true = [_percent(shopper.truth)] if truth else []
        table.add_row(Text(shopper.user), _percent(shopper.probability), *true)
    return _titled("buys within an hour", table)


def _products(figures: Figures, shop: DemoShop, rows: int, name_width: int) -> RenderableType:
    day = figures.day()
    if day is None:
        return Text("no day is over yet", style="italic")
    # Hourly buckets have a time worth showing.
    date = when(day, figures.timezone).removesuffix(" 00:00")
    title = f"sold on {date}, as forecast before" if figures.compared else f"will sell on {date}"
    numbers = ("forecast", "80% interval", "sold", *(["true mean"] if shop.true_mean is not None else []))
    table = _table("product", name_width, *numbers)
    sold = figures.sold.get(day, {})
    for one in nlargest(rows, figures.forecasts[day].values(), key=lambda one: (one.mean, one.product)):
        true = [_units(shop.true_mean(one.product, day))] if shop.true_mean is not None else []
        interval = f"{_units(one.low)} – {_units(one.high)}"
        table.add_row(Text(one.product), _units(one.mean), interval, _pieces(sold.get(one.product)), *true)
    return _titled(f"{title} (units)", table)


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{share:.1%}"


def _units(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _pieces(count: int | None) -> str:
    return "–" if count is None else f"{count:,}"

"""The shop that the demo shows: simulated, with its truth, or read from a user's own files."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from schemas.codec import Click, DecodeError, decode_click, encode_event
from streams.errors import SourceError
from streams.records import CLICKSTREAM
from streams.sources import Accounts, Source, open_source
from streams.sources.reader import Unreadable


@dataclass(frozen=True, slots=True)
class Item:
    """One event to send; `click` where it is one that can be read, `truth` its true purchase probability."""

    topic: str
    key: bytes | None
    value: bytes
    time_ms: int
    click: Click | None = None
    truth: float | None = None


@dataclass(frozen=True, slots=True)
class DemoShop:
    """What is sent and what is known beforehand.

    `true_mean` gives a product's true mean demand on the day that starts at a time (None: not a whole day of the
    shop); without it, no truth is known. `rows` says which rows of the files were no events; `source`
    are the files, where it was read from any.
    """

    name: str
    items: Iterator[Item]
    total: int
    true_mean: Callable[[str, int], float | None] | None = None
    rows: str | None = None
    source: Source | None = None


def simulated(seed: int, end_ms: int) -> DemoShop:
    """Return a shop of three weeks that end at `end_ms`, with its truth."""
    from streams.simulator import Shop, ShopConfig
    from streams.simulator.config import DAY_MS

    config = ShopConfig(end_ms=end_ms, users=1_500, products=40, days=21, seed=seed)
    shop = Shop(config)

    def items() -> Iterator[Item]:
        for topic, key, value, time_ms, _ in shop.events():
            click = _click(value) if topic == CLICKSTREAM else None
            yield Item(topic, key, value, time_ms, click, None if click is None else _truth(shop, click))

    def true_mean(product: str, start_ms: int) -> float | None:
        # The last day is cut at the shop's end: its truth says less than a whole day's forecast.
        whole = config.start_ms <= start_ms and start_ms + DAY_MS <= config.end_ms
        return shop.truth.demand_of(product, start_ms) if whole else None

    return DemoShop(config.name, items(), sum(1 for _ in Shop(config).events()), true_mean)


def from_source(path: Path, stopped: Callable[[], bool] = lambda: False) -> DemoShop:
    """Return the shop that a source describes, all of it read once; less of it, where `stopped` says so.

    Raises SourceError, also where no row of it is an event.
    """
    source = open_source(path)
    total = 0
    for _ in source.events():
        total += 1
        if stopped():
            break
    rows = _account(source.accounts)
    if not total:
        raise SourceError(f"{path}: no row became an event: {rows or 'the files are empty'}")

    def items() -> Iterator[Item]:
        for event in source.events():
            value = event.value
            if not isinstance(value, Unreadable):
                click = value if isinstance(value, Click) else None
                yield Item(event.topic, event.key, encode_event(value), event.time_ms, click)

    return DemoShop(source.name, items(), total, rows=rows, source=source)


def _account(accounts: Accounts) -> str | None:
    """Say which rows are no events, and why; None where all are."""
    parts = []
    for what, counts in (("unreadable", accounts.unreadable), ("filtered", accounts.filtered)):
        if counts:
            reasons = ", ".join(f"{label} {count:,}" for label, count in counts.most_common())
            parts.append(f"of which {sum(counts.values()):,} {what} ({reasons})")
    return f"{sum(accounts.rows.values()):,} rows, {', '.join(parts)}" if parts else None


def _click(value: bytes) -> Click | None:
    try:
        return decode_click(value)
    except DecodeError:
        return None  # damaged on the way to the log


def _truth(shop: object, click: Click) -> float | None:
    from streams.simulator import Shop

    assert isinstance(shop, Shop)
    try:
        return shop.truth.purchase_probability(click.event_id)
    except (ValueError, IndexError):
        return None  # readable, but its id was damaged

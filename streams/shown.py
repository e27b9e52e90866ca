"""What a stored row says, in words and as data."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import msgspec

from features.documentation import duration
from features.sets import LOG_LENGTH, SCORE_SET, Feature
from features.summary import ProductRow, UserRow
from schemas.internal import EventKind
from streams.records import Input
from streams.runtime.checkpoint import Header
from streams.topologies.orderbook import OrderBook

Kind = Literal["user", "product", "category"]


@dataclass(frozen=True, slots=True)
class Shown:
    """A user's, product's or category's row as it lies in the store.

    `task` is the name under which the row lies, `expected` the one that the id's partition names. `size` is the packed
    row's length in bytes, `touched` the event time (UTC ms) of its newest event. A user has a `book` where it ordered
    anything lately: its length in bytes, and its lines. A user of whom only orders are known has a book and no row.
    """

    kind: Kind
    id: str
    task: str
    expected: str
    header: Header | None
    size: int
    touched: int | None
    row: UserRow | ProductRow | None
    book: tuple[int, OrderBook] | None

    def as_data(self) -> dict[str, Any]:
        """Return it as plain data: times in UTC ms, money in minor units but for the features', which have a unit."""
        row, header = self.row, self.header
        data: dict[str, Any] = {
            self.kind: self.id,
            "task": self.task,
            "task_by_key": self.expected,
            "checkpoint": None
            if header is None
            else {
                "epoch": header.epoch,
                "sequence": header.sequence,
                "offsets": offsets(header),
                "watermark": header.watermark,
            },
            "row_bytes": self.size,
            "last_touched": self.touched,
            "as_of": row.as_of if row is not None else None,
            "features": [
                {"name": feature.name, "value": _number(feature, value), "unit": feature.unit}
                for feature, value in _told(row)
            ],
        }
        if isinstance(row, ProductRow):
            data["version"] = row.version
        if isinstance(row, UserRow):
            first = len(row.log) - row.in_session
            data["log"] = [
                {
                    "time": event.time,
                    "kind": event.kind.name.lower(),
                    "value_minor": event.value_minor,
                    "undoes_purchase_of": event.undo_time or None,
                    "in_session": at >= first,
                }
                for at, event in enumerate(row.log)
            ]
        if self.kind == "user":
            data["orders"] = None
            if self.book is not None:
                size, book = self.book
                data["orders"] = {"bytes": size, "lines": [msgspec.structs.asdict(line) for line in book.lines]}
        return data

    def lines(self) -> list[str]:
        """Return it as lines to read."""
        lines = [*self._head(), *_checkpoint(self.header)]
        if self.row is not None:
            lines += self._features(self.row)
        if isinstance(self.row, UserRow):
            lines += _session(self.row)
            lines += _log(self.row)
        if self.book is not None:
            lines += _book(*self.book)
        return lines

    def _head(self) -> list[str]:
        where, name = f"in task {self.task}", f"{self.kind} {safe(self.id)}"
        if self.touched is None:
            lines = [f"{name}: no row {where}, but a book of orders"]
        else:
            lines = [f"{name}: row of {self.size} bytes {where}, last touched {iso(self.touched)}"]
        if self.task != self.expected:
            partitioner = "was it sent with another partitioner than Kafka's own (murmur2), or "
            asked = f"{partitioner if self.kind == 'user' else ''}is kafka.partitions not that of the topics?"
            lines.append(f"its id belongs to {self.expected}: {asked}")
        return lines

    def _features(self, row: UserRow | ProductRow) -> list[str]:
        as_of = f"features as of {iso(row.as_of)}"
        if isinstance(row, ProductRow):
            said = "up to the last full five minutes"
            if row.version is not None:
                said += f", of activity up to tidecast.activity[{row.version[0]}] {row.version[1]}"
        else:
            said = "the newest event of its log" + (f" up to then; {row.later} are later" if row.later else "")
        lines = [f"{as_of}, {said}:"]
        told = [(feature, _text(feature, value), _note(feature, value)) for feature, value in _told(row)]
        longest = max(len(feature.name) for feature, _, _ in told)
        widest = max(len(text) for _, text, _ in told)
        lines += [f"  {feature.name:{longest}}  {text:>{widest}}  {feature.unit}{note}" for feature, text, note in told]
        return lines


def offsets(header: Header) -> dict[str, int]:
    """Return the next offset of each input as of a checkpoint: ``{"clickstream[2]": 812}``."""
    return {str(Input(topic, partition)): offset for topic, partition, offset in header.offsets}


def _told(row: UserRow | ProductRow | None) -> list[tuple[Feature, float]]:
    values = {} if row is None else row.features
    return [(feature, values[feature.name]) for feature in SCORE_SET if feature.name in values]


def _number(feature: Feature, value: float) -> float:
    return int(value) if feature.dtype == "int" else value


def _text(feature: Feature, value: float) -> str:
    if feature.dtype == "int":
        return f"{int(value):,}"
    return f"{value:,.4f}".rstrip("0").rstrip(".")


def _note(feature: Feature, value: float) -> str:
    if feature.aggregate == "since" and value == feature.limit:
        return ": that long ago, or never"
    return ": for an event without a price" if "_price_ratio" in feature.name else ""


def _checkpoint(header: Header | None) -> list[str]:
    if header is None:
        return ["no checkpoint: without one no worker uses these rows; they are rebuilt from the log"]
    stands = ", ".join(f"{input_} {offset}" for input_, offset in offsets(header).items())
    watermark = "no watermark" if header.watermark is None else f"watermark {iso(header.watermark)}"
    return [f"checkpoint {header.sequence} of epoch {header.epoch}: {stands}; {watermark}"]


def _session(row: UserRow) -> list[str]:
    said = row.features
    lasted = round(said["session_duration"] * 1_000)
    counted = (
        ("events", "events"),
        ("views", "views"),
        ("carts", "put into the cart"),
        ("distinct_products", "products"),
    )
    parts = [f"{word} {int(said[f'session_{name}']):,}" for name, word in counted]
    return [f"session since {iso(row.as_of - lasted)}, for {duration(lasted)}: {', '.join(parts)}"]


def _log(row: UserRow) -> list[str]:
    first = len(row.log) - row.in_session
    lines = [f"last events, {LOG_LENGTH} at most, those of the session marked by *:"]
    for at, event in enumerate(row.log):
        said = event.kind.name.lower()
        if event.kind == EventKind.PURCHASE:
            said += f" {_money(event.value_minor)}"
        elif event.undo_time:
            said += f" {_money(event.value_minor)}, of a purchase within 5 min from {iso(event.undo_time)}"
        lines.append(f"{'*' if at >= first else ' '} {iso(event.time)}  {said}")
    return lines


def _book(size: int, book: OrderBook) -> list[str]:
    orders = len({line.order_id for line in book.lines})
    lines = [f"order book of {size} bytes: orders {orders}, lines {len(book.lines)}"]
    for line in book.lines:
        kept = f"{line.left} kept, {_money(line.value_minor)}" if line.left else "nothing kept"
        lines.append(f"  {iso(line.time)}  order {safe(line.order_id)}  product {safe(line.product_id)}  {kept}")
    return lines


def _money(minor: int) -> str:
    return f"{minor / 100:,.2f}"


def iso(at_ms: int) -> str:
    """Return a time (UTC ms) as `--time` takes it, to the second where it is a whole one.

    >>> iso(1_700_000_000_000), iso(1_700_000_000_999)
    ('2023-11-14 22:13:20Z', '2023-11-14 22:13:20.999Z')
    """
    at = datetime.fromtimestamp(at_ms // 1_000, UTC)
    return f"{at:%Y-%m-%d %H:%M:%S}" + (f".{at_ms % 1_000:03}Z" if at_ms % 1_000 else "Z")


def safe(text: str) -> str:
    """Return a stranger's text without what a terminal would obey."""
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)

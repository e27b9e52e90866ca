"""One product's demand, bucket by bucket: what is closed, what is still open, and how it is stored.

What open buckets hold is a sum over rows, so their order does not matter; everything else is decided when a bucket
closes, which is the same place in event time however far the upstream tasks are apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.internal import ActivityRow, EventKind

_MOST = 1 << 60


def _bounded(total: int) -> int:
    """Return a sum that a row can hold; what is beyond it is no shop's."""
    return min(max(total, -_MOST), _MOST)


class Bucket(msgspec.Struct, array_like=True):
    """Units, their value (minor units), views and additions to carts of one bucket.

    `price` per unit is that of the latest sale (the highest of those at one time), -1 unknown; `sales` counts order
    lines and purchase clicks, whatever was cancelled later.
    """

    quantity: int = 0
    value_minor: int = 0
    views: int = 0
    carts: int = 0
    price: int = -1
    priced_at: int = -1
    sales: int = 0

    def add(self, row: ActivityRow) -> None:
        """Count a row: sums, and a maximum for the price."""
        if row.kind == EventKind.VIEW:
            self.views += 1
        elif row.kind == EventKind.ADD_TO_CART:
            self.carts += 1
        elif row.kind in (EventKind.PURCHASE, EventKind.CANCEL):
            self.quantity = _bounded(self.quantity + row.quantity)
            self.value_minor = _bounded(self.value_minor + row.value_minor)
            if row.kind == EventKind.PURCHASE:
                self.sales += 1
                if row.price >= 0 and (row.time, row.price) > (self.priced_at, self.price):
                    self.priced_at, self.price = row.time, row.price


class Series(msgspec.Struct):
    """The closed buckets of a product, oldest first, up to number `last`; open ones by number.

    The first closed bucket is that of the first sale; at most `kept` stay. `sold` is the latest closed one with a sale.
    What is open and not after the task's latest close is void: nobody reads it.

    >>> series = Series()
    >>> series.at(10).sales = 1
    >>> series.lives(10, 2), series.lives(9, 2)
    (True, False)
    >>> _ = series.close(10, kept=5), series.close(12, kept=5)
    >>> [bucket.sales for bucket in series.closed], series.lives(12, 2), series.lives(13, 2)
    ([1, 0, 0], True, False)
    """

    closed: list[Bucket] = []
    last: int = -1
    sold: int = -1
    open: dict[int, Bucket] = {}
    revisions: dict[int, int] = {}
    touched: int = 0

    def at(self, number: int) -> Bucket:
        """Return an open bucket, made on first use."""
        return self.open.setdefault(number, Bucket())

    def lives(self, number: int, rest: int) -> bool:
        """Say whether bucket `number` belongs to the series: a sale in it or within the `rest` buckets before."""
        bucket = self.open.get(number)
        return (bucket is not None and bucket.sales > 0) or bool(self.closed and number <= self.sold + rest)

    def sells_after(self, number: int) -> bool:
        """Say whether an open bucket after `number` holds a sale."""
        return any(one > number and bucket.sales for one, bucket in self.open.items())

    def close(self, number: int, *, kept: int, empty: bool = False) -> Bucket:
        """Close bucket `number`, `empty` or as it is, and as empty all between it and the last one. Returns it.

        What lies `kept` buckets behind it is forgotten, whether or not the row is still stored.
        """
        bucket = (None if empty else self.open.get(number)) or Bucket()
        if self.closed and number - self.last > kept:
            self.closed = []
        if not self.closed:
            self.last = number - 1
        between = range(max(self.last + 1, number - kept + 1), number)
        for one in (*(Bucket() for _ in between), bucket):
            if one.price < 0 and self.closed:
                one.price = self.closed[-1].price
            self.closed.append(one)
        self.last = number
        if bucket.sales:
            self.sold = number
        del self.closed[:-kept]
        if not empty:
            self.drop_void(number)
        self.revisions = {one: count for one, count in self.revisions.items() if one > number - kept}
        return bucket

    def drop_void(self, closed: int) -> None:
        """Drop what is open up to `closed`, the task's latest close."""
        self.open = {one: bucket for one, bucket in self.open.items() if one > closed}

    def closed_at(self, number: int) -> Bucket | None:
        """Return a closed bucket that is still remembered."""
        index = number - self.last - 1 + len(self.closed)
        return self.closed[index] if 0 <= index < len(self.closed) else None

    def said(self, number: int, rest: int) -> bool:
        """Say whether a closed bucket was said: it lies within `rest` behind a sale, as far as is remembered."""
        at = number - self.last - 1 + len(self.closed)
        return at - rest < 0 or any(bucket.sales for bucket in self.closed[at - rest : at + 1])

    def revise(self, number: int) -> int:
        """Count a change of a closed bucket; returns its revision, from 1."""
        self.revisions[number] = self.revisions.get(number, 0) + 1
        return self.revisions[number]

    def quantities(self) -> list[float]:
        """Return the closed quantities since the first sale, oldest first."""
        return [float(bucket.quantity) for bucket in self.closed]

    def column(self, name: str) -> Sequence[float]:
        """Return one field of the closed buckets; an unknown price is NaN."""
        values = [float(getattr(bucket, name)) for bucket in self.closed]
        return [value if value >= 0 else float("nan") for value in values] if name == "price" else values

    def pack(self) -> bytes:
        """Return the row: event time last touched, then msgpack; equal series have equal rows."""
        self.open = dict(sorted(self.open.items()))
        self.revisions = dict(sorted(self.revisions.items()))
        return self.touched.to_bytes(8, "little", signed=True) + _encoder.encode(self)

    @staticmethod
    def unpack(row: bytes) -> Series:
        """Return the series in a row."""
        return _decoder.decode(row[8:])


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Series)

"""One product's demand, bucket by bucket: what is closed, what is still open, and how it is stored."""

from __future__ import annotations

from bisect import insort
from collections.abc import Sequence

import msgspec


class Bucket(msgspec.Struct, array_like=True):
    """Units, their value (minor units), views and additions to carts of one bucket; `price` per unit, -1 unknown."""

    quantity: int = 0
    value_minor: int = 0
    views: int = 0
    carts: int = 0
    price: int = -1


class Series(msgspec.Struct):
    """The closed buckets of a product, oldest first, up to number `last`; open ones by number.

    `born` is the number of its first bucket, `sold` that of the latest closed one with a sale, `sales` are those of
    open ones. At most `kept` closed buckets stay.

    >>> series = Series(born=10, sold=10, last=9)
    >>> series.at(10).quantity = 3
    >>> series.close(11, kept=5).quantity, [bucket.quantity for bucket in series.closed]
    (0, [3, 0])
    """

    born: int
    sold: int
    last: int
    closed: list[Bucket] = []
    open: dict[int, Bucket] = {}
    revisions: dict[int, int] = {}
    touched: int = 0
    sales: list[int] = []

    def sell(self, number: int, *, closed: int | None) -> None:
        """Note a sale in a bucket; where the task has not `closed` that one yet, it may be earlier than all known."""
        if closed is None or number > closed:
            self.last = min(self.last, number - 1)
        if number <= self.last:
            self.sold = max(self.sold, number)
            return
        self.born = min(self.born, number)
        if number not in self.sales:
            insort(self.sales, number)

    def lives(self, number: int, rest: int) -> bool:
        """Say, when bucket `number` is about to close, whether there was a sale within the `rest` buckets before."""
        while self.sales and self.sales[0] <= number:
            self.sold = self.sales.pop(0)
        return self.last < number and self.born <= number <= self.sold + rest

    def at(self, number: int) -> Bucket:
        """Return an open bucket, made on first use."""
        return self.open.setdefault(number, Bucket())

    def closed_at(self, number: int) -> Bucket | None:
        """Return a closed bucket that is still remembered."""
        index = number - self.last - 1 + len(self.closed)
        return self.closed[index] if 0 <= index < len(self.closed) and number >= self.born else None

    def close(self, number: int, *, kept: int) -> Bucket:
        """Close every bucket from the first on up to `number`; those without an event are zero. Returns the last."""
        first = max(self.last + 1, self.born, number - kept + 1)
        for one in range(first, number + 1):
            bucket = self.open.pop(one, None) or Bucket()
            if bucket.price < 0 and self.closed:
                bucket.price = self.closed[-1].price
            self.closed.append(bucket)
        self.last = max(self.last, number)
        for old in [one for one in self.open if one <= number]:
            del self.open[old]
        del self.closed[:-kept]
        for old in [one for one in self.revisions if one <= number - kept]:
            del self.revisions[old]
        return self.closed[-1]

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
        """Return the row: event time last touched, then msgpack."""
        return self.touched.to_bytes(8, "little", signed=True) + _encoder.encode(self)

    @staticmethod
    def unpack(row: bytes) -> Series:
        """Return the series in a row."""
        return _decoder.decode(row[8:])


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Series)

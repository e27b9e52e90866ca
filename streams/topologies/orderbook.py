"""What a customer bought lately, so that cancellations and returns find the purchase that they undo.

An order is known for the longest feature memory, by its own time and that of what is said of it: so long does its row
stand at least, and whether it stands any longer makes no difference. What is redriven behind the watermark is said at
the watermark.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from features.sets import MEMORY_MS
from schemas.codec import Order, OrderLine
from schemas.internal import Watermark

ORDERS_KEPT = LINES_KEPT = 1_000
"""Of one customer. The oldest orders go whole: a part of one could not be cancelled. The latest one always stays."""


class Bought(msgspec.Struct, array_like=True):
    """One line of an order; `left` is the quantity neither returned nor cancelled, `value_minor` what was paid for it,
    `time` event time in ms."""

    order_id: str
    product_id: str
    category_id: str | None
    left: int
    time: int
    value_minor: int
    price: int


class OrderBook(msgspec.Struct):
    """The latest lines of one customer (of one order where the customer is unknown), oldest first.

    `entered`: when each of the latest orders was said, ms of event time; `at` is when something is said of one.

    >>> book = OrderBook()
    >>> line = OrderLine(product_id="p", quantity=2, unit_price=500)
    >>> order = Order(event_id="1", order_id="a", status="placed", time=10, lines=(line,))
    >>> [bought.left for bought in book.purchase(order, 10)], book.purchase(order, 15)  # paid: no second purchase
    ([2], [])
    >>> one = OrderLine("p", quantity=1)
    >>> back = book.give_back(Order("2", "b", "returned", 20, (one,)), one, 20)
    >>> back.time, back.left, back.value_minor  # one of two came back
    (10, 1, 500)
    >>> [(line.left, line.value_minor) for line in book.cancel("a", 30)]  # the other one is cancelled
    [(1, 500)]
    >>> book.knows("a", 10 + MEMORY_MS), book.knows("a", 11 + MEMORY_MS)
    (True, False)
    """

    lines: list[Bought] = []
    entered: dict[str, Watermark] = {}

    def knows(self, order_id: str, at: int) -> bool:
        """Say whether an order is still known."""
        entered = self.entered.get(order_id)
        return entered is not None and entered >= at - MEMORY_MS

    def purchase(self, order: Order, at: int) -> list[Bought]:
        """Enter an order placed or paid; returns its lines, none where the order is already known."""
        if self.knows(order.order_id, at):
            return []
        if self.entered.pop(order.order_id, None) is not None:
            self.lines = [line for line in self.lines if line.order_id != order.order_id]
        self.entered[order.order_id] = at
        bought = [
            Bought(
                order.order_id,
                line.product_id,
                line.category_id,
                line.quantity,
                order.time,
                line_value(line),
                line.unit_price if line.unit_price is not None else -1,
            )
            for line in order.lines
        ]
        self.lines.extend(bought)
        while len(self.entered) > ORDERS_KEPT or (len(self.lines) > LINES_KEPT and len(self.entered) > 1):
            oldest = next(iter(self.entered))
            del self.entered[oldest]
            self.lines = [line for line in self.lines if line.order_id != oldest]
        return bought

    def cancel(self, order_id: str, at: int) -> list[Bought]:
        """Take back an order's lines; returns what was still left of each, none where the order is unknown."""
        if not self.knows(order_id, at):
            return []
        undone = [line for line in self.lines if line.order_id == order_id and line.left > 0]
        cancelled = [msgspec.structs.replace(line) for line in undone]
        for line in undone:
            line.left = line.value_minor = 0
        return cancelled

    def give_back(self, order: Order, returned: OrderLine, at: int) -> Bought | None:
        """Match a returned line: by its order, else by the latest purchase of the product with enough left.

        Returns what of the purchase comes back, None where nothing matches. Its value is what the return says, else its
        share of what was paid, and never more than that.
        """
        product, quantity = returned.product_id, returned.quantity
        fitting = [
            bought
            for bought in self.lines
            if bought.product_id == product and bought.left >= quantity and self.knows(bought.order_id, at)
        ]
        same_order = [bought for bought in fitting if bought.order_id == order.order_id]
        chosen: Sequence[Bought] = same_order or fitting
        if not chosen:
            return None
        line = max(chosen, key=lambda bought: bought.time)
        share = line.value_minor * quantity // line.left
        value = min(line_value(returned) or share, line.value_minor)
        line.left -= quantity
        line.value_minor -= value
        return msgspec.structs.replace(line, left=quantity, value_minor=value)

    def pack(self) -> bytes:
        """Return the row: when the latest order was said, then msgpack."""
        touched = max(self.entered.values(), default=0)
        return touched.to_bytes(8, "little", signed=True) + _encoder.encode(self)

    @staticmethod
    def unpack(row: bytes) -> OrderBook:
        """Return the book in a row."""
        return _decoder.decode(row[8:])


def line_value(line: OrderLine) -> int:
    """Return a line's total in minor units, 0 where no price is known."""
    if line.amount is not None:
        return line.amount
    return line.unit_price * line.quantity if line.unit_price is not None else 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(OrderBook)

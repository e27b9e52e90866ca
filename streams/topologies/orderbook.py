"""What a customer bought lately, so that cancellations and returns find the purchase that they undo."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from schemas.codec import Order, OrderLine

_LINES_KEPT = 100


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

    >>> book = OrderBook()
    >>> line = OrderLine(product_id="p", quantity=2, unit_price=500)
    >>> order = Order(event_id="1", order_id="a", status="placed", time=10, lines=(line,))
    >>> [bought.left for bought in book.purchase(order)], book.purchase(order)  # paid after placed: no second purchase
    ([2], [])
    >>> one = OrderLine("p", quantity=1)
    >>> back = book.give_back(Order("2", "b", "returned", 20, (one,)), one)
    >>> back.time, back.left, back.value_minor  # one of two came back
    (10, 1, 500)
    >>> [(line.left, line.value_minor) for line in book.cancel(order)]  # the other one is cancelled
    [(1, 500)]
    """

    lines: list[Bought] = []
    known: list[str] = []

    def purchase(self, order: Order) -> list[Bought]:
        """Enter an order placed or paid; returns its lines, none where the order is already known."""
        if order.order_id in self.known:
            return []
        self.known.append(order.order_id)
        del self.known[:-_LINES_KEPT]
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
        # An order stays whole: a part of it could not be cancelled.
        del self.lines[: -max(_LINES_KEPT, len(bought))]
        return bought

    def cancel(self, order: Order) -> list[Bought]:
        """Take back an order's lines; returns what was still left of each, none where the order is unknown."""
        undone = [line for line in self.lines if line.order_id == order.order_id and line.left > 0]
        cancelled = [msgspec.structs.replace(line) for line in undone]
        for line in undone:
            line.left = line.value_minor = 0
        return cancelled

    def give_back(self, order: Order, returned: OrderLine) -> Bought | None:
        """Match a returned line: by its order, else by the latest purchase of the product with enough left.

        Returns what of the purchase comes back, None where nothing matches. Its value is what the return says, else its
        share of what was paid, and never more than that.
        """
        fitting = [b for b in self.lines if b.product_id == returned.product_id and b.left >= returned.quantity]
        same_order = [bought for bought in fitting if bought.order_id == order.order_id]
        chosen: Sequence[Bought] = same_order or fitting
        if not chosen:
            return None
        line = max(chosen, key=lambda bought: bought.time)
        share = line.value_minor * returned.quantity // line.left
        value = min(line_value(returned) or share, line.value_minor)
        line.left -= returned.quantity
        line.value_minor -= value
        return msgspec.structs.replace(line, left=returned.quantity, value_minor=value)

    def pack(self, touched: int) -> bytes:
        """Return the row: event time last touched, then msgpack."""
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

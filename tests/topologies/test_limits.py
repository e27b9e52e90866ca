"""Laws of what is unusually large, or made under other settings: it is cut, bounded or refused, and never repeated for
ever."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.codec import Order, OrderLine
from schemas.internal import ActivityRow, EventKind, decode_activity, decode_examples
from streams.driver import TopologyDriver
from streams.errors import RecoveryError
from streams.records import ACTIVITY, CLICKSTREAM, DEADLETTERS, EXAMPLES, ORDERS, PREDICTIONS, UNREADABLE_HEADER
from streams.settings import DemandSettings, Settings
from streams.topologies.demand import DemandStage
from streams.topologies.orderbook import LINES_KEPT, ORDERS_KEPT, OrderBook
from streams.topologies.score import ScoreStage
from streams.topologies.series import Bucket, Series

START = 1_700_000_000_000
MEGABYTE = 1_000_000


def order(number: int, lines: int, width: int) -> bytes:
    """Return an order whose product ids are `width` characters long."""
    bought = [{"product_id": f"{line:0{width}d}", "category_id": "é" * width, "quantity": 1} for line in range(lines)]
    told = {"event_id": f"e{number}", "order_id": f"o{number}", "status": "placed", "time": START + number}
    return json.dumps(told | {"user_id": "u", "lines": bought}, ensure_ascii=False).encode()


def test_no_message_outgrows_the_log() -> None:
    """A batch of large orders becomes several messages of at most a megabyte; the last one moves the watermark."""
    driver = TopologyDriver(Settings(), [ScoreStage], now_ms=START + 10_000)
    for number in range(5):
        driver.pipe(ORDERS, b"u", order(number, 1_000, 200))
    driver.mark_time(START + 1_000, end=True)
    driver.run()
    messages = driver.output(ACTIVITY)
    batches = [decode_activity(message.value or b"") for message in messages]
    assert max(len(message.value or b"") for message in messages) <= MEGABYTE
    assert sum(len(batch.rows) for batch in batches) == 5_000
    marks = [batch.watermark for batch in batches]
    assert len(batches) >= 10
    assert marks == sorted(marks, key=lambda mark: (mark is not None, mark))
    assert marks[-1] == START + 1_000


def test_examples_stand_before_their_outcomes() -> None:
    """Where a batch of examples and outcomes is cut, no outcome is said before an example of the same batch."""
    driver = TopologyDriver(Settings(), [ScoreStage], now_ms=START + 10_000)
    for number in range(1_200):
        click = {"event_id": f"c{number}", "type": "view", "time": START + number, "user_id": "u", "product_id": "p"}
        driver.pipe(CLICKSTREAM, b"u", json.dumps(click).encode())
    driver.pipe(ORDERS, b"u", order(1, 1, 5))
    driver.mark_time(START + 5_000, end=True)
    driver.run()
    batches = [decode_examples(message.value or b"") for message in driver.output(EXAMPLES)]
    assert sum(len(batch.examples) for batch in batches) == len(driver.output(PREDICTIONS)) == 1_200
    assert max(len(batch.examples) for batch in batches) <= 500
    assert sum(outcome.kind == "order" for batch in batches for outcome in batch.outcomes) == 1


def test_sums_stay_within_a_row() -> None:
    """However much is sold for however much, a series can be stored."""
    bucket = Bucket()
    for _ in range(3_000):
        bucket.add(ActivityRow("p", None, EventKind.PURCHASE, START, 1_000_000, 1 << 53, -1, True))
    series = Series(closed=[bucket], last=1, sold=1)
    assert Series.unpack(series.pack()).closed[0].value_minor == 1 << 60


def test_buckets_of_other_settings_are_refused() -> None:
    """Numbers of hours are no numbers of days: the error names both, and the way out."""
    hours = DemandStage(Settings(demand=DemandSettings(bucket="H"))).open(0, 1)
    days = DemandStage(Settings(demand=DemandSettings(bucket="D"))).open(0, 1)
    with pytest.raises(RecoveryError, match=r"buckets of H in UTC.*D in UTC.*state reset demand-0"):
        days.restore(hours.extra())
    days.restore(days.extra())


def test_a_large_order_is_cancelled_whole() -> None:
    """All lines of the latest order can be cancelled, however many there are."""
    book = OrderBook()
    lines = tuple(OrderLine(product_id=f"p{number}") for number in range(1_000))
    assert len(book.purchase(Order("e", "o", "placed", START, lines), START)) == 1_000
    assert len(book.cancel("o", START + 1)) == 1_000


@given(sizes=st.lists(st.integers(1, 400), max_size=12), small=st.integers(0, 1_200))
def test_a_book_forgets_orders_whole_and_the_oldest_first(sizes: list[int], small: int) -> None:
    """What is known can be cancelled to its last line, and is what was bought last; paid, it counts no second time."""
    book, sizes = OrderBook(), [1] * small + sizes
    told = [
        Order(f"e{n}", f"o{n}", "placed", START + n, tuple(OrderLine(f"p{line}") for line in range(size)))
        for n, size in enumerate(sizes)
    ]
    for n, one in enumerate(told):
        assert len(book.purchase(one, START + n)) == sizes[n]
    end = START + len(told)
    known = [n for n, one in enumerate(told) if book.knows(one.order_id, end)]
    assert known == list(range(len(told)))[len(told) - len(known) :]
    assert (
        len(known) == len(told)
        or sum(sizes[n] for n in known) + sizes[known[0] - 1] > LINES_KEPT
        or len(known) == ORDERS_KEPT
    )
    assert len(book.lines) == sum(sizes[n] for n in known) <= LINES_KEPT
    for n in known:
        assert book.purchase(told[n], end) == []
        assert len(book.cancel(told[n].order_id, end)) == sizes[n]


def test_a_header_that_cannot_be_named_is_a_dead_letter() -> None:
    """What the client cannot decode beside the value is refused like an undecodable value, and stops nothing."""
    driver = TopologyDriver(Settings(), [ScoreStage], now_ms=START + 10_000)
    click = {"event_id": "c", "type": "view", "time": START, "user_id": "u", "product_id": "p"}
    driver.pipe(CLICKSTREAM, b"u", json.dumps(click).encode(), headers=((UNREADABLE_HEADER, b""),))
    driver.pipe(CLICKSTREAM, b"u", json.dumps(click).encode())
    driver.mark_time(START + 5_000, end=True)
    driver.run()
    assert len(driver.output(PREDICTIONS)) == 1
    [letter] = driver.output(DEADLETTERS)
    assert json.loads(letter.value or b"{}")["reason"] == "undecodable"

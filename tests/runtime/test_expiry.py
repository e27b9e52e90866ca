"""Laws of rows that nobody needs any more: they leave the store once, and only then."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import pairwise

from hypothesis import given, settings
from hypothesis import strategies as st

from streams.driver import TopologyDriver
from streams.errors import StoreUnavailable
from streams.runtime.checkpoint import Checkpoint
from streams.runtime.keeping import keep
from streams.settings import Settings
from streams.store import MemoryStore
from streams.topologies.score import ScoreStage

T0 = 1_700_000_000_000
DAY = 86_400_000
MEMORY_DAYS = ScoreStage(Settings()).memory_ms // DAY


class _Reluctant(MemoryStore):
    """Answers every question, and does not write while `full`."""

    full = False

    def checkpoint(self, task: str, checkpoint: Checkpoint) -> None:
        if self.full:
            raise StoreUnavailable("Redis is full")
        super().checkpoint(task, checkpoint)

    def users(self) -> set[str]:
        return {key[2:] for _, key in self.rows if key.startswith("u:")}


class _Shop:
    def __init__(self, swept: int = 100) -> None:
        self.swept = swept
        self.store = _Reluctant()
        self.driver = TopologyDriver(Settings(), [ScoreStage], store=self.store)
        self.sent = 0

    def click(self, user: str, day: float, *, due: bool = True) -> None:
        """Send a click of that day; then a checkpoint is `due`."""
        self._send("clickstream", user, day, {"type": "view", "product_id": "p"}, due=due)

    def order(self, user: str, day: float, status: str = "placed", *, due: bool = True) -> None:
        """Send an order of that day, with an id of its own."""
        order = {"order_id": f"{self.sent}", "status": status, "lines": [{"product_id": "p"}]}
        self._send("orders", user, day, order, due=due)

    def _send(self, topic: str, user: str, day: float, more: dict[str, object], *, due: bool) -> None:
        """Send it, and what moves the clock there; keep a checkpoint, if the store takes one."""
        time = self.driver.now_ms = T0 + int(day * DAY)
        event = {"event_id": f"{self.sent}", "time": time, "user_id": user, **more}
        self.sent += 1
        self.driver.pipe(topic, user.encode(), json.dumps(event).encode())
        self.driver.mark_time(time + 1)
        self.driver.run(checkpoint=False)
        if not due:
            return
        try:
            keep(self.store, self.driver.tasks("score")[0], 1_000, self.swept)
        except StoreUnavailable:
            assert self.store.full


@settings(max_examples=40)
@given(
    visits=st.lists(st.tuples(st.sampled_from("abcd"), st.integers(1, 20)), min_size=5, max_size=25),
    refused=st.sets(st.integers(0, 24)),
    crashes=st.sets(st.integers(0, 24)),
)
def test_rows_go_once_their_memory_is_over(visits: list[tuple[str, int]], refused: set[int], crashes: set[int]) -> None:
    """Whoever came within the memory is stored, and nobody else; each row that goes is counted once.

    That the store is full for a while, or the worker crashes, changes nothing of it.
    """
    shop, day, seen = _Shop(), 0, defaultdict[str, list[float]](list)
    for number, (user, days) in enumerate(visits):
        day += days
        seen[user].append(day)
        shop.store.full = number in refused
        shop.click(user, day)
        if number in crashes:
            shop.driver.crash("score")
    shop.store.full = False
    # Rows are listed by the day, and those of one day go with one checkpoint.
    end = [day + 2 + number / 100 for number in range(30)]
    for time in end:
        shop.click("z", time)
    for user, times in seen.items():
        if times[-1] > end[0] - MEMORY_DAYS:
            assert user in shop.store.users()
        elif times[-1] < end[0] - MEMORY_DAYS - 1:
            assert user not in shop.store.users()
    absences = [pairwise([*times, end[-1]]) for times in seen.values()]
    longest = sum(later - earlier >= MEMORY_DAYS for times in absences for earlier, later in times)
    assert shop.driver.counts("score").get("expired_rows", 0) <= longest


def test_what_is_looked_at_again_is_counted_once() -> None:
    """A store that answers but writes nothing is asked for the same old rows again and again."""
    shop = _Shop(swept=1)
    for number in range(3):
        shop.click(f"old{number}", number / 10)
    shop.store.full = True
    for day in range(1, 6):
        shop.click("new", MEMORY_DAYS + day)
    assert shop.store.users() == {"old0", "old1", "old2"}
    shop.store.full = False
    for day in range(6, 10):
        shop.click("new", MEMORY_DAYS + day)
    assert shop.store.users() == {"new"}
    assert shop.driver.counts("score")["expired_rows"] == 3


def test_a_period_that_is_over_before_it_is_stored_is_still_looked_at() -> None:
    """Of a log that is read faster than checkpoints are written, rows expire that the store has not heard of yet."""
    shop = _Shop()
    shop.store.full = True
    shop.click("old", 0)
    shop.click("new", MEMORY_DAYS + 2)
    shop.store.full = False
    for time in (2.1, 2.2, 2.3):
        shop.click("new", MEMORY_DAYS + time)
    assert shop.store.users() == {"new"}
    assert shop.driver.counts("score")["expired_rows"] == 1


def test_what_has_no_time_starves_no_other() -> None:
    """A return without its purchase at every checkpoint keeps no expired row in the store."""
    shop = _Shop()
    for step in range(60):
        day = step * 1.5
        shop.order(f"r{step}", day, "returned", due=False)
        shop.click(f"u{step}", day)
    assert len(shop.store.users()) <= 2 * (MEMORY_DAYS + 3) / 1.5
    assert not [key for _, key in shop.store.rows if key.startswith("o:")]


def test_a_row_made_anew_while_the_old_one_goes_is_listed_again() -> None:
    """An expired order book whose going is not written yet, and a return by the customer: it goes in its turn."""
    shop = _Shop()
    shop.order("x", 0)
    shop.store.full = True
    shop.click("y", MEMORY_DAYS + 3)
    shop.order("x", MEMORY_DAYS + 3.1, "returned")
    shop.store.full = False
    for day in range(4, 3 * MEMORY_DAYS):
        shop.click("y", MEMORY_DAYS + day)
    assert "o:x" not in {key for _, key in shop.store.rows}
    assert not {"u:x", "o:x"} & {key for keys in shop.store.periods.values() for key in keys}


def test_a_log_that_is_read_fast_leaves_no_backlog() -> None:
    """Ten days and more rows than one look's worth between two checkpoints: the store holds what the memory needs."""
    shop = _Shop(swept=5)
    for step in range(40):
        for number in range(10):
            shop.click(f"{step}-{number}", step * 10 + number, due=False)
        shop.click(f"{step}", step * 10 + 9.5)
    assert len(shop.store.users()) <= 11 * (MEMORY_DAYS / 10 + 2)


def test_who_comes_back_before_the_row_is_gone_keeps_it() -> None:
    """Dropped in memory but not in the store yet, then touched again: the new row stands."""
    shop = _Shop()
    shop.click("old", 0)
    shop.store.full = True
    shop.click("new", MEMORY_DAYS + 3)
    shop.click("old", MEMORY_DAYS + 3.1)
    shop.store.full = False
    shop.click("new", MEMORY_DAYS + 3.2)
    assert shop.store.users() == {"old", "new"}
    alone = _Shop()
    alone.click("old", MEMORY_DAYS + 3.1)
    (row,) = (row for (_, key), row in shop.store.rows.items() if key == "u:old")
    (fresh,) = (row for (_, key), row in alone.store.rows.items() if key == "u:old")
    assert row == fresh

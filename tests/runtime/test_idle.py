"""Laws of idle inputs: whatever waits for one is let go by markers, and soon no more of them are written."""

from __future__ import annotations

import json
from collections.abc import Sequence

from hypothesis import example, given, settings
from hypothesis import strategies as st

from streams.records import MARKER_HEADER, Input, Record
from streams.runtime.checkpoint import decode_header
from streams.runtime.marking import IdleInputs
from streams.runtime.merge import Entry
from streams.runtime.task import Task
from streams.settings import Settings
from streams.topologies.score import ScoreStage

INPUTS = (Input("clickstream", 0), Input("orders", 0))
MARKED = ((MARKER_HEADER, b"time"),)


LINE = {"product_id": "p"}


class Log:
    """A task and the log it reads; every record is appended at the same late time."""

    def __init__(self) -> None:
        chosen = Settings()
        self.task = Task(ScoreStage(chosen), 0, INPUTS, 1, chosen.time)
        self.task.start(dict.fromkeys(INPUTS, 0), dict.fromkeys(INPUTS, 0), 0)
        self._ends = dict.fromkeys(INPUTS, 0)

    def append(
        self, input_: Input, value: dict[str, object] | bytes, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> Sequence[Entry]:
        """Write a record, and let the task read it."""
        data = value if isinstance(value, bytes) else json.dumps(value).encode()
        record = Record(input_, self._ends[input_], None, data, 10**9, headers)
        self._ends[input_] += 1
        return self.task.feed([record])

    def work(self) -> int:
        """Take and apply what can be; return how many events it was."""
        taken = 0
        while (batch := self.task.take(100)) is not None:
            taken += len(batch.events)
            self.task.load(dict.fromkeys(self.task.missing(batch)))
            self.task.state.load_foreign("", {"p:p": None}, 0)
            self.task.step(batch, 0)
        return taken


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 5), st.booleans()), max_size=12))
def test_nothing_waits_for_ever(arrivals: list[tuple[int, int, bool]]) -> None:
    """With both inputs idle, markers at the release time let every event go, in a few rounds, and then stop."""
    log, events, applied = Log(), 0, 0
    for number, (kind, time, settle) in enumerate(arrivals):
        line = {"product_id": "p"}
        click = {"event_id": f"{number}", "type": "view", "time": time, "user_id": "u", **line}
        order = {"event_id": f"{number}", "order_id": f"{number}", "status": "placed", "time": time, "lines": [line]}
        if kind < 2:
            log.append(INPUTS[kind], click if kind == 0 else order)
            events += 1
        else:
            log.append(INPUTS[kind - 2], {"time": time, "source": "s"}, MARKED)
        if settle or number == len(arrivals) - 1:
            applied += log.work()
            rounds = 0
            while log.task.held_back_by() and (target := log.task.release_time()) is not None:
                for input_ in log.task.held_back_by():
                    log.append(input_, {"time": target, "source": "w"}, MARKED)
                applied += log.work()
                rounds += 1
                assert rounds <= 3
            assert applied == events


class Traffic:
    """A task of two inputs under a manual clock, and what it knows of their traffic."""

    def __init__(self) -> None:
        self.log, self.now = Log(), 100.0
        self.idle = IdleInputs(Settings().time, lambda: self.now)
        self.idle.begin()
        self.number = 0
        self.applied = 0

    def click(self, time: int) -> None:
        self.number += 1
        event = {"event_id": f"{self.number}", "type": "view", "time": time, "user_id": "u", "product_id": "p"}
        self._bring(INPUTS[0], event)

    def order(self, time: int) -> None:
        self.number += 1
        event = {"event_id": f"{self.number}", "order_id": f"{self.number}", "status": "placed", "time": time}
        self._bring(INPUTS[1], event | {"lines": [{"product_id": "p"}]})

    def garbage(self, input_: Input) -> None:
        self._bring(input_, b"garbage")

    def mark(self, input_: Input, time: int) -> None:
        self._bring(input_, {"time": time, "source": "w"}, MARKED)

    def _bring(
        self, input_: Input, value: dict[str, object] | bytes, headers: tuple[tuple[str, bytes], ...] = ()
    ) -> None:
        self.idle.heard(input_, self.log.append(input_, value, headers))
        self.applied += self.log.work()

    def marks(self, elsewhere: int | None = None) -> list[tuple[Input, int]]:
        return list(self.idle.marks([self.log.task], elsewhere))


IDLE_S = Settings().time.idle_ms / 1_000


def test_a_restart_remembers_how_far_an_input_was() -> None:
    """What made a click wait for no idle time makes none wait after a restart: the checkpoint says what was seen."""
    log = Log()
    log.append(INPUTS[1], {"event_id": "o", "order_id": "o", "status": "placed", "time": 1_000, "lines": [LINE]})
    log.append(INPUTS[0], {"time": 1_001, "source": "s"}, MARKED)
    assert log.work() == 1
    checkpoint, after = log.task.checkpoint(), Log()
    assert after.task.restore(checkpoint.header, decode_header(checkpoint.header), checkpoint.rows)
    assert [after.task.seen_until(input_) for input_ in INPUTS] == [None, 1_000]


def test_an_input_is_marked_when_it_is_at_its_end_and_quiet() -> None:
    """Not while there is more of it, not before its time, and once for each time."""
    traffic = Traffic()
    traffic.click(1_000)
    traffic.now += 10 * IDLE_S
    assert traffic.marks() == []  # nobody said that orders are at their end
    traffic.idle.at_end(INPUTS[1])
    assert traffic.marks() == []  # waited for since just now: a leap
    traffic.now += IDLE_S
    assert traffic.marks() == [(INPUTS[1], 1_001)]
    assert traffic.marks() == []


def test_a_marker_that_got_lost_is_sent_again() -> None:
    """What did not arrive is due again at once; what did comes back as a record, and is due for the next time only."""
    traffic = Traffic()
    traffic.click(1_000)
    traffic.idle.at_end(INPUTS[1])
    traffic.marks()
    traffic.now += IDLE_S
    sent = traffic.marks()
    assert sent == [(INPUTS[1], 1_001)]
    traffic.idle.unmarked(INPUTS[1])
    assert traffic.marks() == sent


def test_soon_after_an_order_a_click_waits_for_no_idle_time() -> None:
    """Within half the lateness of what the input brought last, a moment at its end is enough."""
    traffic = Traffic()
    traffic.order(1_000)
    traffic.click(2_000)
    traffic.log.work()
    traffic.idle.at_end(INPUTS[1])
    traffic.now += 0.1
    assert IDLE_S > 0.1
    assert traffic.marks() == [(INPUTS[1], 2_001)]


def test_what_is_near_does_not_wait_for_what_stands_far_behind_it() -> None:
    """A click soon after an order is released at once, also where a much later one has come already."""
    traffic = Traffic()
    far = 2_000 + Settings().time.allowed_lateness_s * 1_000
    traffic.order(1_000)
    traffic.click(2_000)
    traffic.click(far)
    traffic.idle.at_end(INPUTS[1])
    traffic.now += 0.1
    assert traffic.marks() == [(INPUTS[1], 2_001)]
    assert traffic.marks() == []
    traffic.now += IDLE_S
    assert traffic.marks() == [(INPUTS[1], far + 1)]


def test_a_task_that_never_had_anything_follows_those_of_other_workers() -> None:
    """With both inputs empty and quiet it is marked at the time of the others; without any, not at all."""
    traffic = Traffic()
    for input_ in INPUTS:
        traffic.idle.at_end(input_)
    traffic.marks(elsewhere=5_000)
    traffic.now += IDLE_S
    assert traffic.marks() == []
    assert traffic.marks(elsewhere=5_000) == [(input_, 5_000) for input_ in INPUTS]
    assert traffic.marks(elsewhere=5_000) == []


@settings(max_examples=400)
@example(arrivals=[("click", 5), ("click", 1), ("order", 1)], garbage=set())
@example(arrivals=[("order", 1), ("click", 9), ("garbage", 2)], garbage=set())
@given(
    arrivals=st.lists(
        st.tuples(st.sampled_from(["click", "order", "garbage", "late marker"]), st.integers(1, 9)), max_size=8
    ),
    garbage=st.sets(st.sampled_from(INPUTS)),
)
def test_what_is_refused_holds_nothing_up(arrivals: list[tuple[str, int]], garbage: set[Input]) -> None:
    """Whatever came, and however much garbage goes on coming, all events are applied within a few idle times.

    And no more markers are written than there are steps to take.
    """
    traffic, step_ms = Traffic(), Settings().time.allowed_lateness_s * 1_000 // 3
    for kind, place in arrivals:
        if kind == "garbage":
            traffic.garbage(INPUTS[place % 2])
        elif kind == "late marker":
            traffic.mark(INPUTS[place % 2], 1)
        else:
            (traffic.click if kind == "click" else traffic.order)(place * step_ms)
    events = sum(kind in ("click", "order") for kind, _ in arrivals)
    written = 0
    for _ in range(60):
        traffic.now += IDLE_S / 10
        for input_ in garbage:
            traffic.garbage(input_)
        for input_ in INPUTS:
            traffic.idle.at_end(input_)
        for input_, time in traffic.marks():
            traffic.mark(input_, time)
            written += 1
    assert traffic.applied == events
    assert written <= 4 * len(arrivals) + (60 if garbage else 0)


def test_a_marker_that_is_refused_is_sent_again() -> None:
    """It came back, and moved no time: a broker whose clock is behind took it for one of the future."""
    traffic = Traffic()
    traffic.click(1_000)
    traffic.idle.at_end(INPUTS[1])
    traffic.marks()
    traffic.now += IDLE_S
    assert traffic.marks() == [(INPUTS[1], 1_001)]
    traffic.mark(INPUTS[1], 10**12)
    traffic.idle.at_end(INPUTS[1])
    traffic.marks()
    traffic.now += IDLE_S
    assert traffic.marks() == [(INPUTS[1], 1_001)]

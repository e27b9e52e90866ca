"""Laws of the label clock, against a brute-force reading of the whole log."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.labels import Label, LabelClock, LabelLogError
from schemas.internal import Example, ExampleBatch, Outcome

HORIZON, LATENESS, CORRECTIONS = 20, 5, 30
END = 10_000

Log = list[tuple[int, ExampleBatch]]  # (offset, batch) of one partition


def clock(frontier: tuple[int, str] | None = None) -> LabelClock:
    return LabelClock(HORIZON, LATENESS, CORRECTIONS, frontier)


def example(name: str, user: str, as_of: int) -> Example:
    return Example(name, user, as_of, b"", (0, 0), None, 0.05, "purchase-prior:0")


def batch(
    task: int,
    tasks: int,
    watermark: int | None,
    examples: Sequence[Example] = (),
    outcomes: Sequence[Outcome] = (),
) -> ExampleBatch:
    return ExampleBatch(task, tasks, watermark, "h", list(examples), list(outcomes))


def feed_all(subject: LabelClock, logs: list[Log], random: Random) -> list[Label]:
    """Feed every message, the partitions interleaved at random."""
    labels: list[Label] = []
    cursors = [0] * len(logs)
    while left := [p for p, log in enumerate(logs) if cursors[p] < len(log)]:
        partition = random.choice(left)
        offset, message = logs[partition][cursors[partition]]
        labels += subject.feed(partition, offset, message)
        cursors[partition] += 1
    return labels


def rows(labels: list[Label]) -> list[tuple[int, str, bool, bool]]:
    return [(label.known_at, label.id, label.positive, label.correction) for label in labels]


@dataclass
class Event:
    """A click ("example"), an order or a cancel, `delay` after its own time in the log's order."""

    kind: Any
    user: int
    time: int
    delay: int
    order_id: int


events = st.lists(
    st.builds(
        Event,
        kind=st.sampled_from(["example", "example", "example", "order", "order", "cancel"]),
        user=st.integers(0, 3),
        time=st.integers(0, 150),
        delay=st.integers(0, LATENESS),
        order_id=st.integers(0, 5),
    ),
    max_size=40,
)


def build(happened: list[Event], tasks: int, random: Random, redriven: float = 0.0) -> list[Log]:
    """Write the events of each partition as a score task would: late within reason, cut into batches at random."""
    logs: list[Log] = []
    for task in range(tasks):
        mine = [event for event in happened if event.user % tasks == task]
        mine.sort(key=lambda event: event.time + event.delay)
        log: Log = []
        offset, watermark = random.randrange(3), 0
        while mine or not log:
            size = random.randint(1, 4)
            part, mine = mine[:size], mine[size:]
            clicks = [
                example(f"{e.user}-{e.time}-{n}-{offset}", f"u{e.user}", e.time)
                for n, e in enumerate(part)
                if e.kind == "example"
            ]
            outcomes = [Outcome(e.kind, f"u{e.user}", f"o{e.order_id}", e.time) for e in part if e.kind != "example"]
            if random.random() < redriven:
                outcomes.append(Outcome("order", f"u{task}", f"late{offset}", random.randint(0, 150)))
            if part and random.random() < 0.7:
                watermark = max(watermark, max(e.time for e in part) - LATENESS)
            log.append((offset, batch(task, tasks, watermark if random.random() < 0.7 else None, clicks, outcomes)))
            offset += random.randint(1, 3)  # transaction markers take offsets, too
        log.append((offset, batch(task, tasks, END)))
        logs.append(log)
    return logs


def expected(logs: list[Log]) -> list[tuple[int, str, bool, bool]]:
    """Read the whole log at once: for each example, its orders that count, and when each was cancelled."""
    clicks = [e for log in logs for _, message in log for e in message.examples]
    outcomes = [o for log in logs for _, message in log for o in message.outcomes]
    memory = HORIZON + LATENESS
    orders: list[tuple[int, str, int | None]] = []  # time, user, cancelled at
    for user in {o.user for o in outcomes}:
        placed: dict[str | None, int] = {}
        own = sorted((o for o in outcomes if o.user == user), key=lambda o: (o.time, o.kind))  # cancel < order
        first_cancel: dict[str | None, int] = {}
        standing: dict[str | None, int] = {}
        for o in own:
            if o.kind == "cancel":
                first_cancel.setdefault(o.order_id, o.time)
                if o.order_id in standing:
                    index = standing[o.order_id]
                    if orders[index][2] is None:
                        orders[index] = (*orders[index][:2], o.time)
            else:
                before = [placed.get(o.order_id), first_cancel.get(o.order_id)]
                if any(b is not None and o.time - b <= memory for b in before):
                    continue
                placed[o.order_id] = o.time
                standing[o.order_id] = len(orders)
                orders.append((o.time, user, None))
    out = []
    for e in clicks:
        settled = e.as_of + HORIZON + LATENESS
        counting = sorted(o for o in orders if o[1] == e.user and e.as_of < o[0] <= e.as_of + HORIZON)
        if not counting:
            out.append((settled, e.id, False, False))
            continue
        out.append((counting[0][0], e.id, True, False))
        lost = [o[2] for o in counting]
        if all(at is not None and at <= settled + CORRECTIONS for at in lost):
            out.append((max(settled, *[at for at in lost if at is not None]), e.id, False, True))
    return sorted(out)


@given(events, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_labels_are_what_the_whole_log_says(happened: list[Event], tasks: int, random: Random) -> None:
    """Whatever the cut into batches and the interleaving: labels, known-at, corrections and order are the oracle's."""
    logs = build(happened, tasks, random)
    assert rows(feed_all(clock(), logs, random)) == expected(logs)


@given(events, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_interleaving_changes_nothing(happened: list[Event], tasks: int, random: Random) -> None:
    """The same log gives the same sequence, redriven orders behind the watermark included."""
    logs = build(happened, tasks, random, redriven=0.3)
    first = rows(feed_all(clock(), logs, random))
    assert first == rows(feed_all(clock(), logs, random))
    assert first == sorted(first)
    assert len({row[1] for row in first}) == sum(len(message.examples) for log in logs for _, message in log)


@given(events, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=300, deadline=None)
def test_a_restart_goes_on_where_it_stopped(happened: list[Event], tasks: int, random: Random) -> None:
    """At any point, what came before and what a new clock makes of the log from the floor is the whole sequence."""
    logs = build(happened, tasks, random, redriven=0.2)
    whole = rows(feed_all(clock(), logs, random))
    before, labels = clock(), []
    for partition, log in enumerate(logs):
        for offset, message in log[: random.randint(0, len(log))]:
            labels += before.feed(partition, offset, message)
    floor = before.floor()
    rest = [[(o, m) for o, m in log if o >= floor.get(p, 0)] for p, log in enumerate(logs)]
    after = feed_all(clock(before.frontier), rest, random)
    assert rows(labels) + rows(after) == whole


@given(events, st.randoms(use_true_random=False))
@settings(deadline=None)
def test_memory_ends_with_event_time(happened: list[Event], random: Random) -> None:
    """Once all horizons and corrections are over, nothing is kept and the floor is the last message."""
    logs = build(happened, 1, random)
    subject = clock()
    feed_all(subject, logs, random)
    assert subject.pending == 0
    assert subject.floor() == {0: logs[0][-1][0]}


def test_nothing_is_released_before_every_partition_spoke() -> None:
    """The least watermark of all tasks decides, and one that was not heard has none."""
    subject = clock()
    assert subject.feed(0, 0, batch(0, 2, END, [example("a", "u", 1)])) == []
    assert subject.watermark is None
    assert subject.pending == 1
    assert subject.feed(1, 0, batch(1, 2, None)) == []
    assert rows(subject.feed(1, 1, batch(1, 2, 27))) == [(26, "a", False, False)]


def test_what_bears_the_watermark_itself_waits() -> None:
    """A label known exactly at the watermark may still be joined by another of that instant."""
    subject = clock()
    assert subject.feed(0, 0, batch(0, 1, 25, [example("b", "u", 0)])) == []
    assert [label.id for label in subject.feed(0, 1, batch(0, 1, 26, [example("a", "u", 0)]))] == ["a", "b"]


def test_a_cancellation_before_the_order_is_known_flips_the_label() -> None:
    """An order cancelled at its own time never was one; a later order in the horizon may still be the first."""
    subject = clock()
    outcomes = [Outcome("order", "u", "o", 5), Outcome("cancel", "u", "o", 5), Outcome("order", "u", "p", 9)]
    labels = subject.feed(0, 0, batch(0, 1, END, [example("a", "u", 0), example("b", "v", 0)], outcomes))
    assert rows(labels) == [(9, "a", True, False), (25, "b", False, False)]


@pytest.mark.parametrize(
    ("outcomes", "labels"),
    [
        ([Outcome("cancel", "u", "o", 7)], [(5, True, False), (25, False, True)]),
        ([Outcome("cancel", "u", "o", 40)], [(5, True, False), (40, False, True)]),
        ([Outcome("cancel", "u", "o", 56)], [(5, True, False)]),
        ([Outcome("cancel", "u", "o", 7), Outcome("order", "u", "p", 20)], [(5, True, False)]),
        (
            [Outcome("cancel", "u", "o", 7), Outcome("order", "u", "p", 20), Outcome("cancel", "u", "p", 30)],
            [(5, True, False), (30, False, True)],
        ),
    ],
    ids=["within the horizon", "after it", "too late", "ordered again", "and cancelled again"],
)
def test_a_cancellation_after_known_at_is_a_counter_example(
    outcomes: list[Outcome], labels: list[tuple[int, bool, bool]]
) -> None:
    """A released positive without any order left is followed by one declared counter-example, if it is in time."""
    outcomes = [Outcome("order", "u", "o", 5), *outcomes]
    found = clock().feed(0, 0, batch(0, 1, END, [example("a", "u", 0)], outcomes))
    assert [(label.known_at, label.positive, label.correction) for label in found] == labels


def test_an_unmatched_cancellation_is_counted() -> None:
    """A cancellation of an unknown order changes no label."""
    subject = clock()
    outcomes = [Outcome("cancel", "u", "?", 3), Outcome("cancel", "u", None, 3), Outcome("session_end", "u", None, 4)]
    assert len(subject.feed(0, 0, batch(0, 1, END, [example("a", "u", 0)], outcomes))) == 1
    assert subject.unmatched_cancellations == 2


def test_a_log_that_contradicts_itself_is_refused() -> None:
    """Offsets that go back, and another number of tasks, name the place and the repair."""
    subject = clock()
    subject.feed(0, 5, batch(0, 2, None))
    with pytest.raises(LabelLogError, match=r"examples\[0\] offset 5: comes after offset 5"):
        subject.feed(0, 5, batch(0, 2, None))
    with pytest.raises(LabelLogError, match="repartitioned"):
        subject.feed(0, 6, batch(0, 3, None))

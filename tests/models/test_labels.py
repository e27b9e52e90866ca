"""Laws of the label clock, against a brute-force reading of the whole log."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.labels import Label, LabelClock, LabelLogError
from schemas.internal import Outcome
from tests.models.logs import CORRECTIONS, END, HORIZON, LATENESS, Event, Log, batch, build, example, happenings

events = st.one_of(happenings(users=4, orders=6, until=150, size=30), happenings(users=2, orders=2, until=300, size=40))


def clock(before: LabelClock | None = None, corrections: int = CORRECTIONS) -> LabelClock:
    if before is None:
        return LabelClock(HORIZON, LATENESS, corrections)
    return LabelClock(HORIZON, LATENESS, corrections, before.frontier, before.origin)


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
    """Return the true labels."""
    return [(one.known_at, one.id, one.positive, one.correction) for one in labels if not one.provisional]


def whole_rows(labels: list[Label]) -> list[tuple[int, str, bool, bool, bool, bool]]:
    """Return all that came out."""
    return [(one.known_at, one.id, one.positive, one.correction, one.provisional, one.provided) for one in labels]


def expected(logs: list[Log]) -> list[tuple[int, str, bool, bool]]:
    """Read the whole log at once: for each example, its orders that count, and when each was cancelled."""
    clicks = [e for log in logs for _, message in log for e in message.examples]
    outcomes = [o for log in logs for _, message in log for o in message.outcomes]
    memory = HORIZON + LATENESS
    orders: list[tuple[int, str, int | None]] = []  # time, user, cancelled at
    for user in {o.user for o in outcomes}:
        own = sorted((o for o in outcomes if o.user == user), key=lambda o: (o.time, o.kind))  # cancel < order
        heard: dict[str | None, int] = {}
        standing: dict[str | None, int] = {}
        for o in own:
            before = heard.get(o.order_id)
            heard[o.order_id] = o.time
            if o.kind == "cancel":
                if o.order_id in standing:
                    index = standing[o.order_id]
                    if orders[index][2] is None:
                        orders[index] = (*orders[index][:2], o.time)
            else:
                if before is not None and o.time - before <= memory:
                    continue
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
@settings(max_examples=100, deadline=None)
def test_labels_are_what_the_whole_log_says(happened: list[Event], tasks: int, random: Random) -> None:
    """Whatever the cut into batches and the interleaving: labels, known-at, corrections and order are the oracle's."""
    logs = build(happened, tasks, random)
    assert rows(feed_all(clock(), logs, random)) == expected(logs)


@given(events, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_a_young_log_tells_of_negatives_ahead_of_time(happened: list[Event], tasks: int, random: Random) -> None:
    """In the warm-up, each example without an order while patience lasts is a provisional negative, and none after."""
    logs = build(happened, tasks, random)
    subject = clock()
    labels = feed_all(subject, logs, random)
    clicks = {e.id: e for log in logs for _, message in log for e in message.examples}
    origin = min((e.as_of for e in clicks.values()), default=None)
    assert subject.origin == origin
    wanted = []
    for known_at, name, _, correction in rows(labels):
        patience = subject.patience(clicks[name].as_of)
        assert 0 < patience <= HORIZON + LATENESS
        if not correction and patience < HORIZON + LATENESS and known_at > clicks[name].as_of + patience:
            wanted.append((clicks[name].as_of + patience, name))
    assert sorted(wanted) == [label.key for label in labels if label.provisional]
    assert {name for _, name in wanted} == {label.id for label in labels if label.provided}
    assert not any(label.provisional and (label.positive or label.correction) for label in labels)


@given(events, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_interleaving_changes_nothing(happened: list[Event], tasks: int, random: Random) -> None:
    """The same log gives the same sequence, redriven orders behind the watermark included."""
    logs = build(happened, tasks, random, redriven=0.3)
    found = feed_all(clock(), logs, random)
    assert whole_rows(found) == whole_rows(feed_all(clock(), logs, random))
    first = [label.key for label in found]
    assert first == sorted(set(first))
    assert len({row[1] for row in rows(found)}) == sum(len(message.examples) for log in logs for _, message in log)


@given(events, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=100, deadline=None)
def test_a_restart_goes_on_where_it_stopped(happened: list[Event], tasks: int, random: Random) -> None:
    """At any point, what came before and what a new clock makes of the log from the floor is the whole sequence."""
    logs, corrections = build(happened, tasks, random, redriven=0.2), random.choice([0, CORRECTIONS])
    whole = whole_rows(feed_all(clock(corrections=corrections), logs, random))
    before, labels = clock(corrections=corrections), []
    for partition, log in enumerate(logs):
        for offset, message in log[: random.randint(0, len(log))]:
            labels += before.feed(partition, offset, message)
    floor = before.floor()
    rest = [[(o, m) for o, m in log if o >= floor.get(p, 0)] for p, log in enumerate(logs)]
    after = feed_all(clock(before, corrections), rest, random)
    assert whole_rows(labels) + whole_rows(after) == whole


@given(events, st.randoms(use_true_random=False))
@settings(max_examples=40, deadline=None)
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
    assert rows(subject.feed(0, 0, batch(0, 1, 25, [example("b", "u", 0)]))) == []
    labels = subject.feed(0, 1, batch(0, 1, 26, [example("a", "u", 0)]))
    assert [label.id for label in labels if not label.provisional] == ["a", "b"]


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
    assert [(known_at, positive, correction) for known_at, _, positive, correction in rows(found)] == labels


def test_an_unmatched_cancellation_is_counted() -> None:
    """A cancellation of an unknown order changes no label."""
    subject = clock()
    outcomes = [Outcome("cancel", "u", "?", 3), Outcome("cancel", "u", None, 3), Outcome("session_end", "u", None, 4)]
    assert rows(subject.feed(0, 0, batch(0, 1, END, [example("a", "u", 0)], outcomes))) == [(25, "a", False, False)]
    assert subject.unmatched_cancellations == 2


def test_a_log_that_contradicts_itself_is_refused() -> None:
    """Offsets that go back, and another number of tasks, name the place and the repair."""
    subject = clock()
    subject.feed(0, 5, batch(0, 2, None))
    with pytest.raises(LabelLogError, match=r"examples\[0\] offset 5: comes after offset 5"):
        subject.feed(0, 5, batch(0, 2, None))
    with pytest.raises(LabelLogError, match="repartitioned"):
        subject.feed(0, 6, batch(0, 3, None))

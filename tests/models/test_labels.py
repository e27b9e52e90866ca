"""Laws of the label clock, against a brute-force reading of the whole log."""

from __future__ import annotations

from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from models.labels import Label, LabelClock, LabelLogError
from schemas.internal import Example, ExampleBatch, Outcome
from tests.models.logs import CORRECTIONS, END, HORIZON, LATENESS, Event, Log, batch, build, example, happenings

events = st.one_of(happenings(users=4, orders=6, until=150, size=30), happenings(users=2, orders=2, until=300, size=40))


bounds = st.one_of(st.none(), st.integers(1, 12))


def clock(before: LabelClock | None = None, corrections: int = CORRECTIONS, most: int | None = None) -> LabelClock:
    if before is None:
        return LabelClock(HORIZON, LATENESS, corrections, most=most)
    return LabelClock(HORIZON, LATENESS, corrections, before.frontier, before.origin, most)


def tell(subject: LabelClock, logs: list[Log], partition: int, offset: int, message: ExampleBatch) -> list[Label]:
    """Feed one message, and again those that the clock wants to see again."""
    labels = subject.feed(partition, offset, message)
    while subject.wanted is not None:
        wanted, start = subject.wanted
        for again, found in [(o, m) for o, m in logs[wanted] if o >= start][: 1 + offset % 4]:
            subject.recall(wanted, again, found)
        labels += subject.release()
    return labels


def feed_all(subject: LabelClock, logs: list[Log], random: Random, begin: dict[int, int] | None = None) -> list[Label]:
    """Feed every message from `begin` on, the partitions interleaved at random."""
    labels: list[Label] = []
    cursors = [sum(offset < (begin or {}).get(p, 0) for offset, _ in log) for p, log in enumerate(logs)]
    while left := [p for p, log in enumerate(logs) if cursors[p] < len(log)]:
        partition = random.choice(left)
        labels += tell(subject, logs, partition, *logs[partition][cursors[partition]])
        cursors[partition] += 1
    return labels


def rows(labels: list[Label]) -> list[tuple[int, str, bool, bool]]:
    """Return the true labels."""
    return [(one.known_at, one.id, one.positive, one.correction) for one in labels if not one.provisional]


def whole_rows(labels: list[Label]) -> list[tuple[int, str, bool, bool, bool, bool]]:
    """Return all that came out."""
    return [(one.known_at, one.id, one.positive, one.correction, one.provisional, one.provided) for one in labels]


def places(logs: list[Log]) -> list[Example]:
    """Return all examples in the order in which they happened: by time, then by their place in the log."""
    found = [
        (e.as_of, p, offset, n, e)
        for p, log in enumerate(logs)
        for offset, message in log
        for n, e in enumerate(message.examples)
    ]
    return [e for *_, e in sorted(found, key=lambda one: one[:4])]


def expected(logs: list[Log], most: int | None = None) -> list[tuple[int, str, bool, bool]]:
    """Read the whole log at once: for each example, its orders that count, and when each was cancelled.

    With `most`, an example leaves memory when that many newer ones have happened: an order after that only shows at the
    end of the horizon; and once that many positives were settled after one, it is no longer corrected.
    """
    clicks = places(logs)
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
    never = END * 2
    left = [clicks[n + most].as_of if most and n + most < len(clicks) else never for n in range(len(clicks))]
    ends: list[tuple[Example, int, list[tuple[int, str, int | None]]]] = []
    out = []
    for e, gone in zip(clicks, left, strict=True):
        settled = e.as_of + HORIZON + LATENESS
        counting = [o for o in orders if o[1] == e.user and e.as_of < o[0] <= e.as_of + HORIZON]
        counting.sort(key=lambda order: order[0])
        early = bool(counting) and counting[0][0] <= gone
        standing_then = [o for o in counting if o[2] is None or o[2] > settled]
        if early:
            out.append((counting[0][0], e.id, True, False))
        if standing_then:
            ends.append((e, settled, standing_then))
        if not early or not standing_then:
            out.append((settled, e.id, bool(standing_then), early))
    for n, (e, settled, counting) in enumerate(ends):
        forgotten = ends[n + most][1] if most and n + most < len(ends) else never
        lost = max(never if at is None else at for _, _, at in counting)
        if lost <= min(settled + CORRECTIONS, forgotten):
            out.append((lost, e.id, False, True))
    return sorted(out)


@given(events, st.integers(1, 3), bounds, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_labels_are_what_the_whole_log_says(
    happened: list[Event], tasks: int, most: int | None, random: Random
) -> None:
    """Whatever the cut into batches and the interleaving: labels, known-at, corrections and order are the oracle's."""
    logs = build(happened, tasks, random)
    assert rows(feed_all(clock(most=most), logs, random)) == expected(logs, most)


@pytest.mark.parametrize("seed", range(20))
def test_a_small_memory_in_a_busy_log(seed: int) -> None:
    """Much happens, little is held: labels are the oracle's, without a break and with restarts anywhere."""
    random = Random(seed)
    for _ in range(20):
        happened = [
            Event(
                random.choice(["example", "example", "example", "order", "order", "cancel"]),
                random.randrange(4),
                random.randrange(150),
                random.randrange(LATENESS + 1),
                random.randrange(6),
            )
            for _ in range(40)
        ]
        logs, most = build(happened, random.randint(1, 3), random), random.randint(1, 3)
        wanted = expected(logs, most)
        assert rows(feed_all(clock(most=most), logs, random)) == wanted
        before, labels = clock(most=most), []
        for partition, log in enumerate(logs):
            for offset, message in log[: random.randint(0, len(log))]:
                labels += tell(before, logs, partition, offset, message)
        labels += feed_all(clock(before, most=most), logs, random, before.floor())
        assert rows(labels) == wanted


@given(events, st.integers(1, 3), st.randoms(use_true_random=False))
@settings(max_examples=50, deadline=None)
def test_a_bound_that_is_never_reached_changes_nothing(happened: list[Event], tasks: int, random: Random) -> None:
    """Memory for all examples, and no bound: the same labels, provisional ones included."""
    logs = build(happened, tasks, random, redriven=0.2)
    assert whole_rows(feed_all(clock(most=1_000), logs, random)) == whole_rows(feed_all(clock(), logs, random))


@pytest.mark.parametrize("most", [1, 10, 100])
def test_memory_is_bounded(most: int) -> None:
    """However long the horizon: so many examples, so many positives, and a few messages of the second reading."""
    subject, horizon, size = LabelClock(2_000, LATENESS, CORRECTIONS, most=most), 2_000, 4
    log: Log = []
    for start in range(0, 10_000, size):
        clicks = [example(f"{time:05}", f"u{time % 50}", time) for time in range(start, start + size)]
        outcomes = [Outcome("order", f"u{start % 50}", f"o{start}", start)] if start % 100 == 0 else []
        log.append((start, batch(0, 1, start - LATENESS, clicks, outcomes)))
    labels, longest = [], 0
    for offset, message in log:
        labels += tell(subject, [log], 0, offset, message)
        longest = max(longest, subject.evicted)
        assert subject.pending <= 2 * most + 2 * LATENESS + 3 * size
    assert longest > horizon - most - 3 * LATENESS
    assert len({label.id for label in labels if not label.provisional}) > 7_900
    log.append((10_000, batch(0, 1, END * 2)))
    tell(subject, [log], 0, *log[-1])
    assert subject.pending == subject.evicted == 0


def test_what_is_needed_again_and_gone_is_named() -> None:
    """A log that was cut before the horizon's end: no guess, but the place and the repair."""
    subject = clock(most=1)
    for offset in range(3):
        subject.feed(0, offset, batch(0, 1, offset, [example(f"{offset}", "u", offset)]))
    subject.feed(0, 3, batch(0, 1, END))
    assert subject.wanted == (0, 0)
    for offset in (2, 4, 9):  # the last two: nothing is left of what was heard
        with pytest.raises(LabelLogError, match=r"examples\[0\] offset 0: gone .* retention.ms"):
            subject.recall(0, offset, batch(0, 1, 2))


def test_the_warm_up_begins_with_what_the_watermark_passed_first() -> None:
    """An example behind its partition's watermark is older than the first, and may come at any turn: no origin."""
    first = [(0, 0, batch(0, 2, 100, [example("a", "a", 100)])), (0, 1, batch(0, 2, 120))]
    second = [(1, 0, batch(1, 2, 109)), (1, 1, batch(1, 2, 900))]
    late = (0, 2, batch(0, 2, 900, [example("old", "u", 20)]))
    told = []
    for order in ([*first, late, *second], [*first, second[0], late, second[1]]):
        subject = LabelClock(100, 10)
        told.append(whole_rows([label for message in order for label in subject.feed(*message)]))
        assert subject.origin == 100
    assert told[0] == told[1]


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


@given(events, st.integers(1, 3), bounds, st.randoms(use_true_random=False))
@settings(max_examples=80, deadline=None)
def test_interleaving_changes_nothing(happened: list[Event], tasks: int, most: int | None, random: Random) -> None:
    """The same log gives the same sequence, redriven orders behind the watermark included."""
    logs = build(happened, tasks, random, redriven=0.3)
    found = feed_all(clock(most=most), logs, random)
    assert whole_rows(found) == whole_rows(feed_all(clock(most=most), logs, random))
    first = [label.key for label in found]
    assert first == sorted(set(first))
    assert len({row[1] for row in rows(found)}) == sum(len(message.examples) for log in logs for _, message in log)


@given(events, st.integers(1, 3), bounds, st.randoms(use_true_random=False))
@settings(max_examples=200, deadline=None)
def test_a_restart_goes_on_where_it_stopped(
    happened: list[Event], tasks: int, most: int | None, random: Random
) -> None:
    """At any point, what came before and what a new clock makes of the log from the floor is the whole sequence."""
    logs, corrections = build(happened, tasks, random, redriven=0.2), random.choice([0, CORRECTIONS])
    whole = whole_rows(feed_all(clock(corrections=corrections, most=most), logs, random))
    before, labels = clock(corrections=corrections, most=most), []
    for partition, log in enumerate(logs):
        for offset, message in log[: random.randint(0, len(log))]:
            labels += tell(before, logs, partition, offset, message)
    after = feed_all(clock(before, corrections, most), logs, random, before.floor())
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
    subject, clicks = clock(), [example("a", "u", 20), example("b", "v", 20)]
    assert rows(subject.feed(0, 0, batch(0, 1, 25, clicks, [Outcome("order", "v", "o", 25)]))) == []
    labels = subject.feed(0, 1, batch(0, 1, 26, [], [Outcome("order", "u", "p", 25)]))
    assert rows(labels) == [(25, "a", True, False), (25, "b", True, False)]


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

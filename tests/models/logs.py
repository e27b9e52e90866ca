"""Examples logs as score tasks would write them: late within reason, cut into messages at random, offsets with gaps."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from hypothesis import strategies as st

from schemas.internal import Example, ExampleBatch, Outcome

HORIZON, LATENESS, CORRECTIONS = 20, 5, 30
END = 10_000

Log = list[tuple[int, ExampleBatch]]  # (offset, batch) of one partition


@dataclass
class Event:
    """A click ("example"), an order or a cancel, `delay` after its own time in the log's order."""

    kind: Any
    user: int
    time: int
    delay: int
    order_id: int


def happenings(users: int, orders: int, until: int, size: int) -> st.SearchStrategy[list[Event]]:
    """Return lists of events; the fewer `users` and `orders`, the more repeat or undo one another."""
    event = st.builds(
        Event,
        kind=st.sampled_from(["example", "example", "example", "order", "order", "cancel"]),
        user=st.integers(0, users - 1),
        time=st.integers(0, until),
        delay=st.integers(0, LATENESS),
        order_id=st.integers(0, orders - 1),
    )
    return st.lists(event, max_size=size)


def example(name: str, user: str, as_of: int, vector: bytes = b"") -> Example:
    """Return an example with what matters here."""
    return Example(name, user, as_of, vector, (0, 0), None, 0.05, "purchase-prior:0")


def batch(
    task: int,
    tasks: int,
    watermark: int | None,
    examples: Sequence[Example] = (),
    outcomes: Sequence[Outcome] = (),
) -> ExampleBatch:
    """Return a message."""
    return ExampleBatch(task, tasks, watermark, "h", list(examples), list(outcomes))


def build(
    happened: list[Event],
    tasks: int,
    random: Random,
    redriven: float = 0.0,
    end: int = END,
    vector: Callable[[int], bytes] = lambda time: b"",
    scattered: bool = False,
) -> list[Log]:
    """Write the events to their users' partitions, or `scattered` over all of them."""
    logs: list[Log] = []
    tasks_of = [random.randrange(tasks) if scattered else event.user % tasks for event in happened]
    for task in range(tasks):
        mine = [event for event, of in zip(happened, tasks_of, strict=True) if of == task]
        mine.sort(key=lambda event: event.time + event.delay)
        log: Log = []
        offset, watermark = random.randrange(3), 0
        while mine or not log:
            size = random.randint(1, 4)
            part, mine = mine[:size], mine[size:]
            clicks = [
                example(f"{e.user}-{e.time}-{n}-{task}-{offset}", f"u{e.user}", e.time, vector(e.time))
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
        log.append((offset, batch(task, tasks, end)))
        logs.append(log)
    return logs

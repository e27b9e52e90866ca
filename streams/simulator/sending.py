"""The simulated shop into the topics, at a steady rate or as fast as can be."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from streams.records import CATALOG, CLICKSTREAM, ORDERS, PLAN
from streams.settings import Settings
from streams.simulator.shop import Shop
from streams.sources.replay import MARKER_EVENTS, MARKER_S, Clock, WallClock
from streams.sources.sending import Sender


@dataclass(frozen=True, slots=True)
class SimulateOptions:
    """`rate` in events per second (None: as fast as can be); stop after `duration_s` (None: at the end)."""

    rate: float | None = None
    duration_s: float | None = None


def send_shop(
    shop: Shop,
    settings: Settings,
    options: SimulateOptions,
    *,
    clock: Clock | None = None,
    report: Callable[[int, int], None] = lambda events, time_ms: None,
) -> dict[str, Any]:
    """Send the shop's events, faults included, with time markers and an end; return the counts.

    `report` is told the events sent and the event time reached. Raises TidecastError where no broker answers,
    TopicsError where topics are missing.
    """
    clock = clock or WallClock()
    started = marked_at = clock.now()
    reached = sent = unmarked = 0
    with Sender(settings, shop.config.name, (CLICKSTREAM, ORDERS, CATALOG, PLAN)) as sender:
        for topic, key, value, time_ms, _ in shop.events():
            sender.send(topic, key, value)
            if topic in (CLICKSTREAM, ORDERS):
                reached = max(reached, time_ms)
                unmarked += 1
                sent += 1
            if unmarked < MARKER_EVENTS and sent & 31:
                continue
            now = clock.now()
            if options.rate is not None and (ahead := started + sent / options.rate - now) > 0:
                clock.sleep(ahead)
                now = clock.now()
            if unmarked >= MARKER_EVENTS or now - marked_at >= MARKER_S:
                sender.mark(reached)
                unmarked, marked_at = 0, now
            report(sent, reached)
            if options.duration_s is not None and now - started >= options.duration_s:
                break
        sender.mark(reached, b"end")
        sender.flush()
    return {
        "source": shop.config.name,
        "sent": dict(sender.counts),
        "faults": dict(shop.faults),
        "last_time": reached,
        "seconds": round(clock.now() - started, 3),
    }

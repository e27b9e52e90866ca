"""Catalog and plan in the plainest words: all entries kept, and looked at for each click.

It shares nothing with the tables that serve, so that the two can be held against each other.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import replace

from features.columns import Event
from features.sets import PROMOTION
from schemas.codec import Catalog, DecodeError, Plan, decode_catalog, decode_plan
from schemas.internal import Example
from streams.records import CATALOG, PLAN, Input
from streams.topologies.shop import shop_of
from streams.verification.reading import Reading


class LoggedFacts:
    """What catalog and plan held, up to any offset. Memory: all of both."""

    def __init__(self, reading: Reading) -> None:
        convert = shop_of(reading.settings).exchange.convert
        self._entries: dict[tuple[str, str | None], list[tuple[int, Catalog | Plan]]] = defaultdict(list)
        for topic in (CATALOG, PLAN):
            for record in reading.read(Input(topic, 0)):
                try:
                    value = record.value or b""
                    entry: Catalog | Plan
                    entry = convert(decode_catalog(value)) if topic == CATALOG else convert(decode_plan(value))
                except DecodeError:
                    continue
                self._entries[topic, entry.product_id].append((record.offset, entry))

    def shown(self, event: Event, example: Example) -> Event:
        """Return the click of `example` with the market that it was served with: what was read by then."""
        if event.product is None:
            return event
        catalog, plan = example.facts
        listed = self._valid(CATALOG, event.product, event.time, catalog)
        planned = self._valid(PLAN, event.product, event.time, plan)
        promotions = [
            entry.covariates[PROMOTION]
            for entry in (planned, self._valid(PLAN, None, event.time, plan))
            if isinstance(entry, Plan) and PROMOTION in entry.covariates
        ]
        return replace(
            event,
            list_minor=_number(listed, "unit_price"),
            stock=_number(listed, "stock"),
            plan_minor=_number(planned, "unit_price"),
            promotion=next(iter(promotions), 0.0),
        )

    def _valid(self, topic: str, product: str | None, time: int, before: int) -> Catalog | Plan | None:
        """Return what was valid at `time` (ms) of the records below an offset; a repeated event id says nothing new."""
        first: dict[tuple[int, str], Catalog | Plan] = {}
        for offset, entry in self._entries.get((topic, product), ()):
            if offset < before and entry.time <= time:
                first.setdefault((entry.time, entry.event_id), entry)
        return first[max(first)] if first else None


def _number(entry: Catalog | Plan | None, name: str) -> int:
    value = getattr(entry, name, None)
    return -1 if value is None else int(value)

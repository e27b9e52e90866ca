"""What goes wrong on the way from a shop to its log: duplicates, disorder, lateness, damage, wrong clocks."""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple
from zlib import crc32

import msgspec
import numpy as np

from schemas.codec import Click, encode_event
from streams.records import CLICKSTREAM, ORDERS
from streams.simulator.config import FaultRates
from streams.sources.reader import SourceEvent


class Sent(NamedTuple):
    """One record on its way to the log; the order of the sequence is that of the log.

    `time_ms`: when it happened (UTC ms), whatever its own clock says. `faults`: what was done to it, by the names of
    `Faults.counts`; "duplicate" is the second of two, which both bear the other names.
    """

    topic: str
    key: bytes | None
    value: bytes
    time_ms: int
    faults: tuple[str, ...] = ()


_CHUNK = 4_096
_DRAWS = 6


class Faults:
    """Applies fault rates to a stream of events; `counts` says how often each was done."""

    def __init__(self, rates: FaultRates, seed: Sequence[int]) -> None:
        self._rates = rates
        self._rng = np.random.default_rng(list(seed))
        self.counts: Counter[str] = Counter()

    def apply(self, events: Iterable[SourceEvent]) -> Iterator[Sent]:
        """Yield events as they reach the log. Only clicks and orders go wrong, and only clicks are damaged."""
        held: list[tuple[int, int, Sent]] = []
        number = 0
        for event, draws in self._with_draws(events):
            while held and held[0][0] <= event.time_ms:
                yield heapq.heappop(held)[2]
            if event.topic not in (CLICKSTREAM, ORDERS):
                yield Sent(event.topic, event.key, encode_event(event.value), event.time_ms)  # type: ignore[arg-type]
                continue
            sent = self._encode(event, draws)
            delay, why = self._delay(draws)
            sent = sent._replace(faults=sent.faults + why)
            self.counts.update(sent.faults)
            if delay:
                number += 1
                heapq.heappush(held, (event.time_ms + delay, number, sent))
            else:
                yield sent
            if draws[3] < self._rates.duplicates:
                self.counts["duplicate"] += 1
                number += 1
                again = delay + 1_000 + int(self._spread(draws[4]) * 60_000)
                twice = sent._replace(faults=(*sent.faults, "duplicate"))
                heapq.heappush(held, (event.time_ms + again, number, twice))
        while held:
            yield heapq.heappop(held)[2]

    def _with_draws(self, events: Iterable[SourceEvent]) -> Iterator[tuple[SourceEvent, list[float]]]:
        pending: list[list[float]] = []
        for event in events:
            if not pending:
                pending = self._rng.random((_CHUNK, _DRAWS)).tolist()
            yield event, pending.pop()

    def _encode(self, event: SourceEvent, draws: list[float]) -> Sent:
        value = event.value
        faults: tuple[str, ...] = ()
        key = event.key or b""
        if self._rates.skewed_users and crc32(key) < self._rates.skewed_users * 2**32:
            faults = ("skewed",)
            value = msgspec.structs.replace(value, time=event.time_ms + self._rates.skew_ms)  # type: ignore[type-var]
        data = encode_event(value)  # type: ignore[arg-type]
        if draws[0] < self._rates.corrupt and isinstance(value, Click):
            faults = (*faults, "corrupt")
            data = _damaged(data, draws[1])
        return Sent(event.topic, event.key, data, event.time_ms, faults)

    def _delay(self, draws: list[float]) -> tuple[int, tuple[str, ...]]:
        """Draw how long an event is held back (ms of event time), and the fault's name; mostly not at all."""
        rates, chance = self._rates, draws[2]
        lateness_ms = rates.allowed_lateness_s * 1_000
        if chance < rates.too_late:
            return int(lateness_ms * (1.5 + 2.0 * draws[5])), ("too_late",)
        chance -= rates.too_late
        if chance < rates.late:
            return int(lateness_ms * (0.1 + 0.8 * draws[5])), ("late",)
        chance -= rates.late
        if chance < rates.disordered:
            return 1 + int(self._spread(draws[5]) * rates.disorder_mean_s * 1_000), ("disordered",)
        return 0, ()

    @staticmethod
    def _spread(uniform: float) -> float:
        """Turn a uniform number into an exponential one of mean 1, cut at 5."""
        return float(min(-np.log1p(-uniform), 5.0))


def _damaged(data: bytes, uniform: float) -> bytes:
    """Damage bytes in one of four ways, none of which leaves a valid event."""
    way = int(uniform * 4)
    if way == 0:
        return data[: max(1, int(len(data) * uniform * 3))]
    if way == 1:
        return b"\xff" + data[1:]
    if way == 2:
        return data.replace(b'"event_id"', b'"event_id":7,"id"', 1)
    return b'{"time":"yesterday",' + data[1:].replace(b'"time":', b'"was":', 1)

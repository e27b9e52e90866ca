"""How the reader of the log keeps its measure: what share it judges, how far event time is settled, who must wait."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from zlib import crc32

from streams.records import Input

_ALL = 1 << 32


class Sampler:
    """Chooses subjects by their hash: the same ones at the same share, and at a smaller share a part of them.

    With `share` None it begins with all, and halves while more than `most_per_s` are taken in a second of the wall
    clock or `room` is short; it doubles again when far below both.

    >>> sampler = Sampler(0.5)
    >>> chosen = [sampler.wants(b"user-%d" % number) for number in range(1_000)]
    >>> 450 < sum(chosen) < 550
    True
    """

    def __init__(self, share: float | None, *, most_per_s: int = 2_000) -> None:
        self._fixed = share is not None
        self._below = int((1.0 if share is None else share) * _ALL)
        self._most = most_per_s
        self._taken = 0
        self._since = 0.0

    @property
    def share(self) -> float:
        """The share of subjects chosen now."""
        return self._below / _ALL

    def wants(self, subject: bytes) -> bool:
        """Say whether predictions about `subject` are judged."""
        # The product spreads what CRC32, being linear, maps close together.
        chosen = (crc32(subject) * 0x9E3779B1) % _ALL < self._below
        self._taken += chosen
        return chosen

    def adapt(self, now_s: float, room: float) -> None:
        """Look back at the time since the last change; `room`: the free share of what may be pending."""
        passed = now_s - self._since
        if self._fixed or passed < 1.0:
            return
        rate = self._taken / passed
        if (rate > self._most or room < 0.1) and self._below > 1:
            self._below //= 2
        elif rate < self._most / 4 and room > 0.5 and self._below < _ALL and passed < 60:
            self._below *= 2
        self._taken, self._since = 0, now_s


@dataclass(slots=True)
class _Clock:
    time: int | None = None
    ended_at: float | None = None


class Clocks:
    """Event time of the partitions that say what happened (`outcomes`) and of the `predictions`.

    Predictions lag behind the events that caused them, when a backlog is worked off by months of event time: outcomes
    are read no further than twice (horizon + lateness) beyond the predictions, and not at all before there are some.
    """

    def __init__(
        self, outcomes: Iterable[Input], predictions: Iterable[Input], *, lateness_ms: int, idle_s: float
    ) -> None:
        self._outcomes = {input_: _Clock() for input_ in outcomes}
        self._predictions = {input_: _Clock() for input_ in predictions}
        self._lateness_ms = lateness_ms
        self._ahead_ms = 0
        self._idle_s = idle_s

    def saw(self, input_: Input, time: int, horizon_ms: int | None = None) -> None:
        """Take the time (ms) of an event that was read, or of a prediction with its horizon."""
        clock = self._of(input_)
        clock.ended_at = None
        clock.time = time if clock.time is None else max(clock.time, time)
        if horizon_ms is not None:
            self._ahead_ms = max(self._ahead_ms, 2 * (horizon_ms + self._lateness_ms))

    def ended(self, input_: Input, now_s: float) -> None:
        """Take that a partition was read to its end."""
        clock = self._of(input_)
        if clock.ended_at is None:
            clock.ended_at = now_s

    def watermark(self, now_s: float) -> int | None:
        """Return the event time (ms) before which all outcomes were read, None while that is unknown.

        A partition that has been at its end for `idle_s` holds nobody back.
        """
        least = _least(self._outcomes.values(), now_s - self._idle_s)
        return None if least is None else least - self._lateness_ms

    def waiting(self, now_s: float) -> set[Input]:
        """Return the outcome partitions that must not be read further now."""
        predicted = _least(self._predictions.values(), now_s)
        if predicted is None:
            return set(self._outcomes)
        limit = predicted + self._ahead_ms
        return {input_ for input_, clock in self._outcomes.items() if clock.time is not None and clock.time > limit}

    def _of(self, input_: Input) -> _Clock:
        return self._outcomes[input_] if input_ in self._outcomes else self._predictions[input_]


def _least(clocks: Collection[_Clock], ended_before: float) -> int | None:
    known = [clock.time for clock in clocks if clock.time is not None]
    holding = [clock.time for clock in clocks if clock.ended_at is None or clock.ended_at > ended_before]
    if not known or None in holding:
        return None
    return min((time for time in holding if time is not None), default=max(known))

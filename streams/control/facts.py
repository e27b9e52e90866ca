"""What the reader takes from the log for the join: predictions, and what really happened."""

from __future__ import annotations

from dataclasses import dataclass

from schemas.outputs import Announcement, DemandPrediction, HistoryBucket, PurchasePrediction


@dataclass(frozen=True, slots=True)
class Bought:
    """A user bought at `time` (ms); without an order it was a click of the type purchase."""

    user: str
    time: int
    order_id: str | None


@dataclass(frozen=True, slots=True)
class Cancelled:
    """A user's order was cancelled at `time` (ms)."""

    user: str
    time: int
    order_id: str


@dataclass(frozen=True, slots=True)
class InShadow:
    """What a version in shadow forecast beside the champion."""

    prediction: DemandPrediction


Fact = PurchasePrediction | DemandPrediction | InShadow | HistoryBucket | Announcement | Bought | Cancelled


@dataclass(frozen=True, slots=True)
class Batch:
    """Facts in the order they were read.

    What happened before `watermark` (event time, ms) is in this batch or an earlier one; what happened before
    `known_from` may be missing, for reading began after it.
    """

    facts: list[Fact]
    watermark: int | None
    known_from: int | None = None

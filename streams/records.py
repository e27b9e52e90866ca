"""The values that pass between Kafka and a topology: records in, outputs out. Nothing here knows a client library."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from itertools import repeat
from typing import NamedTuple

import msgspec

CLICKSTREAM = "clickstream"
ORDERS = "orders"
CATALOG = "catalog"
PLAN = "plan"
ACTIVITY = "tidecast.activity"
EXAMPLES = "tidecast.examples"
PREDICTIONS = "predictions"
SHADOW = "tidecast.shadow"
HISTORY = "tidecast.history"
MODELS = "tidecast.models"
DEADLETTERS = "tidecast.deadletters"
STATUS = "tidecast.status"

MARKER_HEADER = "tidecast-marker"
REDRIVE_HEADER = "tidecast-redrive"
UNREADABLE_HEADER = "tidecast-unreadable"
"""Stands in a record for headers whose names the client cannot decode; it is on no wire."""

Headers = tuple[tuple[str, bytes], ...]


class Input(NamedTuple):
    """One partition of one input topic (logical name, without the prefix)."""

    topic: str
    partition: int

    def __str__(self) -> str:
        return f"{self.topic}[{self.partition}]"


class Record(msgspec.Struct, frozen=True, gc=False):
    """One record as the log holds it; `appended_at` is the log's append time, ms UTC."""

    input: Input
    offset: int
    key: bytes | None
    value: bytes | None
    appended_at: int
    headers: Headers = ()


class Output(msgspec.Struct, frozen=True, gc=False):
    """One record to produce; without a partition the key decides."""

    topic: str
    key: bytes | None
    value: bytes | None
    partition: int | None = None
    headers: Headers = ()


class Outputs(msgspec.Struct, frozen=True, gc=False):
    """Many records for one topic, each placed by its key: the same as so many Output, without an object for each."""

    topic: str
    keys: Sequence[bytes | None]
    values: Sequence[bytes]

    def __len__(self) -> int:
        return len(self.values)


Said = Output | Outputs
"""What a stage says: one record, or many."""


def each(said: Iterable[Said]) -> Iterator[Output]:
    """Yield all that was said record by record.

    >>> [output.value for output in each([Output("a", b"k", b"1"), Outputs("b", [b"x", b"y"], [b"2", b"3"])])]
    [b'1', b'2', b'3']
    """
    for one in said:
        if isinstance(one, Output):
            yield one
        else:
            yield from map(Output, repeat(one.topic), one.keys, one.values)


def is_marker(record: Record) -> bool:
    """Say whether a record is a time marker: no event, but word that nothing earlier comes."""
    return bool(record.headers) and any(name == MARKER_HEADER for name, _ in record.headers)


def is_redriven(record: Record) -> bool:
    """Say whether a record was sent again by `redrive`: it corrects state and labels, and predicts nothing."""
    return bool(record.headers) and any(name == REDRIVE_HEADER for name, _ in record.headers)

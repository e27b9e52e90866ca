"""Whether a batch between the stages can be what it says: by a task there is, of times that had come.

The door holds event time to the log's append time, so whatever passed it does. What does not was written by somebody
else, and one such record must not close buckets or settle labels for ever.
"""

from __future__ import annotations

from schemas.codec import DecodeError
from schemas.internal import ActivityBatch, ExampleBatch
from streams.records import Record
from streams.settings import Settings

_CLOCKS_DIFFER_MS = 3_600_000
"""Append times are those of several brokers."""


def check_batch(batch: ActivityBatch | ExampleBatch, record: Record, tasks: int, settings: Settings) -> None:
    """Raise DecodeError unless the batch is by one of `tasks` upstream tasks and nothing in it is of the future."""
    if batch.tasks != tasks or batch.task >= tasks:
        raise DecodeError("invalid", f"written by task {batch.task} of {batch.tasks}; the topics have {tasks}")
    if isinstance(batch, ActivityBatch):
        times = [max(row.time, row.at) for row in batch.rows] + [row.time for row in batch.categories]
    else:
        if batch.task != record.input.partition:
            raise DecodeError("invalid", f"written by task {batch.task} into partition {record.input.partition}")
        times = [example.as_of for example in batch.examples] + [outcome.time for outcome in batch.outcomes]
    latest = max(max(times, default=0), batch.watermark or 0)
    if latest > record.appended_at + settings.time.max_ahead_s * 1_000 + _CLOCKS_DIFFER_MS:
        raise DecodeError("invalid", f"time {latest} is long after its append time {record.appended_at}")

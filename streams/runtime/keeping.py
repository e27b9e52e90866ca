"""Between a task and its store: rows that a step needs come in, what changed goes out as one checkpoint."""

from __future__ import annotations

from streams.errors import CheckpointConflict
from streams.runtime.checkpoint import Store
from streams.runtime.task import Batch, Task

SWEPT_ROWS = 500
"""Rows looked at for expiry, a checkpoint."""


def fetch(store: Store, task: Task, batch: Batch) -> None:
    """Read the task's own rows that a step over `batch` needs and that are not in memory.

    Raises StoreUnavailable, and CheckpointConflict where the stored checkpoint is not the one that the task wrote last.
    """
    keys = task.missing(batch)
    if not keys:
        return
    header, rows = store.read(task.name, keys)
    if header != task.expected_header:
        raise CheckpointConflict(
            f"{task.name}: the stored checkpoint is not the one written last"
            + (" (it is gone)" if header is None else "")
        )
    task.load(dict(zip(keys, rows, strict=True)))


def keep(store: Store, task: Task, cached: int, swept: int = SWEPT_ROWS) -> None:
    """Write a checkpoint without the rows that expired, then forget clean rows beyond `cached`.

    Raises StoreUnavailable, after which it is just called again, and CheckpointConflict.
    """
    period = task.expiry_period()
    if period is not None and task.watermark is not None:
        old, looked_at = store.old_keys(task.name, period, task.watermark - task.stage.memory_ms, swept)
        task.expire(period, old, looked_at, complete=looked_at < swept)
    checkpoint = task.checkpoint()
    store.checkpoint(task.name, checkpoint)
    task.written(checkpoint)
    task.trim(cached)

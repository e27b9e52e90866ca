"""Between a task and its store: rows that a step needs come in, what changed goes out as one checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from threading import Event

from streams.errors import CheckpointConflict, StoreUnavailable
from streams.runtime.checkpoint import Checkpoint, Store
from streams.runtime.task import Batch, Task

SWEPT_ROWS = 500
"""Rows looked at for expiry, a checkpoint and period that waits: of a log read fast, many days do."""
_SWEPT_PERIODS = 100


def fetch(store: Store, task: Task, batch: Batch) -> None:
    """Read the task's own rows that a step over `batch` needs and that are not in memory.

    Raises StoreUnavailable, and CheckpointConflict where the stored checkpoint is not the one that the task wrote last.
    """
    keys = task.missing(batch)
    if not keys:
        return
    header, rows = store.read(task.name, keys)
    if not task.may_stand(header):
        raise CheckpointConflict(
            f"{task.name}: the stored checkpoint is not the one written last"
            + (" (it is gone)" if header is None else "")
        )
    task.load(dict(zip(keys, rows, strict=True)))


def keep(store: Store, task: Task, cached: int, swept: int = SWEPT_ROWS) -> None:
    """Write a checkpoint without the rows that expired, then forget clean rows beyond `cached`.

    Raises StoreUnavailable, after which it is just called again, and CheckpointConflict.
    """
    checkpoint = _take(store, task, swept)
    store.checkpoint(task.name, checkpoint)
    task.written(checkpoint)
    task.trim(cached)


def _take(store: Store, task: Task, swept: int) -> Checkpoint:
    periods = task.expired_periods()[:_SWEPT_PERIODS]
    left = swept * len(periods)
    for period in periods:
        assert task.watermark is not None
        if left <= 0:
            break
        old, looked_at = store.old_keys(task.name, period, task.watermark - task.stage.memory_ms, left)
        task.expire(period, old, looked_at, complete=looked_at < left)
        left -= looked_at
    return task.checkpoint()


Told = list[tuple[Task, Checkpoint, Exception | None]]


class Keeper:
    """Writes checkpoints of a worker's tasks in a thread of its own, while the tasks go on; one of each at a time.

    A checkpoint is taken when it is due, and written from when all that is in it is committed.
    """

    def __init__(self, store: Store, cached: int) -> None:
        self._store = store
        self._cached = cached
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._taken: list[tuple[Task, Checkpoint]] = []
        self._missed: list[tuple[Task, Exception]] = []
        self._under_way: Future[Told] | None = None
        self._dropped = Event()

    def busy(self) -> bool:
        """Say whether a checkpoint was taken that `finish` has told nothing of."""
        return bool(self._taken or self._missed or self._under_way)

    def take(self, tasks: Iterable[Task]) -> None:
        """Take a checkpoint of each task, without the rows that expired."""
        assert not self.busy()
        for task in tasks:
            try:
                self._taken.append((task, _take(self._store, task, SWEPT_ROWS)))
            except StoreUnavailable as error:
                self._missed.append((task, error))

    def begin(self) -> None:
        """Begin to write what was taken."""
        if self._taken:
            self._under_way = self._thread.submit(self._write, self._taken)
            self._taken = []

    def ended(self) -> bool:
        """Say whether `finish` would return at once, with something to tell."""
        if self._taken:
            return False
        return bool(self._missed) if self._under_way is None else self._under_way.done()

    def finish(self) -> list[tuple[Task, Exception | None]]:
        """Wait for what is being written; return of each task why it is not, None where it stands.

        A task whose checkpoint stands forgets clean rows beyond the bound; what is wanting goes with the next one.
        """
        told: list[tuple[Task, Exception | None]] = list(self._missed)
        under_way, self._under_way, self._missed = self._under_way, None, []
        for task, checkpoint, error in under_way.result() if under_way is not None else []:
            if error is None:
                task.written(checkpoint)
                task.trim(self._cached)
            told.append((task, error))
        return told

    def clear(self) -> None:
        """Let go of what was taken, and wait for the one write that has begun, however it ends."""
        if self._under_way is not None:
            self._dropped.set()
            wait([self._under_way])
            self._dropped.clear()
        self._taken, self._missed, self._under_way = [], [], None

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

    def _write(self, taken: list[tuple[Task, Checkpoint]]) -> Told:
        """Write one after the other; a store that does not answer is asked once."""
        told: Told = []
        away: StoreUnavailable | None = None
        for task, checkpoint in taken:
            if self._dropped.is_set():
                break
            error: Exception | None = away
            if away is None:
                try:
                    self._store.checkpoint(task.name, checkpoint)
                except StoreUnavailable as unavailable:
                    error = away = unavailable
                except CheckpointConflict as conflict:
                    error = conflict
            told.append((task, checkpoint, error))
        return told

"""Between a task and its store: rows that a step needs come in, what changed goes out as one checkpoint."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait

from streams.errors import CheckpointConflict, StoreUnavailable
from streams.runtime.checkpoint import Checkpoint, Store
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
    period = task.expiry_period()
    if period is not None and task.watermark is not None:
        old, looked_at = store.old_keys(task.name, period, task.watermark - task.stage.memory_ms, swept)
        task.expire(period, old, looked_at, complete=looked_at < swept)
    return task.checkpoint()


class Keeper:
    """Writes checkpoints of a worker's tasks in a thread of its own, while the tasks go on; one of each at a time.

    A checkpoint is taken when it is due, and written from when all that is in it is committed.
    """

    def __init__(self, store: Store, cached: int) -> None:
        self._store = store
        self._cached = cached
        self._thread = ThreadPoolExecutor(1, "checkpoints")
        self._taken: list[tuple[Task, Checkpoint]] = []
        self._under_way: list[tuple[Task, Checkpoint, Future[None]]] = []
        self._missed: list[tuple[Task, Exception]] = []

    def busy(self) -> bool:
        """Say whether a checkpoint was taken that `finish` has told nothing of."""
        return bool(self._taken or self._under_way or self._missed)

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
        for task, checkpoint in self._taken:
            writing = self._thread.submit(self._store.checkpoint, task.name, checkpoint)
            self._under_way.append((task, checkpoint, writing))
        self._taken = []

    def ended(self) -> bool:
        """Say whether `finish` would return at once, with something to tell."""
        begun = self._under_way or self._missed
        return bool(begun) and not self._taken and all(writing.done() for _, _, writing in self._under_way)

    def finish(self) -> list[tuple[Task, Exception | None]]:
        """Wait for what is being written; return of each task why it is not, None where it stands.

        A task whose checkpoint stands forgets clean rows beyond the bound; what is wanting goes with the next one.
        """
        under_way, self._under_way = self._under_way, []
        told: list[tuple[Task, Exception | None]] = list(self._missed)
        self._missed = []
        for task, checkpoint, writing in under_way:
            try:
                writing.result()
            except (StoreUnavailable, CheckpointConflict) as error:
                told.append((task, error))
                continue
            task.written(checkpoint)
            task.trim(self._cached)
            told.append((task, None))
        return told

    def clear(self) -> None:
        """Let go of what was only taken, and wait for the rest, however it ends."""
        wait([writing for _, _, writing in self._under_way])
        self._taken, self._under_way, self._missed = [], [], []

    def close(self) -> None:
        """End the thread."""
        self._thread.shutdown()

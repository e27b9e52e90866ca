"""What was stepped and is in no transaction yet."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import TopicPartition

from streams.records import Said
from streams.runtime.task import Task


class Gathered:
    """Outputs of steps, and how far each task had read when they were made: the two go into one transaction."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._said: list[Said] = []
        self._read: dict[int, list[TopicPartition]] = {}

    def add(self, task: Task, said: Iterable[Said]) -> None:
        """Add what `task` said just now, all that it has taken being stepped."""
        self._said.extend(said)
        self._read[task.partition] = [
            TopicPartition(self._prefix + input_.topic, input_.partition, offset, metadata=str(task.epoch))
            for input_, offset in task.offsets().items()
        ]

    def take(self) -> tuple[list[Said], list[TopicPartition]]:
        """Return all that was said and the next offsets; nothing is held afterwards."""
        said, offsets = self._said, [place for places in self._read.values() for place in places]
        self.clear()
        return said, offsets

    def clear(self) -> None:
        """Forget everything."""
        self._said, self._read = [], {}

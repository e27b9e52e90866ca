"""Inputs of which enough is in memory wait in Kafka, so that none runs far ahead of the others."""

from __future__ import annotations

from collections.abc import Iterable

from confluent_kafka import Consumer, TopicPartition

from streams.records import Input


class HeldBack:
    """Pauses a consumer's inputs when they are full, and lets them go on when they are half empty."""

    def __init__(self, consumer: Consumer, prefix: str) -> None:
        self._consumer = consumer
        self._prefix = prefix
        self._inputs: set[Input] = set()

    @property
    def places(self) -> set[tuple[str, int]]:
        """Full topic names and partitions of those that wait."""
        return {(self._prefix + input_.topic, input_.partition) for input_ in self._inputs}

    def look(self, fullness: Iterable[tuple[Input, float]]) -> None:
        """Take each input's fullness, 1 being all that it may hold; see `Task.fullness`."""
        for input_, share in fullness:
            partition = [TopicPartition(self._prefix + input_.topic, input_.partition)]
            if input_ not in self._inputs and share > 1:
                self._consumer.pause(partition)
                self._inputs.add(input_)
            elif input_ in self._inputs and share < 0.5:
                self._consumer.resume(partition)
                self._inputs.discard(input_)

    def clear(self) -> None:
        """Forget them: somebody else let them go on, or they are no longer assigned."""
        self._inputs.clear()

"""Reading the topics once or more, with a tally of how far it is; what cannot be decoded is nobody's."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from schemas.codec import DecodeError
from schemas.internal import ActivityBatch, ExampleBatch, decode_activity, decode_examples
from streams.logs import FACTS, TOPICS, Topics
from streams.records import EXAMPLES, Input, Record
from streams.settings import Settings
from streams.topologies.upstream import check_batch


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a verification is: records read, event time reached (UTC ms), and the share done (0 to 1)."""

    records: int
    time_ms: int
    done: float


class Reading:
    """Topics being read; `time` (UTC ms) is what its owner says that it has come to."""

    def __init__(self, topics: Topics, settings: Settings, report: Callable[[Progress], None]) -> None:
        self.topics = topics
        self.settings = settings
        self.time = 0
        self._report = report
        self._records = 0
        self._total = sum(self.length(Input(topic, p)) for topic in TOPICS for p in range(topics.partitions))
        self._total += sum(self.length(Input(topic, 0)) for topic in FACTS)

    def length(self, input_: Input) -> int:
        """Return how many offsets a partition holds."""
        low, high = self.topics.bounds(input_)
        return high - low

    def again(self, topic: str) -> None:
        """Say that a topic is going to be read once more."""
        self._total += sum(self.length(Input(topic, p)) for p in range(self.topics.partitions))

    def read(self, input_: Input, until: int | None = None) -> Iterator[Record]:
        """Yield a partition's records, below the offset `until`."""
        for record in self.topics.read(input_):
            if until is not None and record.offset >= until:
                return
            self._records += 1
            if self._records % 1_000 == 0:
                self._report(Progress(self._records, self.time, min(self._records / max(self._total, 1), 0.999)))
            yield record

    def examples(self, partition: int) -> Iterator[ExampleBatch]:
        """Yield the batches of examples of a partition."""
        for record in self.read(Input(EXAMPLES, partition)):
            try:
                yield decode_examples(record.value or b"")
            except DecodeError:
                continue  # a dead letter to the learner; what it held is missing

    def activity(self, record: Record) -> ActivityBatch | None:
        """Return the batch that the demand stage would take, None for one that it refuses."""
        try:
            batch = decode_activity(record.value or b"")
            check_batch(batch, record, self.topics.partitions, self.settings)
        except DecodeError:
            return None
        return batch

    def end(self) -> None:
        """Say that all was read."""
        self._report(Progress(self._records, self.time, 1.0))

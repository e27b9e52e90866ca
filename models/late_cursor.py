"""The late cursor: a second reading of the examples log, a horizon behind the first.

What is pending is kept in memory up to a bound. Of an example that had to leave, this reading finds the contents again
when its horizon is over; it only goes as far as it must, and rests while everything pending is in memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from heapq import heappop, heappush

from models.label_memory import Partition, Pending, Place
from schemas.internal import Example, ExampleBatch

__all__ = ["LabelLogError", "LateCursor"]

Arrival = tuple[int, Place]
"""When an example counts as happened (UTC ms), and where it stands: the order in which examples are settled."""


class LabelLogError(ValueError):
    """The examples log contradicts itself; the message names partition, offset and repair."""


class LateCursor:
    """Reads the messages of `tracks` again, in any interleaving, and gives their examples in order of arrival."""

    def __init__(self, tracks: Mapping[int, Partition]) -> None:
        self._tracks = tracks
        self._next: dict[int, int] = {}
        self._watermarks: dict[int, int | None] = {}
        self._found: list[tuple[int, Place, Example]] = []

    def __len__(self) -> int:
        """Number of examples read and not yet given."""
        return len(self._found)

    def start(self) -> None:
        """Begin at the first message of each partition that holds an example not settled."""
        self._next = {number: track.first_unsettled() for number, track in self._tracks.items()}
        self._watermarks = dict.fromkeys(self._next)

    def rest(self) -> None:
        """Stop: all that is pending is in memory."""
        self._found.clear()

    def wants(self, time: int) -> tuple[int, int] | None:
        """Return the partition and offset to read next to know all that happened up to `time` (UTC ms), or None."""
        for number, watermark in self._watermarks.items():
            if (watermark is None or watermark <= time) and self._next[number] < self._tracks[number].next_offset:
                return number, self._next[number]
        return None

    def take(self, partition: int, offset: int, batch: ExampleBatch | None) -> None:
        """Take a partition's next message, None if it is no batch. Raises LabelLogError if a needed one is gone."""
        track, wanted = self._tracks[partition], self._next[partition]
        heard = min(offset, track.next_offset)
        if heard > wanted and track.unsettled_between(wanted, heard):
            raise LabelLogError(
                f"examples[{partition}] offset {wanted}: gone from the log while a label in it is still to be known; "
                "raise the topic's retention.ms, and run 'tidecast state reset learn-0' to learn from what it holds"
            )
        if offset >= track.next_offset:
            self._next[partition] = heard  # the first reading has not come to this one
            return
        self._next[partition] = offset + 1
        if batch is None:
            return
        message = track.messages.get(offset)
        if message is not None and message.unsettled:
            for number, example in enumerate(batch.examples):
                heappush(self._found, (message.known_at(example.as_of), (partition, offset, number), example))
        known = self._watermarks[partition]
        if batch.watermark is not None and (known is None or batch.watermark > known):
            self._watermarks[partition] = batch.watermark

    def head(self, after: Arrival | None) -> int | None:
        """Return when (UTC ms) the first example `after` an arrival happened; what comes before is dropped."""
        found = self._found
        while found and after is not None and found[0][:2] <= after:
            heappop(found)
        return found[0][0] if found else None

    def pop(self) -> Pending:
        """Return the first example, with what was noted of it when it left memory."""
        _, place, example = heappop(self._found)
        partition, offset, number = place
        message = self._tracks[partition].messages[offset]
        pending = Pending(example, place, message)
        pending.positive, pending.provided = message.noted(number)
        return pending

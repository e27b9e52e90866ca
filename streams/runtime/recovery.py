"""Where a task starts reading, by one rule: crash, rebalance, failover and an empty store all come here.

R is the checkpoint's offset of an input, C the committed one. Reading starts at R; records in [R, C) only rebuild
state; from C on predictions flow. Contradictions are named errors that say what to do, never a guess.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from streams.errors import CheckpointAhead, CheckpointOrphaned, LogTruncated, RecoveryError
from streams.records import Input
from streams.runtime.checkpoint import Header


class Log(Protocol):
    """What recovery asks of the log."""

    def bounds(self, input_: Input) -> tuple[int, int]:
        """First offset held and the next one to be written."""
        ...

    def appended_at(self, input_: Input, offset: int) -> int | None:
        """Append time (ms) of the last record before `offset`, None where there is none."""
        ...

    def first_after(self, input_: Input, appended_at: int) -> int:
        """First offset appended at or after a time (ms)."""
        ...


@dataclass(frozen=True, slots=True)
class Committed:
    """What the group committed for an input: the offset and the owner's epoch."""

    offset: int
    epoch: int


@dataclass(frozen=True, slots=True)
class Plan:
    """Start at `positions`, stay silent below `bounds`, own the task as `epoch`."""

    positions: dict[Input, int]
    bounds: dict[Input, int]
    epoch: int


def plan(
    task: str,
    inputs: Sequence[Input],
    header: Header | None,
    committed: Mapping[Input, Committed],
    log: Log,
    memory_ms: int,
) -> Plan:
    """Return where to start. `memory_ms`: longest feature memory plus allowed lateness.

    Raises CheckpointAhead, CheckpointOrphaned or LogTruncated.
    """
    reset = f"if its topics were recreated on purpose, run 'tidecast state reset {task}'"
    epoch = max((one.epoch for one in committed.values()), default=0) + 1
    ranges = {input_: log.bounds(input_) for input_ in inputs}
    bounds = {i: committed[i].offset if i in committed else ranges[i][0] for i in inputs}
    if header is None:
        # Without a checkpoint it goes on with what the log still holds.
        bounds = {i: max(bound, ranges[i][0]) for i, bound in bounds.items()}
    for input_ in inputs:
        if bounds[input_] > ranges[input_][1]:
            raise RecoveryError(
                f"{input_}: committed offset {bounds[input_]} is beyond the log's end {ranges[input_][1]}; {reset}"
            )
    if header is None:
        positions = {i: _without_checkpoint(i, committed, ranges[i], log, memory_ms) for i in inputs}
        return Plan(positions, bounds, epoch)
    positions = {Input(topic, partition): offset for topic, partition, offset in header.offsets}
    if set(positions) != set(inputs):
        names = ", ".join(map(str, positions))
        raise RecoveryError(f"{task}: the checkpoint is for other inputs ({names}); partitions changed? {reset}")
    for input_, offset in positions.items():
        if input_ not in committed and offset > ranges[input_][0]:
            raise CheckpointOrphaned(f"{input_}: checkpoint {offset}, but nothing is committed; {reset}")
        if offset > bounds[input_]:
            raise CheckpointAhead(f"{input_}: checkpoint {offset} > committed {bounds[input_]}; {reset}")
        if offset < ranges[input_][0]:
            raise LogTruncated(
                f"{input_}: the log starts at {ranges[input_][0]}, after the checkpoint's {offset}; raise the topic's "
                f"retention.ms for the next time, and run 'tidecast state reset {task}' to go on without those records"
            )
    return Plan(positions, bounds, max(epoch, header.epoch + 1))


def _without_checkpoint(
    input_: Input, committed: Mapping[Input, Committed], ends: tuple[int, int], log: Log, memory_ms: int
) -> int:
    low, _ = ends
    if input_ not in committed:
        return low
    bound = max(committed[input_].offset, low)
    appended = log.appended_at(input_, bound)
    if appended is None:
        return bound
    return min(bound, max(low, log.first_after(input_, appended - memory_ms)))

"""What the runtime asks of a stage: a decoder, and for each task a state with one step over it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import msgspec

from streams.records import Input, Record, Said
from streams.runtime.checkpoint import Rows
from streams.runtime.merge import Entry


class Rejected(msgspec.Struct, frozen=True, gc=False):
    """A record that the door refuses: it goes to the dead letters with this reason."""

    reason: str
    detail: str


class TimeMarker(msgspec.Struct, frozen=True, gc=False):
    """A record that moves event time; `end` closes a replay, so that lateness is no longer waited for."""

    time: int
    end: bool


@dataclass(slots=True)
class Step:
    """What a step is told: the time, the watermark after the batch, and whether anything may be said.

    `counts` is the task's own tally; it is part of the checkpoint, so it counts every record exactly once.
    """

    now_ms: int
    emit: bool
    watermark: int | None
    counts: dict[str, int] = field(default_factory=dict)

    def count(self, name: str, by: int = 1) -> None:
        """Add to the task's tally."""
        self.counts[name] = self.counts.get(name, 0) + by


class State(Protocol):
    """The rows of one task in the owner's memory. A step changes them; on an abort all of it is dropped."""

    def initial_keys(self) -> Sequence[str]:
        """Keys of the few rows wanted before the first step."""
        ...

    def missing(self, entries: Sequence[Entry]) -> Sequence[str]:
        """Keys of the task's own rows that a step over `entries` needs and that are not in memory."""
        ...

    def foreign(self, entries: Sequence[Entry], now_ms: int, *, refresh: bool) -> Mapping[str, Sequence[str]]:
        """Keys of other tasks' rows to read, by task: those never read and, to `refresh`, those read too long ago."""
        ...

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        """Take rows of the task as the store has them; None: there is none."""
        ...

    def load_foreign(self, task: str, rows: Mapping[str, bytes | None], now_ms: int) -> None:
        """Take rows of another task."""
        ...

    def step(self, entries: Sequence[Entry], step: Step) -> Sequence[Said]:
        """Apply accepted entries in order; return what is to be said (ignored unless `step.emit`)."""
        ...

    def watermark(self) -> int | None:
        """Event time (ms) up to which upstream has said everything; asked of stages that are not at the door."""
        ...

    def dirty(self) -> int:
        """Number of rows changed since the last drain."""
        ...

    def drain(self) -> Rows:
        """Return the packed rows changed since the last drain."""
        ...

    def forget(self, keys: Iterable[str]) -> None:
        """Drop expired rows from memory."""
        ...

    def trim(self, limit: int) -> None:
        """Evict clean rows until about `limit` are held."""
        ...

    def extra(self) -> bytes:
        """Small state that goes into the checkpoint's header."""
        ...

    def restore(self, extra: bytes) -> None:
        """Take back what `extra` gave."""
        ...

    def floor(self) -> Mapping[Input, int] | None:
        """Offsets from which a restart must read again, where state is rebuilt from the log; None: the positions."""
        ...

    def fullness(self, input_: Input) -> float:
        """How much of an input is in memory that waits for others, as a share of what may be: above 1 it can wait."""
        ...

    def wants(self) -> tuple[Input, int] | None:
        """Input and offset from where the log must be read again before the step is over."""
        ...

    def wants_from(self) -> Mapping[Input, int]:
        """Offsets below which nothing will be wanted while this state lives; without one: the positions."""
        ...

    def recall(self, input_: Input, offset: int, item: object | None) -> None:
        """Take what stands at or after the offset that was wanted; `item` is None if it cannot be decoded."""
        ...

    def resume(self, step: Step) -> Sequence[Said]:
        """Go on with a step that wanted something, as far as what was recalled allows; return what is to be said."""
        ...


class Forward:
    """What a state says that reads its inputs once, and keeps what it needs of them in rows."""

    def floor(self) -> Mapping[Input, int] | None:
        """Return None: a restart reads on from the checkpoint's positions."""
        return None

    def fullness(self, input_: Input) -> float:
        """Return 0: nothing waits for another input."""
        return 0.0

    def wants(self) -> tuple[Input, int] | None:
        """Return None: nothing is read again."""
        return None

    def wants_from(self) -> Mapping[Input, int]:
        """Return nothing: nothing is read again."""
        return {}

    def recall(self, input_: Input, offset: int, item: object | None) -> None:
        """Raise: nothing was wanted."""
        raise AssertionError(f"{input_} offset {offset} was recalled, but nothing was wanted")

    def resume(self, step: Step) -> Sequence[Said]:
        """Return nothing: a step is over at once."""
        return []


class Stage(Protocol):
    """A stage of the topology: what it reads, how it decodes, and how a task of it starts."""

    @property
    def name(self) -> str:
        """Its name: score, demand or learn."""
        ...

    @property
    def inputs(self) -> tuple[str, ...]:
        """Co-partitioned input topics; partition p of all of them is task p."""
        ...

    @property
    def tables(self) -> tuple[str, ...]:
        """Topics that every worker reads whole."""
        ...

    @property
    def outputs(self) -> tuple[str, ...]:
        """Topics it produces to, dead letters included."""
        ...

    @property
    def partitioned_outputs(self) -> tuple[str, ...]:
        """Outputs that must have as many partitions as the inputs."""
        ...

    @property
    def ordered(self) -> bool:
        """Whether records of several inputs are merged by event time."""
        ...

    @property
    def guarded(self) -> bool:
        """Whether it stands at the door: lateness, future stamps and repeated ids are judged here, once."""
        ...

    @property
    def single_task(self) -> bool:
        """Whether one task reads all partitions."""
        ...

    @property
    def layout(self) -> str:
        """Hash of how rows are laid out; rows of another layout are rebuilt."""
        ...

    @property
    def memory_ms(self) -> int:
        """Longest memory of any of its rows, ms of event time."""
        ...

    @property
    def expiring(self) -> tuple[str, ...]:
        """Prefixes of the keys whose rows expire in event time."""
        ...

    def decode(self, record: Record) -> object:
        """Return the item in a record. Raises schemas.codec.DecodeError."""
        ...

    def decode_run(self, records: Sequence[Record]) -> tuple[list[int], Sequence[object]] | None:
        """Return times (ms) and items of records of one input, in less time; None where they must go one by one."""
        ...

    def time_of(self, item: Any) -> int:
        """Return the event time (ms) of an item; those of a guarded stage bear an `event_id` besides."""
        ...

    def on_table(self, record: Record) -> bool:
        """Take a record of a table topic between batches; say whether a model was swapped. Raises DecodeError."""
        ...

    def lacks(self) -> str | None:
        """Say what it was told to serve and does not have, if anything; while it has not, nothing is taken."""
        ...

    def serves(self) -> Mapping[str, str]:
        """Say for the status which models serve, and what was refused."""
        ...

    def open(self, partition: int, tasks: int) -> State:
        """Return the empty state of task `partition` of `tasks`."""
        ...

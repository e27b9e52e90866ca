"""One task: its inputs, its place in the log, its clock, its rows. Pure: no client, no wall clock.

The same class runs in the worker and in the driver. The worker feeds it records, fetches the rows it misses, lets it
step, and commits what it says; on any failure it drops the task and recovers, so there is no undo.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, repeat
from operator import attrgetter

import msgspec
import numpy as np

from schemas.codec import DecodeError, decode_marker
from schemas.outputs import encode_dead_letter
from streams.records import (
    DEADLETTERS,
    MARKER_HEADER,
    REDRIVE_HEADER,
    UNREADABLE_HEADER,
    Input,
    Output,
    Record,
    Said,
    is_redriven,
)
from streams.runtime.checkpoint import Checkpoint, Header, Rows, encode_header, reading
from streams.runtime.dedup import NEVER, PASSED, REPEATED, Dedup
from streams.runtime.merge import Entry, Merge
from streams.runtime.refusals import DUPLICATE, tallies_of
from streams.settings import TimeSettings
from streams.store import all_last_touched, last_touched
from streams.topologies.stage import Rejected, Stage, Step, TimeMarker

# Rows are listed for expiry by the day they were last touched in.
_PERIOD_MS = 86_400_000
# Where one of many records is odd, the rest are decoded by so many; fewer than the latter are not worth it.
_PART = 48
_FEW = 3


class _Extra(msgspec.Struct):
    state: bytes
    counts: dict[str, int]
    end: int | None
    seen: list[int | None] = []
    counted: list[int] = []


@dataclass(frozen=True, slots=True)
class Batch:
    """Entries taken in order, and those of them that are events; `silent`: they only rebuild state."""

    entries: list[Entry]
    events: list[Entry]
    silent: bool


class Task:
    """Task `partition` of a stage. `bounds` are the committed offsets up to which it only rebuilds its state."""

    def __init__(self, stage: Stage, partition: int, inputs: Sequence[Input], tasks: int, time: TimeSettings) -> None:
        self.stage = stage
        self.partition = partition
        self.inputs = tuple(inputs)
        self.name = store_name(stage, partition)
        self.state = stage.open(partition, tasks)
        self.clock: int | None = None
        self.watermark: int | None = None
        self.epoch = 0
        self.counts: dict[str, int] = {}
        self._lateness_ms = time.allowed_lateness_s * 1_000
        self._ahead_ms = time.max_ahead_s * 1_000
        self._merge = Merge(inputs, ordered=stage.ordered)
        self._rank = {input_: rank for rank, input_ in enumerate(inputs)}
        self._bounds: list[int] | None = None
        self._start_bounds: dict[Input, int] = {}
        self._written: list[int] | None = None
        """Positions at which the checkpoint in the store stands."""
        self._dedup = Dedup(self._lateness_ms)
        self._seen: list[int | None] = [None] * len(self.inputs)
        self._counted = [0] * len(self.inputs)
        """Offsets before which every record is in the tallies: what is read again to rebuild a state, too."""
        self._end: int | None = None
        self._sequence = 0
        self._expected: bytes | None = None
        self._offered: tuple[bytes | None, list[int]] = None, []
        """The header given out last, and the positions it stands at: it may be in the store, or not yet."""
        self._listed: dict[str, int] = {}
        self._periods: set[int] = set()
        self._unwritten: tuple[Rows, dict[int, list[str]]] = ({}, {})
        self._trimmed: dict[int, int] = {}

    # -- recovery ---------------------------------------------------------------------------------------------

    def may_stand(self, header: bytes | None) -> bool:
        """Say whether the checkpoint in the store, by its header, is this owner's last or the one on its way there."""
        return header == self._expected or (header is not None and header == self._offered[0])

    @property
    def recovering(self) -> bool:
        """Whether records still only rebuild state."""
        return self._bounds is not None

    def start(self, positions: Mapping[Input, int], bounds: Mapping[Input, int], epoch: int) -> None:
        """Set where reading begins (R) and from where on predictions flow (C)."""
        self.epoch = epoch
        for input_, offset in positions.items():
            self._merge.positions[self._rank[input_]] = offset
        self._bounds = [bounds[input_] for input_ in self.inputs]
        self._start_bounds = dict(bounds)
        self._settle()
        if self._bounds is not None:
            # Nothing is written of a rebuild before it has begun: the log may soon hold no more of its first records.
            self._written = list(self._merge.positions)

    def to_rebuild(self) -> int:
        """Count the offsets from where it reads to where predictions flow; markers and commits are among them."""
        return sum(max(0, self._start_bounds[i] - offset) for i, offset in self.offsets().items())

    def committed_bounds(self) -> dict[Input, int]:
        """The committed offsets it started from: what its owner's first transaction commits again, under its epoch."""
        return self._start_bounds

    def restore(self, raw: bytes, header: Header, rows: Mapping[str, bytes | None]) -> bool:
        """Take back a checkpoint with its dedup and initial rows; False where rows of it are missing."""
        extra = _extra_decoder.decode(header.extra)
        keys = Dedup.keys(header.dedup)
        if not self._dedup.restore(header.dedup, [rows.get(key) for key in keys]):
            return False
        self.clock, self.watermark, self._end = header.clock, header.watermark, extra.end
        self._seen = extra.seen or self._seen
        self._counted = extra.counted or self._counted
        self._sequence = header.sequence
        self._expected = raw
        self.counts = dict(extra.counts)
        self._periods = set(header.touched)
        self.state.restore(extra.state)
        self.state.load({key: rows.get(key) for key in self.state.initial_keys()})
        return True

    # -- input ------------------------------------------------------------------------------------------------

    def feed(self, records: Sequence[Record]) -> Sequence[Entry]:
        """Decode records of one input, put them in line, and return them; those taken before are left out."""
        if not records:
            return ()
        rank = self._rank[records[0].input]
        position = self._merge.positions[rank]
        if records[0].offset < position:
            records = [record for record in records if record.offset >= position]
        entries = self._entries(records, rank)
        self._merge.push(entries)
        return entries

    def _entries(self, records: Sequence[Record], rank: int, part: int = _PART) -> list[Entry]:
        """Decode records together; what must be looked at one by one is told from the rest part by part."""
        found = self._run(records, rank) if len(records) > _FEW else None
        if found is not None:
            return found
        if len(records) <= part:
            return [self._entry(record, rank) for record in records]
        parts = (records[start : start + part] for start in range(0, len(records), part))
        return list(chain.from_iterable(self._entries(some, rank) for some in parts))

    def _run(self, records: Sequence[Record], rank: int) -> list[Entry] | None:
        """Decode records that hold events and nothing else; None where one of them may not."""
        if any(map(_headers_of, records)) and any(map(_means_more, records)):
            return None
        run = self.stage.decode_run(records)
        if run is None:
            return None
        times, items = run
        entries = list(map(Entry, times, repeat(rank), [record.offset for record in records], items, records))
        latest = min([record.appended_at for record in records]) + self._ahead_ms
        if self.stage.guarded and max(times) > latest:
            return [self._entry(e.record, rank) if e.time > latest else e for e in entries]
        return entries

    def _entry(self, record: Record, rank: int) -> Entry:
        time, item = read(self.stage, record, self._ahead_ms)
        return Entry(time, rank, record.offset, item, record, is_redriven(record))

    def buffered(self, input_: Input) -> int:
        """Records held of an input, not yet taken."""
        return self._merge.buffered(self._rank[input_])

    def fullness(self, input_: Input, limit: int) -> float:
        """How much is held of an input, as a share of what may be: `limit` records, or what its stage says."""
        records = self.buffered(input_) / limit
        # What rebuilds may be taken to its bounds only: whoever is waited for may have to wait for the rest itself.
        return records if self.recovering else max(records, self.state.fullness(input_))

    def held_back_by(self) -> list[Input]:
        """The empty inputs without which nothing more can be taken."""
        return [self.inputs[rank] for rank in self._merge.waits_for()]

    def seen_until(self, input_: Input) -> int | None:
        """Event time of the last event accepted from an input."""
        return self._seen[self._rank[input_]]

    def latest(self) -> int | None:
        """Greatest event time that this task knows of, taken or held."""
        times = [time for time in (self.clock, self._merge.last_time()) if time is not None]
        return max(times, default=None)

    def release_time(self, until: int | None = None) -> int | None:
        """Time of a marker in each input without which nothing can be taken; None where nothing waits for one.

        Events are released by a marker just after them: what bears their very time could stand before them. With
        `until`, only those up to that time (UTC ms) count that no later one stands before.
        """
        held = list(self._merge.held(until))
        latest = max((entry.time for entry in held), default=-1)
        if not all(isinstance(entry.item, TimeMarker) for entry in held):
            return latest + 1
        return latest if latest > (self.clock or 0) else None

    def can_take(self) -> bool:
        """Say whether `take` would return a batch now."""
        return self._merge.can_take(self._bounds)

    def take(self, limit: int) -> Batch | None:
        """Take the next entries in order, None where there are none. A batch never crosses the committed offsets."""
        silent = self._bounds is not None
        entries = self._merge.take(limit, self._bounds)
        if not entries:
            return None
        events = [entry for entry in entries if entry.item.__class__ not in _NO_EVENTS]
        return Batch(entries, events, silent)

    def topics(self, batch: Batch) -> Counter[str]:
        """Count the records of a batch by topic."""
        counts: Counter[str] = Counter()
        for rank, count in Counter([entry.rank for entry in batch.entries]).items():
            counts[self.inputs[rank].topic] += count
        return counts

    def offsets(self) -> dict[Input, int]:
        """Next offset of each input: what is committed with the batch just stepped."""
        return dict(zip(self.inputs, self._merge.positions, strict=True))

    # -- step -------------------------------------------------------------------------------------------------

    def missing(self, batch: Batch) -> Sequence[str]:
        """Keys of own rows to fetch before the step."""
        return self.state.missing(batch.events)

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        """Take fetched rows, those first that wait to be written. Raises RecoveryError for damaged ones."""
        pending = self._unwritten[0]
        for key, row in rows.items():
            if row is not None and key not in pending and key.startswith(self.stage.expiring):
                self._listed[key] = last_touched(row) // _PERIOD_MS
        with reading(self.name):
            self.state.load({key: pending.get(key, row) for key, row in rows.items()} if pending else rows)

    def load_foreign(self, task: str, rows: Mapping[str, bytes | None], now_ms: int) -> None:
        """Take rows of another task, as they stand at `now_ms`. Raises RecoveryError for damaged ones."""
        with reading(task):
            self.state.load_foreign(task, rows, now_ms)

    def step(self, batch: Batch, now_ms: int) -> list[Said]:
        """Judge the batch at the door, apply it, and return what is to be produced (nothing while rebuilding)."""
        accepted: list[Entry] = []
        outputs: list[Said] = []
        for marker, run in _runs(batch):
            self._enter(run, accepted, outputs, silent=batch.silent)
            if marker is not None:
                self._mark(marker)
        step = Step(now_ms, not batch.silent, self.watermark, self.counts)
        said = self.state.step(accepted, step)
        if not self.stage.guarded:
            self.watermark = self.state.watermark()
        if not batch.silent:
            outputs.extend(said)
        self._settle()
        return outputs

    def wants(self) -> tuple[Input, int] | None:
        """Input and offset from where records must be recalled before the step is over and anything else may happen."""
        return self.state.wants()

    def recall(self, records: Sequence[Record], batch: Batch, now_ms: int) -> list[Said]:
        """Go on with the step of `batch` with records read again, the first being the next at or after what it wants.

        Returns what is to be produced (nothing while rebuilding).
        """
        for record in records:
            item = read(self.stage, record, self._ahead_ms)[1]
            self.state.recall(record.input, record.offset, None if item.__class__ in _NO_EVENTS else item)
        said = self.state.resume(Step(now_ms, not batch.silent, self.watermark, self.counts))
        return [] if batch.silent else list(said)

    # -- checkpoint -------------------------------------------------------------------------------------------

    def dirty(self) -> int:
        """Rows changed or waiting to be written."""
        return self.state.dirty() + len(self._unwritten[0])

    def changed(self) -> bool:
        """Whether a checkpoint would say anything new."""
        return self._written != self._merge.positions

    def expired_periods(self) -> list[int]:
        """The periods whose rows may all have expired, oldest first."""
        if self.watermark is None:
            return []
        over = (self.watermark - self.stage.memory_ms) // _PERIOD_MS
        return sorted(period for period in self._periods if period < over)

    def expire(self, period: int, keys: Sequence[str], looked_at: int, complete: bool) -> None:
        """Drop rows that the store says are old, unless they were touched in memory since."""
        self._gather()
        rows = self._unwritten[0]
        # What goes already was looked at for a checkpoint that does not stand yet.
        old = [key for key in keys if self._listed.get(key, period) <= period and rows.get(key, b"") is not None]
        self.state.forget(old)
        for key in old:
            self._listed.pop(key, None)
            rows[key] = None
        self._trimmed[period] = looked_at
        if complete and period not in self._unwritten[1]:
            self._periods.discard(period)
        self._count("expired_rows", len(old))

    def checkpoint(self) -> Checkpoint:
        """Gather everything changed since the last one. Call `written` once it stands, else just call again.

        Meanwhile steps may go on, and may read their rows.
        """
        self._gather()
        rows, touched = self._unwritten
        rows.update(self._dedup.drain(self.watermark))
        offsets = self.offsets() | dict(self.state.floor() or {})
        header = Header(
            layout=self.stage.layout,
            epoch=self.epoch,
            sequence=self._sequence + 1,
            offsets=[(input_.topic, input_.partition, offset) for input_, offset in offsets.items()],
            clock=self.clock,
            watermark=self.watermark,
            dedup=self._dedup.span(),
            touched=sorted(self._periods),
            extra=_extra_encoder.encode(
                _Extra(self.state.extra(), self.counts, self._end, self._seen, self._counted_until())
            ),
        )
        raw = encode_header(header)
        self._offered = raw, list(self._merge.positions)
        return Checkpoint(self._expected, raw, rows, touched, dict(self._trimmed))

    def written(self, checkpoint: Checkpoint) -> None:
        """Remember that `checkpoint`, the last one given out, stands."""
        assert checkpoint.header == self._offered[0]
        self._expected, self._written = self._offered
        self._sequence += 1
        self._unwritten = ({}, {})
        self._trimmed = {}

    def needs_from(self) -> dict[Input, int]:
        """Offsets of each input from which on this task still needs the log; one that recovers may need more."""
        return self.offsets() | dict(self.state.wants_from())

    def trim(self, limit: int) -> None:
        """Evict clean rows beyond `limit`."""
        self.state.trim(limit)
        if len(self._listed) > 2 * limit:
            self._listed.clear()

    # -- inside -----------------------------------------------------------------------------------------------

    def _counted_until(self) -> list[int]:
        # What is still being read again was in the tallies before.
        return list(map(max, self._counted, self._merge.positions))

    def _gather(self) -> None:
        """Take what changed since the last time to the rows that wait to be written."""
        rows, touched = self._unwritten
        changed = self.state.drain()
        expiring = [
            (key, row) for key, row in changed.items() if row is not None and key.startswith(self.stage.expiring)
        ]
        stamps = all_last_touched([row for _, row in expiring]) // _PERIOD_MS
        for (key, _), period in zip(expiring, stamps.tolist(), strict=True):
            if self._listed.get(key, -1) < period:
                self._listed[key] = period
                self._periods.add(period)
                touched.setdefault(period, []).append(key)
        rows.update(changed)

    def _enter(self, run: Sequence[Entry], accepted: list[Entry], outputs: list[Said], *, silent: bool) -> None:
        """Let in who passes the door, and refuse the others."""
        events = [entry for entry in run if entry.item.__class__ is not Rejected]
        if not self.stage.guarded:
            verdicts: list[int] = [PASSED] * len(events)
        else:
            events, verdicts = self._judge(events)
        if len(events) == len(run) and not any(verdicts):
            accepted.extend(events)
            return
        judged = iter(zip(events, verdicts, strict=True))
        for entry in run:
            if entry.item.__class__ is Rejected:
                self._refuse(entry, entry.item, outputs, silent=silent)
                continue
            event, verdict = next(judged)
            if verdict == PASSED:
                accepted.append(event)
            elif verdict == REPEATED:
                self._refuse(entry, _DUPLICATE, outputs, silent=silent)
            else:
                late = f"event time {entry.time} is before the watermark {event.watermark}"
                self._refuse(entry, Rejected("late", late), outputs, silent=silent)

    def _refuse(self, entry: Entry, rejected: Rejected, outputs: list[Said], *, silent: bool) -> None:
        if entry.offset >= self._counted[entry.rank]:
            for tally in tallies_of(entry.record.input.topic, rejected.reason):
                self._count(tally)
        if rejected is not _DUPLICATE and not silent:
            outputs.append(dead_letter(entry.record, rejected))

    def _judge(self, events: list[Entry]) -> tuple[list[Entry], list[int]]:
        """Return the verdict on each event; what stands behind the watermark bears it then. Who passes moves the clock.

        Inputs do not share ids.
        """
        if not events:
            return events, []
        ids = [e.item.event_id if e.rank == 0 else f"{e.rank}\0{e.item.event_id}" for e in events]
        times = np.fromiter([e.time for e in events], np.int64, len(events))
        redriven = np.fromiter([e.redriven for e in events], np.bool_, len(events))
        clock = NEVER if self.clock is None else self.clock
        said = self._dedup.judge(
            self._dedup.digests(ids), times, redriven, clock, NEVER if self.watermark is None else self.watermark
        )
        self.clock = said.clock if said.clock != NEVER else None
        self.watermark = said.watermark if said.watermark != NEVER else None
        verdicts: list[int] = said.verdicts.tolist()
        for rank in {e.rank for e in events}:
            latest_first = zip(reversed(events), reversed(verdicts), strict=True)
            passed = (e.time for e, verdict in latest_first if verdict == PASSED and e.rank == rank)
            self._seen[rank] = next(passed, self._seen[rank])
        for place in np.flatnonzero(times < said.watermarks).tolist():
            events[place] = msgspec.structs.replace(events[place], watermark=int(said.watermarks[place]))
        return events, verdicts

    def _mark(self, marker: TimeMarker) -> None:
        self._advance(marker.time)
        if marker.end:
            self._end = max(self._end or marker.time, marker.time)
            self.watermark = max(self.watermark or 0, self._end)
        self._count("markers")

    def _advance(self, time: int) -> None:
        if self.clock is None or time > self.clock:
            self.clock = time
            watermark = time - self._lateness_ms
            if self.watermark is None or watermark > self.watermark:
                self.watermark = watermark

    def _settle(self) -> None:
        bounds = self._bounds
        if bounds is not None and all(p >= b for p, b in zip(self._merge.positions, bounds, strict=True)):
            self._bounds = None

    def _count(self, name: str, by: int = 1) -> None:
        self.counts[name] = self.counts.get(name, 0) + by


def _runs(batch: Batch) -> Iterator[tuple[TimeMarker | None, Sequence[Entry]]]:
    """Yield the entries between the batch's time markers, each run with the marker behind it."""
    run: list[Entry] = batch.entries
    if len(batch.events) < len(run):
        run = []
        for entry in batch.entries:
            if isinstance(entry.item, TimeMarker):
                yield entry.item, run
                run = []
            else:
                run.append(entry)
    yield None, run


def read(stage: Stage, record: Record, ahead_ms: int) -> tuple[int, object]:
    """Return the event time (UTC ms) and what a record is to a stage: an item of its own, a TimeMarker, or Rejected.

    No time is more than `ahead_ms` after the append time; what cannot be read bears time 0.
    """
    try:
        if record.headers:
            headers = dict(record.headers)
            if UNREADABLE_HEADER in headers:
                return 0, Rejected("undecodable", "the name of a header is not UTF-8")
            if MARKER_HEADER in headers:
                time = decode_marker(record.value or b"").time
                if time > record.appended_at + ahead_ms:
                    return 0, Rejected("future", f"marker time {time} is after its append time {record.appended_at}")
                return time, TimeMarker(time, headers[MARKER_HEADER] == b"end")
        item = stage.decode(record)
    except DecodeError as error:
        # Time 0 puts it ahead of whatever waits: it needs no order, and must hold nothing back.
        return 0, Rejected(error.reason, error.detail)
    time = stage.time_of(item)
    if time > record.appended_at + ahead_ms and stage.guarded:
        ahead = (time - record.appended_at) // 1_000
        return 0, Rejected("future", f"event time {time} is {ahead} s after its append time {record.appended_at}")
    return time, item


def store_name(stage: Stage, partition: int) -> str:
    """Return the name under which a task's rows are stored; another layout of rows lives under another name."""
    return f"{stage.name}.{stage.layout}-{partition}"


def dead_letter(record: Record, rejected: Rejected) -> Output:
    """Return the dead letter for a record; it fits the message bound, and its id follows from where it stood."""
    value = encode_dead_letter(
        topic=record.input.topic,
        partition=record.input.partition,
        offset=record.offset,
        reason=rejected.reason,
        detail=rejected.detail,
        appended_at=record.appended_at,
        key=record.key,
        value=record.value,
        headers=record.headers,
    )
    return Output(DEADLETTERS, record.key, value)


_DUPLICATE = Rejected(DUPLICATE, "")
_headers_of = attrgetter("headers")
_MEANT = frozenset({MARKER_HEADER, REDRIVE_HEADER, UNREADABLE_HEADER})


def _means_more(record: Record) -> bool:
    return any(name in _MEANT for name, _ in record.headers)


_NO_EVENTS = frozenset({Rejected, TimeMarker})
_extra_encoder = msgspec.msgpack.Encoder()
_extra_decoder = msgspec.msgpack.Decoder(_Extra)

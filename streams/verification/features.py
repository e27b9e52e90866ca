"""Every logged vector computed again from the raw log, and held against what was served.

Two passes. The first goes through each task's inputs as its door would, and computes all columns but those of products
and categories; the second goes through activity, and computes these at the versions of the rows that each example
names. Memory: the rows of users, products and categories, packed, and about 300 bytes an example; `sample` bounds the
latter.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

from features.columns import Event
from features.sets import MEMORY_MS, SCORE_FEATURES, SCORE_SET, Activity
from schemas.codec import Click
from schemas.internal import ActivityBatch, Example
from streams.errors import LogTruncated
from streams.logs import Topics
from streams.records import ACTIVITY, CLICKSTREAM, EXAMPLES, Input
from streams.settings import Settings
from streams.topologies.shop import feature_schema, shop_of
from streams.verification.door import Applied
from streams.verification.facts import LoggedFacts
from streams.verification.reading import Progress, Reading
from streams.verification.recompute import (
    COLUMNS,
    EngineRows,
    EngineUsers,
    Floats,
    OracleRows,
    OracleUsers,
    Rows,
    Users,
)
from streams.verification.report import By, Difference, Report
from streams.verification.tasks import LoggedTask

TOLERANCE = 1e-9
"""How far a float may be off, as a share of its size or of 1; integers may not."""
_TOLERANCES = np.array([0.0 if feature.dtype == "int" else TOLERANCE for feature in SCORE_SET])
_BATCH = 1_000
_SETTLE_EVERY = 50
_TOLD = 10
_NEVER = 1 << 62
_LOTS = 1 << 16


def verify_features(
    topics: Topics,
    settings: Settings,
    *,
    by: By = "engine",
    sample: int | None = None,
    report: Callable[[Progress], None] = lambda progress: None,
) -> Report:
    """Recompute the vectors of `tidecast.examples` from the log; say how many differ, are missing, or are extra.

    `sample`: compare about so many examples, all those of as many users as it takes; what is missing or extra is
    always looked for everywhere. The settings of time must be those that the log was scored under. Raises LogTruncated
    where there are examples and none can be compared, for the log no longer holds what they need.

    >>> from streams.driver import TopologyDriver
    >>> from streams.topologies.score import ScoreStage
    >>> from streams.logs import RecordedTopics
    >>> driver = TopologyDriver(Settings(), [ScoreStage])
    >>> click = b'{"event_id": "1", "type": "view", "time": 1000, "user_id": "u", "product_id": "p"}'
    >>> _ = driver.pipe("clickstream", b"u", click)
    >>> driver.mark_time(1_000)
    >>> driver.run()
    >>> found = verify_features(RecordedTopics.of(driver), Settings())
    >>> found.compared, found.clean
    (1, True)
    """
    run = _Run(Reading(topics, settings, report), by)
    run.choose(sample)
    for partition in range(topics.partitions):
        run.users_of(partition)
    for partition in range(topics.partitions):
        run.activity_of(partition)
    found = run.end()
    if found.unverifiable and not found.compared:
        raise LogTruncated(
            f"none of {found.unverifiable:,} examples can be verified: {found.why_unverifiable}; raise the topics' "
            "retention.ms, which 'tidecast topics create' sets on new ones, and verify again after as long"
        )
    return found


@dataclass(slots=True)
class _Queries:
    """What examples ask of a partition's products, or categories: columns of equal length, one entry an example."""

    entity: Activity
    names: dict[str, int] = field(default_factory=dict)
    id: array[int] = field(default_factory=lambda: array("q"))
    offset: array[int] = field(default_factory=lambda: array("q"))
    time: array[int] = field(default_factory=lambda: array("q"))
    price: array[int] = field(default_factory=lambda: array("q"))
    number: array[int] = field(default_factory=lambda: array("q"))
    served: bytearray = field(default_factory=bytearray)

    def add(self, id_: str, event: Event, offset: int, number: int, served: Floats) -> None:
        """Ask for `id_` as `event` sees it as of `offset`, for example `number`, whose vector was `served`."""
        self.id.append(self.names.setdefault(id_, len(self.names)))
        self.offset.append(offset)
        self.time.append(event.time)
        self.price.append(event.price_minor)
        self.number.append(number)
        self.served += served[COLUMNS[self.entity]].tobytes()


_Note = Callable[[NDArray[np.bool_], list[int], Floats, Floats, NDArray[np.int64]], None]


class _Answers:
    """Goes through a partition of activity, in order, and answers each query as of its offset."""

    def __init__(self, queries: _Queries, by: By, note: _Note) -> None:
        self._queries = queries
        self._note = note
        self._rows: Rows = EngineRows(queries.entity) if by == "engine" else OracleRows(queries.entity)
        self._names = list(queries.names)
        asked = np.array(queries.offset, np.int64)
        self._order = np.argsort(asked, kind="stable")
        self._asked = asked[self._order]
        self._done = 0

    @property
    def done(self) -> bool:
        """Whether every query was answered."""
        return self._done == len(self._order)

    def until(self, offset: int) -> None:
        """Answer what is asked as of the records before `offset`."""
        until = int(np.searchsorted(self._asked, offset))
        for start in range(self._done, until, _BATCH):
            self._ask(self._order[start : min(start + _BATCH, until)].tolist())
        self._done = until

    def apply(self, batch: ActivityBatch, version: tuple[int, int]) -> None:
        """Apply the record at `version`, (activity partition, offset)."""
        self._rows.apply(batch, self._queries.names, version)

    def _ask(self, places: list[int]) -> None:
        queries = self._queries
        found = self._rows.values(
            [self._names[queries.id[place]] for place in places],
            [queries.time[place] for place in places],
            [queries.price[place] for place in places],
        )
        columns = COLUMNS[queries.entity]
        served = np.frombuffer(queries.served, np.float64).reshape(-1, len(columns))[places]
        differs = _differ(served, found, _TOLERANCES[columns])
        self._note(differs, [queries.number[place] for place in places], served, found, columns)


@dataclass(frozen=True, slots=True)
class _Wanted:
    """An example to compare, its click, the click's place in the batch of events, and a number for it."""

    place: int
    event: Event
    example: Example
    number: int


class _Run:
    """One verification."""

    def __init__(self, reading: Reading, by: By) -> None:
        self._reading = reading
        self._partitions = reading.topics.partitions
        self._by = by
        self._report = Report(by, feature_schema(reading.settings))
        self._counts = np.zeros(len(SCORE_FEATURES), np.int64)
        self._wrong: set[int] = set()
        self._queries = [(_Queries("product"), _Queries("category")) for _ in range(self._partitions)]
        self._covered = [self._covered_from(partition) for partition in range(self._partitions)]
        self._share: float | None = None
        self._facts = LoggedFacts(reading)

    def choose(self, sample: int | None) -> None:
        """Choose users by the hash of their names, so many that they have about `sample` examples; None: everybody."""
        if sample is None:
            return
        self._reading.again(EXAMPLES)
        counts = np.zeros(_LOTS, np.int64)
        for partition in range(self._partitions):
            for batch in self._reading.examples(partition):
                for example in batch.examples:
                    counts[int(_lot(example.user) * _LOTS)] += 1
        enough = np.flatnonzero(np.cumsum(counts) >= sample)
        self._share = (int(enough[0]) + 1) / _LOTS if len(enough) else 1.0

    def end(self) -> Report:
        """Return what was found."""
        self._reading.end()
        found = self._report
        found.mismatches.update(dict(zip(SCORE_FEATURES, self._counts.tolist(), strict=True)))
        found.mismatched = len(self._wrong)
        return found

    # -- users ------------------------------------------------------------------------------------------------

    def users_of(self, partition: int) -> None:
        """Go through one task's inputs: all columns but those of activity, and what is missing or extra."""
        shop = shop_of(self._reading.settings)
        users: Users = EngineUsers(shop) if self._by == "engine" else OracleUsers(shop)
        task = LoggedTask(self._reading, partition)
        batch: list[Event] = []
        wanted: list[_Wanted] = []
        batches = 0
        for applied in task.accepted():
            item = applied.item
            events = task.events(applied)
            if item.user_id is None:
                continue
            chosen = self._share is None or _lot(item.user_id) < self._share
            if isinstance(item, Click) and not applied.redriven:
                example = self._example(task, applied, chosen=chosen)
                if example is not None:
                    number = applied.offset * self._partitions + partition
                    events = [self._facts.shown(events[0], example)]
                    wanted.append(_Wanted(len(batch), events[0], example, number))
            if chosen:
                batch.extend(events)
            if len(batch) >= _BATCH:
                self._compare(users, batch, wanted)
                batch, wanted, batches = [], [], batches + 1
                if batches % _SETTLE_EVERY == 0:
                    users.settle(applied.watermark)
        self._compare(users, batch, wanted)
        for example in task.examples.rest():
            self._report.examples += 1
            if task.may_be_of_old(example):
                self._report.unverifiable += 1
            else:
                self._report.extra += 1
                self._stray(example.id, "extra")

    def _example(self, task: LoggedTask, applied: Applied, *, chosen: bool) -> Example | None:
        """Find and judge the example of an accepted click; return it where it is to be compared."""
        report = self._report
        found = task.examples.take(applied.offset)
        if found is None:
            if task.must_have_example(applied):
                report.accepted += 1
                report.missing += 1
                self._stray(f"{CLICKSTREAM}-{task.partition}-{applied.offset}-purchase", "missing")
            return None
        example, same_definition = found
        report.accepted += 1
        report.examples += 1
        if not same_definition:
            report.other_definition += 1
            return None
        if not chosen:
            return None
        why = task.uncovered(applied) or self._uncovered_activity(example)
        if why is not None:
            report.unverifiable += 1
            report.why_unverifiable = report.why_unverifiable or f"{why}, after what {example.id} needs"
            return None
        if not task.stands_at(example, applied):
            report.misplaced += 1
            self._stray(example.id, "misplaced")
        return example

    def _compare(self, users: Users, batch: Sequence[Event], wanted: Sequence[_Wanted]) -> None:
        if not batch:
            return
        self._reading.time = max(self._reading.time, batch[-1].time)
        found = users.apply(batch, [one.place for one in wanted])
        if not wanted:
            return
        served = np.array([_vector(one.example) for one in wanted])
        differs = _differ(served, found, _TOLERANCES)
        for row, one in enumerate(wanted):
            read = (one.event.product, one.example.product_version), (one.event.category, one.example.category_version)
            for which, (id_, version) in enumerate(read):
                if id_ is None or version is None:
                    continue
                # The row is met later, in the order of activity.
                partition, offset = version if version[0] < self._partitions else (0, -1)
                queries = self._queries[partition][which]
                differs[row, COLUMNS[queries.entity]] = False
                queries.add(id_, one.event, offset, one.number, served[row])
        self._report.compared += len(wanted)
        self._note(differs, [one.number for one in wanted], served, found, np.arange(len(SCORE_FEATURES)))

    # -- activity ---------------------------------------------------------------------------------------------

    def activity_of(self, partition: int) -> None:
        """Go through one partition of activity: the columns of products and categories at each version asked for."""
        answers = [_Answers(queries, self._by, self._note) for queries in self._queries[partition]]
        for record in self._reading.read(Input(ACTIVITY, partition)):
            for one in answers:
                one.until(record.offset)
            if all(one.done for one in answers):
                break
            batch = self._reading.activity(record)
            if batch is not None:
                for one in answers:
                    one.apply(batch, (partition, record.offset))
        for one in answers:
            one.until(_NEVER)

    def _covered_from(self, partition: int) -> int:
        """Return the event time (UTC ms) from which on a partition of activity holds all that its rows need.

        What is lost of a task's rows was stamped before the first watermark that it still says, but for the lateness.
        """
        reading = self._reading
        low, _ = reading.topics.bounds(Input(ACTIVITY, partition))
        if low == 0:
            return 0
        first: dict[int, int] = {}
        for record in reading.topics.read(Input(ACTIVITY, partition)):
            batch = reading.activity(record)
            if batch is not None and batch.watermark is not None:
                first.setdefault(batch.task, batch.watermark)
                if len(first) == self._partitions:
                    return max(first.values()) + reading.settings.time.allowed_lateness_s * 1_000 + MEMORY_MS
        return _NEVER

    def _uncovered_activity(self, example: Example) -> str | None:
        for version in (example.product_version, example.category_version):
            if version is not None and version[0] < self._partitions and example.as_of < self._covered[version[0]]:
                input_ = Input(ACTIVITY, version[0])
                return f"{input_} starts at offset {self._reading.topics.bounds(input_)[0]}"
        return None

    # -- what both tell ---------------------------------------------------------------------------------------

    def _note(
        self, differs: NDArray[np.bool_], numbers: list[int], served: Floats, found: Floats, columns: NDArray[np.int64]
    ) -> None:
        self._counts[columns] += differs.sum(axis=0)
        rows, places = np.nonzero(differs)
        for row, place in zip(rows.tolist(), places.tolist(), strict=True):
            self._wrong.add(numbers[row])
            if len(self._report.differences) < _TOLD:
                offset, partition = divmod(numbers[row], self._partitions)
                said, wanted = float(served[row, place]), float(found[row, place])
                name = SCORE_FEATURES[int(columns[place])]
                one = Difference(f"{CLICKSTREAM}-{partition}-{offset}-purchase", name, said, wanted)
                self._report.differences.append(one)

    def _stray(self, example: str, what: str) -> None:
        if len(self._report.strays) < _TOLD:
            self._report.strays.append(f"{example}: {what}")


def _lot(user: str) -> float:
    """Return a user's lot, from 0 to less than 1, by the hash of the name."""
    return int.from_bytes(blake2b(user.encode(), digest_size=6).digest(), "little") / 2**48


def _vector(example: Example) -> Floats:
    """Return the vector served; nothing equals one of another length."""
    if len(example.vector) != 8 * len(SCORE_FEATURES):
        return np.full(len(SCORE_FEATURES), np.nan)
    return np.frombuffer(example.vector, "<f8").astype(np.float64)


def _differ(served: Floats, found: Floats, tolerances: Floats) -> NDArray[np.bool_]:
    wrong: NDArray[np.bool_] = ~(np.abs(served - found) <= tolerances * np.maximum(1.0, np.abs(found)))
    return wrong

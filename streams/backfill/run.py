"""The past through the door, the engine and the product rows that serve, into a training table.

Product rows change hands wherever event time enters another five minutes: vectors show of a product only tiles that are
over, so none is behind what was known then, and none ahead of it. Memory: what the stages hold, and the rows of one
horizon.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from features.engine import ScoreFeatures
from features.sets import MEMORY_MS, MINUTE
from schemas.codec import Click, Order
from schemas.internal import ExampleBatch, decode_examples
from streams.backfill.log import INPUTS, LogFeed, in_time_order
from streams.backfill.rows import SettledRows
from streams.backfill.table import TrainingTable
from streams.backtest.feed import Feed, share_read
from streams.backtest.files import stamp, write_json
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.errors import SourceError
from streams.logs import FACTS, Topics
from streams.records import CLICKSTREAM, EXAMPLES, Input, Record, is_marker
from streams.runtime.refusals import DUPLICATE, refusals
from streams.settings import Settings
from streams.sources import Source, Unreadable
from streams.sources.shop import with_shop_of
from streams.topologies.score import ScoreStage
from streams.topologies.shop import shop_of

TILE_MS = 5 * MINUTE
CHUNK_EVENTS = 10_000
_STAGES = ("score", "demand")
_FOREVER = 1 << 62


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a backfill is: `done` from 0 to 1, `time_ms` the event time reached (UTC ms)."""

    events: int
    time_ms: int
    done: float


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked for: rows of clicks in [from_ms, to_ms), event times in UTC ms.

    What was before counts in the features; what comes after is read as far as labels need it.
    """

    out: Path
    from_ms: int = 0
    to_ms: int | None = None


Report = Callable[[Progress], None]


def backfill_source(
    source: Source, settings: Settings, request: Request, report: Report = lambda progress: None
) -> dict[str, Any]:
    """Write the training table of a shop's files; return its card, which is backfill.json too.

    Raises SourceError for a source without clicks, ConfigurationError for a folder that holds a table already, or
    where pyarrow is missing.
    """
    if "clicks" not in source.tables:
        raise SourceError(f"{source.name}: has no [clicks]; a training table has a row a click, so add them")
    with _Run(with_shop_of(settings, source), request, partitions=1) as run:
        feed = Feed(run.driver, _STAGES, CHUNK_EVENTS, TILE_MS)
        stopped = False
        for event in source.events():
            value = event.value
            if isinstance(value, Unreadable):
                continue
            if not isinstance(value, Click | Order):
                feed.put(event.topic, event.key, value)
                continue
            if value.time >= run.stop_ms:
                stopped = True
                break
            run.next_click(value if isinstance(value, Click) else None)
            run.saw(value.time)
            if feed.put(event.topic, event.key, value):
                report(Progress(feed.events, feed.time or 0, share_read(source)))
        if feed.time is not None:
            feed.run([feed.time + 1])
            # What the files do not hold can come no more: lateness need not be waited for.
            run.close(run.stop_ms if stopped else feed.time)
        run.rows.close()
    report(Progress(feed.events, feed.time or 0, 1.0))
    accounts = source.accounts
    read = {"rows": accounts.rows, "rows_filtered": accounts.filtered, "rows_unreadable": accounts.unreadable}
    return run.card({"source": source.name, **{name: dict(counts) for name, counts in read.items()}})


def backfill_topics(
    topics: Topics, settings: Settings, request: Request, report: Report = lambda progress: None
) -> dict[str, Any]:
    """Write the training table of what the input topics hold; return its card. Raises ConfigurationError as above."""
    inputs = [Input(topic, partition) for topic in INPUTS for partition in range(topics.partitions)]
    bounds = {str(input_): topics.bounds(input_) for input_ in inputs}
    total = sum(high - low for low, high in bounds.values())
    with _Run(settings, request, partitions=topics.partitions) as run:
        feed = LogFeed(run.driver, TILE_MS, CHUNK_EVENTS)
        for topic in FACTS:
            for record in topics.read(Input(topic, 0)):
                run.driver.pipe(topic, record.key, record.value, appended_at=record.appended_at)
        for records, one in enumerate(in_time_order(topics, settings)):
            if one.time > run.stop_ms and run.has_all():
                break
            run.next_click(one.item if isinstance(one.item, Click) else None, one.record.offset)
            if one.item is not None:
                run.saw(one.item.time)
            if feed.put(one):
                report(Progress(feed.events, feed.time, min(records / max(total, 1), 0.999)))
        feed.run()
        run.rows.close()
    report(Progress(feed.events, feed.time, 1.0))
    whole = None
    if any(low for low, _ in bounds.values()) and run.first_ms is not None:
        # What retention took is within the longest memory of what it left.
        whole = stamp(run.first_ms + MEMORY_MS)
    return run.card({"topics": {name: list(held) for name, held in bounds.items()}, "features_whole_from": whole})


class _Run:
    """The driver, and what comes out of it. Use as a context: leaving closes the table."""

    def __init__(self, settings: Settings, request: Request, partitions: int) -> None:
        # Read again in each batch: how old a product row may be is wall time, which a backfill has none of.
        score = settings.score.model_copy(update={"product_staleness_ms": 0})
        self._settings = settings.model_copy(update={"score": score})
        self._request = request
        self._partitions = partitions
        self._started = time.perf_counter()
        self._table = TrainingTable(request.out, settings.score.horizon_s)
        self.lateness_ms = settings.time.allowed_lateness_s * 1_000
        horizon_ms = settings.score.horizon_s * 1_000
        self.stop_ms = _FOREVER if request.to_ms is None else request.to_ms + horizon_ms
        self.rows = SettledRows(horizon_ms, self.lateness_ms, self._table.add)
        self.driver = TopologyDriver(
            self._settings, [ScoreStage, quiet_demand_stage], partitions=partitions, retain=False
        )
        self.driver.tap(CLICKSTREAM, self._on_click)
        self.driver.tap(EXAMPLES, self._on_examples)
        self.first_ms: int | None = None
        self._last_ms: int | None = None
        self._clicks: list[deque[tuple[int, int, str | None]]] = [deque() for _ in range(partitions)]
        self._next: tuple[int | None, str | None] = (None, None)

    def __enter__(self) -> Self:
        self._table.__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        self._table.__exit__(*error)

    def next_click(self, click: Click | None, offset: int | None = None) -> None:
        """Say which click, if it is one, is put in next, and at which offset it stood in its own log."""
        self._next = (offset, None if click is None else click.session_id)

    def saw(self, time_ms: int) -> None:
        """Hear of an event's time."""
        self.first_ms = time_ms if self.first_ms is None else min(self.first_ms, time_ms)
        self._last_ms = time_ms if self._last_ms is None else max(self._last_ms, time_ms)

    def has_all(self) -> bool:
        """Say whether every task has come so far that all rows asked for are written."""
        return self.rows.watermark is not None and self.rows.watermark > self.stop_ms + self.lateness_ms

    def close(self, end_ms: int) -> None:
        """Settle all labels whose horizon is over at `end_ms`, up to which everything was put in."""
        for task in range(self._partitions):
            self.rows.hear(ExampleBatch(task, self._partitions, end_ms + self.lateness_ms, "", [], []))

    def card(self, read: dict[str, Any]) -> dict[str, Any]:
        """Write and return what the table is, and where every event went."""
        counts = self.driver.counts("score")
        request, settings = self._request, self._settings
        refused = Counter[str]()
        for reasons in refusals(counts).values():
            refused.update(reasons)
        features = ScoreFeatures(shop_of(settings))
        card = {
            "schema_hash": features.schema_hash,
            "features": len(features.names),
            "horizon_s": settings.score.horizon_s,
            "allowed_lateness_s": settings.time.allowed_lateness_s,
            "from": _stamp(request.from_ms or None),
            "to": _stamp(request.to_ms),
            "rows": self._table.rows,
            **{name: self.rows.counts[name] for name in ("positive", "unlabelled", "corrections")},
            "late": refused.pop("late", 0),
            "duplicates": refused.pop(DUPLICATE, 0),
            "refused": dict(sorted(refused.items())),
            "without_user": counts.get("clicks_without_user", 0),
            "redriven": counts.get("clicks_redriven", 0),
            "log": {"first_event": _stamp(self.first_ms), "last_event": _stamp(self._last_ms), **read},
            "files": self._table.files,
            "seconds": round(time.perf_counter() - self._started, 3),
        }
        write_json(request.out / "backfill.json", card)
        return card

    # -- what comes out ---------------------------------------------------------------------------------------

    def _on_click(self, record: Record) -> None:
        if is_marker(record):
            return
        offset, session = self._next
        own = record.offset if offset is None else offset
        self._clicks[record.input.partition].append((record.offset, own, session))

    def _on_examples(self, record: Record) -> None:
        batch = decode_examples(record.value or b"")
        clicks = self._clicks[batch.task]
        request = self._request
        examples = []
        for example in batch.examples:
            at = example.offsets[0] - 1
            found, own, session = clicks.popleft()
            while found < at:  # these were refused, or nobody's
                found, own, session = clicks.popleft()
            assert found == at, f"{example.id}: no click stood at {at}"
            named = msgspec.structs.replace(example, id=f"{CLICKSTREAM}-{batch.task}-{own}-purchase")
            examples.append(named)
            if request.from_ms <= example.as_of and (request.to_ms is None or example.as_of < request.to_ms):
                self.rows.add(named, session, batch.task)
        self.rows.hear(msgspec.structs.replace(batch, examples=examples))


def _stamp(time_ms: int | None) -> str | None:
    return None if time_ms is None else stamp(time_ms)

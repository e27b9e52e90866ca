"""Demand: activity becomes rows of products and categories, and series; as a bucket closes, a forecast with quantiles.

A bucket closes only through a record that moves the least upstream watermark past its end. Till then its counts are
sums; what is said of it later waits for its turn in event time. So what is told depends on the events alone, not on how
far the upstream tasks are apart. A series lives from a product's first sale until it has had none for
`demand.retire_after` buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from zlib import crc32

import msgspec

from features.products import ProductFeatures
from models.buckets import kept_buckets
from schemas.codec import DecodeError
from schemas.internal import ActivityBatch, ActivityRow, CategoryRow, EventKind, decode_activity
from schemas.outputs import decode_announcement, encode_demand, encode_history
from streams.errors import RecoveryError
from streams.records import (
    ACTIVITY,
    CATALOG,
    DEADLETTERS,
    HISTORY,
    MODELS,
    PLAN,
    PREDICTIONS,
    SHADOW,
    Output,
    Record,
)
from streams.runtime.checkpoint import Rows
from streams.runtime.merge import Entry
from streams.settings import Settings
from streams.topologies.calendar import Calendar
from streams.topologies.changes import WaitingChanges
from streams.topologies.facts import Facts, decode_fact
from streams.topologies.forecasting import DemandModels, Forecast
from streams.topologies.layout import DEMAND_STAGE, demand_layout
from streams.topologies.series import Bucket, Series
from streams.topologies.shop import shop_of
from streams.topologies.stage import Forward, State, Step
from streams.topologies.upstream import check_batch

_SHARDS = 64
_COUNTED = frozenset({EventKind.VIEW, EventKind.ADD_TO_CART, EventKind.PURCHASE, EventKind.CANCEL})


class DemandStage:
    """The stage of products and categories. It holds the catalog, the plan and the models that all its tasks use."""

    name = DEMAND_STAGE
    inputs = (ACTIVITY,)
    tables = (CATALOG, PLAN, MODELS)
    outputs = (PREDICTIONS, SHADOW, HISTORY, DEADLETTERS)
    partitioned_outputs: tuple[str, ...] = ()
    ordered = False
    guarded = False
    single_task = False
    expiring = ("p:", "c:", "s:")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self._tasks = 0
        self.layout = demand_layout()
        self.calendar = Calendar(settings.demand.bucket, settings.shop.timezone)
        self.kept = kept_buckets(settings.demand.bucket)
        self.facts = Facts(shop_of(settings).exchange)
        self.models = DemandModels(settings)
        bucket_ms = {"H": 3_600_000, "D": 86_400_000, "W": 7 * 86_400_000}[settings.demand.bucket]
        self.memory_ms = max(ProductFeatures().memory_ms, (self.kept + settings.demand.retire_after) * bucket_ms)

    def decode(self, record: Record) -> ActivityBatch:
        """Return the batch in a record. Raises DecodeError."""
        if record.value is None:
            raise DecodeError("undecodable", "the record has no value")
        batch = decode_activity(record.value)
        check_batch(batch, record, self._tasks, self.settings)
        return batch

    def decode_run(self, records: Sequence[Record]) -> None:
        """Return None: a record is a batch by itself."""
        return

    def time_of(self, item: ActivityBatch) -> int:
        """Return the batch's watermark as its time."""
        return item.watermark or 0

    def on_table(self, record: Record) -> bool:
        """Take a catalog or plan entry, or swap a model. Raises DecodeError for what cannot be read."""
        if record.value is None:
            return False
        if record.input.topic == MODELS:
            if record.key is None or not record.key.startswith(b"demand/"):
                return False
            return self.models.announce(decode_announcement(record.value))
        self.facts.learn(decode_fact(record))
        return False

    def lacks(self) -> str | None:
        """Return None: nothing was asked for."""
        return None

    def serves(self) -> Mapping[str, str]:
        """Return the champion, the version in shadow, and why the announced champion was refused."""
        found = {"champion": self.models.champion, "shadow": self.models.shadow, "refused": self.models.refused}
        return {name: said for name, said in found.items() if said is not None}

    def open(self, partition: int, tasks: int) -> State:
        """Return the empty state of a task."""
        self._tasks = tasks
        return _DemandState(self, partition)


class _Extra(msgspec.Struct):
    upstream: dict[int, int | None]
    tasks: int | None
    closed: int | None
    first: int | None
    calendar: str


class _DemandState(Forward):
    def __init__(self, stage: DemandStage, partition: int) -> None:
        self._stage = stage
        self._partition = partition
        self._products = ProductFeatures()
        self._categories = ProductFeatures("category")
        self._series: dict[str, Series] = {}
        self._dirty_series: set[str] = set()
        self._live: set[str] = set()
        """Products with a series that has not retired, or with a sale in an open bucket."""
        self._dirty_shards: set[int] = set()
        self._waiting = WaitingChanges()
        self._upstream: dict[int, int | None] = {}
        self._tasks: int | None = None
        self._closed: int | None = None
        self._first: int | None = None
        """The earliest bucket in which something must be decided, while nothing was closed yet."""

    # -- rows -------------------------------------------------------------------------------------------------

    def initial_keys(self) -> Sequence[str]:
        return [f"{kind}:{shard}" for kind in "lw" for shard in range(_SHARDS)]

    def missing(self, entries: Sequence[Entry]) -> Sequence[str]:
        products: dict[str, None] = {}
        categories: dict[str, None] = {}
        upstream = dict(self._upstream)
        for entry in entries:
            batch = entry.item
            assert isinstance(batch, ActivityBatch)
            upstream[batch.task] = _later(upstream.get(batch.task), batch.watermark)
            for row in batch.rows:
                products[row.product_id] = None
            for one in batch.categories:
                categories[one.category_id] = None
        wanted = dict(products)
        watermark = self._least(upstream, entries)
        if watermark is not None:
            if self._would_close(watermark):
                wanted.update(dict.fromkeys(sorted(self._live)))
            if self._waiting.due(watermark):
                wanted.update(dict.fromkeys(self._waiting.products()))
        keys = [f"p:{product}" for product in self._products.missing(products)]
        keys += [f"c:{category}" for category in self._categories.missing(categories)]
        return keys + [f"s:{one}" for one in wanted if one not in self._series]

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        self._products.load_all({key[2:]: row for key, row in rows.items() if key.startswith("p:")})
        self._categories.load_all({key[2:]: row for key, row in rows.items() if key.startswith("c:")})
        self._waiting.load(rows)
        for key, row in rows.items():
            kind, name = key[:2], key[2:]
            if kind == "s:":
                self._series[name] = Series.unpack(row) if row is not None else Series()
            elif row is not None and kind == "l:":
                self._live.update(_decode_names(row))

    def foreign(self, entries: Sequence[Entry], now_ms: int, *, refresh: bool) -> Mapping[str, Sequence[str]]:
        return {}

    def load_foreign(self, task: str, rows: Mapping[str, bytes | None], now_ms: int) -> None:
        return

    def dirty(self) -> int:
        return self._products.dirty() + self._categories.dirty() + len(self._dirty_series)

    def drain(self) -> Rows:
        rows: Rows = {f"p:{product}": row for product, row in self._products.drain().items()}
        rows.update({f"c:{category}": row for category, row in self._categories.drain().items()})
        for product in self._dirty_series:
            series = self._series[product]
            if self._closed is not None:
                series.drop_void(self._closed)
            rows[f"s:{product}"] = series.pack()
        if self._dirty_shards:
            shards: dict[int, list[str]] = {shard: [] for shard in self._dirty_shards}
            for product in sorted(self._live):
                if (shard := _shard(product)) in shards:
                    shards[shard].append(product)
            rows.update({f"l:{shard}": _encode(names) if names else None for shard, names in shards.items()})
        rows.update(self._waiting.drain())
        self._dirty_series.clear()
        self._dirty_shards.clear()
        return rows

    def forget(self, keys: Iterable[str]) -> None:
        gone: dict[str, list[str]] = {"p:": [], "c:": [], "s:": []}
        for key in keys:
            gone[key[:2]].append(key[2:])
        self._products.forget(gone["p:"])
        self._categories.forget(gone["c:"])
        for product in gone["s:"]:
            self._series.pop(product, None)

    def trim(self, limit: int) -> None:
        self._products.evict(limit)
        self._categories.evict(limit)
        if len(self._series) > limit:
            for product in [p for p in self._series if p not in self._live and p not in self._dirty_series]:
                del self._series[product]

    def extra(self) -> bytes:
        return _encode(_Extra(self._upstream, self._tasks, self._closed, self._first, self._calendar()))

    def restore(self, extra: bytes) -> None:
        found = _decode_extra(extra)
        if found.calendar != self._calendar():
            raise RecoveryError(
                f"the state holds buckets of {found.calendar}, the settings say {self._calendar()}: set demand.bucket "
                f"and shop.timezone back, or run 'tidecast state reset {DEMAND_STAGE}-{self._partition}' to rebuild it"
            )
        self._upstream, self._tasks, self._closed = found.upstream, found.tasks, found.closed
        self._first = found.first

    def _calendar(self) -> str:
        calendar = self._stage.calendar
        return f"{calendar.freq} in {calendar.timezone}"

    def watermark(self) -> int | None:
        return self._least(self._upstream, ())

    # -- the step ---------------------------------------------------------------------------------------------

    def step(self, entries: Sequence[Entry], step: Step) -> list[Output]:
        outputs: list[Output] = []
        for entry in entries:
            batch = entry.item
            assert isinstance(batch, ActivityBatch)
            self._tasks = batch.tasks
            version = self._partition, entry.offset
            if batch.rows:
                self._apply(batch.rows, version, step)
            if batch.categories:
                self._apply_categories(batch.categories, version)
            self._upstream[batch.task] = _later(self._upstream.get(batch.task), batch.watermark)
            self._proceed(self.watermark(), step, outputs)
        return outputs

    def _apply(self, rows: Sequence[ActivityRow], version: tuple[int, int], step: Step) -> None:
        self._products.apply(
            [row.product_id for row in rows],
            [row.kind for row in rows],
            [row.time for row in rows],
            [row.price for row in rows],
            [row.visitor for row in rows],
            version,
        )
        step.count("activity_rows", len(rows))
        number_of = self._stage.calendar.number
        for row in rows:
            if row.kind not in _COUNTED:
                continue
            number = number_of(row.time)
            if row.at and number_of(row.at) > number:
                # Said when its bucket had ended: a revision, in the order in which such things were said.
                self._waiting.add(_shard(row.product_id), row)
                self._note_first(number_of(row.at))
                continue
            series = self._series[row.product_id]
            series.at(number).add(row)
            series.touched = max(series.touched, row.time)
            self._dirty_series.add(row.product_id)
            if row.kind == EventKind.PURCHASE:
                self._enliven(row.product_id)
                self._note_first(number)

    def _apply_categories(self, rows: Sequence[CategoryRow], version: tuple[int, int]) -> None:
        self._categories.apply(
            [row.category_id for row in rows],
            [row.kind for row in rows],
            [row.time for row in rows],
            [row.price for row in rows],
            [0] * len(rows),
            version,
        )

    def _note_first(self, number: int) -> None:
        if self._closed is None:
            self._first = number if self._first is None else min(self._first, number)

    def _proceed(self, watermark: int | None, step: Step, outputs: list[Output]) -> None:
        """Close buckets and apply changes of closed ones, in the order of event time, as far as all upstream is."""
        if watermark is None:
            return
        calendar = self._stage.calendar
        if self._closed is None:
            # From the first that matters on, however many buckets the first batches span.
            number = calendar.number(watermark)
            self._closed = (number if self._first is None else min(self._first, number)) - 1
        while True:
            ends = calendar.start(self._closed + 2)
            changed = self._waiting.next_at()
            if changed is not None and changed < ends and changed < watermark:
                self._change(self._waiting.pop()[1], step, outputs)
            elif ends <= watermark:
                self._closed += 1
                self._close(self._closed, step, outputs)
            else:
                return

    def _close(self, number: int, step: Step, outputs: list[Output]) -> None:
        stage = self._stage
        end, rest = stage.calendar.start(number + 1), stage.settings.demand.retire_after
        closing = [product for product in sorted(self._live) if self._series[product].lives(number, rest)]
        for product in closing:
            series = self._series[product]
            bucket = series.close(number, kept=stage.kept)
            series.touched = max(series.touched, end)
            self._dirty_series.add(product)
            listed = stage.facts.price(product, end - 1)
            if listed is not None:
                bucket.price = listed
            if step.emit:
                outputs.append(self._history(product, number, bucket, 0))
        if step.emit and closing:
            outputs.extend(self._forecasts(closing, number, 0, step))
        step.count("buckets_closed", len(closing))
        step.count("demand_predictions", len(closing))
        for product in list(self._live):
            series = self._series[product]
            if not series.lives(number + 1, rest) and not series.sells_after(number):
                self._live.discard(product)
                self._dirty_shards.add(_shard(product))

    def _change(self, row: ActivityRow, step: Step, outputs: list[Output]) -> None:
        """Apply what was said of a bucket that had ended: revision n of its history, of its forecast where it is the
        latest."""
        assert self._closed is not None
        product, number = row.product_id, self._stage.calendar.number(row.time)
        series = self._series[product]
        if self._stage.calendar.start(number + 1) < row.at - self._stage.memory_ms:
            # Whether or not the row is still stored.
            step.count("activity_before_memory")
            return
        if row.kind == EventKind.PURCHASE:
            tell = self._wake if number > series.last else self._fill
            tell(product, number, step, outputs)
        bucket = series.closed_at(number)
        if bucket is None:
            step.count("activity_before_memory")
            return
        bucket.add(row)
        series.touched = max(series.touched, row.at)
        self._dirty_series.add(product)
        if row.kind == EventKind.PURCHASE:
            self._wake(product, number, step, outputs)
        if row.kind in (EventKind.PURCHASE, EventKind.CANCEL):
            revision = series.revise(number)
            step.count("buckets_revised")
            latest = number == series.last
            step.count("demand_predictions", int(latest))
            if step.emit:
                outputs.append(self._history(product, number, bucket, revision))
                if latest:
                    outputs.extend(self._forecasts([product], number, revision, step))

    def _wake(self, product: str, number: int, step: Step, outputs: list[Output]) -> None:
        """Let a series go on from a sale in bucket `number`, which had closed without it."""
        assert self._closed is not None
        series, rest = self._series[product], self._stage.settings.demand.retire_after
        series.sold = max(series.sold, number)
        # What lies between two lives is in no history.
        first = max(series.last + 1, number) if series.closed else number
        for one in range(first, min(self._closed, series.sold + rest) + 1):
            bucket = series.close(one, kept=self._stage.kept, empty=True)
            step.count("buckets_closed")
            if step.emit:
                outputs.append(self._history(product, one, bucket, 0))
        if self._closed < series.sold + rest:
            self._enliven(product)

    def _fill(self, product: str, number: int, step: Step, outputs: list[Output]) -> None:
        """Say what a sale in bucket `number`, which lies between two lives, brings into the history."""
        series, rest = self._series[product], self._stage.settings.demand.retire_after
        for one in range(number, min(number + rest, series.last) + 1):
            bucket = series.closed_at(one)
            if bucket is not None and not series.said(one, rest) and step.emit:
                outputs.append(self._history(product, one, bucket, 0))

    def _enliven(self, product: str) -> None:
        if product not in self._live:
            self._live.add(product)
            self._dirty_shards.add(_shard(product))

    # -- what is said -----------------------------------------------------------------------------------------

    def _history(self, product: str, number: int, bucket: Bucket, revision: int) -> Output:
        calendar = self._stage.calendar
        start = calendar.start(number)
        value = encode_history(
            id=f"{product}|{start}|history|{revision}",
            product_id=product,
            bucket_start=start,
            freq=calendar.freq,
            quantity=bucket.quantity,
            value_minor=bucket.value_minor,
            views=bucket.views,
            carts=bucket.carts,
            price=bucket.price if bucket.price >= 0 else None,
            covariates=self._stage.facts.covariates(product, start),
            revision=revision,
        )
        return Output(HISTORY, f"{product}|{start}".encode(), value)

    def _forecasts(self, products: Sequence[str], number: int, revision: int, step: Step) -> list[Output]:
        calendar, settings = self._stage.calendar, self._stage.settings.demand
        as_of = calendar.start(number + 1)
        starts = [calendar.start(number + ahead) for ahead in range(1, settings.horizon + 1)]
        horizon_s = (calendar.start(number + settings.horizon + 1) - as_of) // 1_000
        series = [self._series[product] for product in products]
        models, facts = self._stage.models, self._stage.facts

        def said(topic: str, kind: str, forecasts: list[Forecast]) -> Iterator[Output]:
            for product, forecast in zip(products, forecasts, strict=True):
                value = encode_demand(
                    id=f"{product}|{as_of}|{kind}|{revision}",
                    subject=product,
                    as_of=as_of,
                    produced_at=step.now_ms,
                    model_name=forecast.model_name,
                    model_version=forecast.model_version,
                    horizon_s=horizon_s,
                    revision=revision,
                    bucket=calendar.freq,
                    starts=starts,
                    mean=forecast.mean,
                    quantiles=forecast.quantiles,
                    levels=forecast.levels,
                )
                yield Output(topic, product.encode(), value)

        outputs = list(said(PREDICTIONS, "demand", models.forecast(products, series, number, facts)))
        if models.shadow is not None:
            outputs.extend(said(SHADOW, "shadow", models.shadow_forecast(products, series, number, facts)))
        return outputs

    # -- upstream ---------------------------------------------------------------------------------------------

    def _least(self, upstream: Mapping[int, int | None], entries: Sequence[Entry]) -> int | None:
        tasks = self._tasks
        for entry in entries:
            assert isinstance(entry.item, ActivityBatch)
            tasks = entry.item.tasks
        if tasks is None or len(upstream) < tasks:
            return None
        marks = [mark for mark in upstream.values() if mark is not None]
        return min(marks) if len(marks) == len(upstream) else None

    def _would_close(self, watermark: int) -> bool:
        return self._closed is None or self._stage.calendar.start(self._closed + 2) <= watermark


def _later(one: int | None, other: int | None) -> int | None:
    return max((time for time in (one, other) if time is not None), default=None)


def _shard(product: str) -> int:
    return crc32(product.encode()) // 1_024 % _SHARDS


_encode = msgspec.msgpack.Encoder().encode
_decode_extra = msgspec.msgpack.Decoder(_Extra).decode
_decode_names = msgspec.msgpack.Decoder(list[str]).decode

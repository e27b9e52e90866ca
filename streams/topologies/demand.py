"""Demand: activity becomes product rows and bucketed series; each time a bucket closes, a forecast with quantiles.

A bucket closes only through a record that moves the watermark past its end, so the same log always closes it at the
same place. A series lives from a product's first sale until it has had none for `demand.retire_after` buckets.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from zlib import crc32

import msgspec

from features.products import ProductFeatures
from schemas.codec import Catalog, DecodeError, Plan, decode_catalog, decode_plan
from schemas.internal import ActivityBatch, ActivityRow, EventKind, decode_activity
from schemas.outputs import decode_announcement, encode_demand, encode_history
from streams.records import (
    ACTIVITY,
    CATALOG,
    DEADLETTERS,
    HISTORY,
    MODELS,
    PLAN,
    PREDICTIONS,
    Input,
    Output,
    Record,
)
from streams.runtime.checkpoint import Rows
from streams.runtime.merge import Entry
from streams.settings import Settings
from streams.topologies.calendar import Calendar
from streams.topologies.facts import Facts
from streams.topologies.forecasting import Champion, Forecast, kept_buckets
from streams.topologies.layout import DEMAND_STAGE, demand_layout
from streams.topologies.series import Bucket, Series
from streams.topologies.stage import State, Step

_SHARDS = 64
_COUNTED = {EventKind.VIEW: "views", EventKind.ADD_TO_CART: "carts"}


class DemandStage:
    """The stage of products. It holds the catalog, the plan and the champion that all its tasks use."""

    name = DEMAND_STAGE
    inputs = (ACTIVITY,)
    tables = (CATALOG, PLAN, MODELS)
    outputs = (PREDICTIONS, HISTORY, DEADLETTERS)
    partitioned_outputs: tuple[str, ...] = ()
    ordered = False
    guarded = False
    single_task = False
    expiring = ("p:", "s:")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.layout = demand_layout()
        self.calendar = Calendar(settings.demand.bucket, settings.shop.timezone)
        self.kept = kept_buckets(settings.demand.bucket)
        self.facts = Facts()
        self.champion = Champion(settings)
        bucket_ms = {"H": 3_600_000, "D": 86_400_000, "W": 7 * 86_400_000}[settings.demand.bucket]
        self.memory_ms = max(ProductFeatures().memory_ms, (self.kept + settings.demand.retire_after) * bucket_ms)

    def decode(self, record: Record) -> ActivityBatch:
        """Return the batch in a record. Raises DecodeError."""
        if record.value is None:
            raise DecodeError("undecodable", "the record has no value")
        return decode_activity(record.value)

    def event(self, item: object) -> tuple[int, str]:
        """Return the batch's watermark as its time."""
        assert isinstance(item, ActivityBatch)
        return item.watermark or 0, ""

    def on_table(self, record: Record) -> bool:
        """Take a catalog or plan entry, or swap the champion. Raises DecodeError for what cannot be read."""
        if record.value is None:
            return False
        if record.input.topic == MODELS:
            if record.key is None or not record.key.startswith(b"demand/"):
                return False
            return self.champion.announce(decode_announcement(record.value))
        fact: Catalog | Plan = (
            decode_catalog(record.value) if record.input.topic == CATALOG else decode_plan(record.value)
        )
        self.facts.learn(fact)
        return False

    def open(self, partition: int, tasks: int) -> State:
        """Return the empty state of a task."""
        return _DemandState(self, partition)


class _Extra(msgspec.Struct):
    upstream: dict[int, int | None]
    tasks: int | None
    closed: int | None
    first: int | None = None


class _DemandState:
    def __init__(self, stage: DemandStage, partition: int) -> None:
        self._stage = stage
        self._partition = partition
        self._features = ProductFeatures()
        self._series: dict[str, Series] = {}
        self._absent: set[str] = set()
        self._dirty_series: set[str] = set()
        self._live: set[str] = set()
        self._dirty_shards: set[int] = set()
        self._upstream: dict[int, int | None] = {}
        self._tasks: int | None = None
        self._closed: int | None = None
        self._first: int | None = None
        """The earliest bucket of a sale, while nothing was closed yet."""

    # -- rows -------------------------------------------------------------------------------------------------

    def initial_keys(self) -> Sequence[str]:
        return [f"l:{shard}" for shard in range(_SHARDS)]

    def missing(self, entries: Sequence[Entry]) -> Sequence[str]:
        products: dict[str, None] = {}
        wanted: dict[str, None] = {}
        upstream = dict(self._upstream)
        for entry in entries:
            batch = entry.item
            assert isinstance(batch, ActivityBatch)
            upstream[batch.task] = batch.watermark
            for row in batch.rows:
                products[row.product_id] = None
        if self._would_close(self._least(upstream, entries)):
            wanted.update(dict.fromkeys(sorted(self._live)))
        wanted.update(products)
        keys = [f"p:{product}" for product in self._features.missing(products)]
        return keys + [f"s:{one}" for one in wanted if one not in self._series and one not in self._absent]

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        self._features.load_all({key[2:]: row for key, row in rows.items() if key.startswith("p:")})
        for key, row in rows.items():
            kind, name = key[:2], key[2:]
            if kind == "s:":
                if row is None:
                    self._absent.add(name)
                else:
                    self._series[name] = Series.unpack(row)
            elif row is not None and kind == "l:":
                self._live.update(_decode_names(row))

    def foreign(self, entries: Sequence[Entry], now_ms: int, *, refresh: bool) -> Mapping[str, Sequence[str]]:
        return {}

    def load_foreign(self, task: str, rows: Mapping[str, bytes | None], now_ms: int) -> None:
        return

    def dirty(self) -> int:
        return self._features.dirty() + len(self._dirty_series)

    def drain(self) -> Rows:
        rows: Rows = {f"p:{product}": row for product, row in self._features.drain().items()}
        for product in self._dirty_series:
            rows[f"s:{product}"] = self._series[product].pack()
        if self._dirty_shards:
            shards: dict[int, list[str]] = {shard: [] for shard in self._dirty_shards}
            for product in sorted(self._live):
                if (shard := _shard(product)) in shards:
                    shards[shard].append(product)
            rows.update({f"l:{shard}": _encode(names) for shard, names in shards.items()})
        self._dirty_series.clear()
        self._dirty_shards.clear()
        return rows

    def forget(self, keys: Iterable[str]) -> None:
        products = []
        for key in keys:
            if key.startswith("p:"):
                products.append(key[2:])
            else:
                self._series.pop(key[2:], None)
        self._features.forget(products)

    def trim(self, limit: int) -> None:
        self._features.evict(limit)
        if len(self._series) > limit:
            for product in [p for p in self._series if p not in self._live and p not in self._dirty_series]:
                del self._series[product]
        if len(self._absent) > limit:
            self._absent.clear()

    def extra(self) -> bytes:
        return _encode(_Extra(self._upstream, self._tasks, self._closed, self._first))

    def restore(self, extra: bytes) -> None:
        found = _decode_extra(extra)
        self._upstream, self._tasks, self._closed = found.upstream, found.tasks, found.closed
        self._first = found.first

    def floor(self) -> Mapping[Input, int] | None:
        return None

    def watermark(self) -> int | None:
        return self._least(self._upstream, ())

    # -- the step ---------------------------------------------------------------------------------------------

    def step(self, entries: Sequence[Entry], step: Step) -> list[Output]:
        outputs: list[Output] = []
        for entry in entries:
            batch = entry.item
            assert isinstance(batch, ActivityBatch)
            self._tasks = batch.tasks
            if batch.rows:
                self._apply(batch.rows, (self._partition, entry.offset), step, outputs)
            self._upstream[batch.task] = batch.watermark
            self._close_until(self.watermark(), step, outputs)
        return outputs

    def _apply(self, rows: Sequence[ActivityRow], version: tuple[int, int], step: Step, outputs: list[Output]) -> None:
        self._features.apply(
            [row.product_id for row in rows],
            [row.kind for row in rows],
            [row.time for row in rows],
            [row.quantity for row in rows],
            [row.value_minor for row in rows],
            [row.price for row in rows],
            version,
        )
        step.count("activity_rows", len(rows))
        for row in rows:
            self._count_row(row, step, outputs)

    def _count_row(self, row: ActivityRow, step: Step, outputs: list[Output]) -> None:
        number = self._stage.calendar.number(row.time)
        series = self._series.get(row.product_id)
        if row.kind == EventKind.PURCHASE:
            series = self._sell(row.product_id, number, series)
        elif series is not None and row.product_id not in self._live and number > series.last:
            return  # a series at rest only waits for a sale
        if series is None:
            return
        bucket = series.closed_at(number)
        revised = bucket is not None
        if bucket is None:
            if number <= series.last:
                step.count("activity_before_memory")
                return
            bucket = series.at(number)
        if not _add(bucket, row):
            return
        series.touched = max(series.touched, row.time)
        self._dirty_series.add(row.product_id)
        if revised and row.kind in (EventKind.PURCHASE, EventKind.CANCEL):
            revision = series.revise(number)
            step.count("buckets_revised")
            if step.emit:
                outputs.append(self._history(row.product_id, number, bucket, revision))
                if number == series.last:
                    outputs.extend(self._forecasts([row.product_id], number, revision, step))

    def _sell(self, product: str, number: int, series: Series | None) -> Series:
        if self._closed is None:
            self._first = number if self._first is None else min(self._first, number)
        if series is None:
            closed = number - 1 if self._closed is None else min(self._closed, number - 1)
            series = self._series[product] = Series(born=number, sold=number, last=closed)
            self._absent.discard(product)
        elif product not in self._live and self._closed is not None and series.last < self._closed:
            series.close(min(self._closed, number - 1), kept=self._stage.kept)
        # Upstream tasks are not equally far: what was sold earlier may come later.
        series.sell(number, closed=self._closed)
        if product not in self._live:
            self._live.add(product)
            self._dirty_shards.add(_shard(product))
        return series

    def _close_until(self, watermark: int | None, step: Step, outputs: list[Output]) -> None:
        if watermark is None:
            return
        calendar = self._stage.calendar
        if self._closed is None:
            # From the first sale on, however many buckets the first batches span.
            number = calendar.number(watermark)
            self._closed = (number if self._first is None else min(self._first, number)) - 1
        while calendar.start(self._closed + 2) <= watermark:
            self._closed += 1
            self._close(self._closed, step, outputs)

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
        for product in closing:
            series = self._series[product]
            if number - series.sold >= rest and not series.sales:
                series.open.clear()
                self._live.discard(product)
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
        forecasts: list[Forecast] = self._stage.champion.forecast(products, series, number, self._stage.facts)
        outputs = []
        for product, forecast in zip(products, forecasts, strict=True):
            step.count("demand_predictions")
            value = encode_demand(
                id=f"{product}|{as_of}|demand|{revision}",
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
            outputs.append(Output(PREDICTIONS, product.encode(), value))
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

    def _would_close(self, watermark: int | None) -> bool:
        if watermark is None or self._closed is None:
            return watermark is not None
        return self._stage.calendar.start(self._closed + 2) <= watermark


def _add(bucket: Bucket, row: ActivityRow) -> bool:
    if row.kind in (EventKind.PURCHASE, EventKind.CANCEL):
        bucket.quantity += row.quantity
        bucket.value_minor += row.value_minor
        if row.price >= 0:
            bucket.price = row.price
        return True
    name = _COUNTED.get(EventKind(row.kind))
    if name is None:
        return False
    setattr(bucket, name, getattr(bucket, name) + 1)
    return True


def _shard(product: str) -> int:
    return crc32(product.encode()) // 1_024 % _SHARDS


_encode = msgspec.msgpack.Encoder().encode
_decode_extra = msgspec.msgpack.Decoder(_Extra).decode
_decode_names = msgspec.msgpack.Decoder(list[str]).decode

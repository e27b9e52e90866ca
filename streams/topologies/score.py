"""Score: a user's events become features, a purchase probability after each click, and what others need to know.

Says, per batch: a prediction per click, one message of activity per product partition, one of examples and outcomes,
both with the task's watermark. Product rows are read from the demand stage's store: a view that may lag, whose version
each example names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

import msgspec
import numpy as np

from features.columns import EventColumns
from features.engine import ScoreFeatures
from models.linear import LinearModel, ModelDataError, prior
from schemas.codec import Click, DecodeError, Order, decode_click, decode_order
from schemas.internal import (
    CLICK_KINDS,
    ActivityBatch,
    ActivityRow,
    EventKind,
    Example,
    ExampleBatch,
    Outcome,
    encode_activity,
    encode_examples,
)
from schemas.outputs import decode_announcement, encode_purchase
from streams.records import (
    ACTIVITY,
    CLICKSTREAM,
    DEADLETTERS,
    EXAMPLES,
    MODELS,
    ORDERS,
    PREDICTIONS,
    REDRIVE_HEADER,
    Input,
    Output,
    Record,
)
from streams.runtime.checkpoint import Rows
from streams.runtime.merge import Entry
from streams.settings import Settings
from streams.topologies.layout import DEMAND_STAGE, product_partition, product_store_name, score_layout
from streams.topologies.orderbook import Bought, OrderBook, line_value
from streams.topologies.stage import State, Step

__all__ = ["DEMAND_STAGE", "ScoreStage"]

PURCHASE_MODEL = "purchase"
_MOST_IN_A_MESSAGE = 500
_T = TypeVar("_T")


class ScoreStage:
    """The stage at the door. It holds the model that all its tasks serve, swapped between batches."""

    name = "score"
    inputs = (CLICKSTREAM, ORDERS)
    tables = (MODELS,)
    outputs = (PREDICTIONS, ACTIVITY, EXAMPLES, DEADLETTERS)
    partitioned_outputs = (ACTIVITY, EXAMPLES)
    ordered = True
    guarded = True
    single_task = False
    expiring = ("u:", "o:")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        probe = ScoreFeatures()
        self.feature_names = probe.names
        self.schema_hash = probe.schema_hash
        self.memory_ms = probe.memory_ms
        self.layout = score_layout(probe.schema_hash)
        self.model = prior(self.feature_names, self.schema_hash)
        self._limit = settings.kafka.max_message_bytes

    def decode(self, record: Record) -> Click | Order:
        """Return the click or order in a record. Raises DecodeError."""
        if record.value is None:
            raise DecodeError("undecodable", "the record has no value")
        if record.input.topic == CLICKSTREAM:
            return decode_click(record.value, self._limit)
        return decode_order(record.value, self._limit)

    def event(self, item: object) -> tuple[int, str]:
        """Return event time and id."""
        assert isinstance(item, Click | Order)
        return item.time, item.event_id

    def on_table(self, record: Record) -> bool:
        """Swap the model when a newer champion for these features and this horizon is announced. Raises DecodeError."""
        pin = self.settings.score.model_pin
        # A pinned version has a key of its own: under the champion's, a newer one replaces it.
        names = ("champion",) if pin is None else ("champion", pin)
        if record.key not in [f"{PURCHASE_MODEL}/{name}".encode() for name in names] or record.value is None:
            return False
        announced = decode_announcement(record.value)
        if (announced.model, announced.role) != (PURCHASE_MODEL, "champion"):
            raise DecodeError("invalid", f"key {record.key!r}: announces {announced.model}/{announced.role}")
        if announced.params is None or announced.schema_hash != self.schema_hash:
            return False
        if pin is not None and f"{announced.name}:{announced.version}" != pin:
            return False
        try:
            model = LinearModel.from_params(announced.params)
        except ModelDataError as error:
            raise DecodeError("invalid", str(error)) from error
        if (model.name, model.version, model.schema_hash) != (
            announced.name,
            announced.version,
            announced.schema_hash,
        ):
            raise DecodeError("invalid", f"params of {model.name}:{model.version}, announced as another model")
        asked = self.settings.score.horizon_s * 1_000
        if model.horizon_ms not in (None, asked) or model.features != self.feature_names:
            # Of other settings: the learner, given the same, soon has another one.
            return False
        self.model = model
        return True

    def lacks(self) -> str | None:
        """Name the pinned model where it was not found: nothing is predicted by another one."""
        pin, serves = self.settings.score.model_pin, f"{self.model.name}:{self.model.version}"
        return None if pin in (None, serves) else f"the pinned model {pin} is not in {MODELS}: pin another, or none"

    def serves(self) -> Mapping[str, str]:
        """Return the model that serves."""
        return {"model": f"{self.model.name}:{self.model.version}"}

    def open(self, partition: int, tasks: int) -> State:
        """Return the empty state of a task."""
        return _ScoreState(self, partition, tasks)


@dataclass(slots=True)
class _Said:
    """What a batch has to say, gathered in order."""

    clicks: list[tuple[int, Click, str, tuple[int, int]]] = field(default_factory=list)
    activity: dict[int, list[ActivityRow]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)


class _Extra(msgspec.Struct):
    positions: list[int]
    said_watermark: int | None
    clock: int


class _ScoreState:
    def __init__(self, stage: ScoreStage, partition: int, tasks: int) -> None:
        self._stage = stage
        self._partition = partition
        self._tasks = tasks
        self._features = ScoreFeatures()
        self._books: dict[str, OrderBook] = {}
        self._touched: dict[str, int] = {}
        self._dirty_books: set[str] = set()
        self._read_at: dict[str, int] = {}
        self._positions = [0, 0]
        self._said_watermark: int | None = None
        self._clock = 0
        """Greatest event time applied: when something is said that bears an earlier one."""

    # -- rows -------------------------------------------------------------------------------------------------

    def initial_keys(self) -> Sequence[str]:
        return ()

    def missing(self, entries: Sequence[Entry]) -> Sequence[str]:
        users: dict[str, None] = {}
        books: dict[str, None] = {}
        for entry in entries:
            item = entry.item
            if isinstance(item, Click):
                if item.user_id is not None:
                    users[item.user_id] = None
            elif isinstance(item, Order):
                if item.user_id is not None:
                    users[item.user_id] = None
                key = _book_key(item)
                if key not in self._books:
                    books[key] = None
        keys = [f"u:{user}" for user in self._features.missing_users(users)]
        return keys + [f"o:{key}" for key in books]

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        self._features.load_users({key[2:]: row for key, row in rows.items() if key.startswith("u:")})
        for key, row in rows.items():
            if key.startswith("o:"):
                self._books[key[2:]] = OrderBook.unpack(row) if row is not None else OrderBook()

    def foreign(self, entries: Sequence[Entry], now_ms: int, *, refresh: bool) -> Mapping[str, Sequence[str]]:
        stale_before = now_ms - self._stage.settings.score.product_staleness_ms
        products = dict.fromkeys(product for entry in entries for product in _products_of(entry.item))
        wanted: dict[str, list[str]] = {}
        absent = set(self._features.missing_products(products))
        for product in products:
            read_at = None if product in absent else self._read_at.get(product)
            if read_at is None or (refresh and read_at <= stale_before):
                task = product_store_name(product_partition(product, self._tasks))
                wanted.setdefault(task, []).append(f"p:{product}")
        return wanted

    def load_foreign(self, task: str, rows: Mapping[str, bytes | None], now_ms: int) -> None:
        self._features.load_products({key[2:]: row for key, row in rows.items()})
        for key in rows:
            self._read_at[key[2:]] = now_ms

    def dirty(self) -> int:
        return self._features.dirty_users() + len(self._dirty_books)

    def drain(self) -> Rows:
        rows: Rows = {f"u:{user}": row for user, row in self._features.drain_users().items()}
        for key in self._dirty_books:
            rows[f"o:{key}"] = self._books[key].pack(self._touched[key])
        self._dirty_books.clear()
        return rows

    def forget(self, keys: Iterable[str]) -> None:
        users = []
        for key in keys:
            if key.startswith("u:"):
                users.append(key[2:])
            else:
                self._books.pop(key[2:], None)
                self._touched.pop(key[2:], None)
        self._features.forget(users)

    def trim(self, limit: int) -> None:
        self._features.evict(limit, limit)
        if len(self._read_at) > 2 * limit:
            self._read_at.clear()
        for key in list(self._books)[: max(0, len(self._books) - limit)]:
            if key not in self._dirty_books:
                del self._books[key]
                self._touched.pop(key, None)

    def extra(self) -> bytes:
        return _encoder.encode(_Extra(self._positions, self._said_watermark, self._clock))

    def restore(self, extra: bytes) -> None:
        found = _decoder.decode(extra)
        self._positions = found.positions
        self._said_watermark = found.said_watermark
        self._clock = found.clock

    def floor(self) -> Mapping[Input, int] | None:
        return None

    def watermark(self) -> int | None:
        return None

    # -- the step ---------------------------------------------------------------------------------------------

    def step(self, entries: Sequence[Entry], step: Step) -> list[Output]:
        columns = EventColumns()
        said = _Said()
        for entry in entries:
            item = entry.item
            self._positions[entry.rank] = entry.offset + 1
            redriven = bool(entry.record.headers) and any(n == REDRIVE_HEADER for n, _ in entry.record.headers)
            assert isinstance(item, Click | Order)
            self._clock = max(self._clock, item.time)
            # A redriven record is as late as can be: it is said now, whatever its time.
            at = self._clock if redriven else item.time
            if isinstance(item, Click):
                self._on_click(entry, item, at, columns, said, step, redriven=redriven)
            else:
                self._on_order(item, at, columns, said, step)
        # Where no vector is served (order lines, rebuilding), only the product's name counts, not its row.
        unread = self._features.missing_products(columns.product)
        self._features.load_products(dict.fromkeys(unread))
        vectors = self._features.apply(columns)
        for _, user, time in self._features.session_ends:
            said.outcomes.append(Outcome("session_end", user, None, time))
        if not step.emit:
            self._said_watermark = step.watermark
            return []
        return self._say(columns, vectors, said, step)

    def _on_click(
        self, entry: Entry, click: Click, at: int, columns: EventColumns, said: _Said, step: Step, *, redriven: bool
    ) -> None:
        kind = CLICK_KINDS[click.type]
        price = click.unit_price if click.unit_price is not None else -1
        value = price * click.quantity if kind == EventKind.PURCHASE and price >= 0 else 0
        if click.product_id is not None:
            row = ActivityRow(
                click.product_id,
                click.category_id,
                kind,
                click.time,
                click.quantity,
                value,
                price,
                click.user_id is not None,
                at if at > click.time else 0,
            )
            self._act(said, row)
        if click.user_id is None:
            step.count("clicks_without_user")
            return
        columns.append(
            click.user_id, kind, click.time, click.product_id, click.session_id, click.quantity, value, price
        )
        if kind == EventKind.PURCHASE:
            said.outcomes.append(Outcome("order", click.user_id, None, click.time))
        if redriven:
            step.count("clicks_redriven")
            return
        step.count("clicks_predicted")
        record = entry.record
        cause = f"{record.input.topic}-{record.input.partition}-{record.offset}-purchase"
        said.clicks.append((len(columns) - 1, click, cause, (self._positions[0], self._positions[1])))

    def _on_order(self, order: Order, at: int, columns: EventColumns, said: _Said, step: Step) -> None:
        step.count("orders_applied")
        key = _book_key(order)
        book = self._books[key]
        self._dirty_books.add(key)
        self._touched[key] = max(order.time, self._touched.get(key, 0), *(line.time for line in book.lines), 0)
        if order.status in ("placed", "paid"):
            lines = book.purchase(order)
            step.count("orders_purchased" if lines else "orders_repeated_status")
            for line in lines:
                self._apply_line(order, line, EventKind.PURCHASE, 1, at, columns, said)
            if lines and order.user_id is not None:
                said.outcomes.append(Outcome("order", order.user_id, order.order_id, order.time))
        elif order.status == "cancelled":
            lines = book.cancel(order)
            step.count("orders_cancelled" if lines else "cancellations_unmatched")
            for line in lines:
                self._apply_line(order, line, EventKind.CANCEL, -1, at, columns, said)
            if lines and order.user_id is not None:
                said.outcomes.append(Outcome("cancel", order.user_id, order.order_id, order.time))
        else:
            for returned in order.lines:
                given = book.give_back(order, returned)
                step.count("returns_matched" if given else "returns_unmatched")
                given = given or Bought(
                    order.order_id,
                    returned.product_id,
                    returned.category_id,
                    returned.quantity,
                    0,
                    line_value(returned),
                    returned.unit_price if returned.unit_price is not None else -1,
                )
                self._apply_line(order, given, EventKind.RETURN, -1, at, columns, said)

    def _apply_line(
        self, order: Order, line: Bought, kind: EventKind, sign: int, at: int, columns: EventColumns, said: _Said
    ) -> None:
        # A product's row takes a purchase back where it was counted: `line.time`. What matched none undoes nothing.
        undo = line.time if kind != EventKind.PURCHASE else 0
        if kind == EventKind.PURCHASE or undo:
            row = ActivityRow(
                line.product_id,
                line.category_id,
                kind,
                line.time,
                sign * line.left,
                sign * line.value_minor,
                line.price,
                order.user_id is not None,
                at if at > line.time else 0,
            )
            self._act(said, row)
        if order.user_id is not None:
            columns.append(
                order.user_id,
                kind,
                order.time,
                line.product_id,
                order.session_id,
                line.left,
                line.value_minor,
                line.price,
                undo,
            )

    def _act(self, said: _Said, row: ActivityRow) -> None:
        said.activity.setdefault(product_partition(row.product_id, self._tasks), []).append(row)

    # -- what is said -----------------------------------------------------------------------------------------

    def _say(self, columns: EventColumns, vectors: np.ndarray, said: _Said, step: Step) -> list[Output]:
        outputs: list[Output] = []
        examples: list[Example] = []
        if said.clicks:
            self._predict(vectors, said, step, outputs, examples)
        before, moved = self._said_watermark, step.watermark != self._said_watermark
        self._said_watermark = step.watermark
        task = str(self._partition).encode()
        for partition in range(self._tasks):
            rows = said.activity.get(partition, [])
            if rows or moved:
                *parts, last = _parts(rows)
                batches = [ActivityBatch(self._partition, self._tasks, before, part) for part in parts]
                batches.append(ActivityBatch(self._partition, self._tasks, step.watermark, last))
                outputs.extend(Output(ACTIVITY, task, encode_activity(batch), partition) for batch in batches)
        if examples or said.outcomes or moved:
            # All examples stand before the outcomes that may settle them.
            vectors_of, outcomes_of = _parts(examples), _parts(said.outcomes)
            told: list[tuple[list[Example], list[Outcome]]] = [(part, []) for part in vectors_of[:-1]]
            told.append((vectors_of[-1], outcomes_of[0]))
            told.extend(([], part) for part in outcomes_of[1:])
            for number, (served, decided) in enumerate(told, 1):
                watermark = step.watermark if number == len(told) else before
                learnt = ExampleBatch(self._partition, self._tasks, watermark, self._stage.schema_hash, served, decided)
                outputs.append(Output(EXAMPLES, task, encode_examples(learnt), self._partition))
        return outputs

    def _predict(
        self, vectors: np.ndarray, said: _Said, step: Step, outputs: list[Output], examples: list[Example]
    ) -> None:
        model = self._stage.model
        served = f"{model.name}:{model.version}"
        horizon_s = self._stage.settings.score.horizon_s
        chosen = np.ascontiguousarray(vectors[[index for index, *_ in said.clicks]])
        probabilities = model.predict(chosen).tolist()
        blob = chosen.astype("<f8", copy=False).tobytes()
        width = len(blob) // len(said.clicks)
        for position, (_, click, cause, offsets) in enumerate(said.clicks):
            user = click.user_id or ""
            probability = probabilities[position]
            value = encode_purchase(
                id=cause,
                subject=user,
                as_of=click.time,
                produced_at=step.now_ms,
                model_name=model.name,
                model_version=model.version,
                horizon_s=horizon_s,
                probability=probability,
                event_id=click.event_id,
                session_id=click.session_id,
            )
            outputs.append(Output(PREDICTIONS, user.encode(), value))
            version = self._features.product_version(click.product_id) if click.product_id is not None else None
            vector = blob[position * width : (position + 1) * width]
            examples.append(Example(cause, user, click.time, vector, offsets, version, probability, served))


def _parts(items: list[_T]) -> list[list[_T]]:
    """Cut a list into parts that fit a message of a megabyte, however long the names in them; at least one."""
    return [items[start : start + _MOST_IN_A_MESSAGE] for start in range(0, len(items), _MOST_IN_A_MESSAGE)] or [[]]


def _products_of(item: object) -> Sequence[str]:
    """Products whose rows a vector will show: those that a known user clicked."""
    if isinstance(item, Click) and item.product_id is not None and item.user_id is not None:
        return (item.product_id,)
    return ()


def _book_key(order: Order) -> str:
    return order.user_id if order.user_id is not None else f"order:{order.order_id}"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Extra)

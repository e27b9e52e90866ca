"""Score: a user's events become features, a purchase probability after each click, and what others need to know.

Says, per batch: a prediction per click, one message of activity per product partition, one of examples and outcomes,
both with the task's watermark. Rows of products and categories are read from the demand stage's store: a view that may
lag, whose versions each example names.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import compress, repeat, zip_longest
from typing import Any, TypeVar

import msgspec
import numpy as np

from features.columns import EventColumns
from features.engine import ScoreFeatures
from features.hashing import visitors
from features.sets import MEMORY_MS
from features.vectors import pack_vectors
from models.linear import LinearModel, ModelDataError, prior
from schemas.codec import Click, DecodeError, Order, decode_click, decode_clicks, decode_order
from schemas.internal import (
    CLICK_KINDS,
    ActivityBatch,
    ActivityColumns,
    CategoryColumns,
    EventKind,
    ExampleBatch,
    ExampleColumns,
    Outcome,
    encode_activity,
    encode_examples,
)
from schemas.outputs import decode_announcement, encode_purchases
from streams.records import (
    ACTIVITY,
    CATALOG,
    CLICKSTREAM,
    DEADLETTERS,
    EXAMPLES,
    MODELS,
    ORDERS,
    PLAN,
    PREDICTIONS,
    Output,
    Outputs,
    Record,
    Said,
)
from streams.runtime.checkpoint import Rows
from streams.runtime.merge import Entry
from streams.settings import Settings
from streams.topologies.freshness import Freshness
from streams.topologies.layout import DEMAND_STAGE, activity_partition, demand_store_name, score_layout
from streams.topologies.market import UNKNOWN, MarketTable
from streams.topologies.orderbook import Bought, OrderBook, line_value
from streams.topologies.shop import shop_of
from streams.topologies.stage import Forward, State, Step

__all__ = ["DEMAND_STAGE", "ScoreStage"]

PURCHASE_MODEL = "purchase"
_MOST_IN_A_MESSAGE = 350
_C = TypeVar("_C", ActivityColumns, CategoryColumns)
# Plain integers: a member of an enumeration costs its class at every comparison.
_KINDS = {name: int(kind) for name, kind in CLICK_KINDS.items()}
_VIEW, _PURCHASE = int(EventKind.VIEW), int(EventKind.PURCHASE)


class ScoreStage:
    """The stage at the door. It holds the model that all its tasks serve, swapped between batches."""

    name = "score"
    inputs = (CLICKSTREAM, ORDERS)
    tables = (CATALOG, PLAN, MODELS)
    outputs = (PREDICTIONS, ACTIVITY, EXAMPLES, DEADLETTERS)
    partitioned_outputs = (ACTIVITY, EXAMPLES)
    ordered = True
    guarded = True
    single_task = False
    expiring = ("u:", "o:")

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.shop = shop_of(settings)
        probe = ScoreFeatures(self.shop)
        self.feature_names = probe.names
        self.schema_hash = probe.schema_hash
        self.memory_ms = probe.memory_ms
        self.layout = score_layout(probe.schema_hash)
        self.market = MarketTable(self.shop.exchange)
        self.model = prior(self.feature_names, self.schema_hash)
        self._limit = settings.kafka.max_message_bytes

    def decode(self, record: Record) -> Click | Order:
        """Return the click or order in a record. Raises DecodeError."""
        if record.value is None:
            raise DecodeError("undecodable", "the record has no value")
        if record.input.topic == CLICKSTREAM:
            return decode_click(record.value, self._limit)
        return decode_order(record.value, self._limit)

    def decode_run(self, records: Sequence[Record]) -> tuple[list[int], list[Click]] | None:
        """Return event times and clicks of records that hold nothing else, or None."""
        if records[0].input.topic != CLICKSTREAM:
            return None
        values = [record.value for record in records if record.value is not None]
        if len(values) < len(records):
            return None
        clicks = decode_clicks(values, self._limit)
        return None if clicks is None else ([click.time for click in clicks], clicks)

    def time_of(self, item: Click | Order) -> int:
        """Return the event time."""
        return item.time

    def on_table(self, record: Record) -> bool:
        """Take a catalog or plan entry, or swap the model for a newer champion of its kind. Raises DecodeError."""
        if record.input.topic != MODELS:
            self.market.take(record)
            return False
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

    activity: ActivityColumns = field(default_factory=ActivityColumns)
    events: EventColumns = field(default_factory=EventColumns)
    """Those of known users."""
    numbers: list[int] = field(default_factory=list)
    """The places in `events` of those to predict; ids and offsets have one entry for each of them."""
    event_ids: list[str] = field(default_factory=list)
    offsets: tuple[list[int], list[int]] = field(default_factory=lambda: ([], []))
    """The next offset of clicks, and that of orders, behind each."""
    outcomes: list[Outcome] = field(default_factory=list)
    behind: set[int] = field(default_factory=set)
    """The numbers of events that stand behind the watermark."""


class _Extra(msgspec.Struct):
    positions: list[int]
    said_watermark: int | None
    clock: int


class _ScoreState(Forward):
    def __init__(self, stage: ScoreStage, partition: int, tasks: int) -> None:
        self._stage = stage
        self._partition = partition
        self._tasks = tasks
        self._features = ScoreFeatures(stage.shop)
        self._market = stage.market
        self._exchange = stage.shop.exchange
        self._books: dict[str, OrderBook] = {}
        self._dirty_books: set[str] = set()
        self._read = {"p": Freshness(), "c": Freshness()}
        """When the row of each product and category was read, by the first letter of its key."""
        self._positions = [0, 0]
        self._said_watermark: int | None = None
        self._clock = 0
        """Greatest event time applied: when something is said that bears an earlier one."""

    # -- rows -------------------------------------------------------------------------------------------------

    def initial_keys(self) -> Sequence[str]:
        return ()

    def missing(self, entries: Sequence[Entry]) -> Sequence[str]:
        users = {entry.item.user_id for entry in entries}
        keys = [f"u:{user}" for user in self._features.missing_users(users)]
        books = {_book_key(entry.item): None for entry in entries if entry.rank}
        return keys + [f"o:{key}" for key in books if key not in self._books]

    def load(self, rows: Mapping[str, bytes | None]) -> None:
        self._features.load_users({key[2:]: row for key, row in rows.items() if key.startswith("u:")})
        for key, row in rows.items():
            if key.startswith("o:"):
                self._books[key[2:]] = OrderBook.unpack(row) if row is not None else OrderBook()

    def foreign(self, entries: Sequence[Entry], now_ms: int, *, refresh: bool) -> Mapping[str, Sequence[str]]:
        stale_before = now_ms - self._stage.settings.score.product_staleness_ms if refresh else None
        # Those whose rows a vector will show: what a known user clicked.
        clicks: list[Click] = [entry.item for entry in entries if not entry.rank]
        products = _named({click.product_id for click in clicks if click.user_id is not None})
        categories = _named({click.category_id for click in clicks if click.user_id is not None})
        wanted: dict[str, list[str]] = {}
        for kind, asked, absent in (
            ("p", products, self._features.missing_products(products)),
            ("c", categories, self._features.missing_categories(categories)),
        ):
            for id_ in sorted(self._read[kind].wanting(asked, stale_before).union(absent)):
                task = demand_store_name(activity_partition(id_, self._tasks))
                wanted.setdefault(task, []).append(f"{kind}:{id_}")
        return wanted

    def load_foreign(self, task: str, rows: Mapping[str, bytes | None], now_ms: int) -> None:
        for kind, load in (("p", self._features.load_products), ("c", self._features.load_categories)):
            found = {key[2:]: row for key, row in rows.items() if key[0] == kind}
            load(found)
            self._read[kind].note(found, now_ms)

    def dirty(self) -> int:
        return self._features.dirty_users() + len(self._dirty_books)

    def drain(self) -> Rows:
        rows: Rows = {f"u:{user}": row for user, row in self._features.drain_users().items()}
        for key in self._dirty_books:
            book = self._books[key]
            rows[f"o:{key}"] = book.pack() if book.entered else None
        self._dirty_books.clear()
        return rows

    def forget(self, keys: Iterable[str]) -> None:
        users = []
        for key in keys:
            if key.startswith("u:"):
                users.append(key[2:])
            else:
                self._books.pop(key[2:], None)
        self._features.forget(users)

    def trim(self, limit: int) -> None:
        self._features.evict(limit, limit)
        for read in self._read.values():
            read.trim(2 * limit)
        for key in list(self._books)[: max(0, len(self._books) - limit)]:
            if key not in self._dirty_books:
                del self._books[key]

    def extra(self) -> bytes:
        return _encoder.encode(_Extra(self._positions, self._said_watermark, self._clock))

    def restore(self, extra: bytes) -> None:
        found = _decoder.decode(extra)
        self._positions = found.positions
        self._said_watermark = found.said_watermark
        self._clock = found.clock

    def watermark(self) -> int | None:
        return None

    # -- the step ---------------------------------------------------------------------------------------------

    def step(self, entries: Sequence[Entry], step: Step) -> list[Said]:
        said = _Said()
        items = self._converted([entry.item for entry in entries], step)
        people = visitors([item.user_id for item in items])
        # Clicks go by columns, run by run; what stands between them goes by itself.
        begin = 0
        apart = [n for n, e in enumerate(entries) if e.redriven or e.item.__class__ is Order]
        for place in [*apart, len(entries)]:
            if begin < place:
                run = slice(begin, place)
                self._on_clicks(entries[run], items[run], people[run], said, step)
            if place < len(entries):
                self._on_one(entries[place], items[place], people[place], said, step)
            begin = place + 1
        if said.numbers:
            step.count("clicks_predicted", len(said.numbers))
        columns = said.events
        # Where no vector is served (order lines, rebuilding), only the product's name counts: not its row or market.
        if step.emit:
            asked, times = _picked(said.numbers, columns.product, columns.time)
            if (market := self._market.columns(asked, np.array(times, np.int64))) is not None:
                columns.show_market(said.numbers, market)
        if not step.emit or len(said.numbers) < len(columns):
            self._features.load_products(dict.fromkeys(self._features.missing_products(columns.product)))
            self._features.load_categories(dict.fromkeys(self._features.missing_categories(columns.category)))
        vectors = self._features.apply(columns)
        for number, user, ended in self._features.session_ends:
            # By then the row of a user who was away for longer may have expired.
            if number not in said.behind and ended >= columns.time[number] - MEMORY_MS:
                said.outcomes.append(Outcome("session_end", user, None, ended))
        if not step.emit:
            self._said_watermark = step.watermark
            return []
        return self._say(vectors, said, step)

    def _converted(self, items: list[Any], step: Step) -> list[Any]:
        """Return the events in the shop's own currency; where there is no rate, prices are unknown."""
        home = self._exchange.currency
        if home is None or {item.currency for item in items} <= {None, home}:
            return items
        found = []
        for item in items:
            if item.currency not in (None, home):
                item = self._exchange.convert(item)
                if item.currency is None:
                    step.count("events_without_rate")
            found.append(item)
        return found

    def _on_one(self, entry: Entry, item: Any, visitor: int, said: _Said, step: Step) -> None:
        """Take an order, or a redriven record: that is as late as can be, and is said now, whatever its time."""
        self._positions[entry.rank] = entry.offset + 1
        self._clock = max(self._clock, item.time)
        number = len(said.events)
        at = self._clock if entry.redriven else item.time
        if item.__class__ is Click:
            self._on_clicks([entry], [item], [visitor], said, step, at)
        else:
            self._on_order(entry, item, at, said, step)
        if entry.watermark is not None:
            said.behind.update(range(number, len(said.events)))

    def _on_clicks(
        self,
        entries: Sequence[Entry],
        clicks: Sequence[Click],
        people: Sequence[int],
        said: _Said,
        step: Step,
        at: int | None = None,
    ) -> None:
        """Take clicks that follow one another; with `at`, the time it is said at, a redriven one."""
        offsets = [entry.offset + 1 for entry in entries]
        users, times = [click.user_id for click in clicks], [click.time for click in clicks]
        products, categories = [click.product_id for click in clicks], [click.category_id for click in clicks]
        kinds, quantities = [_KINDS[click.type] for click in clicks], [click.quantity for click in clicks]
        prices = [click.unit_price if click.unit_price is not None else -1 for click in clicks]
        values = [0] * len(clicks)
        for place, kind in enumerate(kinds) if _PURCHASE in kinds else ():
            if kind == _PURCHASE:
                values[place] = max(prices[place], 0) * quantities[place]
                if (user := users[place]) is not None:
                    said.outcomes.append(Outcome("order", user, None, times[place]))
        known = [user is not None for user in users]
        views = [who if kind == _VIEW else 0 for who, kind in zip(people, kinds, strict=True)]
        later = [0] * len(clicks) if at is None else [at if at > time else 0 for time in times]
        told: list[Iterable[Any]] = [
            products,
            categories,
            kinds,
            times,
            quantities,
            values,
            prices,
            known,
            later,
            views,
        ]
        if not all(products):
            named = [product is not None for product in products]
            told = [compress(column, named) for column in told]
        said.activity.extend(told)
        self._positions[0] = offsets[-1]
        self._clock = max(self._clock, max(times))

        columns: list[Iterable[Any]] = [users, kinds, times, products, [click.session_id for click in clicks]]
        columns += [quantities, values, prices, [0] * len(clicks)]
        columns += [[click.country for click in clicks], [click.channel for click in clicks]]
        columns += [*(repeat(value, len(clicks)) for value in UNKNOWN), categories]
        number = len(said.events)
        if not all(known):
            step.count("clicks_without_user", known.count(False))
            columns = [compress(column, known) for column in columns]
        said.events.extend(columns)
        if at is None:
            said.event_ids.extend([click.event_id for click in clicks if click.user_id is not None])
            said.numbers.extend(range(number, len(said.events)))
            said.offsets[0].extend(compress(offsets, known))
            said.offsets[1].extend(repeat(self._positions[1], len(said.events) - number))
        elif len(said.events) > number:
            step.count("clicks_redriven")

    def _on_order(self, entry: Entry, order: Order, at: int, said: _Said, step: Step) -> None:
        step.count("orders_applied")
        key = _book_key(order)
        book = self._books[key]
        self._dirty_books.add(key)
        # Not `at`: the watermark is what rows expire by.
        by = order.time if entry.watermark is None else entry.watermark
        if order.status in ("placed", "paid"):
            lines = book.purchase(order, by)
            step.count("orders_purchased" if lines else "orders_repeated_status")
            for line in lines:
                self._apply_line(order, line, EventKind.PURCHASE, 1, at, said)
            if lines and order.user_id is not None:
                said.outcomes.append(Outcome("order", order.user_id, order.order_id, order.time))
        elif order.status == "cancelled":
            lines = book.cancel(order.order_id, by)
            step.count("orders_cancelled" if lines else "cancellations_unmatched")
            for line in lines:
                self._apply_line(order, line, EventKind.CANCEL, -1, at, said)
            if lines and order.user_id is not None:
                said.outcomes.append(Outcome("cancel", order.user_id, order.order_id, order.time))
        else:
            for returned in order.lines:
                given = book.give_back(order, returned, by)
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
                self._apply_line(order, given, EventKind.RETURN, -1, at, said)

    def _apply_line(self, order: Order, line: Bought, kind: EventKind, sign: int, at: int, said: _Said) -> None:
        # A product's row takes a purchase back where it was counted: `line.time`. What matched none undoes nothing.
        undo = line.time if kind != EventKind.PURCHASE else 0
        if kind == EventKind.PURCHASE or undo:
            taken = sign * line.left, sign * line.value_minor, line.price, order.user_id is not None
            later = at if at > line.time else 0
            row = line.product_id, line.category_id, int(kind), line.time, *taken, later, 0
            said.activity.extend([one] for one in row)
        if order.user_id is not None:
            of = (order.user_id, kind, order.time, line.product_id, order.session_id)
            said.events.append(
                *of, line.left, line.value_minor, line.price, undo, None, None, *UNKNOWN, line.category_id
            )

    # -- what is said -----------------------------------------------------------------------------------------

    def _say(self, vectors: np.ndarray, said: _Said, step: Step) -> list[Said]:
        outputs: list[Said] = []
        examples: list[ExampleColumns] = []
        if said.numbers:
            examples = self._predict(vectors, said, step, outputs)
        before, moved = self._said_watermark, step.watermark != self._said_watermark
        self._said_watermark = step.watermark
        task = str(self._partition).encode()
        categories = said.activity.categories()
        of_products = self._spread(said.activity, said.activity.product_id)
        of_categories = self._spread(categories, categories.category_id)
        for partition, (products, named) in enumerate(zip(of_products, of_categories, strict=True)):
            if len(products) or len(named) or moved:
                parts = list(zip_longest(_parts(products), _parts(named)))
                for number, (rows, others) in enumerate(parts, 1):
                    watermark = step.watermark if number == len(parts) else before
                    batch = ActivityBatch(
                        self._partition, self._tasks, watermark, columns=rows, category_columns=others
                    )
                    outputs.append(Output(ACTIVITY, task, encode_activity(batch), partition))
        if examples or said.outcomes or moved:
            # All examples stand before the outcomes that may settle them.
            cuts = range(0, max(len(said.outcomes), 1), _MOST_IN_A_MESSAGE)
            outcomes = [said.outcomes[cut : cut + _MOST_IN_A_MESSAGE] for cut in cuts]
            told: list[tuple[ExampleColumns | None, list[Outcome]]] = [(part, []) for part in examples[:-1]]
            told.append((examples[-1] if examples else None, outcomes[0]))
            told.extend((None, part) for part in outcomes[1:])
            for number, (served, decided) in enumerate(told, 1):
                watermark = step.watermark if number == len(told) else before
                named_by = self._partition, self._tasks, watermark, self._stage.schema_hash
                learnt = ExampleBatch(*named_by, outcomes=decided, columns=served)
                outputs.append(Output(EXAMPLES, task, encode_examples(learnt), self._partition))
        return outputs

    def _spread(self, rows: _C, ids: Sequence[str]) -> list[_C]:
        """Return the rows of each partition of activity: those of its products or categories."""
        if self._tasks == 1:
            return [rows]
        places: list[list[int]] = [[] for _ in range(self._tasks)]
        for place, id_ in enumerate(ids):
            places[activity_partition(id_, self._tasks)].append(place)
        return [rows.pick(some) for some in places]

    def _predict(self, vectors: np.ndarray, said: _Said, step: Step, outputs: list[Said]) -> list[ExampleColumns]:
        model, horizon_s = self._stage.model, self._stage.settings.score.horizon_s
        chosen = vectors if len(said.numbers) == len(vectors) else vectors[said.numbers]
        columns = said.events
        users, times, sessions = _picked(said.numbers, columns.user, columns.time, columns.session)
        products, categories = _picked(said.numbers, *self._features.versions())
        probabilities = model.predict(chosen).tolist()
        cause = f"{CLICKSTREAM}-{self._partition}-"
        causes = [f"{cause}{offset - 1}-purchase" for offset in said.offsets[0]]
        of = model.name, model.version, horizon_s
        values = encode_purchases(causes, users, times, step.now_ms, *of, probabilities, said.event_ids, sessions)
        outputs.append(Outputs(PREDICTIONS, list(map(str.encode, users)), values))
        examples = []
        for start in range(0, len(causes), _MOST_IN_A_MESSAGE):
            some = slice(start, start + _MOST_IN_A_MESSAGE)
            part = ExampleColumns(
                causes[some],
                users[some],
                times[some],
                pack_vectors(chosen[some]),
                said.offsets[0][some],
                said.offsets[1][some],
                products[some],
                probabilities[some],
                f"{model.name}:{model.version}",
                self._market.read,
                categories[some],
            )
            examples.append(part)
        return examples


def _picked(places: Sequence[int], *columns: list[Any]) -> Sequence[list[Any]]:
    """Return what stands at `places`, which rise, of each of `columns`."""
    if len(places) == len(columns[0]):
        return columns
    return [list(map(column.__getitem__, places)) for column in columns]


def _parts(rows: _C) -> list[_C]:
    """Cut rows into parts that fit a message of a megabyte, however long the names in them; at least one."""
    if len(rows) <= _MOST_IN_A_MESSAGE:
        return [rows]
    return [rows.part(start, start + _MOST_IN_A_MESSAGE) for start in range(0, len(rows), _MOST_IN_A_MESSAGE)]


def _named(ids: set[str | None]) -> set[str]:
    ids.discard(None)
    return ids  # type: ignore[return-value]


def _book_key(order: Order) -> str:
    return order.user_id if order.user_id is not None else f"order:{order.order_id}"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(_Extra)

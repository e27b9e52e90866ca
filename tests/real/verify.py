"""What must hold after any crash, checked from the logs and the store alone, by brute force."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec
import numpy as np

from features.columns import Event
from features.engine import ScoreFeatures
from features.layout import PRODUCT_OFFSET, PRODUCT_PARTITION
from features.oracle import UserOracle
from features.products import ProductTable
from models.linear import LinearModel
from models.online import PurchaseLearner
from schemas.codec import Click, DecodeError, Order, decode_click, decode_marker, decode_order
from schemas.internal import ActivityRow, Example, decode_activity, decode_examples
from schemas.outputs import decode_dead_letter
from streams.records import MARKER_HEADER, Record
from streams.runtime.checkpoint import decode_header
from streams.settings import Settings
from streams.topologies.orderbook import OrderBook, line_value
from streams.topologies.series import Series
from tests.real.harness import Shop

EXACT = 1e-9


@dataclass(frozen=True, slots=True)
class Applied:
    """An accepted event in a task's order: what it was, for whom, and the next offsets after it."""

    item: Click | Order
    offset: int
    positions: tuple[int, int]


def applied_in_order(clicks: Sequence[Record], orders: Sequence[Record], settings: Settings) -> list[Applied]:
    """Return what a task accepts, by the plainest reading of the rules: order, future, late, duplicate."""
    lateness, ahead = settings.time.allowed_lateness_s * 1_000, settings.time.max_ahead_s * 1_000
    queues = [[_read(record, ahead) for record in clicks], [_read(record, ahead) for record in orders]]
    taken, watermark, clock = [0, 0], -1, -1
    seen: dict[tuple[int, str], int] = {}
    accepted: list[Applied] = []
    while taken[0] < len(queues[0]) and taken[1] < len(queues[1]):
        rank = min((0, 1), key=lambda r: (queues[r][taken[r]][0], r))
        time, item, record, kind = queues[rank][taken[rank]]
        taken[rank] += 1
        if kind == b"refused":
            continue
        if kind in (b"time", b"end"):
            clock = max(clock, time)
            watermark = max(watermark, clock - lateness, time if kind == b"end" else -1)
            continue
        assert isinstance(item, Click | Order)
        first = seen.get((rank, item.event_id))
        if time < watermark or (first is not None and first >= watermark):
            continue
        seen[rank, item.event_id] = time
        clock = max(clock, time)
        watermark = max(watermark, clock - lateness)
        previous = accepted[-1].positions if accepted else (0, 0)
        positions = (record.offset + 1, previous[1]) if rank == 0 else (previous[0], record.offset + 1)
        accepted.append(Applied(item, record.offset, positions))
    return accepted


def _read(record: Record, ahead: int) -> tuple[int, Click | Order | None, Record, bytes]:
    marker = dict(record.headers).get(MARKER_HEADER)
    try:
        if marker is not None:
            return decode_marker(record.value or b"").time, None, record, marker
        click = record.input.topic == "clickstream"
        item: Click | Order = decode_click(record.value or b"") if click else decode_order(record.value or b"")
    except DecodeError:
        return 0, None, record, b"refused"
    if item.time > record.appended_at + ahead:
        return 0, None, record, b"refused"
    return item.time, item, record, b""


def events_of(item: Click | Order, book: OrderBook) -> list[Event]:
    """Return what an accepted event does to its user's features."""
    user, session = item.user_id or "", item.session_id

    def event(kind: int, product: str | None, quantity: int, value: int, price: int, undo: int = 0) -> Event:
        return Event(user, kind, item.time, product, session, quantity, value, price, undo)

    if isinstance(item, Click):
        kinds = ("view", "search", "add_to_cart", "remove_from_cart", "wishlist", "purchase")
        price = -1 if item.unit_price is None else item.unit_price
        value = price * item.quantity if item.type == "purchase" and price >= 0 else 0
        return [event(kinds.index(item.type), item.product_id, item.quantity, value, price)]
    if item.status in ("placed", "paid"):
        return [event(5, line.product_id, line.left, line.value_minor, line.price) for line in book.purchase(item)]
    if item.status == "cancelled":
        undone = book.cancel(item)
        return [event(7, line.product_id, line.left, line.value_minor, line.price, line.time) for line in undone]
    found = []
    for line in item.lines:
        back = book.give_back(item, line)
        if back:
            found.append(event(6, line.product_id, line.quantity, back.value_minor, back.price, back.time))
        else:
            price = -1 if line.unit_price is None else line.unit_price
            found.append(event(6, line.product_id, line.quantity, line_value(line), price))
    return found


@dataclass(slots=True)
class Evidence:
    """All logs of one run, read once."""

    shop: Shop
    predictions: list[dict[str, object]]
    examples: list[tuple[int, Example]]
    activity: dict[tuple[int, str], list[tuple[int, ActivityRow]]]
    models: dict[str, LinearModel]

    @classmethod
    def gather(cls, shop: Shop) -> Evidence:
        """Read the topics of a finished run as a read_committed consumer."""
        activity: dict[tuple[int, str], list[tuple[int, ActivityRow]]] = defaultdict(list)
        for record in shop.read("tidecast.activity"):
            for row in decode_activity(record.value or b"").rows:
                activity[record.input.partition, row.product_id].append((record.offset, row))
        examples = [
            (record.input.partition, example)
            for record in shop.read("tidecast.examples")
            for example in decode_examples(record.value or b"").examples
        ]
        models: dict[str, LinearModel] = {}
        for record in shop.read("tidecast.models"):
            params = json.loads(record.value or b"{}").get("params")
            if params:
                model = LinearModel.from_params(params)
                models[f"{model.name}:{model.version}"] = model
        predictions = [json.loads(record.value or b"{}") for record in shop.read("predictions")]
        return cls(shop, predictions, examples, dict(activity), models)

    def ids(self) -> list[str]:
        """Return the ids of all predictions, in the order read."""
        return [str(one["id"]) for one in self.predictions]

    def said_of_demand(self) -> dict[str, object]:
        """Return the demand predictions by id, but for when they were made."""
        return {
            str(one["id"]): {key: value for key, value in one.items() if key != "produced_at"}
            for one in self.predictions
            if one["kind"] == "demand"
        }

    def check_examples(self, settings: Settings, every: int = 1) -> int:
        """Check every n-th example's vector against the oracle at its own offsets and versions; return how many."""
        clicks, orders = self.shop.read("clickstream"), self.shop.read("orders")
        by_cause = {example.id: example for _, example in self.examples}
        checked = 0
        for partition in range(self.shop.partitions):
            users: dict[str, UserOracle] = defaultdict(UserOracle)
            books: dict[str, OrderBook] = defaultdict(OrderBook)
            accepted = applied_in_order(
                [record for record in clicks if record.input.partition == partition],
                [record for record in orders if record.input.partition == partition],
                settings,
            )
            for applied in accepted:
                item = applied.item
                user = item.user_id
                book = OrderBook()
                if isinstance(item, Order):
                    book = books[user if user is not None else f"order:{item.order_id}"]
                events = events_of(item, book)
                if user is None:
                    continue
                example = by_cause.pop(f"clickstream-{partition}-{applied.offset}-purchase", None)
                if isinstance(item, Click):
                    assert example is not None, f"no example for clickstream[{partition}] {applied.offset}"
                    assert example.offsets == applied.positions, example.id
                    checked += 1
                    if checked % every == 0:
                        self._check(example, users[user], events[0], item)
                        continue
                for event in events:
                    users[user].skip(event)
        assert not by_cause, f"examples without an accepted click: {sorted(by_cause)[:5]}"
        return checked // every

    def _check(self, example: Example, user: UserOracle, event: Event, click: Click) -> None:
        rows: list[ActivityRow] = []
        if example.product_version is not None and click.product_id is not None:
            partition, offset = example.product_version
            rows = [row for at, row in self.activity[partition, click.product_id] if at <= offset]
        expected = user.vector(event, rows)
        served = np.frombuffer(example.vector, "<f8")
        wrong = [
            (name, found, wanted)
            for name, found, wanted in zip(ScoreFeatures.names, served.tolist(), expected, strict=True)
            if abs(found - wanted) > EXACT * max(1.0, abs(wanted))
        ]
        assert not wrong, f"{example.id}: (feature, served, oracle) {wrong}"

    def said_of_products(self) -> Counter[tuple[int, str, int, int, int, int]]:
        """Return what activity says: partition, product, kind, time, quantity and when it was said, how often."""
        return Counter(
            (partition, product, row.kind, row.time, row.quantity, row.at)
            for (partition, product), rows in self.activity.items()
            for _, row in rows
        )

    def refused(self) -> Counter[tuple[str, str]]:
        """Return how many dead letters there are, by topic and reason."""
        letters = [decode_dead_letter(record.value or b"") for record in self.shop.read("tidecast.deadletters")]
        return Counter((letter.topic, letter.reason) for letter in letters)

    def check_probabilities(self) -> int:
        """Check that each probability is what the model it names gives on its vector, to the bit; return how many."""
        said = {str(one["id"]): one for one in self.predictions if one["kind"] == "purchase"}
        for _, example in self.examples:
            vector = np.frombuffer(example.vector, "<f8").reshape(1, -1)
            probability = float(self.models[example.model].predict(vector)[0])
            payload = said[example.id]["payload"]
            assert isinstance(payload, dict)
            assert example.probability == probability == payload["probability"], example.id
        return len(self.examples)

    def check_learner(self, settings: Settings) -> None:
        """Check that the stored learner is, to the bit, what the examples log makes of a new one."""
        features = ScoreFeatures()
        learner = PurchaseLearner(
            features.names,
            features.schema_hash,
            horizon_ms=settings.score.horizon_s * 1_000,
            lateness_ms=settings.time.allowed_lateness_s * 1_000,
            publish_every=settings.learn.publish_every,
        )
        for record in self.shop.read("tidecast.examples"):
            learner.feed(record.input.partition, record.offset, decode_examples(record.value or b""))
        [stored] = self.shop.rows("learn").values()
        assert learner.state() == stored


def same_rows(left: Shop, right: Shop) -> None:
    """Check that two finished runs left equal rows: all of score's and of demand's, products' but for their versions.

    A version names a place in the run's own log. Of a series counts what its stage reads: nothing open that is void.
    """
    assert left.rows("score") == right.rows("score")
    ours, theirs = (_demand_rows(shop) for shop in (left, right))
    assert set(ours) == set(theirs)
    wrong = [key for key, row in ours.items() if row != theirs[key]]
    assert not wrong, f"{len(wrong)} of {len(ours)} rows of demand differ: {wrong[:5]}"


def _demand_rows(shop: Shop) -> dict[str, object]:
    closed = {task: _closed(header) for task, header in shop.headers("demand").items()}
    found: dict[str, object] = {}
    for key, row in shop.rows("demand").items():
        task, _, name = key.partition("/")
        if name.startswith("p:"):
            found[key] = _without_version(row)
        elif name.startswith("s:"):
            series = Series.unpack(row)
            series.drop_void(closed[task])
            found[key] = series.pack()
        else:
            found[key] = row
    return found


def _closed(header: bytes) -> int:
    closed = msgspec.msgpack.decode(msgspec.msgpack.decode(decode_header(header).extra)["state"])["closed"]
    return -1 if closed is None else int(closed)


def _without_version(row: bytes) -> tuple[bytes, bytes]:
    table = ProductTable()
    table.load({"p": row})
    slot = table.slots.of["p"]
    words = table.rows[slot].copy()
    words[PRODUCT_PARTITION] = words[PRODUCT_OFFSET] = 0
    return words.tobytes(), table.tiles[slot].tobytes()

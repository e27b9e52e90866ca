"""Laws of `tidecast features show`: where a row lies, what it says, and what is said where there is none."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from features.sets import LOG_LENGTH, SCORE_SET
from features.summary import product_summary, read_category, user_summary
from streams.cli.app import app
from streams.driver import TopologyDriver
from streams.errors import ConfigurationError, RecoveryError, StoreUnavailable, TidecastError
from streams.kafka import producer_config
from streams.rows import find_category, find_product, find_user
from streams.runtime.task import store_name
from streams.settings import Settings
from streams.shown import iso
from streams.store import MemoryStore, RedisStore
from streams.topologies.demand import DemandStage
from streams.topologies.layout import activity_partition, user_partition
from streams.topologies.score import ScoreStage

SETTINGS = Settings()
TASKS = SETTINGS.kafka.partitions
T0 = 1_700_000_100_000
MINUTE = 60_000


def _send(driver: TopologyDriver, topic: str, user: str, time: int, *, elsewhere: int = 0, **fields: Any) -> None:
    event = {"event_id": f"{topic}-{user}-{time}", "time": time, "user_id": user, **fields}
    partition = (user_partition(user, TASKS) + elsewhere) % TASKS
    driver.pipe(topic, user.encode(), json.dumps(event).encode(), partition=partition, appended_at=time)


def _line(product: str) -> dict[str, Any]:
    return {"product_id": product, "quantity": 2, "unit_price": 999}


@pytest.fixture(scope="module")
def shop() -> TopologyDriver:
    """A user with more events than the log keeps, an order and a return; one whose key another partitioner placed."""
    driver = TopologyDriver(SETTINGS, [ScoreStage, DemandStage], partitions=TASKS, now_ms=T0 + 100 * MINUTE)
    for i in range(20):
        _send(
            driver,
            "clickstream",
            "u1",
            T0 + i * MINUTE,
            type="view",
            product_id="p1",
            category_id="mugs",
            session_id="a",
        )
    for time, status in ((T0 + 21 * MINUTE, "placed"), (T0 + 90 * MINUTE, "returned")):
        order = {"order_id": "o1", "status": status, "lines": [_line("p1")], "currency": "EUR"}
        _send(driver, "orders", "u1", time, **order)
    _send(driver, "clickstream", "u2", T0, elsewhere=1, type="view", product_id="p2", session_id="b")
    driver.mark_time(T0 + 100 * MINUTE)
    driver.run()
    return driver


@pytest.fixture
def _connected(shop: TopologyDriver, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the command read the shop's rows."""
    monkeypatch.setattr(RedisStore, "connect", lambda settings: shop.store)


def test_a_row_is_shown_as_it_is(shop: TopologyDriver) -> None:
    """Values, stamps, bytes and checkpoint are the store's, and asking leaves every byte where it was."""
    before = dict(shop.store.rows)
    task = shop.tasks("score")[user_partition("u1", TASKS)]
    shown = find_user(SETTINGS, shop.store, "u1")
    packed = shop.store.rows[task.name, "u:u1"]
    data = shown.as_data()
    assert {one["name"]: one["value"] for one in data["features"]} == user_summary(packed)
    assert {one["name"]: one["unit"] for one in data["features"]}.items() <= {
        (feature.name, feature.unit) for feature in SCORE_SET
    }
    assert (data["task"], data["row_bytes"], data["last_touched"]) == (task.name, len(packed), T0 + 90 * MINUTE)
    assert data["checkpoint"]["epoch"] == task.epoch
    assert data["checkpoint"]["offsets"] == {str(input_): offset for input_, offset in task.offsets().items()}
    assert len(data["log"]) == LOG_LENGTH
    assert [(one["kind"], one["value_minor"]) for one in data["log"][-2:]] == [("purchase", 1_998), ("return", 1_998)]
    assert [(line["order_id"], line["left"]) for line in data["orders"]["lines"]] == [("o1", 0)]
    product = find_product(SETTINGS, shop.store, "p1")
    packed = shop.store.rows[shop.tasks("demand")[activity_partition("p1", TASKS)].name, "p:p1"]
    assert product.row is not None
    assert product.row.features == product_summary(packed, product.row.as_of)
    assert product.row.features["product_views_1d"] == 20
    category = find_category(SETTINGS, shop.store, "mugs")
    task = shop.tasks("demand")[activity_partition("mugs", TASKS)]
    assert (category.row, category.task) == (read_category(shop.store.rows[task.name, "c:mugs"]), task.name)
    assert category.row is not None
    assert category.row.features["category_views_1d"] == 20
    assert set(category.row.features) == {feature.name for feature in SCORE_SET if feature.entity == "category"}
    assert shop.store.rows == before


def test_words_and_data_agree(shop: TopologyDriver) -> None:
    """Each feature stands on a line with its value and unit; log, session and book are told in words."""
    shown = find_user(SETTINGS, shop.store, "u1")
    lines = shown.lines()
    for feature in shown.as_data()["features"]:
        [line] = [line for line in lines if re.match(rf"  {feature['name']} ", line)]
        assert float(line.split()[1].replace(",", "")) == pytest.approx(feature["value"], abs=1e-4)
        assert feature["unit"] in line
    text = "\n".join(lines)
    assert f"last touched {iso(T0 + 90 * MINUTE)}" in text
    assert f"  {iso(T0 + 19 * MINUTE)}  view" in text
    assert f"* {iso(T0 + 90 * MINUTE)}  return 19.98, of a purchase within 5 min from" in text
    assert "order o1  product p1  nothing kept" in text


def test_a_user_is_shown_as_of_an_event_of_its_log(shop: TopologyDriver) -> None:
    """With a time, what is stamped later counts in nothing; a time before the log says from when on it can be asked."""
    shown = find_user(SETTINGS, shop.store, "u1", T0 + 10 * MINUTE + 1).as_data()
    values = {one["name"]: one["value"] for one in shown["features"]}
    assert (shown["as_of"], values["user_views_1d"], values["user_spend_1d"]) == (T0 + 10 * MINUTE, 11, 0.0)
    with pytest.raises(ConfigurationError, match=re.escape(iso(T0 + 7 * MINUTE))):
        find_user(SETTINGS, shop.store, "u1", T0)


def test_a_product_is_shown_as_of_a_time(shop: TopologyDriver) -> None:
    """Windows slide on with the time asked for; one that the row does not reach back to is refused."""
    values = find_product(SETTINGS, shop.store, "p1", T0 + 40 * 86_400_000).as_data()["features"]
    assert {one["value"] for one in values if one["name"].startswith("product_views")} == {0}
    with pytest.raises(ConfigurationError, match="or later"):
        find_product(SETTINGS, shop.store, "p1", T0 - 86_400_000)


def test_a_row_in_another_task_is_found(shop: TopologyDriver) -> None:
    """A key that another partitioner placed is found, and it is said where Kafka's own would have put it."""
    shown = find_user(SETTINGS, shop.store, "u2")
    expected = user_partition("u2", TASKS)
    assert shown.task == shop.tasks("score")[(expected + 1) % TASKS].name
    [line] = [line for line in shown.lines() if "murmur2" in line]
    assert shop.tasks("score")[expected].name in line


@pytest.mark.parametrize("find", [find_user, find_product, find_category])
def test_an_unknown_id_names_the_task_that_was_asked(shop: TopologyDriver, find: Any) -> None:
    """Exit code 1, the task, how far its checkpoint is, and when a row would appear."""
    with pytest.raises(TidecastError, match="a row appears with the next checkpoint") as caught:
        find(SETTINGS, shop.store, "nobody")
    stage, number = ("score", user_partition) if find is find_user else ("demand", activity_partition)
    task = shop.tasks(stage)[number("nobody", TASKS)]
    assert type(caught.value) is TidecastError
    assert f"task {task.name}, " in str(caught.value)
    assert all(f"{input_} {offset}" in str(caught.value) for input_, offset in task.offsets().items())


def test_rows_of_another_schema_are_named() -> None:
    """A store that another feature schema or layout was written to is no store without users."""
    store = MemoryStore()
    with pytest.raises(TidecastError, match="no checkpoint of score at all") as caught:
        find_user(SETTINGS, store, "u1")
    assert type(caught.value) is TidecastError
    store.rows["score.abcdef-1", "h"] = store.rows["score.abcdef-2", "h"] = b"header"
    with pytest.raises(RecoveryError, match=r"another layout or feature schema \(score\.abcdef\)"):
        find_user(SETTINGS, store, "u1")


def test_settings_of_fewer_partitions_are_named(shop: TopologyDriver) -> None:
    """An id whose row lies beyond the tasks that the settings know is not called unknown."""
    kafka = SETTINGS.kafka.model_copy(update={"partitions": 1})
    with pytest.raises(ConfigurationError, match=r"kafka\.partitions is 1"):
        find_user(SETTINGS.model_copy(update={"kafka": kafka}), shop.store, "nobody")


@pytest.mark.parametrize(
    ("key", "start"),
    [("h", 0), ("u:u1", 0), ("u:u1", 7), ("u:u1", 12), ("o:u1", 0), ("p:p1", 7), ("p:p1", 8), ("c:mugs", 7)],
)
def test_what_cannot_be_read_says_how_to_rebuild_it(shop: TopologyDriver, key: str, start: int) -> None:
    """Damaged bytes of header, row or book end in one sentence with the task and its reset."""
    task = shop.tasks("score")[user_partition("u1", TASKS)].name
    id_ = key[2:] or "u1"
    if key[0] in "pc":
        task = shop.tasks("demand")[activity_partition(id_, TASKS)].name
    store = MemoryStore()
    good = shop.store.rows[task, key]
    damaged = b"\xff" * 12 if start == 0 else good[:start] + b"\x7f" + good[start + 1 :]
    store.rows = {**shop.store.rows, (task, key): damaged}
    find = {"p": find_product, "c": find_category}.get(key[0], find_user)
    with pytest.raises(RecoveryError, match=rf"tidecast state reset {re.escape(task)}"):
        find(SETTINGS, store, id_)


def test_a_store_that_is_away_is_no_store_without_the_id() -> None:
    """No answer is never an unknown id."""
    store = MemoryStore()
    store.down = True
    with pytest.raises(StoreUnavailable):
        find_user(SETTINGS, store, "u1")


@pytest.mark.parametrize("id_", ["", "x" * 201, "a\0b", "\udcff"])
def test_an_id_that_no_event_can_bear_is_refused(id_: str) -> None:
    """At once, in one short line, and never as if it were only unknown."""
    with pytest.raises(ConfigurationError, match="no id is like that") as caught:
        find_user(SETTINGS, MemoryStore(), id_)
    assert len(str(caught.value)) < 150
    assert str(caught.value).isprintable()


def test_an_unknown_id_is_named_on_one_line(shop: TopologyDriver) -> None:
    """Control characters in it are shown as such here too."""
    with pytest.raises(TidecastError, match=r"user a\\nb has no row") as caught:
        find_user(SETTINGS, shop.store, "a\nb")
    assert str(caught.value).isprintable()


def test_nothing_of_a_stranger_moves_the_terminal() -> None:
    """Control characters in ids are shown as such."""
    driver = TopologyDriver(SETTINGS, [ScoreStage], partitions=TASKS)
    order = {"order_id": "o\x1b[2J", "status": "placed", "lines": [_line("p\x07")], "currency": "EUR"}
    _send(driver, "orders", "u\x1b1", T0, **order)
    driver.mark_time(T0 + 1)
    driver.run()
    text = "\n".join(find_user(SETTINGS, driver.store, "u\x1b1").lines())
    assert text.replace("\n", "").isprintable()
    assert r"order o\x1b[2J  product p\x07" in text


@pytest.mark.usefixtures("_connected")
def test_a_time_without_a_zone_is_the_shops(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--time` is read by the shop's clock, as `--from` and `--to` of a backfill are."""
    monkeypatch.setenv("TIDECAST_SHOP__TIMEZONE", "Europe/Berlin")
    shown = CliRunner().invoke(app, ["features", "show", "product", "p1", "--time", "2030-07-01T02:00:00", "--json"])
    assert json.loads(shown.stdout)["as_of"] == 1_909_094_400_000  # 2030-07-01T00:00:00Z


@pytest.mark.usefixtures("_connected")
def test_the_command_shows_lines_or_data(shop: TopologyDriver) -> None:
    """Both forms are those of the row, and an id that is no row ends with exit code 1."""
    rows = (("user", "u1", find_user), ("product", "p1", find_product), ("category", "mugs", find_category))
    for kind, id_, found in rows:
        shown = found(SETTINGS, shop.store, id_)
        plain = CliRunner().invoke(app, ["features", "show", kind, id_])
        assert plain.stdout.splitlines() == shown.lines()
        data = CliRunner().invoke(app, ["features", "show", kind, id_, "--json"])
        assert json.loads(data.stdout) == json.loads(json.dumps(shown.as_data()))
    unknown = CliRunner().invoke(app, ["features", "show", "user", "nobody"])
    assert (unknown.exit_code, unknown.stdout, type(unknown.exception)) == (1, "", TidecastError)
    late = CliRunner().invoke(app, ["features", "show", "product", "p1", "--time", iso(T0 + 40 * 86_400_000), "--json"])
    assert json.loads(late.stdout)["as_of"] == (T0 + 40 * 86_400_000) // 1_000 * 1_000


@contextmanager
def _mock_kafka() -> Iterator[Producer]:
    """The client's own cluster in memory: enough to see where keys go."""
    kafka = SETTINGS.kafka.model_copy(
        update={"bootstrap_servers": "unused:1", "extra": {"test.mock.num.brokers": 1, "enable.idempotence": False}}
    )
    config = producer_config(SETTINGS.model_copy(update={"kafka": kafka}))
    yield Producer({name: value for name, value in config.items() if name not in ("transactional.id",)})


def test_users_lie_where_the_producer_puts_them() -> None:
    """The task of an id is the partition that the client's murmur2 gives its key, whatever its length and bytes."""
    ids: Sequence[str] = [*(f"u{i}" for i in range(200)), "ü", "", "日本語の客", "x" * 1_000]
    placed: dict[str, int] = {}
    with _mock_kafka() as producer:
        partitions = len(producer.list_topics("clickstream", 10).topics["clickstream"].partitions)
        for id_ in filter(None, ids):
            producer.produce(
                "clickstream",
                b"",
                id_.encode(),
                on_delivery=lambda error, message: placed.update({message.key().decode(): message.partition()}),
            )
        producer.flush(10)
    assert placed == {id_: user_partition(id_, partitions) for id_ in ids if id_}
    assert set(placed.values()) == set(range(partitions))


def test_store_names_are_the_tasks(shop: TopologyDriver) -> None:
    """The tasks that a store lists are those that wrote a checkpoint."""
    names = {store_name(shop.stage("score"), number) for number in range(TASKS)}
    assert set(shop.store.tasks("score")) == names

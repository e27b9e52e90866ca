"""Laws of training tables made of the log: what the stages served, to the bit."""

from __future__ import annotations

import json
import random
from pathlib import Path

import numpy as np
import pytest
from msgspec.structs import replace

from features.sets import MINUTE
from schemas.internal import Example, decode_examples
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.logs import FACTS, RecordedTopics, Topics
from streams.records import CATALOG, CLICKSTREAM, EXAMPLES, ORDERS, Input
from streams.topologies.score import ScoreStage
from streams.verification.features import verify_features
from tests.backfill.conftest import OWN, Row, of_topics, vector_of
from tests.verification.conftest import PARTITIONS, SETTINGS, run_log

START = 1_700_000_000_000
LABEL = "label_3600s"


def served(driver: TopologyDriver) -> dict[str, Example]:
    """Return the examples of a driver by their ids."""
    batches = [decode_examples(record.value or b"") for record in driver.output(EXAMPLES)]
    return {example.id: example for batch in batches for example in batch.examples}


def of_example(example: Example) -> np.ndarray:
    return np.frombuffer(example.vector, "<f8")


@pytest.mark.parametrize("seed", [7, 8])
def test_every_vector_is_the_one_served(tmp_path: Path, seed: int) -> None:
    """Over a log with all that occurs, and a run that crashed: the same examples, and all columns of users to the bit.

    There the demand stage lagged: what a vector shows of products and categories may be a little behind.
    """
    driver = run_log(seed)
    card, rows = of_topics(RecordedTopics.of(driver), SETTINGS, tmp_path)
    examples = served(driver)
    assert {row["prediction_id"] for row in rows} == set(examples)
    for row in rows:
        example = examples[row["prediction_id"]]
        assert (row["user_id"], round(row["as_of"].timestamp() * 1_000)) == (example.user, example.as_of)
        ours = np.frombuffer(vector_of(row), "<f8")
        assert ours[OWN].tobytes() == of_example(example)[OWN].tobytes(), row["prediction_id"]
    counts = driver.counts("score")
    assert card["rows"] == counts["clicks_predicted"] > 1_400
    assert (card["late"], card["duplicates"]) == (counts["rejected_late"], counts["duplicates"])
    assert card["refused"] == {"undecodable": counts["rejected_undecodable"]}
    assert card["redriven"] == counts["clicks_redriven"]
    assert card["log"]["features_whole_from"] is None
    assert [row["as_of"] for row in rows] == sorted(row["as_of"] for row in rows)


def in_order(clicks: int, seed: int) -> TopologyDriver:
    """Return a driver whose demand stage has seen every event before score sees the next one, over an orderly log."""
    chance = random.Random(seed)
    driver = TopologyDriver(SETTINGS, [ScoreStage, quiet_demand_stage], partitions=PARTITIONS)
    time = START
    for number in range(clicks):
        time += chance.choice((1, 20_000, 3 * MINUTE, 40 * MINUTE))
        driver.now_ms = time
        user, product = f"u{chance.randrange(20)}", f"p{chance.randrange(5)}"
        click = {
            "event_id": f"c{number}", "type": chance.choice(("view", "view", "add_to_cart")), "time": time,
            "user_id": user, "session_id": f"s{time // 7_200_000}", "product_id": product, "unit_price": 500 + number,
        }  # fmt: skip
        driver.pipe(CLICKSTREAM, user.encode(), json.dumps(click).encode())
        if chance.random() < 0.1:
            fact = {"event_id": f"f{number}", "product_id": product, "time": time + 1, "unit_price": 900 + number}
            driver.pipe(CATALOG, product.encode(), json.dumps(fact | {"stock": chance.randrange(3)}).encode())
        if chance.random() < 0.2:
            order = {
                "event_id": f"o{number}", "order_id": f"o{number}", "status": "placed", "time": time, "user_id": user,
                "lines": [{"product_id": product, "quantity": 1, "unit_price": 900}],
            }  # fmt: skip
            driver.pipe(ORDERS, user.encode(), json.dumps(order).encode())
        driver.mark_time(time + 1)
        driver.run()
    driver.mark_time(time + 1, end=True)
    driver.run()
    return driver


def test_where_demand_keeps_up_the_whole_vector_is_the_one_served(tmp_path: Path) -> None:
    """All columns to the bit, products' too, with session and label."""
    driver = in_order(700, 3)
    _, rows = of_topics(RecordedTopics.of(driver), SETTINGS, tmp_path)
    examples = served(driver)
    assert len(rows) == len(examples) == 700
    for row in rows:
        assert vector_of(row) == examples[row["prediction_id"]].vector, row["prediction_id"]
        assert row["session_id"] == f"s{examples[row['prediction_id']].as_of // 7_200_000}"
    shown = [row["product_views_1d"] for row in rows]
    assert max(shown) > 5
    assert len({row["market_discount"] for row in rows}) > 50
    assert any(row["product_version_offset"] is not None for row in rows)


class Cut:
    """Topics of which each partition ends at an offset of its own, chosen by event time."""

    def __init__(self, topics: Topics, before_ms: int) -> None:
        self._topics = topics
        self._before = before_ms
        self.partitions = topics.partitions

    def scored(self, input_: Input) -> int | None:
        """Nothing is asked of it."""
        return None

    def bounds(self, input_: Input) -> tuple[int, int]:
        """As if whole."""
        return self._topics.bounds(input_)

    def read(self, input_: Input):  # type: ignore[no-untyped-def]
        """Yield the records before the first one of that time or later."""
        for record in self._topics.read(input_):
            if json.loads(record.value or b"")["time"] >= self._before:
                return
            yield record


@pytest.mark.parametrize("share", [0.3, 0.71])
def test_a_cut_log_gives_the_prefix(tmp_path: Path, share: float) -> None:
    """Cutting the log at a time changes no earlier row, but for labels that were not yet known."""
    topics = RecordedTopics.of(in_order(500, 4))
    _, whole = of_topics(topics, SETTINGS, tmp_path / "a")
    cut = START + int(share * (round(whole[-1]["as_of"].timestamp() * 1_000) - START))
    _, part = of_topics(Cut(topics, cut), SETTINGS, tmp_path / "b")
    assert 100 < len(part) < len(whole)
    # Clicks of the very last time wait for a marker, as they do in the task.
    assert len(part) >= sum(round(row["as_of"].timestamp() * 1_000) < cut for row in whole) - PARTITIONS
    labelled = 0
    for ours, theirs in zip(part, whole, strict=False):
        labelled += ours[LABEL] is not None
        expected = theirs if ours[LABEL] is not None else theirs | {LABEL: None, "known_at": None}
        assert ours == expected
    assert labelled > 50


def test_places_are_those_of_the_log(tmp_path: Path) -> None:
    """A log that begins later and has gaps keeps its offsets in the ids; from when on features are whole is told."""
    topics = RecordedTopics.of(in_order(300, 5))
    _, before = of_topics(topics, SETTINGS, tmp_path / "a")
    inputs = [Input(topic, p) for topic in (CLICKSTREAM, ORDERS) for p in range(PARTITIONS)]

    def moved(offset: int) -> int:
        return 1_000 + 2 * offset

    records = {i: [replace(one, offset=moved(one.offset)) for one in topics.read(i)] for i in inputs}
    records |= {Input(topic, 0): list(topics.read(Input(topic, 0))) for topic in FACTS}
    card, after = of_topics(RecordedTopics(records), SETTINGS, tmp_path / "b")

    def renamed(row: Row) -> Row:
        topic, partition, offset, kind = row["prediction_id"].split("-")
        return row | {"prediction_id": f"{topic}-{partition}-{moved(int(offset))}-{kind}"}

    assert after == [renamed(row) for row in before]
    assert card["log"]["topics"]["clickstream[0]"][0] == 1_000
    assert card["log"]["features_whole_from"].startswith("2023-12-14")


def test_rows_of_a_time_are_those_of_the_whole(tmp_path: Path) -> None:
    """--to leaves later clicks out, and reads on as far as labels need it."""
    topics = RecordedTopics.of(run_log(9))
    _, whole = of_topics(topics, SETTINGS, tmp_path / "a")
    times = [round(row["as_of"].timestamp() * 1_000) for row in whole]
    first, last = times[300], times[900]
    _, part = of_topics(topics, SETTINGS, tmp_path / "b", from_ms=first, to_ms=last)
    assert part == [row for row, time in zip(whole, times, strict=True) if first <= time < last]
    assert all(row[LABEL] is not None for row in part)


def test_what_was_replayed_is_verified_like_what_was_served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verification finds nothing in the backfill's own log: products' columns are what their versions say."""
    kept: list[TopologyDriver] = []

    def retaining(*arguments, retain, **options) -> TopologyDriver:  # type: ignore[no-untyped-def]
        kept.append(TopologyDriver(*arguments, **options))
        return kept[-1]

    monkeypatch.setattr("streams.backfill.run.TopologyDriver", retaining)
    card, _ = of_topics(RecordedTopics.of(run_log(7)), SETTINGS, tmp_path)
    found = verify_features(RecordedTopics.of(kept[0]), SETTINGS)
    assert found.clean, found
    assert found.compared == card["rows"] > 1_400

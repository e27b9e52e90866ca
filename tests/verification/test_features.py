"""Laws of the verification: it says 0 of a log with all that occurs, and finds whatever is planted."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from decimal import Decimal

import msgspec
import numpy as np
import pytest
from msgspec.structs import replace

from features.sets import SCORE_FEATURES
from schemas.internal import ActivityBatch, Example, decode_activity, decode_examples, encode_activity
from streams.driver import TopologyDriver
from streams.errors import LogTruncated
from streams.logs import FACTS, RecordedTopics, Topics
from streams.records import ACTIVITY, CLICKSTREAM, EXAMPLES, ORDERS, Input
from streams.settings import Settings, ShopSettings, TimeSettings
from streams.topologies.score import ScoreStage
from streams.verification.features import verify_features
from streams.verification.reading import Progress
from streams.verification.report import By, Report
from tests.real.shop import START_MS
from tests.verification.conftest import PARTITIONS, SETTINGS, changed, run_log, settings

DAY_MS = 86_400_000


def verify(topics: Topics, *, by: By = "engine", sample: int | None = None) -> Report:
    return verify_features(topics, SETTINGS, by=by, sample=sample)


def count_of(topics: RecordedTopics) -> int:
    """How many examples a clean log has."""
    found = verify(topics)
    assert found.clean
    return found.examples


@pytest.mark.parametrize("seed", [7, 8])
def test_nothing_is_found_where_nothing_is_wrong(seed: int) -> None:
    """Disorder, repeats, late, torn and redriven records, crashes, a wiped store: 0, and every click compared."""
    driver = run_log(seed, late_facts=True)
    counts = driver.counts("score")
    assert min(counts[name] for name in ("duplicates", "rejected_late", "rejected_undecodable", "clicks_redriven")) > 5
    found = verify(RecordedTopics.of(driver))
    assert found.clean, found
    assert found.accepted == found.examples == found.compared == counts["clicks_predicted"] > 1_400
    assert not +found.mismatches
    assert (found.unverifiable, found.other_definition) == (0, 0)


def test_the_oracle_says_so_too() -> None:
    """Brute force agrees, on all examples of about so many."""
    topics = RecordedTopics.of(run_log(clicks=600, late_facts=True))
    found = verify(topics, by="oracle", sample=200)
    assert found.clean, found
    assert 50 < found.compared < 400
    assert found.accepted == found.examples > 550


@pytest.mark.parametrize("by", ["engine", "oracle"])
def test_nothing_is_found_in_a_shop_of_many_currencies(by: By) -> None:
    """Converted, or without a rate: what is recomputed is what was served; by other rates it is another definition."""
    shop = ShopSettings(currency="EUR", rates={"JPY": "0.00617", "KWD": 2.9731})
    driver = run_log(clicks=600, late_facts=True, shop=shop)
    topics = RecordedTopics.of(driver)
    assert driver.counts("score")["events_without_rate"] > 50
    found = verify_features(topics, settings(shop=shop), by=by)
    assert found.clean, found
    assert found.accepted == found.examples == found.compared > 500
    other = shop.model_copy(update={"rates": {**shop.rates, "KWD": Decimal("2.9")}})
    report = verify_features(topics, settings(shop=other), by=by)
    assert (report.other_definition, report.compared) == (found.examples, 0)
    # Served by other rates, the same log has other vectors.
    served = changed(topics, lambda told: told, batch=lambda b: replace(b, schema_hash=report.schema))
    assert verify_features(served, settings(shop=other), by=by).mismatched > 50


class Edit:
    """Changes the n-th of all examples that pass through it; `done` is the one it was."""

    def __init__(self, at: int, how: str, feature: str = "", by: float = 0.0) -> None:
        self._left, self._how, self._feature, self._by = at, how, feature, by
        self.done: Example | None = None

    def __call__(self, examples: list[Example]) -> list[Example]:
        found: list[Example] = []
        for example in examples:
            # An example whose product and category had a row: else there is nothing of them to recompute.
            self._left -= None not in (example.product_version, example.category_version)
            if self._left >= 0 or self.done is not None:
                found.append(example)
                continue
            self.done = example
            found.extend(self._changed(example))
        return found

    def _changed(self, example: Example) -> Sequence[Example]:
        match self._how:
            case "drop":
                return ()
            case "double":
                return example, example
            case "move":
                return (msgspec.structs.replace(example, offsets=(example.offsets[0], example.offsets[1] + 1)),)
            case "invent":
                partition = example.id.split("-")[1]
                return example, msgspec.structs.replace(example, id=f"clickstream-{partition}-999999-purchase")
            case "foreign":
                return example, msgspec.structs.replace(example, id="clickstream-77-1-purchase")
            case "version":
                assert example.product_version is not None
                return (msgspec.structs.replace(example, product_version=(example.product_version[0], 0)),)
            case "category":
                assert example.category_version is not None
                return (msgspec.structs.replace(example, category_version=(example.category_version[0], 0)),)
            case "cut":
                return (msgspec.structs.replace(example, vector=example.vector[:-8]),)
        vector = np.frombuffer(example.vector, "<f8").copy()
        vector[SCORE_FEATURES.index(self._feature)] += self._by
        return (msgspec.structs.replace(example, vector=vector.tobytes()),)


@pytest.mark.parametrize(
    ("feature", "off", "by"),
    [
        ("user_views_30d", 1.0, "engine"),
        ("user_interest", 1e-6, "engine"),
        ("session_mean_gap", float("nan"), "engine"),
        ("product_views_1d", 1.0, "engine"),
        ("product_popularity", -1e-6, "engine"),
        ("product_price_ratio", 1e-7, "engine"),
        ("category_views_7d", 1.0, "engine"),
        ("category_price_ratio", 1e-7, "engine"),
        ("event_price", 0.01, "engine"),
        ("market_discount", 1e-6, "engine"),
        ("market_stock", 1.0, "engine"),
        ("user_category_views", 1.0, "engine"),
        ("session_duration", 1e-3, "oracle"),
        ("product_conversion_30d", 1e-6, "oracle"),
        ("category_purchases_7d", 1.0, "oracle"),
    ],
)
def test_one_changed_value_is_one_mismatch(topics: RecordedTopics, feature: str, off: float, by: By) -> None:
    """A value that is off, in whatever kind of feature, is the only one told of, with both values."""
    edit = Edit(600, "change", feature, off)
    planted = changed(topics, edit)
    assert edit.done is not None
    # The oracle is slow: the few users of a sample, with the one whose example was changed among them.
    found = verify(planted) if by == "engine" else verify_only(planted, edit.done.user)
    assert not found.clean
    assert +found.mismatches == {feature: 1}
    assert found.rate(feature) == 1 / found.compared > 0
    assert found.mismatched == 1
    [one] = found.differences
    assert (one.example, one.feature) == (edit.done.id, feature)
    before = float(np.frombuffer(edit.done.vector, "<f8")[SCORE_FEATURES.index(feature)])
    assert one.recomputed == pytest.approx(before, abs=1e-9)
    assert one.served == pytest.approx(before + off, abs=1e-12, nan_ok=True)
    assert (found.missing, found.extra, found.misplaced) == (0, 0, 0)


def verify_only(topics: Topics, user: str) -> Report:
    """Verify one user by the oracle."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("streams.verification.features._lot", lambda one: 0.0 if one == user else 0.999)
        return verify(topics, by="oracle", sample=1)


@pytest.mark.parametrize("sample", [1, 50, 500, 100_000])
def test_a_sample_is_about_as_large_as_asked_for(topics: RecordedTopics, sample: int) -> None:
    """As many as it takes, and no more than one user too many."""
    records = [record for number in range(PARTITIONS) for record in topics.read(Input(EXAMPLES, number))]
    every = Counter(example.user for record in records for example in decode_examples(record.value or b"").examples)
    found = verify(topics, sample=sample)
    wanted = min(sample, every.total())
    assert wanted <= found.compared < wanted + max(every.values())


def test_what_rounding_does_is_no_mismatch(topics: RecordedTopics) -> None:
    """Floats may be off by a billionth, counts by nothing at all."""
    assert verify(changed(topics, Edit(600, "change", "user_interest", 1e-11))).clean
    assert not verify(changed(topics, Edit(600, "change", "user_views_30d", 1e-11))).clean


@pytest.mark.parametrize(
    ("how", "missing", "extra", "misplaced"),
    [("drop", 1, 0, 0), ("double", 0, 1, 0), ("invent", 0, 1, 0), ("foreign", 0, 1, 0), ("move", 0, 0, 1)],
)
def test_what_is_missing_extra_or_misplaced_is_told(
    topics: RecordedTopics, how: str, missing: int, extra: int, misplaced: int
) -> None:
    """A dropped, a doubled, an invented and a moved example are each found, and nothing else with them."""
    count = count_of(topics)
    # What was invented stands beyond all that score had come to, where its position is known.
    found = verify(RecordedTopics(_records(changed(topics, Edit(500, how)))))
    assert (found.missing, found.extra, found.misplaced, found.mismatched) == (missing, extra, misplaced, 0)
    assert not found.clean
    assert found.examples == count - missing + extra
    assert found.missing_rate == missing / count
    assert found.extra_rate == pytest.approx(extra / (count + extra))
    assert len(found.strays) == missing + extra + misplaced


def _records(topics: RecordedTopics) -> dict[Input, list]:  # type: ignore[type-arg]
    inputs = [Input(t, p) for t in (CLICKSTREAM, ORDERS, ACTIVITY, EXAMPLES, *FACTS) for p in range(PARTITIONS)]
    return {input_: list(topics.read(input_)) for input_ in inputs}


def test_a_wrong_version_and_a_cut_vector_are_mismatches(topics: RecordedTopics) -> None:
    """Another version of the product's or category's row gives other features, of a vector of another length all."""
    for how, prefix in (("version", "product_"), ("category", "category_")):
        found = verify(changed(topics, Edit(600, how)))
        assert found.mismatched == 1
        assert all(name.startswith(prefix) for name in +found.mismatches)
    found = verify(changed(topics, Edit(700, "cut")))
    assert found.mismatched == 1
    assert set(+found.mismatches) == set(SCORE_FEATURES)


@pytest.mark.parametrize(("lost", "prefix"), [("rows", "product_"), ("categories", "category_")])
def test_a_lost_record_of_activity_is_found(topics: RecordedTopics, lost: str, prefix: str) -> None:
    """Columns of products and categories are recomputed from activity: without some of its rows, they differ."""
    records = _records(topics)
    told = [
        (input_, place)
        for input_ in (Input(ACTIVITY, partition) for partition in range(PARTITIONS))
        for place, record in enumerate(records[input_])
        if getattr(decode_activity(record.value or b""), lost)
    ]
    input_, place = told[len(told) // 4]
    emptied = msgspec.structs.replace(decode_activity(records[input_][place].value or b""), **{lost: []})
    assert isinstance(emptied, ActivityBatch)
    records[input_][place] = replace(records[input_][place], value=encode_activity(emptied))
    found = verify(RecordedTopics(records))
    assert found.mismatched > 0
    assert all(name.startswith(prefix) for name in +found.mismatches)


def test_other_rules_at_the_door_are_found(topics: RecordedTopics) -> None:
    """Verified under another lateness, the late clicks have no example."""
    settings = SETTINGS.model_copy(update={"time": TimeSettings(allowed_lateness_s=5 * 86_400)})
    found = verify_features(topics, settings)
    assert found.missing > 5


def test_another_definition_is_not_compared(topics: RecordedTopics) -> None:
    """Vectors of another schema hash are counted, not compared; their clicks have examples."""
    seen = 0

    def renamed(batch):  # type: ignore[no-untyped-def]
        nonlocal seen
        seen += 1
        return msgspec.structs.replace(batch, schema_hash="of old") if seen <= 20 else batch

    count = count_of(topics)
    found = verify(changed(topics, lambda examples: examples, batch=renamed))
    assert found.clean
    assert 0 < found.other_definition < count
    assert found.compared + found.other_definition == found.examples == count


def test_what_score_has_not_come_to_is_not_missing() -> None:
    """Clicks behind the offsets that score had committed have no example yet, and need none."""
    driver = run_log(clicks=600, end=False)
    topics = RecordedTopics.of(driver)
    waiting = [topics.bounds(i)[1] - (topics.scored(i) or 0) for i in (Input(CLICKSTREAM, 0), Input(CLICKSTREAM, 1))]
    assert max(waiting) > 0
    found = verify(topics)
    assert found.clean, found
    assert found.compared == driver.counts("score")["clicks_predicted"]


def test_a_sample_is_of_whole_users(topics: RecordedTopics) -> None:
    """About as many as asked for are compared; what is missing is looked for everywhere."""
    count = count_of(topics)
    found = verify(topics, sample=count // 3)
    assert found.clean
    assert count // 8 < found.compared < count // 3 * 2
    assert found.accepted == count
    found = verify(changed(topics, Edit(400, "drop")), sample=1)
    assert found.missing == 1
    assert 0 < found.compared < count // 5


def test_progress_goes_up_to_the_whole(topics: RecordedTopics) -> None:
    """What is told on the way never goes back, and ends with 1."""
    told: list[Progress] = []
    verify_features(topics, SETTINGS, report=told.append)
    assert [one.done for one in told] == sorted(one.done for one in told)
    assert told[-1].done == 1.0
    assert told[-1].time_ms > 0


def test_an_empty_log_has_nothing_wrong() -> None:
    """Without examples there is nothing to compare, and nothing missing where there are no clicks."""
    found = verify_features(RecordedTopics({Input(EXAMPLES, 0): []}), Settings())
    assert (found.clean, found.compared) == (True, 0)


LONG = 9
"""A log of 108 days: several times what features look back to."""


@pytest.fixture(scope="module")
def long_topics() -> RecordedTopics:
    return RecordedTopics.of(run_log(3, stretch=LONG))


def cut(topics: RecordedTopics, **shares: float) -> RecordedTopics:
    """Return the topics without the first share of their records, as retention leaves them."""
    names = {"clicks": CLICKSTREAM, "orders": ORDERS, "activity": ACTIVITY, "examples": EXAMPLES}
    lost = {names[name]: share for name, share in shares.items()}
    records = {i: found[int(len(found) * lost.get(i.topic, 0)) :] for i, found in _records(topics).items()}
    return RecordedTopics(records, {i: at for i in records if (at := topics.scored(i)) is not None})


def verify_long(topics: Topics) -> Report:
    return verify_features(topics, settings(LONG))


@pytest.mark.parametrize(
    "lost",
    [
        {"clicks": 0.3},
        {"orders": 0.2},
        {"activity": 0.4},
        {"clicks": 0.1, "examples": 0.5},
        {"clicks": 0.35, "orders": 0.3, "activity": 0.2, "examples": 0.6},
    ],
    ids=lambda lost: "+".join(lost),
)
def test_what_retention_took_is_neither_match_nor_mismatch(long_topics: RecordedTopics, lost: dict[str, float]) -> None:
    """Examples that need what the log no longer holds are counted apart, with the reason; the others agree."""
    whole = verify_long(long_topics)
    assert whole.clean
    assert whole.unverifiable == 0
    found = verify_long(cut(long_topics, **lost))
    assert found.clean, found
    assert found.compared > 100
    assert found.unverifiable > 100
    assert found.compared + found.unverifiable == found.examples
    assert (found.examples < whole.examples) == ("examples" in lost)
    assert "starts at offset" in str(found.why_unverifiable)


def test_planted_values_are_found_behind_what_is_lost(long_topics: RecordedTopics) -> None:
    """Of a log that was cut, what can be verified is: a changed value and a dropped example are found there."""
    shorter = cut(long_topics, clicks=0.3, examples=0.6)
    for how, counts in (("change", (1, 0)), ("drop", (0, 1))):
        edit = Edit(200, how, "user_views_30d", 1.0)
        found = verify_long(changed(shorter, edit))
        assert edit.done is not None
        assert (found.mismatched, found.missing) == counts


def test_where_nothing_can_be_verified_the_error_says_why(long_topics: RecordedTopics) -> None:
    """A log that is too short for every example is no success: the place and the repair are named."""
    with pytest.raises(
        LogTruncated, match=r"none of [\d,]+ examples.*clickstream\[0\] starts at offset \d+.*retention.ms"
    ):
        verify_long(cut(long_topics, clicks=0.9))


@pytest.mark.parametrize("by", ["engine", "oracle"])
@pytest.mark.parametrize("checkpoints", [False, True])
def test_an_order_undone_after_the_longest_memory_is_verified(checkpoints: bool, by: By) -> None:
    """Whether its row was still there is no matter of the log, nor of what was served."""
    driver = TopologyDriver(SETTINGS, [ScoreStage], now_ms=START_MS + 90 * DAY_MS)

    def order(number: int, time: int, status: str) -> None:
        told = {"event_id": f"o{number}", "order_id": "a", "status": status, "time": time, "user_id": "buyer"}
        driver.pipe(ORDERS, b"", json.dumps(told | {"lines": [{"product_id": "p", "unit_price": 5}]}).encode())

    def click(number: int, time: int, user: str) -> None:
        told = {"event_id": f"c{number}", "type": "view", "time": time, "user_id": user, "product_id": "p"}
        driver.pipe(CLICKSTREAM, b"", json.dumps(told).encode())

    order(1, START_MS, "placed")
    for day in range(1, 33):
        click(day, START_MS + day * DAY_MS, "other")
        driver.mark_time(START_MS + day * DAY_MS + 1)
        driver.run(checkpoint=checkpoints)
    order(2, START_MS + 33 * DAY_MS, "cancelled")
    click(100, START_MS + 33 * DAY_MS + 1, "buyer")
    driver.mark_time(START_MS + 33 * DAY_MS + 2, end=True)
    driver.run()
    found = verify(RecordedTopics.of(driver), by=by)
    assert found.clean
    assert (found.compared, found.unverifiable) == (33, 0)

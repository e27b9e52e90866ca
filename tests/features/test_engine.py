"""The engine against the oracle, and what must change nothing."""

from __future__ import annotations

from collections import defaultdict
from contextlib import suppress

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from features.columns import Event, EventColumns, FeatureError
from features.engine import ScoreFeatures
from features.oracle import UserOracle, oracle_vector
from features.product_rows import PRODUCT_ROW_VERSION
from features.products import ProductFeatures
from features.rows import ROW_VERSION
from features.sets import LOG_LENGTH, SCORE_FEATURES, SCORE_SET, Activity
from schemas.internal import ActivityRow
from tests.features.strategies import START, activities, columns, histories, in_category

LAST = np.array([feature.last is not None for feature in SCORE_SET])
"""What is told of the last events, and as of one that comes late looks no further back than the log."""
INTEGERS = np.array([feature.dtype == "int" for feature in SCORE_SET])


def loaded(events: list[Event], features: ScoreFeatures | None = None) -> ScoreFeatures:
    """Return an engine in which all that `events` need is new."""
    features = features or ScoreFeatures()
    features.load_users(dict.fromkeys(features.missing_users([event.user for event in events])))
    features.load_products(dict.fromkeys(features.missing_products([event.product for event in events])))
    features.load_categories(dict.fromkeys(features.missing_categories([event.category for event in events])))
    return features


def vectors(events: list[Event]) -> NDArray[np.float64]:
    """Return the vectors of all events, applied in one batch."""
    return loaded(events).apply(columns(events))


def assert_same(found: NDArray[np.float64], expected: list[float]) -> None:
    """Integers bit for bit, floats to 1e-9."""
    wanted = np.array(expected, np.float64)
    wrong = np.where(INTEGERS, found != wanted, ~np.isclose(found, wanted, rtol=1e-9, atol=1e-9))
    told = {SCORE_FEATURES[i]: (found[i], wanted[i]) for i in np.flatnonzero(wrong)}
    assert not told, told


@settings(deadline=None)
@given(histories(users=2))
def test_engine_is_oracle(events: list[Event]) -> None:
    """Every vector equals the oracle's, with late events, equal stamps, sessions, undone purchases and full rings."""
    found = vectors(events)
    users = defaultdict(UserOracle)
    for i, event in enumerate(events):
        assert_same(found[i], users[event.user].vector(event, []))


@settings(deadline=None)
@given(st.data(), histories(users=3))
def test_batches_eviction_and_packing_change_nothing(data: st.DataObject, events: list[Event]) -> None:
    """Cut anywhere, drained, evicted, loaded from packed bytes: the same bits in vectors, session ends and rows."""
    whole = loaded(events)
    expected = whole.apply(columns(events))
    ends = whole.session_ends
    features = ScoreFeatures()
    store: dict[str, bytes] = {}
    found, said, start = [], [], 0
    while start < len(events):
        stop = data.draw(st.integers(start + 1, len(events)))
        part = events[start:stop]
        features.load_users({user: store.get(user) for user in features.missing_users([e.user for e in part])})
        found.append(loaded(part, features).apply(columns(part)))
        said += [(start + i, user, end) for i, user, end in features.session_ends]
        if data.draw(st.booleans()):
            store |= features.drain_users()
            features.evict(data.draw(st.integers(0, 3)), data.draw(st.integers(0, 2)))
        start = stop
    store |= features.drain_users()
    assert np.concatenate(found).tobytes() == expected.tobytes()
    assert said == ends
    assert store == whole.drain_users()


@settings(deadline=None)
@given(st.data(), histories())
def test_planted_future_changes_nothing(data: st.DataObject, events: list[Event]) -> None:
    """Events that arrive early with later stamps change no vector stamped before them; of the last events, one may."""
    limit = max(event.time for event in events)
    planted = data.draw(st.lists(st.integers(1, 3 * 86_400_000), min_size=1, max_size=LOG_LENGTH - 1))
    mixed: list[tuple[bool, Event]] = [(True, event) for event in events]
    for ahead in planted:
        event = Event("u1", data.draw(st.integers(0, 7)), limit + ahead, "p", data.draw(st.sampled_from((None, "a"))))
        mixed.insert(data.draw(st.integers(0, len(mixed))), (False, event))
    found = vectors([event for _, event in mixed])
    kept = np.array([honest for honest, _ in mixed])
    # what is too far behind the log's oldest is declared inexact: leave those events out
    depth = [sum(other.time > event.time for other in events[:i]) for i, event in enumerate(events)]
    exact = np.array([late + len(planted) <= LOG_LENGTH for late in depth])
    if exact.all():
        assert found[kept][:, ~LAST].tobytes() == vectors(events)[:, ~LAST].tobytes()
    if max(depth) + len(planted) <= 1 or len(mixed) <= LOG_LENGTH + 1:
        assert found[kept].tobytes() == vectors(events).tobytes()


@settings(deadline=None)
@given(st.data(), histories(max_size=LOG_LENGTH))
def test_arrival_order_changes_nothing(data: st.DataObject, events: list[Event]) -> None:
    """As of the last stamp, every feature is the same bits whatever the order of arrival was."""
    stamps = sorted({event.time for event in events})
    events = [event for event in events if event.time in stamps]
    unique = list({event.time: event for event in events}.values())
    last = Event("u1", 0, stamps[-1] + 1, "p", "a")
    shuffled = data.draw(st.permutations(unique))
    assert vectors([*shuffled, last])[-1].tobytes() == vectors([*unique, last])[-1].tobytes()


@settings(deadline=None)
@given(activities(), activities(), st.lists(st.integers(-90, 40 * 24 * 60), min_size=1, max_size=8))
def test_products_and_categories_are_oracle(
    activity: list[ActivityRow], others: list[ActivityRow], minutes: list[int]
) -> None:
    """What a scorer reads of a product and of its category equals the oracle's, wherever it stands, each of its own
    row, and nothing stamped later is in it."""
    events = [Event("u1", 0, START + minute * 60_000, "p", price_minor=500, category="c") for minute in minutes]
    features = loaded(events)
    features.load_product("p", packed(activity))
    features.load_categories({"c": packed(others, "category")})
    start, stop = SCORE_FEATURES.index("product_views_1h"), SCORE_FEATURES.index("category_price_ratio") + 1
    for event, found in zip(events, features.apply(columns(events)), strict=True):
        expected = oracle_vector([], activity, event, in_category(others))
        assert_same(np.concatenate([expected[:start], found[start:stop], expected[stop:]]), expected)
        assert features.product_version("p") == ((2, len(activity)) if activity else None)
        assert features.category_version("c") == ((2, len(others)) if others else None)
    versions = [features.product_version("p")] * len(events), [features.category_version("c")] * len(events)
    assert features.versions() == versions


@settings(deadline=None)
@given(activities(), st.integers(0, 40 * 24 * 60))
def test_a_category_of_one_product_shows_what_the_product_does(activity: list[ActivityRow], minute: int) -> None:
    """Each column of a category is, to the bit, that of its name of a product with the same activity."""
    event = Event("u1", 0, START + minute * 60_000, "p", price_minor=500, category="c")
    features = loaded([event])
    features.load_product("p", packed(activity))
    features.load_categories({"c": packed(activity, "category")})
    [found] = features.apply(columns([event])).tolist()
    named = dict(zip(SCORE_FEATURES, found, strict=True))
    shown = [feature.name for feature in SCORE_SET if feature.entity == "category"]
    assert [named[name] for name in shown] == [named[name.replace("category", "product")] for name in shown]


@settings(deadline=None)
@given(histories(users=2), activities())
def test_events_without_a_category_show_none(events: list[Event], activity: list[ActivityRow]) -> None:
    """Nothing that happened in a category is shown of events that name none."""
    features = loaded(events)
    features.load_categories(dict.fromkeys(("c", "d", "é"), packed(activity, "category")))
    found = features.apply(columns(events))
    none = np.array([not event.category for event in events])
    assert found[none].tobytes() == vectors(events)[none].tobytes()


def packed(activity: list[ActivityRow], entity: Activity = "product") -> bytes | None:
    """Return the packed row of a product, or category, after activity, one record per row, drained and loaded on the
    way."""
    products = ProductFeatures(entity)
    row: bytes | None = None
    for offset, one in enumerate(activity, 1):
        if offset % 3 == 1:
            products.load("p", row)
        visitor = one.visitor if entity == "product" else 0
        products.apply(["p"], [one.kind], [one.time], [one.price], [visitor], version=(2, offset))
        row = products.drain().get("p")
    return row


@settings(deadline=None)
@given(activities(max_size=25), st.data())
def test_activity_order_changes_nothing(activity: list[ActivityRow], data: st.DataObject) -> None:
    """Activity in any order leaves the same packed row, as long as rings hold it."""
    near = [row for row in activity if row.time > max(r.time for r in activity) - 3_600_000]
    assert packed(data.draw(st.permutations(near))) == packed(near)


def test_planted_future_activity_changes_nothing() -> None:
    """Activity stamped later than the event changes no vector, in the same tile of five minutes or beyond."""
    now = START + 12 * 3_600_000 + 7 * 60_000
    past = [
        ActivityRow("p", None, 0, now - 25 * back, 1, 0, 100, True, visitor=back + 1)
        for back in range(0, 3_600_000, 100_000)
    ]
    event = Event("u1", 0, now, "p", None, price_minor=100)
    expected = None
    for ahead in (0, 1, 60_000, 300_000, 3_000_000):
        features = loaded([event])
        future = [ActivityRow("p", None, kind, now + ahead, 1, 0, 900, True) for kind in range(8)] if ahead else []
        features.load_product("p", packed(past + future))
        found = features.apply(columns([event])).tobytes()
        expected = expected or found
        assert found == expected


def test_every_column_is_written() -> None:
    """A vector never shows what its memory held before."""
    events = [Event("u1", kind, START + kind, None) for kind in range(8)]
    assert np.isfinite(vectors(events)).all()


BAD = (
    *(b"", b"x", b"12345678\x01", b"12345678\x03", bytes(8) + b"\x07rest", b"\xff" * 60),
    *(bytes(8) + version + b"\x03" + b"\xff" * 300 for version in (b"\x01", b"\x03")),
)


@pytest.mark.parametrize("bad", BAD)
def test_bad_rows_are_refused(bad: bytes) -> None:
    """Bytes that are no packed row raise an error that says what to do."""
    with pytest.raises(FeatureError, match="log"):
        ScoreFeatures().load_user("u", bad)
    with pytest.raises(FeatureError, match="log"):
        ScoreFeatures().load_product("p", bad)
    with pytest.raises(FeatureError, match="log"):
        ScoreFeatures().load_categories({"c": bad})


def test_unloaded_users_are_refused() -> None:
    """An event of a user or category that was not loaded changes nothing and names it."""
    with pytest.raises(FeatureError, match="'u1'"):
        ScoreFeatures().apply(columns([Event("u1", 0, START)]))
    features = ScoreFeatures()
    features.load_user("u1", None)
    with pytest.raises(FeatureError, match="category 'c'"):
        features.apply(columns([Event("u1", 0, START, category="c")]))
    assert features.dirty_users() == 0


def test_values_out_of_range_are_refused() -> None:
    """A kind that does not exist is refused with its place."""
    features = ScoreFeatures()
    features.load_user("u1", None)
    with pytest.raises(FeatureError, match="value 9 of event 0"):
        features.apply(columns([Event("u1", 9, START)]))


def test_dirty_users_are_not_overwritten() -> None:
    """Loading over changes that were not drained is refused: they would be lost."""
    events = [Event("u1", 0, START)]
    features = loaded(events)
    features.apply(columns(events))
    with pytest.raises(FeatureError, match="drain"):
        features.load_user("u1", None)


def test_header_and_size() -> None:
    """A packed row begins with the newest stamp, little-endian, then its version; five events take about 60 bytes."""
    events = [Event("u1", 0, START + 60_000 * i, f"p{i}", "s") for i in range(5)]
    features = loaded(events)
    features.apply(columns(events))
    row = features.drain_users()["u1"]
    assert int.from_bytes(row[:8], "little") == events[-1].time
    assert row[8] == ROW_VERSION
    assert len(row) < 100


def test_products_and_categories_are_bounded_apart() -> None:
    """Of each as many rows stay as are asked for, the others must be loaded again; a version goes with its row."""
    features = ScoreFeatures()
    features.load_products({f"p{i}": None for i in range(5)})
    activity = [ActivityRow("p", None, 0, START, 1, 0, 100, True)]
    features.load_categories({f"c{i}": packed(activity, "category") for i in range(40)})
    assert features.evict(0, 8) == 33
    assert features.missing_products([f"p{i}" for i in range(5)]) == []
    gone = features.missing_categories([*(f"c{i}" for i in range(40)), "", None])
    assert len(gone) == 33
    versions = {i: features.category_version(f"c{i}") for i in range(40)}
    assert {f"c{i}" for i, version in versions.items() if version is None} == set(gone)


def test_empty_batch() -> None:
    """No events make no vectors."""
    assert ScoreFeatures().apply(EventColumns()).shape == (0, len(SCORE_FEATURES))


@settings(deadline=None)
@given(st.binary(max_size=200))
def test_random_rows_never_break_the_process(junk: bytes) -> None:
    """Random bytes behind a good header are refused or read, never crash."""
    loads = ((ScoreFeatures().load_user, ROW_VERSION), (ScoreFeatures().load_product, PRODUCT_ROW_VERSION))
    for load, version in loads:
        with suppress(FeatureError):
            load("k", START.to_bytes(8, "little") + bytes([version]) + junk)


def test_rows_of_an_older_layout_are_refused() -> None:
    """A row of the version before is never read as one of today; the message says to rebuild it."""
    events = [Event("u1", 0, START, "p", price_minor=99)]
    features = loaded(events)
    features.apply(columns(events))
    row = features.drain_users()["u1"]
    with pytest.raises(FeatureError, match=f"format {ROW_VERSION - 1}, expected {ROW_VERSION}; rebuild"):
        ScoreFeatures().load_user("u1", row[:8] + bytes([ROW_VERSION - 1]) + row[9:])

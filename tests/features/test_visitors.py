"""Distinct visitors: what HyperLogLog promises, kept in a product's row."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from features.algebra import HyperLogLog, fold, result
from features.hashing import visitors
from features.layout import COLUMN, REGISTERS, SKETCH_DAYS
from features.oracle_products import KEPT_VISITORS, product_values
from features.products import ProductFeatures
from features.sets import DAY, VISITORS_LIMIT
from features.summary import product_summary
from schemas.internal import ActivityRow, EventKind
from tests.features.strategies import START, VISITORS
from tests.features.test_engine import packed

SKETCH = HyperLogLog(register_bits=6, rank_bits=14, limit=VISITORS_LIMIT)
EVERY_RANK = [register | (1 << rank - 1 if rank < 15 else 0) << 6 for register in range(64) for rank in range(1, 16)]
COLUMNS = ["product_visitors_1d", "product_visitors_7d"]
law = settings(deadline=None, max_examples=40)
people = st.lists(VISITORS | st.sampled_from(EVERY_RANK), max_size=120)


def row_of(days: list[list[int]], kind: int = EventKind.VIEW, products: ProductFeatures | None = None) -> bytes:
    """Return the packed row of a product with these visitors on days from that of START on, each day's in one batch."""
    products = products or ProductFeatures()
    products.load_all(dict.fromkeys(products.missing(["p"])))
    for day, who in enumerate(days):
        times = [START + day * DAY] * len(who)
        products.apply(["p"] * len(who), [kind] * len(who), times, [1] * len(who), who, (0, day))
    return products.drain()["p"]


def shown(row: bytes, day: int) -> list[float]:
    """Return the visitors of the day before day `day` from that of START on, and of the seven before."""
    said = product_summary(row, START + day * DAY)
    return [said[name] for name in COLUMNS]


def expected(days: list[list[int]], day: int) -> list[float]:
    """Return the same by the algebra."""
    known = [[(visitor, 0) for visitor in who if visitor] for who in days]
    return [result(SKETCH, [item for items in known[max(day - back, 0) : day] for item in items]) for back in (1, 7)]


@law
@given(st.lists(people.filter(bool), min_size=1, max_size=9))
def test_sketches_are_the_algebra(days: list[list[int]]) -> None:
    """Any number of registers a day, of any rank: packed and unpacked they say what the algebra says."""
    row = row_of(days)
    for day in range(len(days), len(days) + SKETCH_DAYS):
        assert shown(row, day) == pytest.approx(expected(days, day), rel=1e-12, abs=0)


@law
@given(people.filter(any), st.data())
def test_who_comes_again_changes_nothing(who: list[int], data: st.DataObject) -> None:
    """Duplicates, order, and packing amid the day leave the same bits of the row."""
    products = ProductFeatures()
    cut = data.draw(st.integers(1, len(who)))
    again = [visitor for visitor in data.draw(st.permutations(who)) for _ in range(data.draw(st.integers(1, 3)))]
    first = row_of([again[:cut]], products=products)
    products.evict(0)
    assert products.missing(["p"]) == ["p"]
    products.load("p", first)
    assert shown(row_of([again + who], products=products), 1) == shown(row_of([who]), 1) != [0.0, 0.0]
    assert fold(SKETCH, [(visitor, 0) for visitor in again + who]) == fold(SKETCH, [(visitor, 0) for visitor in who])


@law
@given(people, people)
def test_merging_is_idempotent(left: list[int], right: list[int]) -> None:
    """Merged with a part of itself, a sketch is itself; and it never says less for more."""
    a, b = (fold(SKETCH, [(visitor, 0) for visitor in who]) for who in (left, right))
    both = SKETCH.merge(a, b)
    assert SKETCH.merge(both, a) == SKETCH.merge(both, both) == both
    assert SKETCH.finalise(both) >= max(SKETCH.finalise(a), SKETCH.finalise(b))


@pytest.mark.parametrize("count", [1, 3, 10, 30, 100, 200, 1_000, 20_000])
def test_the_estimate_is_near_the_truth(count: int) -> None:
    """Over 60 sets of ids the mean is off by less than 4 standard errors and 3% bias, the spread is as promised."""
    trials = 60
    found = []
    for trial in range(trials):
        who = visitors([f"user-{trial}-{number}" for number in range(count)])
        found.append(shown(row_of([who]), 1)[0] / count)
    standard = 1.04 / math.sqrt(REGISTERS)
    assert abs(np.mean(found) - 1) < 0.03 + 4 * standard / math.sqrt(trials)
    # A spread over 60 sets is itself off by a share of 1 / sqrt(2 * 60).
    assert np.std(found) < standard * (1 + 4 / math.sqrt(2 * trials))


def test_a_few_are_told_almost_exactly() -> None:
    """One visitor is one, to a percent, whatever the hash; none is none; all registers full say the limit."""
    for visitor in EVERY_RANK:
        if visitor:
            assert shown(row_of([[visitor]]), 1) == pytest.approx([1.0, 1.0], abs=0.01)
    assert shown(row_of([[0, 0]]), 1) == [0.0, 0.0]
    full = [register | 1 << 20 for register in range(64)]
    assert shown(row_of([full]), 1) == [VISITORS_LIMIT] * 2 == expected([full], 1)


@pytest.mark.parametrize("kind", EventKind)
def test_only_views_count(kind: EventKind) -> None:
    """Carts, purchases and returns are no visits, and undo none."""
    viewed = row_of([[7]])
    products = ProductFeatures()
    products.load("p", viewed)
    found = shown(row_of([[8]], kind, products), 1)
    assert found == pytest.approx([2.0] * 2 if kind == EventKind.VIEW else [1.0] * 2, abs=0.1)


def test_days_are_finished_ones_before_today() -> None:
    """A view counts from midnight on: one day in the 1d column, seven in the 7d column, as of any time of the day."""
    row = row_of([[7]])
    for hour in (0, 24):
        times = [START // DAY * DAY + day * DAY + hour * 3_600_000 - (hour == 24) for day in range(10)]
        told = [product_summary(row, time) for time in times if time >= START]
        last = [[round(said[name]) for said in told][-9:] for name in COLUMNS]
        assert last == [[1, *[0] * 8], [*[1] * 7, 0, 0]]


def test_a_late_reader_still_sees_seven_days() -> None:
    """Just before midnight, of a row whose newest event is of the next day: all seven days, and no later view."""
    midnight = START // DAY * DAY + 8 * DAY
    views = [(midnight - 1 - back * DAY, 10 + back) for back in range(8)] + [(midnight + 50 * 60_000, 99)]
    activity = [ActivityRow("p", None, 0, time, 1, 0, -1, True, visitor=visitor) for time, visitor in views]
    row = packed(activity)
    assert row is not None
    said = product_summary(row, midnight - 1)
    known = product_values([one for one in activity if one.time < midnight], midnight - 1, -1)
    assert [said[name] for name in COLUMNS] == pytest.approx([known[name] for name in COLUMNS], rel=1e-12)
    assert round(said["product_visitors_7d"]) == 7
    assert KEPT_VISITORS == SKETCH_DAYS


def test_tables_are_the_series() -> None:
    """The float tables of Ertl's sigma are its series, summed here without rounding."""
    from features.visitors import _sigma

    for empty in (0, 1, 32, 63):
        share = Fraction(empty, 64)
        exact = share + sum(share ** (2**k) * 2 ** (k - 1) for k in range(1, 15))
        assert _sigma(empty / 64) == pytest.approx(float(exact), rel=1e-14)


def test_few_visitors_take_few_bytes() -> None:
    """Three visitors of a day add some bytes to a row, hundreds no more than their registers."""
    nobody = len(row_of([[0] * 3]))
    assert len(row_of([visitors(["u1", "u2", "u3"])])) - nobody <= 2 + 3 * 2
    crowd = [f"u{i}" for i in range(500)]
    assert len(row_of([visitors(crowd)])) - len(row_of([[0] * 500])) == 2 + 32


def test_columns_stand_where_the_kernel_writes_them() -> None:
    """Both columns are the product's own, and lie before the price ratio."""
    assert COLUMN[COLUMNS[0]] + 1 == COLUMN[COLUMNS[1]] < COLUMN["product_price_ratio"]

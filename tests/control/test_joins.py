"""Predictions joined with outcomes, against a look at everything at once."""

from __future__ import annotations

from collections import Counter
from random import Random

from hypothesis import given
from hypothesis import strategies as st

from schemas.outputs import DemandPayload, DemandPrediction, DemandStep, HistoryBucket, ModelRef
from streams.control.demand import DemandJoin
from streams.control.facts import Bought, Cancelled
from streams.control.purchases import PurchaseJoin

_HORIZON, _LATENESS, _END = 100, 10, 1_000
_USERS = ("ann", "bob")
_times = st.integers(0, _END)
_Order = tuple[str, int, int | None, int | None]
_predictions = st.lists(st.tuples(st.sampled_from(_USERS), _times), max_size=20)
_clicks = st.lists(st.builds(Bought, st.sampled_from(_USERS), _times, st.none()), max_size=6)
_orders = st.lists(
    st.tuples(st.sampled_from(_USERS), _times, st.none() | st.integers(0, 200), st.none() | st.integers(0, 300)),
    max_size=6,
)


def _order_facts(orders: list[_Order]) -> list[Bought | Cancelled]:
    """Placed; perhaps paid some time later, which is no second purchase; perhaps cancelled."""
    facts: list[Bought | Cancelled] = []
    for number, (user, time, paid, cancelled) in enumerate(orders):
        facts.append(Bought(user, time, f"o{number}"))
        if paid is not None:
            facts.append(Bought(user, time + paid, f"o{number}"))
        if cancelled is not None:
            facts.append(Cancelled(user, time + cancelled, f"o{number}"))
    return facts


def _came_true(
    user: str, as_of: int, clicks: list[Bought], orders: list[tuple[str, int, int | None, int | None]]
) -> bool:
    until = as_of + _HORIZON
    bought = [click.time for click in clicks if click.user == user]
    for buyer, time, _, cancelled in orders:
        if buyer == user and (cancelled is None or time + cancelled > until + _LATENESS):
            bought.append(time)
    return any(as_of < time <= until for time in bought)


@given(_predictions, _clicks, _orders, st.randoms(use_true_random=False))
def test_purchases_as_by_brute_force(
    predictions: list[tuple[str, int]],
    clicks: list[Bought],
    orders: list[_Order],
    random: Random,
) -> None:
    """In whatever order facts come before the watermark, each prediction is judged once, as all facts together say."""
    join = PurchaseJoin(_LATENESS, 1_000)
    facts: list[tuple[int, object]] = [(time, (user, time)) for user, time in predictions]
    facts += [(fact.time, fact) for fact in [*clicks, *_order_facts(orders)]]
    judged = []
    fed = 0
    # Facts come in rounds of event time; inside a round in any order.
    for watermark in range(0, 2_500, 50):
        ready = [fact for time, fact in facts if fed <= time < watermark]
        fed = watermark
        # An order is cancelled, or paid, only after it was placed: its partition keeps them in order.
        head = [fact for fact in ready if not isinstance(fact, Cancelled)]
        random.shuffle(head)
        for fact in [*head, *(fact for fact in ready if isinstance(fact, Cancelled))]:
            if isinstance(fact, Bought):
                join.bought(fact)
            elif isinstance(fact, Cancelled):
                join.cancelled(fact)
            else:
                assert isinstance(fact, tuple)
                join.predict(fact[0], fact[1], _HORIZON, 0.5, fact[0])
        judged += join.advance(watermark)
    found = Counter((one.model, one.as_of, one.positive) for one in judged)
    assert found == Counter((user, time, _came_true(user, time, clicks, orders)) for user, time in predictions)
    assert join.pending == 0


@given(st.lists(st.tuples(st.sampled_from(_USERS), _times), min_size=1, max_size=200), st.integers(10, 30))
def test_memory_is_bounded_and_nothing_is_judged_wrongly(events: list[tuple[str, int]], limit: int) -> None:
    """With too little room predictions go unjudged and are counted; those judged are judged right."""
    join = PurchaseJoin(_LATENESS, limit)
    events = sorted(events, key=lambda event: event[1])
    for user, time in events:
        join.bought(Bought(user, time, None))
        assert len(join._ages) <= limit
    for user, time in events:
        join.predict(user, time, _HORIZON, 0.5, user)
        assert join.pending <= limit
    judged = join.advance(10_000)
    clicks = [Bought(user, time, None) for user, time in events]
    assert all(one.positive == _came_true(one.model, one.as_of, clicks, []) for one in judged)
    assert len(judged) + join.skipped.no_room + join.skipped.outcome_unknown == len(events)


def _forecast(product: str, number: int, revision: int, model: str, mean: float) -> DemandPrediction:
    steps = [DemandStep(step, (number + step) * 86_400_000, mean + step, {}) for step in (1, 2, 3)]
    return DemandPrediction(
        id=f"{product}|{number}|{revision}",
        subject=product,
        as_of=(number + 1) * 86_400_000,
        produced_at=0,
        model=ModelRef(model, "1"),
        horizon_s=3 * 86_400,
        revision=revision,
        payload=DemandPayload("D", steps),
    )


def _bucket(product: str, number: int, quantity: int, revision: int = 0) -> HistoryBucket:
    return HistoryBucket(
        id=f"{product}|{number}|{revision}",
        product_id=product,
        bucket_start=number * 86_400_000,
        freq="D",
        quantity=quantity,
        value_minor=0,
        views=0,
        carts=0,
        price=None,
        covariates={},
        revision=revision,
    )


@given(
    st.dictionaries(st.tuples(st.sampled_from("ab"), st.integers(0, 6)), st.integers(0, 9), max_size=10),
    st.lists(
        st.tuples(st.sampled_from("ab"), st.integers(0, 6), st.sampled_from(("m", "n"))), max_size=10, unique=True
    ),
    st.randoms(use_true_random=False),
)
def test_demand_as_by_brute_force(
    sold: dict[tuple[str, int], int], forecasts: list[tuple[str, int, str]], random: Random
) -> None:
    """Each step of each forecast meets its bucket once, whichever of them comes first, however often each is sent."""
    facts: list[object] = [_bucket(product, number, quantity) for (product, number), quantity in sold.items()]
    facts += [_forecast(product, number, 0, model, float(number)) for product, number, model in forecasts]
    facts += random.sample(facts, len(facts) // 2)
    random.shuffle(facts)
    join = DemandJoin(1_000)
    judged = []
    for fact in facts:
        judged += join.forecast(fact) if isinstance(fact, DemandPrediction) else join.closed(fact)  # type: ignore[arg-type]
    expected = Counter(
        (model, step, float(number) + step, sold[product, number + step])
        for product, number, model in forecasts
        for step in (1, 2, 3)
        if (product, number + step) in sold
    )
    assert Counter((one.model, one.step, one.mean, one.quantity) for one in judged) == expected
    assert join.pending == 3 * len(forecasts) - len(judged)


def test_the_newest_forecast_before_the_close_counts() -> None:
    """A revision replaces the forecast it revises; one after the close changes nothing."""
    join = DemandJoin(100)
    join.forecast(_forecast("a", 1, 0, "m", 10.0))
    join.forecast(_forecast("a", 1, 1, "m", 20.0))
    assert [one.mean for one in join.closed(_bucket("a", 2, 5))] == [21.0]
    assert [one.step for one in join.forecast(_forecast("a", 1, 2, "m", 30.0))] == []
    assert join.closed(_bucket("a", 2, 6, revision=1)) == []
    assert join.revised == 1


def test_forecasts_of_what_never_closes_go() -> None:
    """Neither products that rest nor a flood of them fill the memory."""
    join = DemandJoin(60)
    for number in range(100):
        join.forecast(_forecast(f"p{number}", 1, 0, "m", 1.0))
        assert join.pending <= 60
    assert join.no_room > 0
    join.closed(_bucket("other", 100, 1))
    assert join.pending == 0
    assert join.unanswered + join.no_room == 300


def test_two_customers_may_have_orders_of_one_number() -> None:
    """An order is its customer's: another one's of the same number is another order."""
    join = PurchaseJoin(lateness_ms=0, limit=10)
    join.bought(Bought("ann", 10, "1001"))
    join.bought(Bought("bob", 50, "1001"))
    join.cancelled(Cancelled("ann", 11, "1001"))
    for user in ("ann", "bob"):
        join.predict(user, 5, 60, 0.5)
    assert [judged.positive for judged in join.advance(1_000)] == [False, True]

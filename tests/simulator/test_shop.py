"""The simulated shop: deterministic, true to its truth, and with the faults it was told."""

from __future__ import annotations

import gzip
import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError

from schemas.codec import DecodeError, decode_catalog, decode_click, decode_order, decode_plan, encode_event
from streams.simulator import FaultRates, Shop, ShopConfig
from streams.simulator.config import DAY_MS, LONGEST_SESSION_MS
from streams.simulator.files import write_shop
from streams.sources import SourceEvent, open_source

END = 1_700_000_000_000
SMALL = ShopConfig(users=300, products=40, days=10, end_ms=END)
DECODERS: dict[str, Any] = {
    "clickstream": decode_click,
    "orders": decode_order,
    "catalog": decode_catalog,
    "plan": decode_plan,
}


@pytest.fixture(scope="module")
def big() -> tuple[Shop, list[SourceEvent]]:
    """A shop large enough to measure, with its events."""
    shop = Shop(ShopConfig(users=4_000, products=60, days=40, end_ms=END, drift_at_ms=END - 12 * DAY_MS))
    return shop, list(shop.clean())


def test_equal_configs_make_equal_bytes() -> None:
    """A shop made twice, or read twice, is the same to the byte; another seed makes another."""
    shop = Shop(SMALL)
    first = list(shop.events())
    assert list(shop.events()) == first
    assert list(Shop(SMALL).events()) == first
    assert list(Shop(SMALL.model_copy(update={"seed": 2})).events()) != first


def test_events_are_valid_ordered_and_end_now() -> None:
    """What happened is valid, in time order, with each id once, and nothing at or after the end."""
    events = [event for event in Shop(SMALL).clean() if event.topic != "plan"]
    assert [event.time_ms for event in events] == sorted(event.time_ms for event in events)
    assert SMALL.start_ms <= events[0].time_ms
    assert END - DAY_MS // 4 < events[-1].time_ms < END
    assert len({event.value.event_id for event in events}) == len(events)
    for event in events:
        assert DECODERS[event.topic](encode_event(event.value)) == event.value


@pytest.mark.parametrize("currency", ["EUR", "JPY", "KWD"])
def test_files_say_the_same(tmp_path: Path, currency: str) -> None:
    """The files of a shop are a source whose events are the shop's, ids and all; truth is named by those ids."""
    shop = Shop(SMALL.model_copy(update={"currency": currency}))
    source = open_source(write_shop(shop, tmp_path))
    assert list(source.events()) == list(shop.clean())
    assert source.accounts.balanced()
    with gzip.open(tmp_path / "truth.csv.gz", "rt") as file:
        told = {event_id: float(value) for event_id, value in (line.strip().split(",") for line in list(file)[1:])}
    clicks = [event.value.event_id for event in shop.clean() if event.topic == "clickstream"]
    assert list(told) == clicks
    for event_id in clicks[::50]:
        assert told[event_id] == pytest.approx(shop.truth.purchase_probability(event_id), rel=1e-5)


def test_files_are_deterministic(tmp_path: Path) -> None:
    """Equal shops write equal bytes, whenever they do."""
    digests = []
    for name in ("a", "b"):
        write_shop(Shop(SMALL), tmp_path / name)
        files = sorted((tmp_path / name).iterdir())
        digests.append([hashlib.sha256(file.read_bytes()).hexdigest() for file in files])
    assert digests[0] == digests[1]


def labels(events: list[SourceEvent], horizon_ms: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each click's session placed an order within the horizon, and the clicks' times."""
    placed: dict[str, int] = {}
    for event in events:
        if event.topic == "orders" and event.value.status == "placed":
            placed.setdefault(event.value.session_id, event.value.time)
    found = []
    for event in events:
        if event.topic == "clickstream":
            order = placed.get(event.value.session_id, -1)
            found.append((event.time_ms < order <= event.time_ms + horizon_ms, event.time_ms))
    bought, times = zip(*found, strict=True)
    return np.array(bought, float), np.array(times)


def test_truth_is_calibrated_also_after_the_drift(big: tuple[Shop, list[SourceEvent]]) -> None:
    """Among clicks of like probability, that share is followed by an order within the horizon."""
    shop, events = big
    bought, times = labels(events, shop.config.horizon_s * 1_000)
    truth = shop.truth.purchase_probabilities()
    assert shop.config.drift_at_ms is not None
    settled = times < END - LONGEST_SESSION_MS
    for era in (times < shop.config.drift_at_ms, times >= shop.config.drift_at_ms):
        for low, high in ((0.0, 0.02), (0.02, 0.1), (0.1, 0.3), (0.3, 1.0)):
            some = era & settled & (truth >= low) & (truth < high)
            # Clicks of one session share its outcome, about seven of them: count sessions, not clicks.
            error = np.sqrt(truth[some].mean() / (some.sum() / 7))
            assert abs(bought[some].mean() - truth[some].mean()) < 4 * error


def test_there_is_something_to_learn(big: tuple[Shop, list[SourceEvent]]) -> None:
    """Who knows the truth has a log loss far below who knows the base rate, and the drift changes what matters."""
    shop, events = big
    bought, times = labels(events, shop.config.horizon_s * 1_000)
    truth = shop.truth.purchase_probabilities().clip(1e-9, 1 - 1e-9)
    rate = bought.mean()
    base = -(rate * np.log(rate) + (1 - rate) * np.log(1 - rate))
    assert 0.03 < rate < 0.25
    assert -(bought * np.log(truth) + (1 - bought) * np.log(1 - truth)).mean() < 0.85 * base
    added = np.array([e.value.type == "add_to_cart" for e in events if e.topic == "clickstream"])
    drifted = times >= (shop.config.drift_at_ms or 0)
    before = truth[added & ~drifted].mean() / truth[~drifted].mean()
    assert before > 1.3 * truth[added & drifted].mean() / truth[drifted].mean()


def test_orders_never_come_from_two_sessions_of_a_horizon(big: tuple[Shop, list[SourceEvent]]) -> None:
    """A user's next session begins after the horizon of the last click before it, so a label has one cause."""
    shop, events = big
    seen: dict[str, tuple[str, int]] = {}
    for event in events:
        value = event.value
        if event.topic == "clickstream" and value.user_id and int(value.user_id[1:]) < shop.config.users:
            session, last = seen.get(value.user_id, (value.session_id, event.time_ms))
            assert session == value.session_id or event.time_ms - last > shop.config.horizon_s * 1_000
            seen[value.user_id] = (value.session_id, event.time_ms)


def test_demand_has_its_mean(big: tuple[Shop, list[SourceEvent]]) -> None:
    """Pieces sold, by product and by day, are what the truth says, within four standard errors; none without stock."""
    shop, events = big
    config = shop.config
    sold = np.zeros((config.products, config.days))
    for event in events:
        if event.topic == "orders" and event.value.status == "placed":
            [line] = event.value.lines
            sold[int(line.product_id[1:]), event.time_ms // DAY_MS - config.first_day] += line.quantity
    mean = shop.truth.mean_demand.astype(float)
    for axis in (0, 1, None):
        expected, found = mean.sum(axis), sold.sum(axis)
        # Pieces come in ones and a few more: a variance somewhat above the mean.
        assert (np.abs(found - expected) < 4 * np.sqrt(1.6 * expected) + 3).all()
    assert (mean[~shop.assortment.in_stock[:, : config.days]] == 0).all()
    assert shop.truth.demand_of("p3", END - 5 * DAY_MS) == pytest.approx(mean[3, config.days - 6])


def test_faults_have_their_rates() -> None:
    """Each fault happens at its rate; what is damaged no reader takes, all else arrives, orders whole."""
    rates = FaultRates(duplicates=0.1, disordered=0.2, late=0.05, too_late=0.02, corrupt=0.1, skewed_users=0.3)
    config = SMALL.model_copy(update={"users": 1_000, "faults": rates})
    shop = Shop(config)
    sent = list(shop.events())
    happened = {event.value.event_id: event.topic for event in shop.clean()}
    inputs = sum(topic in ("clickstream", "orders") for topic in happened.values())
    clicks = sum(topic == "clickstream" for topic in happened.values())
    expected = {
        "duplicate": 0.1 * inputs,
        "disordered": 0.2 * inputs,
        "late": 0.05 * inputs,
        "too_late": 0.02 * inputs,
        "corrupt": 0.1 * clicks,
    }
    for fault, count in expected.items():
        assert abs(shop.faults[fault] - count) < 4 * np.sqrt(count) + 1, fault
    assert 0.2 < shop.faults["skewed"] / inputs < 0.4
    first = [one for one in sent if "duplicate" not in one.faults]
    assert (
        Counter(name for one in first for name in one.faults) + Counter(duplicate=len(sent) - len(first)) == shop.faults
    )
    arrived: Counter[str] = Counter()
    damaged = 0
    for topic, _, value, *_ in sent:
        try:
            arrived[DECODERS[topic](value).event_id] += 1
        except DecodeError:
            assert topic == "clickstream"
            damaged += 1
    assert len(sent) == len(happened) + shop.faults["duplicate"]
    assert shop.faults["corrupt"] <= damaged <= shop.faults["corrupt"] * 1.3
    assert all(arrived[event_id] for event_id, topic in happened.items() if topic == "orders")
    assert set(arrived) <= set(happened)


@pytest.mark.parametrize("skew_ms", [-6 * 3_600_000, 3 * DAY_MS])
def test_a_wrong_clock_shows_in_the_stamps_of_its_user_alone(skew_ms: int) -> None:
    """Such a user's events come in their turn, and say another time; nobody else's do."""
    rates = FaultRates.none().model_copy(update={"skewed_users": 0.3, "skew_ms": skew_ms})
    shop = Shop(SMALL.model_copy(update={"faults": rates}))
    wrong: dict[bytes | None, bool] = {}
    for happened, sent in zip(shop.clean(), shop.events(), strict=True):
        skewed = sent.faults == ("skewed",)
        assert sent.time_ms == happened.time_ms
        assert DECODERS[sent.topic](sent.value).time == happened.time_ms + skewed * skew_ms
        if sent.topic in ("clickstream", "orders"):
            assert wrong.setdefault(sent.key, skewed) == skewed
    assert 0.2 < sum(wrong.values()) / len(wrong) < 0.4


def test_late_events_are_as_late_as_they_say() -> None:
    """Without the too late, every event arrives within the allowed lateness of the greatest time before it."""
    rates = FaultRates(duplicates=0, late=0.05, too_late=0, disordered=0.1, corrupt=0, skewed_users=0)
    greatest = worst = 0
    for topic, _, _, time, _ in Shop(SMALL.model_copy(update={"faults": rates})).events():
        if topic in ("clickstream", "orders"):
            worst = max(worst, greatest - time)
            greatest = max(greatest, time)
    assert 60_000 < worst < rates.allowed_lateness_s * 1_000


def test_seasons_promotions_and_news(big: tuple[Shop, list[SourceEvent]]) -> None:
    """Weekends are busier, new products come, prices change, stock runs out, promotions are planned ahead."""
    shop, events = big
    by_day = Counter(e.time_ms // DAY_MS for e in events if e.topic == "clickstream")
    weekend = [count for day, count in by_day.items() if (day + 3) % 7 >= 5]
    working = [count for day, count in by_day.items() if (day + 3) % 7 < 5 and day < END // DAY_MS]
    assert np.mean(weekend) > 1.2 * np.mean(working)
    entries = [event.value for event in events if event.topic == "catalog"]
    first = {entry.product_id: entry.time for entry in reversed(entries)}
    assert len(first) == shop.config.products
    assert max(first.values()) > shop.config.start_ms
    assert {entry.stock for entry in entries} == {0, 100}
    plan = [event.value for event in events if event.topic == "plan"]
    assert any(entry.covariates["promotion"] == 1.0 for entry in plan)
    assert max(entry.time for entry in plan) > END


@pytest.mark.parametrize("wrong", [{"users": 0}, {"days": 0}, {"bots": 2.0}, {"faults": {"late": -1}}, {"nonsense": 1}])
def test_wrong_configs_are_refused(wrong: dict[str, Any]) -> None:
    """A size or rate that cannot be, or an unknown name, is refused."""
    with pytest.raises(ValidationError):
        ShopConfig.model_validate({"end_ms": END, **wrong})

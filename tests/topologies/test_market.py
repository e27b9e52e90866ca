"""Laws of what catalog and plan say of a product as of a click."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from features.sets import SCORE_FEATURES
from schemas.codec import Catalog, Click, Plan, encode_event
from schemas.internal import Example, decode_examples
from streams.driver import TopologyDriver
from streams.records import CATALOG, CLICKSTREAM, DEADLETTERS, EXAMPLES, PLAN, Input, Record
from streams.settings import Settings
from streams.topologies.market import UNKNOWN, MarketTable
from streams.topologies.score import ScoreStage

_numbers = st.sampled_from((None, 0, 500, 900))
_times = st.integers(0, 9)
_covariates = st.sampled_from(({}, {"promotion": 0.0}, {"promotion": 1.5}, {"else": 1.0}))
_catalog = st.builds(Catalog, st.just(""), st.sampled_from("pq"), _times, unit_price=_numbers, stock=_numbers)
_plan = st.builds(Plan, st.just(""), _times, st.sampled_from(("p", "q", None)), _numbers, _covariates)


@st.composite
def _facts(draw: st.DrawFn) -> list[Catalog | Plan]:
    """Entries with ids of their own, in any order."""
    entries = draw(st.lists(st.one_of(_catalog, _plan), max_size=20))
    return [replace(entry, event_id=f"e{number:02}") for number, entry in enumerate(draw(st.permutations(entries)))]


def _record(entry: Catalog | Plan, offset: int) -> Record:
    topic = CATALOG if isinstance(entry, Catalog) else PLAN
    return Record(Input(topic, 0), offset, None, encode_event(entry), 0)


def _expected(entries: list[Catalog | Plan], product: str, time: int) -> tuple[int, int, int, float]:
    """What a shopkeeper would look up: of each kind the latest entry that is valid, by time and then by id."""
    valid = sorted((entry for entry in entries if entry.time <= time), key=lambda entry: (entry.time, entry.event_id))
    price = stock = planned = -1
    promotion: list[float] = [0.0, 0.0]
    own = False
    for entry in valid:
        if isinstance(entry, Catalog):
            if entry.product_id == product:
                price, stock = (-1 if n is None else n for n in (entry.unit_price, entry.stock))
        elif entry.product_id == product:
            planned, own = -1 if entry.unit_price is None else entry.unit_price, "promotion" in entry.covariates
            promotion[1] = entry.covariates.get("promotion", 0.0)
        elif entry.product_id is None:
            promotion[0] = entry.covariates.get("promotion", 0.0)
    return price, planned, stock, promotion[own]


@settings(deadline=None)
@given(_facts(), st.data())
def test_the_market_is_what_is_valid_as_of_the_click(entries: list[Catalog | Plan], data: st.DataObject) -> None:
    """Whatever was asked before, and in whatever order entries came: what is read so far, as of each time."""
    table = MarketTable()
    ends = {CATALOG: 0, PLAN: 0}
    for count, entry in enumerate(entries, 1):
        record = _record(entry, count)
        table.take(record)
        ends[record.input.topic] = count + 1
        asked = data.draw(st.lists(st.tuples(st.sampled_from(["p", "q", "r", None]), _times), max_size=6))
        shown = table.columns([product for product, _ in asked], np.array([time for _, time in asked], np.int64))
        assert shown is not None
        assert list(zip(*(column.tolist() for column in shown), strict=True)) == [
            UNKNOWN if product is None else _expected(entries[:count], product, time) for product, time in asked
        ]
    assert table.read == (ends[CATALOG], ends[PLAN])


def _served(driver: TopologyDriver) -> list[Example]:
    return [one for record in driver.output(EXAMPLES) for one in decode_examples(record.value or b"").examples]


def test_a_click_shows_what_was_read_by_then_and_valid_as_of_it() -> None:
    """A vector does not show what is valid later, nor what is said later; its example names how far was read."""
    driver = TopologyDriver(Settings(), [ScoreStage], now_ms=1_000_000)

    def click(number: int, time: int) -> None:
        told = Click(f"c{number}", "view", time, "u", None, "mug", unit_price=900, channel="app")
        driver.pipe(CLICKSTREAM, b"u", encode_event(told))
        driver.mark_time(time)
        driver.run()

    driver.pipe(CATALOG, b"mug", encode_event(Catalog("a", "mug", 500, unit_price=1_000, stock=0)))
    driver.pipe(PLAN, b"mug", encode_event(Plan("b", 700, "mug", covariates={"promotion": 1.0})))
    driver.pipe(CATALOG, b"mug", b"torn")
    for number, time in enumerate((400, 600, 800)):
        click(number, time)
    driver.pipe(CATALOG, b"mug", encode_event(Catalog("late", "mug", 750, unit_price=1_800, stock=2_000)))
    click(3, 801)
    names = ("market_discount", "market_promotion", "market_stock", "market_out_of_stock", "event_is_app")
    columns = [SCORE_FEATURES.index(name) for name in names]
    shown = [np.frombuffer(example.vector, "<f8")[columns].tolist() for example in _served(driver)]
    assert shown == [[0, 0, -1, 0, 1], [0.1, 0, 0, 1, 1], [0.1, 1, 0, 1, 1], [0.5, 1, 1_000, 0, 1]]
    assert [example.facts for example in _served(driver)] == [(2, 1)] * 3 + [(3, 1)]
    # What cannot be read of the tables is the demand stage's to bury.
    assert not driver.output(DEADLETTERS)

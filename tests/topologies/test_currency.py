"""Laws of a shop that sells in many currencies: it is scored as the shop that counts in one."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any
from zlib import crc32

import numpy as np

from schemas.internal import decode_examples
from streams.backtest.quiet import quiet_demand_stage
from streams.driver import TopologyDriver
from streams.records import ACTIVITY, CATALOG, DEADLETTERS, EXAMPLES, HISTORY, PLAN, PREDICTIONS
from streams.settings import ScoreSettings, Settings, ShopSettings
from streams.topologies.score import ScoreStage
from tests.real.shop import START_MS, ClosedLog, Message, closed_log

RATES = {"JPY": "0.05", "KWD": "2.5"}
"""Minor units: a yen is 5 cents, a fil a quarter of one; all prices of the log are whole in each."""
_PER_UNIT = {"JPY": (1, 5), "KWD": (4, 1)}
_NO_RATE = 7
Change = Callable[[dict[str, Any], int], None]


def _log() -> ClosedLog:
    """The closed log, and what catalog and plan say of its products."""
    log = closed_log(clicks=500, users=30, products=8)
    facts = []
    for number in range(8):
        entry = {"event_id": f"f{number}", "product_id": f"p{number}", "time": START_MS, "currency": "EUR"}
        facts.append(Message(CATALOG, f"p{number}", json.dumps(entry | {"unit_price": 1_000 + 40 * number}).encode()))
        planned = entry | {"time": START_MS + 86_400_000, "unit_price": 600 + 20 * number}
        facts.append(Message(PLAN, f"p{number}", json.dumps(planned).encode()))
    return ClosedLog(facts + log.messages, log.end)


def _run(shop: ShopSettings, change: Change = lambda event, lot: None) -> TopologyDriver:
    """Return a driver that worked through the log, each event changed by `change`, which is told its lot."""
    settings = Settings(score=ScoreSettings(product_staleness_ms=0), shop=shop)
    log = _log()
    driver = TopologyDriver(settings, [ScoreStage, quiet_demand_stage], partitions=2, now_ms=log.end)
    for message in log.messages:
        value = message.value
        try:
            event = json.loads(value)
        except ValueError:
            pass  # torn
        else:
            change(event, crc32(value) % 10)
            value = json.dumps(event).encode()
        driver.pipe(message.topic, message.key.encode() if message.key else None, value)
    driver.mark_time(log.end, end=True)
    driver.run()
    assert driver.counts("score")["clicks_predicted"] > 400
    return driver


def _priced(event: dict[str, Any]) -> list[dict[str, Any]]:
    return event.get("lines", [event])


def _abroad(event: dict[str, Any], lot: int) -> None:
    """State the prices of half the events in yen or in Kuwaiti dinars."""
    code = {0: "JPY", 1: "JPY", 2: "JPY", 3: "KWD", 4: "KWD"}.get(lot)
    if code is not None:
        event["currency"] = code
        times, by = _PER_UNIT[code]
        for one in _priced(event):
            one["unit_price"], rest = divmod(one["unit_price"] * times, by)
            assert rest == 0


def _dollars(event: dict[str, Any], lot: int) -> None:
    if lot < _NO_RATE:
        event["currency"] = "USD"


def _unpriced(event: dict[str, Any], lot: int) -> None:
    if lot < _NO_RATE:
        for one in _priced(event):
            one["unit_price"] = None


def _values(driver: TopologyDriver, topic: str) -> list[bytes | None]:
    return [record.value for record in driver.output(topic)]


def _vectors(driver: TopologyDriver) -> list[bytes]:
    return [one.vector for record in driver.output(EXAMPLES) for one in decode_examples(record.value or b"").examples]


def test_half_a_shop_abroad_is_the_shop_at_home() -> None:
    """Whatever leaves score and demand is the same to the byte as where all prices were stated in the shop's own."""
    shop = ShopSettings(currency="EUR", rates=RATES)
    home, abroad = _run(shop), _run(shop, _abroad)
    for topic in (PREDICTIONS, EXAMPLES, ACTIVITY, HISTORY):
        assert _values(abroad, topic) == _values(home, topic) != []
    # Prices count: unconverted, the vectors are others.
    assert _vectors(_run(ShopSettings(), _abroad)) != _vectors(home)
    assert "events_without_rate" not in abroad.counts("score")


def test_where_nothing_is_to_convert_nothing_changes() -> None:
    """Activity, history and vectors of a shop that names its currency, and of one whose rate is 1, are as before."""
    plain, named = _run(ShopSettings()), _run(ShopSettings(currency="EUR", rates=RATES))
    one = _run(ShopSettings(currency="EUR", rates={"USD": 1}), _dollars)
    for other in (named, one):
        assert _values(other, ACTIVITY) == _values(plain, ACTIVITY)
        assert _values(other, HISTORY) == _values(plain, HISTORY)
        assert _vectors(other) == _vectors(plain) != []


def test_a_currency_without_a_rate_is_an_unknown_price() -> None:
    """Not refused, but counted; all else of the event counts."""
    shop = ShopSettings(currency="EUR", rates=RATES)
    foreign, unpriced = _run(shop, _dollars), _run(shop, _unpriced)
    for topic in (PREDICTIONS, EXAMPLES, ACTIVITY, HISTORY):
        assert _values(foreign, topic) == _values(unpriced, topic) != []
    assert len(_values(foreign, DEADLETTERS)) == len(_values(unpriced, DEADLETTERS))
    counts, others = foreign.counts("score"), unpriced.counts("score")
    applied = counts["clicks_predicted"] + counts["clicks_without_user"] + counts["orders_applied"]
    assert 0.5 * applied < counts.pop("events_without_rate") < 0.9 * applied
    assert counts == others


def test_rates_are_part_of_the_definition() -> None:
    """Vectors of other rates do not belong together, and their rows stand elsewhere."""
    shops = [ShopSettings(), ShopSettings(currency="EUR"), ShopSettings(currency="EUR", rates={"USD": 0.9})]
    shops.append(ShopSettings(currency="EUR", rates={"USD": 0.91}))
    stages = [ScoreStage(Settings(shop=shop)) for shop in shops]
    assert len({stage.schema_hash for stage in stages}) == len({stage.layout for stage in stages}) == len(shops)
    assert np.unique([stage.feature_names for stage in stages], axis=0).shape[0] == 1

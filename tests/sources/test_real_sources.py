"""The four real sources: all load, and every row is accounted for."""

from __future__ import annotations

from pathlib import Path

import pytest

from schemas.codec import decode_catalog, decode_click, decode_order, encode_event
from streams.sources import open_source

pytestmark = pytest.mark.realdata

DECODERS = {"clickstream": decode_click, "orders": decode_order, "catalog": decode_catalog}
EXPECTED = {
    "yoochoose": ({"clicks": 276_390, "orders": 9_610}, {}, {}, {"clickstream": 276_390, "orders": 4_434}),
    "online_retail": (
        {"catalog": 370_931, "orders": 370_931},
        {"orders.StockCode.keep_regex": 2_246, "orders.UnitPrice.keep_positive": 1_934},
        {"catalog.price.invalid": 2},
        {"catalog": 134_840, "orders": 16_821},
    ),
    "taobao": ({"clicks": 96_168}, {}, {}, {"clickstream": 96_168}),
    "cdnow": ({"orders": 69_659}, {}, {}, {"orders": 67_591}),
}


@pytest.mark.parametrize("name", list(EXPECTED))
def test_every_row_is_accounted_for(real_sources: Path, name: str) -> None:
    """Rows read = rows sent + filtered + unreadable + unchanged, and every event is one that its reader takes."""
    source = open_source(real_sources / f"{name}.toml")
    last: dict[str, int] = {}
    for event in source.events():
        assert event.time_ms >= last.get("time", 0)
        last["time"] = event.time_ms
        assert DECODERS[event.topic](encode_event(event.value)) == event.value
    rows, filtered, unreadable, sent = EXPECTED[name]
    accounts = source.accounts
    assert accounts.balanced()
    assert (accounts.rows, accounts.filtered, accounts.unreadable, accounts.sent) == (rows, filtered, unreadable, sent)


def test_money_of_cdnow_is_exact(real_sources: Path) -> None:
    """The sum of all amounts is that of the file's decimals, to the cent."""
    import csv
    import gzip
    from decimal import Decimal

    with gzip.open(real_sources.parent / "data" / "cdnow.csv.gz", "rt") as file:
        total = sum(Decimal(row["amount"]) for row in csv.DictReader(file))
    events = open_source(real_sources / "cdnow.toml").events()
    assert sum(line.amount for event in events for line in event.value.lines) == total * 100

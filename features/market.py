"""The market around an event, for whole columns: its channel and country, and what catalog and plan say of the product.

Nothing here has a memory: each row of the columns follows from its own event.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.columns import EventColumns, FeatureError, floats, ints
from features.layout import COLUMN
from features.sets import CHANNELS, STOCK_LIMIT

_HUGE = 1 << 53
_CHANNEL_COLUMNS = [(name, COLUMN[f"event_is_{name}"]) for name in CHANNELS]
_ABROAD = COLUMN["event_abroad"]
_DISCOUNT = COLUMN["market_discount"]
_PROMOTION = COLUMN["market_promotion"]
_STOCK = COLUMN["market_stock"]
_OUT_OF_STOCK = COLUMN["market_out_of_stock"]


def write_market(events: EventColumns, prices: NDArray[np.int64], home: str | None, out: NDArray[np.float64]) -> None:
    """Write the market's columns of the vectors `out` (n, features); `home` is the shop's country, as DE or DE-BY.

    `prices` (n,) are those of the events in minor units, -1 where unknown. Raises FeatureError for values out of range.
    """
    count = len(events)
    listed = ints("list_minor", events.list_minor, -1, _HUGE, count)
    planned = ints("plan_minor", events.plan_minor, -1, _HUGE, count)
    stock = ints("stock", events.stock, -1, _HUGE, count)
    out[:, _PROMOTION] = floats("promotion", events.promotion, count)
    price = np.where(prices >= 0, prices, planned)
    known = (price >= 0) & (listed > 0)
    out[:, _DISCOUNT] = np.where(known, np.maximum((listed - price) / np.maximum(listed, 1), -1.0), 0.0)
    out[:, _STOCK] = np.minimum(stock, STOCK_LIMIT)
    out[:, _OUT_OF_STOCK] = stock == 0
    channels = {text: (text or "").lower() for text in set(events.channel)}
    for name, column in _CHANNEL_COLUMNS:
        codes = {text: float(channel == name) for text, channel in channels.items()}
        out[:, column] = _coded("channel", events.channel, codes, count)
    nations = {text: _nation(text) for text in {home, *events.country}}
    own = nations[home]
    abroad = {text: float(nation != own) if nation and own else -1.0 for text, nation in nations.items()}
    out[:, _ABROAD] = _coded("country", events.country, abroad, count)


def _nation(country: str | None) -> str:
    return (country or "").upper().partition("-")[0]


def _coded(name: str, texts: Sequence[str | None], codes: dict[str | None, float], length: int) -> NDArray[np.float64]:
    """Return the code (n,) of each text."""
    if len(texts) != length:
        raise FeatureError(f"column {name}: {len(texts)} values for {length} events; give one for each")
    return np.fromiter(map(codes.__getitem__, texts), np.float64, length)

"""The market around an event, for whole columns: its channel and country, and what catalog and plan say of the product.

Nothing here has a memory: each row of the columns follows from its own event.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from features.columns import EventColumns, FeatureError, floats, ints
from features.jit import kernel
from features.layout import COLUMN
from features.sets import CHANNELS, STOCK_LIMIT

_HUGE = 1 << 53
_CHANNEL_COLUMNS = np.array([COLUMN[f"event_is_{name}"] for name in CHANNELS], np.int64)
_CHANNEL_CODES = {name: float(code) for code, name in enumerate(CHANNELS)}
_OTHER = -1.0
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
    channels = {text: _CHANNEL_CODES.get((text or "").lower(), _OTHER) for text in set(events.channel)}
    nations = {text: _nation(text) for text in {home, *events.country}}
    own = nations[home]
    abroad = {text: float(nation != own) if nation and own else -1.0 for text, nation in nations.items()}
    _write(
        prices,
        ints("list_minor", events.list_minor, -1, _HUGE, count),
        ints("plan_minor", events.plan_minor, -1, _HUGE, count),
        ints("stock", events.stock, -1, _HUGE, count),
        floats("promotion", events.promotion, count),
        _coded("channel", events.channel, channels, count),
        _coded("country", events.country, abroad, count),
        out,
    )


def _nation(country: str | None) -> str:
    return (country or "").upper().partition("-")[0]


def _coded(name: str, texts: Sequence[str | None], codes: dict[str | None, float], length: int) -> NDArray[np.float64]:
    """Return the code (n,) of each text."""
    if len(texts) != length:
        raise FeatureError(f"column {name}: {len(texts)} values for {length} events; give one for each")
    if len(set(codes.values())) == 1:
        return np.full(length, next(iter(codes.values())))
    return np.fromiter(map(codes.__getitem__, texts), np.float64, length)


@kernel
def _write(prices, listed, planned, stock, promotion, channels, abroad, out):  # type: ignore[no-untyped-def]  # numba infers the types
    for i in range(len(prices)):
        price = prices[i] if prices[i] >= 0 else planned[i]
        known = price >= 0 and listed[i] > 0
        out[i, _PROMOTION] = promotion[i]
        out[i, _DISCOUNT] = max((listed[i] - price) / listed[i], -1.0) if known else 0.0
        out[i, _STOCK] = min(stock[i], STOCK_LIMIT)
        out[i, _OUT_OF_STOCK] = stock[i] == 0
        out[i, _ABROAD] = abroad[i]
        for code in range(len(_CHANNEL_COLUMNS)):
            out[i, _CHANNEL_COLUMNS[code]] = channels[i] == code

"""The shop that the settings describe, as features know it."""

from __future__ import annotations

from decimal import Decimal
from functools import lru_cache

from features.calendar import ShopCalendar
from features.sets import schema_hash
from features.shop import Shop
from schemas.currency import Exchange
from streams.settings import Settings


def shop_of(settings: Settings) -> Shop:
    """Return the shop that the settings name; one for all who ask, for its holidays take a moment to compute."""
    shop = settings.shop
    return _shop(shop.timezone, shop.country, shop.currency, tuple(sorted(shop.rates.items())))


def feature_schema(settings: Settings) -> str:
    """Return the hash of the feature definitions of that shop."""
    return schema_hash(shop=shop_of(settings).digest)


@lru_cache(maxsize=8)
def _shop(timezone: str, country: str | None, currency: str | None, rates: tuple[tuple[str, Decimal], ...]) -> Shop:
    return Shop(ShopCalendar(timezone, country), Exchange(currency, dict(rates)))

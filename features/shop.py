"""What of a shop is part of the definition of its features: its calendar, and the currency that they count in."""

from __future__ import annotations

from dataclasses import dataclass, field

from features.calendar import ShopCalendar
from schemas.currency import Exchange


@dataclass(frozen=True, slots=True)
class Shop:
    """A shop: by default in UTC, without holidays, and whose amounts are taken as they are.

    >>> Shop().digest, Shop(exchange=Exchange("EUR")).digest
    ('UTC', 'UTC; EUR EUR=1/1')
    """

    calendar: ShopCalendar = field(default_factory=ShopCalendar)
    exchange: Exchange = field(default_factory=Exchange)

    @property
    def digest(self) -> str:
        """What stands for it in the hash of the definitions."""
        return "; ".join(filter(None, [self.calendar.digest, self.exchange.digest]))

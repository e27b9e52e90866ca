"""Money of many currencies in one: amounts in minor units of the shop's own, by a table of rates, in exact integers."""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

from msgspec.structs import replace

from schemas.codec import Catalog, Click, Order, OrderLine, Plan
from schemas.wire import MAX_INT

_NO_DECIMALS = "BIF CLP DJF GNF ISK JPY KMF KRW PYG RWF UGX UYI VND VUV XAF XOF XPF"
_DECIMALS = {
    **dict.fromkeys(_NO_DECIMALS.split(), 0),
    **dict.fromkeys(["BHD", "IQD", "JOD", "KWD", "LYD", "OMR", "TND"], 3),
    **dict.fromkeys(["CLF", "UYW"], 4),
}
_E = TypeVar("_E", bound=Click | Order | Catalog | Plan)


def decimals_of(currency: str) -> int:
    """Return how many decimals `currency` has (ISO 4217; 2 where it says nothing else).

    >>> decimals_of("EUR"), decimals_of("JPY"), decimals_of("KWD")
    (2, 0, 3)
    """
    return _DECIMALS.get(currency, 2)


class Exchange:
    """Converts into `currency`; `rates` say how many units of it (euros, not cents) one unit of another is worth.

    Without a currency all amounts are taken as they are; with one, so are those of events that name none.

    >>> exchange = Exchange("EUR", {"JPY": Decimal("0.00625")})
    >>> click = Click("1", "view", 5, product_id="mug", unit_price=1_000, currency="JPY")
    >>> exchange.convert(click).unit_price, exchange.convert(click).currency  # 6.25 EUR
    (625, 'EUR')
    """

    def __init__(self, currency: str | None = None, rates: Mapping[str, Decimal] | None = None) -> None:
        self.currency = currency
        self._ratios: dict[str, tuple[int, int]] = {}
        if currency is None:
            return
        for code, rate in sorted((rates or {}).items()):
            ratio = Fraction(rate) * 10 ** decimals_of(currency) / 10 ** decimals_of(code)
            self._ratios[code] = ratio.as_integer_ratio()
        self._ratios[currency] = (1, 1)

    @property
    def digest(self) -> str:
        """What stands for it in the hash of the definitions: the currency and the ratios of minor units."""
        ratios = (f"{code}={n}/{d}" for code, (n, d) in sorted(self._ratios.items()))
        return "" if self.currency is None else f"{self.currency} {' '.join(ratios)}"

    def convert(self, event: _E) -> _E:
        """Return the event with all it says of money in minor units of the shop's currency, rounded half to even.

        Where there is no rate, its prices are unknown and so is their currency (None). An amount is unknown too where
        it, or the price of all pieces, comes to more than 2^53.

        >>> found = Exchange("EUR").convert(Click("1", "view", 5, product_id="mug", unit_price=999, currency="USD"))
        >>> found.unit_price, found.currency
        (None, None)
        """
        if self.currency is None or event.currency is None or event.currency == self.currency or not _has_price(event):
            return event
        ratio = self._ratios.get(event.currency)
        currency = None if ratio is None else self.currency
        if isinstance(event, Order):
            lines = tuple(
                replace(
                    line,
                    unit_price=_converted(line.unit_price, ratio, line.quantity),
                    amount=_converted(_total(line), ratio),
                )
                for line in event.lines
            )
            return replace(event, lines=lines, currency=currency)
        pieces = event.quantity if isinstance(event, Click) else 1
        return replace(event, unit_price=_converted(event.unit_price, ratio, pieces), currency=currency)


def _total(line: OrderLine) -> int | None:
    """Return what a line comes to: a price of a piece is rounded once for the line, not for each piece."""
    if line.amount is not None or line.unit_price is None:
        return line.amount
    return line.unit_price * line.quantity


def _has_price(event: Click | Order | Catalog | Plan) -> bool:
    if isinstance(event, Order):
        return any(line.unit_price is not None or line.amount is not None for line in event.lines)
    return event.unit_price is not None


def _converted(amount: int | None, ratio: tuple[int, int] | None, pieces: int = 1) -> int | None:
    if amount is None or ratio is None:
        return None
    numerator, denominator = ratio
    whole, rest = divmod(amount * numerator, denominator)
    if 2 * rest > denominator or (2 * rest == denominator and whole % 2):
        whole += 1
    return whole if whole * pieces <= MAX_INT else None

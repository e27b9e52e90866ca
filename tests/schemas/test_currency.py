"""Laws of conversion: exact, rounded once, and nothing where there is nothing to convert."""

from __future__ import annotations

from decimal import Decimal
from fractions import Fraction

from hypothesis import assume, example, given
from hypothesis import strategies as st

from schemas.codec import Catalog, Click, Order, OrderLine, Plan
from schemas.currency import Exchange, decimals_of
from schemas.wire import MAX_INT

_codes = st.sampled_from(["EUR", "USD", "JPY", "KRW", "KWD", "BHD", "CLF"])
_rates = st.builds(
    lambda digits, exponent: Decimal(digits).scaleb(exponent), st.integers(1, 10**12), st.integers(-14, 2)
)
_amounts = st.none() | st.integers(0, 10_000) | st.integers(0, MAX_INT)
_HALF = Decimal("0.5")


def _exact(amount: int | None, rate: Decimal, own: str, other: str, pieces: int = 1) -> int | None:
    """What a fraction says: minor units to units, times the rate, to minor units, half to even; 2^53 is the most."""
    if amount is None:
        return None
    found = round(Fraction(amount, 10 ** decimals_of(other)) * Fraction(rate) * 10 ** decimals_of(own))
    return found if found * pieces <= MAX_INT else None


@given(_codes, _codes, _rates, _amounts, _amounts, st.integers(1, 1_000))
@example("EUR", "USD", _HALF, 3, 5, 1)
@example("EUR", "USD", _HALF, 1, 2 * MAX_INT, 7)
def test_conversion_is_exact(own: str, other: str, rate: Decimal, price: int | None, total: int | None, n: int) -> None:
    """Every amount of every kind of event, whatever the digits of both currencies; all else stays as it is."""
    assume(own != other)
    exchange = Exchange(own, {other: rate})
    each = _exact(price, rate, own, other)
    # A line's total is rounded once, also where only the price of a piece is given.
    paid = price * n if total is None and price is not None else total
    whole = _exact(paid, rate, own, other)
    of_all = _exact(price, rate, own, other, n)

    def currency(*amounts: int | None) -> str:
        return other if amounts == (None,) * len(amounts) else own

    click = exchange.convert(Click("e", "view", 5, "u", "s", "p", "c", n, price, other, country="FR"))
    assert click == Click("e", "view", 5, "u", "s", "p", "c", n, of_all, currency(price), country="FR")
    lines = (OrderLine("p", "c", n, price, total), OrderLine("q"))
    order = exchange.convert(Order("e", "o", "returned", 5, lines, "u", "s", other))
    said = (OrderLine("p", "c", n, of_all, whole), OrderLine("q"))
    assert order == Order("e", "o", "returned", 5, said, "u", "s", currency(price, total))
    entry = exchange.convert(Catalog("e", "p", 5, "mug", "c", price, other, 3))
    assert entry == Catalog("e", "p", 5, "mug", "c", each, currency(price), 3)
    plan = exchange.convert(Plan("e", 5, "p", price, {"promotion": 1.0}, other))
    assert plan == Plan("e", 5, "p", each, {"promotion": 1.0}, currency(price))


@given(_codes, st.none() | _codes, _rates, st.integers(0, MAX_INT))
def test_a_shop_without_a_currency_and_its_own_currency_convert_nothing(
    own: str, given: str | None, rate: Decimal, price: int
) -> None:
    """The very same event comes back; so it does where the event names no currency."""
    click = Click("e", "view", 5, unit_price=price, currency=given)
    assert Exchange().convert(click) is click
    for code in (own, None):
        own_click = Click("e", "view", 5, unit_price=price, currency=code)
        assert Exchange(own, {"GBP": rate}).convert(own_click) is own_click


def test_what_has_no_rate_has_no_price() -> None:
    """Price, total and currency are unknown; without a price nothing is lost."""
    exchange = Exchange("EUR", {"GBP": Decimal("1.17")})
    order = Order("e", "o", "placed", 5, (OrderLine("p", None, 2, 900, 1_700), OrderLine("q")), currency="USD")
    assert exchange.convert(order) == Order("e", "o", "placed", 5, (OrderLine("p", None, 2), OrderLine("q")))
    free = Click("e", "view", 5, product_id="p", currency="USD")
    assert exchange.convert(free) is free


def test_the_digest_names_what_changes_a_number() -> None:
    """The currency and the rates by value: neither their order, nor how they are written, nor the shop's own of 1."""
    rates = {"GBP": Decimal("1.10"), "JPY": Decimal("0.006")}
    same = [rates, {"JPY": Decimal("0.0060"), "GBP": Decimal("1.1")}, {**rates, "EUR": Decimal(1)}]
    assert len({Exchange("EUR", one).digest for one in same}) == 1
    others = [Exchange(), Exchange("EUR"), Exchange("USD"), Exchange("EUR", rates), Exchange("USD", rates)]
    others.append(Exchange("EUR", {**rates, "GBP": Decimal("1.11")}))
    assert len({one.digest for one in others}) == len(others)

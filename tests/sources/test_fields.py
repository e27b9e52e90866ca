"""Fields: each way of the grammar to come by a value, exact money, and times in their zone."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.currency import decimals_of
from streams.sources.description import FieldSpec
from streams.sources.fields import money_field, text_field, whole_field
from streams.sources.values import BadValue, minor_units, number, time_reader
from tests.sources.conftest import CLICKS, HEAD, MakeSource

INDEX = {"a": 0, "b": 1}


def field(spec: Any) -> FieldSpec:
    return FieldSpec.model_validate(spec)


@pytest.mark.parametrize(
    ("spec", "row", "value"),
    [
        ("a", ["x", ""], "x"),
        ("a", ["", ""], None),
        ({"value": "k"}, ["x", ""], "k"),
        ({"column": "a", "map": {"pv": "view"}}, ["pv", ""], "view"),
        ({"column": "a", "map": {"pv": "view"}, "default": "d"}, ["zz", ""], "d"),
        ({"column": "a", "map": {"d": "x"}, "default": "d"}, ["", ""], "d"),
        ({"column": "a", "prefix": {"C": "c", "CC": "cc"}, "default": "p"}, ["CC1", ""], "cc"),
        ({"column": "a", "prefix": {"C": "c"}, "default": "p"}, ["536", ""], "p"),
        ({"column": "a", "missing": ["", "0"]}, ["0", ""], None),
        ({"column": "a", "missing": [0], "default": "d"}, ["0", ""], "d"),
        (["a", "b"], ["x", "y"], "x|y"),
        (["a", "b"], ["", ""], None),
    ],
)
def test_text(spec: Any, row: list[str], value: str | None) -> None:
    """Missing, then default, then map or prefix: each in its turn."""
    assert text_field("f", field(spec), INDEX)(row) == value


def test_what_no_table_knows_is_unreadable() -> None:
    """A value in no table and without a default is refused, never guessed."""
    for table in ({"map": {"pv": "view"}}, {"prefix": {"C": "c"}}):
        with pytest.raises(BadValue, match="'zz' is none of"):
            text_field("f", field({"column": "a", **table}), INDEX)(["zz", ""])


@given(
    st.lists(st.text(st.sampled_from("ab|\\"), max_size=4), min_size=2, max_size=2),
    st.lists(st.text(st.sampled_from("ab|\\"), max_size=4), min_size=2, max_size=2),
)
def test_lists_of_columns_name_one_thing_each(left: list[str], right: list[str]) -> None:
    """Two different lists of values never make the same name."""
    read = text_field("f", field(["a", "b"]), INDEX)
    assert (read(left) == read(right)) == (left == right)


@given(st.integers(0, 10**12), st.sampled_from(["EUR", "JPY", "KWD", "CLF"]))
def test_money_is_exact(minor: int, currency: str) -> None:
    """Minor units written as a decimal, with or without a scale, come back as they were."""
    digits = decimals_of(currency)
    text = str(Decimal(minor).scaleb(-digits))
    spec = field({"column": "a", "scale": Decimal(1).scaleb(-digits)})
    rounded: list[None] = []
    assert money_field("f", field("a"), INDEX, currency, lambda: rounded.append(None))([text, ""]) == minor
    assert money_field("f", spec, INDEX, currency, lambda: rounded.append(None))([str(minor), ""]) == minor
    assert not rounded


@given(st.decimals(allow_nan=False, allow_infinity=False, places=6, min_value=0, max_value=10**9))
def test_finer_money_is_rounded_and_counted(amount: Decimal) -> None:
    """What minor units cannot hold is off by at most half of one, and is counted."""
    minor, rounded = minor_units("f", amount, "EUR")
    assert abs(Decimal(minor) - amount * 100) <= Decimal("0.5")
    assert rounded == (Decimal(minor) != amount * 100)


@pytest.mark.parametrize("text", ["", "x", "1,5", "£2", "NaN", "inf", "1_000", "1e999999", "٣", "9" * 80, "0x10"])
def test_what_is_no_number(text: str) -> None:
    """Only plain decimal numbers are numbers, and none can be made to eat the memory."""
    with pytest.raises(BadValue):
        minor_units("f", number("f", text), "EUR")


def test_numbers_that_mean_unknown() -> None:
    """A missing value of a number is meant by value: 0, 0.0 and 0.00 are one."""
    read = money_field("f", field({"column": "a", "missing": ["0"]}), INDEX, "EUR", lambda: None)
    assert [read([text, ""]) for text in ("0", "0.00", "0.01", "")] == [None, None, 1, None]
    quantity = whole_field("f", field({"column": "a", "missing": ["0"], "default": 1}), INDEX)
    assert [quantity([text, ""]) for text in ("0", "2.0", "-3", "")] == [1, 2, -3, 1]
    with pytest.raises(BadValue, match="not a whole number"):
        quantity(["1.5", ""])


@given(st.datetimes(datetime(1970, 1, 2), datetime(2099, 12, 30)))  # noqa: DTZ001
def test_times_of_any_form_agree(moment: datetime) -> None:
    """One time written in five ways is one time."""
    moment = moment.replace(microsecond=moment.microsecond // 1000 * 1000)
    ms = int((moment - datetime(1970, 1, 1)).total_seconds() * 1000 + 0.5)  # noqa: DTZ001
    assert time_reader(None, None, "UTC")(moment.isoformat() + "Z") == ms
    assert time_reader(None, None, "UTC")(moment.isoformat(" ")) == ms
    assert time_reader("ms", None, "UTC")(str(ms)) == ms
    assert time_reader("s", None, "UTC")(f"{Decimal(ms) / 1000:f}") == ms
    assert time_reader(None, "%d.%m.%Y %H:%M:%S.%f", "UTC")(moment.strftime("%d.%m.%Y %H:%M:%S.%f")) == ms


def test_clocks_that_change() -> None:
    """An ambiguous local time is the first of two; one that does not exist goes on with the offset before."""
    read = time_reader(None, None, "Europe/London")

    def utc(text: str) -> int:
        return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)

    assert read("2010-10-31 00:30:00") == utc("2010-10-30 23:30:00")
    assert read("2010-10-31 01:30:00") == utc("2010-10-31 00:30:00")
    assert read("2010-10-31 02:30:00") == utc("2010-10-31 02:30:00")
    assert read("2011-03-27 01:30:00") == utc("2011-03-27 01:30:00")
    assert read("2011-03-27 02:30:00") == utc("2011-03-27 01:30:00")


@pytest.mark.parametrize(
    "text", ["", "soon", "1969-12-31T23:59:59Z", "2100-01-02", "2014-02-30", "0001-01-01", "9999-12-31"]
)
def test_what_is_no_time(text: str) -> None:
    """Times outside 1970 to 2099 and what is none are refused, in any zone."""
    for zone in ("UTC", "Asia/Tokyo", "America/New_York"):
        with pytest.raises(BadValue):
            time_reader(None, None, zone)(text)


def test_scale_is_a_decimal(make_source: MakeSource) -> None:
    """A scale of 0.01 is a hundredth, not its nearest binary fraction."""
    toml = HEAD + CLICKS + 'price = { column = "cents", scale = 0.01 }\n'
    source = make_source(toml, **{"clicks.csv": "user,time,product,cents\nu,2024-01-01,p,4188\nu,2024-01-01,p,29\n"})
    assert [event.value.unit_price for event in source.events()] == [4188, 29]
    assert source.accounts.rounded == 0

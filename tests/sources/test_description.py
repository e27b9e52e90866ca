"""The grammar of SOURCE.toml: what is taken, and that what is not is named with its repair."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from streams.errors import SourceError
from streams.sources.description import duration_ms
from tests.sources.conftest import CLICKS, ORDERS, MakeSource

GOOD = {
    "clicks.csv": "user,time,product\nu,2024-01-01T00:00:00Z,p\n",
    "orders.csv": "order,user,time,product,quantity,price\n",
}


@pytest.mark.parametrize(
    ("toml", "said"),
    [
        (CLICKS.replace("user =", "usr ="), "clicks.usr: there is no such key; did you mean 'user'?"),
        ("tmezone = 'UTC'\n" + CLICKS, "tmezone: there is no such key; did you mean 'timezone'?"),
        ("timezone = 'Mars/Base'\n" + CLICKS, "IANA time zone"),
        (CLICKS.replace('"view"', '"look"'), "'look' is none of add_to_cart"),
        (CLICKS.replace('"user"', '{ column = "user", value = "u" }'), "give either a column or a constant"),
        (CLICKS.replace('user = "user"', 'user = { column = "user", unit = "s" }'), "unit makes no sense here"),
        (CLICKS.replace('user = "user"', 'user = { column = "user", mising = [""] }'), "did you mean 'missing'?"),
        (CLICKS.replace('time = "time"', 'time = { column = "time", unit = "h" }'), "clicks.time.unit"),
        (CLICKS.replace('"clicks.csv"', '"clicks.xlsx"'), "a file is one of .csv"),
        (CLICKS.replace('"clicks.csv"', '"nowhere.csv"'), "there is no such file"),
        (CLICKS.replace('product = "product"', 'product = "sku"'), "no column 'sku'; its columns are 'user', 'time'"),
        (CLICKS + '[[filter]]\ntable = "clicks"\ncolumn = "user"\nkeep_regex = "["\n', "is no regular expression"),
        (CLICKS + '[[filter]]\ntable = "clicks"\ncolumn = "user"\n', "give one rule"),
        (CLICKS + '[[filter]]\ntable = "orders"\ncolumn = "user"\nkeep = ["a"]\n', "which is not described"),
        ('name = "shop"\n' + ORDERS, "give currency"),
        (ORDERS + 'within = "soon"\n', "a duration is a number with ms, s, m, h or d"),
        (ORDERS + 'gaps = "none"\n', "orders.gaps"),
        ("", "describes no table"),
        ("name = [", "not valid TOML"),
        ("name = 0x" + "f" * 5_000, "an integer of 20000 bits"),
        (CLICKS.replace('user = "user"', 'user = { column = "user", missing = [1e99999999] }'), "its exponent lies"),
        (CLICKS + '[[filter]]\ntable = "clicks"\ncolumn = "user"\nkeep_regex = "a{4294967296}"\n', "is no regular exp"),
        ("name = " + "[" * 100_000, "not valid TOML"),
        ("name = " + "9" * 100_000, "not valid TOML"),
        (CLICKS.replace('time = "time"', 'time = { column = "time", format = "%Q%" }'), "is no strptime format"),
        (CLICKS.replace('time = "time"', 'time = { column = "time", format = "%Y%Y" }'), "is no strptime format"),
        (CLICKS.replace('time = "time"', 'time = { column = "time", format = "%H:%M" }'), "leaves out the year"),
        (CLICKS.replace('time = "time"', 'time = { column = "time", format = "%Y-%m-%d %I" }'), "morning from evening"),
        (CLICKS.replace('time = "time"', 'time = { column = "time", format = "%Y-%m-%d %H:%M %Z" }'), "offset as %z"),
        (CLICKS.replace('user = "user"', f'user = {{ column = "user", default = "{"x" * 201}" }}'), "at most 200"),
        (CLICKS.replace('user = "user"', 'user = { column = "user", map = { u = "a\\u0000" } }'), "contains NUL"),
        (CLICKS + 'quantity = { column = "product", scale = 1e999999999 }\n', "scale 1E+999999999 must lie between"),
        (CLICKS + 'quantity = { column = "product", scale = -1 }\n', "scale -1 must lie between"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_named_with_its_repair(make_source: MakeSource, toml: str, said: str) -> None:
    """A description that cannot be is refused before anything is read, with its place and what to do."""
    with pytest.raises(SourceError) as error:
        make_source(toml, **GOOD)
    assert said in str(error.value)
    assert "shop.toml" in str(error.value) or ".csv" in str(error.value) or ".xlsx" in str(error.value)


def test_parquet_without_its_extra(make_source: MakeSource, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without pyarrow a Parquet file is refused with the extra's name."""
    import sys

    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(SourceError, match=r"pip install -e '\.\[parquet\]'"):
        make_source(CLICKS.replace(".csv", ".parquet"), **{"clicks.parquet": b"PAR1"})


@given(st.integers(0, 10**6), st.sampled_from(["ms", "s", "m", "h", "d"]))
def test_durations(count: int, unit: str) -> None:
    """A duration is its number times its unit."""
    assert (
        duration_ms(f"{count}{unit}")
        == count * {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000, "d": 86_400_000}[unit]
    )

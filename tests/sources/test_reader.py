"""The stream of a source: order, accounts, orders out of lines, cuts and positions."""

from __future__ import annotations

import gzip
import json
import random
import time
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from schemas.codec import decode_catalog, decode_click, decode_order, decode_plan, encode_event
from streams.errors import SourceError
from streams.sources import Source, SourceEvent, Unreadable
from tests.sources.conftest import CLICKS, HEAD, ORDERS, MakeSource

DAY = "2024-01-01T"
T0 = 1_704_067_200_000
DECODERS = {"clickstream": decode_click, "orders": decode_order, "catalog": decode_catalog, "plan": decode_plan}


def rows(head: str, *lines: str) -> str:
    return "\n".join([head, *lines]) + "\n"


def clicks(*lines: str) -> dict[str, str]:
    return {"clicks.csv": rows("user,time,product", *lines)}


def orders(*lines: str) -> dict[str, str]:
    return {"orders.csv": rows("order,user,time,product,quantity,price", *lines)}


def values(source: Source) -> list[Any]:
    return [event.value for event in source.events()]


def test_every_event_is_one_its_reader_takes(make_source: MakeSource) -> None:
    """What a source yields is decoded to the same struct by the codec that the stages use."""
    source = make_source(CLICKS + ORDERS, **clicks("u,2024-01-01,p"), **orders("o,,2024-01-01,p,2,1.50"))
    for event in source.events():
        assert DECODERS[event.topic](encode_event(event.value)) == event.value
    assert source.accounts.balanced()


line = st.tuples(
    st.sampled_from(["u", "v", ""]),
    st.integers(0, 20).map(lambda minute: f"{DAY}00:{minute:02d}:00Z") | st.just("never"),
    st.sampled_from(["p", "q", ""]),
)
order_line = st.tuples(
    st.sampled_from(["o", "o2", ""]),
    line,
    st.sampled_from(["1", "2", "-1", "x", ""]),
    st.sampled_from(["1.00", "0", "-1", "", "y"]),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(st.lists(line, max_size=30), st.lists(order_line, max_size=30), st.sampled_from([2, 3, 1000]), st.booleans())
def test_order_and_accounts(
    make_source: MakeSource, seen: list[Any], sold: list[Any], chunk: int, within: bool
) -> None:
    """From any rows in any order: events in time order, every row accounted for, whatever the chunk of the sort."""
    toml = CLICKS + ORDERS + ('within = "2m"\n' if within else "")
    toml += '[[filter]]\ntable = "orders"\ncolumn = "price"\nkeep_positive = true\n'
    data = {
        **clicks(*(",".join(each) for each in seen), "u,2024-01-01T00:10:00Z,p"),
        **orders(*(",".join([o, u, t, p, q, m]) for o, (u, t, p), q, m in sold), "o,u,2024-01-01T00:10:00Z,p,1,1"),
    }
    source = make_source(toml, chunk_rows=chunk, **data)
    items = list(source.items())
    accounts = source.accounts
    assert accounts.balanced()
    assert accounts.rows == {"clicks": len(seen) + 1, "orders": len(sold) + 1}
    times = [(item.time_ms, ("clickstream", "orders").index(item.topic)) for item in items]
    assert times == sorted(times)
    assert [item.position for item in items] == list(range(1, len(items) + 1))
    whole = make_source(toml, **data)
    assert list(whole.items()) == items
    ids = [item.value.event_id for item in items if not isinstance(item.value, Unreadable)]
    assert len(ids) == len(set(ids))
    for skip in (0, 1, len(items) // 2, len(items)):
        assert list(source.items(skip)) == items[skip:]
    for cut in (T0, T0 + 5 * 60_000, T0 + 10 * 60_000 + 1):
        assert list(source.items(end_ms=cut)) == [item for item in items if item.time_ms < cut]


def test_unsorted_is_sorted_and_ties_keep_the_files_order(make_source: MakeSource) -> None:
    """Without a word on it, a file that is not in time order is sorted; equal times keep their rows' order."""
    lines = [f"u{i},{DAY}00:00:{random.Random(i).randrange(5):02d}Z,p" for i in range(40)]
    source = make_source(CLICKS, chunk_rows=7, **clicks(*lines))
    found = [(event.time_ms, int(event.value.event_id.split(":")[2])) for event in source.events()]
    assert found == sorted(found)
    assert len(found) == 40


def test_a_file_said_to_be_sorted_must_be(make_source: MakeSource) -> None:
    """sorted = true and a time that goes back: an error with the row and the repair, not a wrong order."""
    source = make_source(CLICKS + "sorted = true\n", **clicks("u,2024-01-02,p", "u,2024-01-01,p"))
    with pytest.raises(SourceError, match=r"row 2 goes back in time.*say sorted = false"):
        list(source.events())


def test_lines_of_one_order(make_source: MakeSource) -> None:
    """Equal order, user and time are one order with its first row's id; another time or user is another."""
    lines = ["o,u,2024-01-01,p,1,2", "o,u,2024-01-01,q,2,3", "o,v,2024-01-01,p,1,2", "o,u,2024-01-02,p,1,2"]
    found = values(make_source(ORDERS, **orders(*lines)))
    assert [(order.event_id, len(order.lines), order.user_id) for order in found] == [
        ("shop:orders:1", 2, "u"),
        ("shop:orders:3", 1, "v"),
        ("shop:orders:4", 1, "u"),
    ]


def test_within(make_source: MakeSource) -> None:
    """Lines at most `within` after the first belong to it; the next one opens the next order."""
    at = [f"o,u,{DAY}00:{second // 60:02d}:{second % 60:02d}Z,p,1,1" for second in (0, 30, 60, 61, 121, 122)]
    found = values(make_source(ORDERS + 'within = "60s"\n', **orders(*at)))
    assert [(order.time - T0, len(order.lines)) for order in found] == [(0, 3), (61_000, 2), (122_000, 1)]


def test_orders_that_are_too_long_are_split(make_source: MakeSource) -> None:
    """Beyond what one event may hold a second one begins, and no line is lost."""
    source = make_source(ORDERS, **orders(*["o,u,2024-01-01,p,1,1"] * 2_500))
    assert [len(order.lines) for order in values(source)] == [1_000, 1_000, 500]
    assert source.accounts.balanced()


def test_goods_that_come_back(make_source: MakeSource) -> None:
    """A negative quantity is a return under a cancelling status, else a correction of the stock, counted as such."""
    toml = ORDERS + 'status = { column = "order", prefix = { C = "cancelled" }, default = "placed" }\n'
    lines = ["C1,u,2024-01-01,p,-2,1", "C2,u,2024-01-01,p,2,1", "3,u,2024-01-01,p,-5,1", "4,u,2024-01-01,p,5,1"]
    source = make_source(toml, **orders(*lines))
    assert [(o.order_id, o.status, o.lines[0].quantity) for o in values(source)] == [
        ("C1", "returned", 2),
        ("C2", "cancelled", 2),
        ("4", "placed", 5),
    ]
    assert source.accounts.filtered == {"orders.quantity.stock_correction": 1}


def test_keys(make_source: MakeSource) -> None:
    """A user's clicks and orders share a key; an unknown user's go by session, order or their own id."""
    toml = CLICKS + 'session = "product"\n' + ORDERS
    data = {**clicks("u,2024-01-01,p", ",2024-01-01,s"), **orders("o,u,2024-01-01,p,1,1", "o,,2024-01-01,p,1,1")}
    assert [event.key for event in make_source(toml, **data).events()] == [b"u", b"s", b"u", b"o"]
    unknown = list(make_source(CLICKS, **clicks(",2024-01-01,p")).events())
    assert [(event.key, event.value.user_id) for event in unknown] == [(b"shop:clicks:1", None)]


def test_catalog_entries_tell_something_new(make_source: MakeSource) -> None:
    """An entry for each change of name or price of a product; what a row leaves open stays as it was."""
    toml = '[catalog]\npath = "c.csv"\ntime = "t"\nproduct = "p"\nname = "n"\nprice = "m"\n'
    lines = ["p,A,1,2024-01-01", "p,A,1,2024-01-02", "p,,2,2024-01-03", "q,A,1,2024-01-03", "p,A,2,2024-01-04"]
    source = make_source(toml, **{"c.csv": rows("p,n,m,t", *lines)})
    assert [(e.event_id, e.name, e.unit_price) for e in values(source)] == [
        ("shop:catalog:1", "A", 100),
        ("shop:catalog:3", "A", 200),
        ("shop:catalog:4", "A", 100),
    ]
    assert source.accounts.unchanged == 2
    assert source.accounts.balanced()


def test_plan_is_known_ahead(make_source: MakeSource) -> None:
    """Plan entries come first, whatever their times, with numbers and flags as covariates; no cut leaves them out."""
    toml = CLICKS + '[plan]\npath = "plan.csv"\nproduct = "p"\ntime = "t"\nprice = "m"\ncovariates = ["promo", "x"]\n'
    data = {
        **clicks("u,2024-01-01,p"),
        "plan.csv": rows("p,t,m,promo,x", "p,2025-01-01,3.5,true,", "q,2025-01-02,,no,2.5"),
    }
    source = make_source(toml, **data)
    found = list(source.events(end_ms=T0 + 1))
    assert [event.topic for event in found] == ["plan", "plan", "clickstream"]
    assert [event.value.covariates for event in found[:2]] == [{"promo": 1.0}, {"promo": 0.0, "x": 2.5}]
    assert found[0].value.unit_price == 350


def test_filters_keep_and_count(make_source: MakeSource) -> None:
    """Each rule keeps what it says; a dropped row is counted under the first rule that drops it."""
    toml = CLICKS + "".join(
        f'[[filter]]\ntable = "clicks"\ncolumn = "{column}"\n{rule}\n'
        for column, rule in [("product", 'keep_regex = "^p"'), ("user", 'keep = ["u", 7]')]
    )
    source = make_source(toml, **clicks("u,2024-01-01,p", "v,2024-01-01,p", "7,2024-01-01,p1", "v,2024-01-01,q"))
    assert [value.user_id for value in values(source)] == ["u", "7"]
    assert source.accounts.filtered == {"clicks.product.keep_regex": 1, "clicks.user.keep": 1}


def test_from_leaves_out_what_was_before(make_source: MakeSource) -> None:
    """A start leaves out earlier clicks and orders, counted as filtered; facts of the catalog still hold."""
    toml = CLICKS + '[catalog]\npath = "clicks.csv"\ntime = "time"\nproduct = "product"\n'
    source = make_source(toml, **clicks("u,2024-01-01,p", "u,2024-01-03,p"))
    assert [event.topic for event in source.events(start_ms=T0 + 86_400_000)] == ["catalog", "clickstream"]
    assert source.accounts.filtered == {"before_from": 1}
    assert source.accounts.balanced()


GOOD_AND_BAD = (
    b"user,time,product\nu,2024-01-01,p\nu,2024-01-01,caf\xe9\nu,2024-01-01\n\n"
    b"u,soon,p\nu,2024-01-01,\nu,2024-01-01,p,x\n"
)


def test_bad_rows_stop_nothing(make_source: MakeSource) -> None:
    """Bytes that are no UTF-8, rows too short or long, no time, no product: dead letters with reasons, all counted."""
    source = make_source(CLICKS, **{"clicks.csv": b"\xef\xbb\xbf" + GOOD_AND_BAD + b'u,2024-01-01,"two\nlines"\n'})
    items = list(source.items())
    bad = [item.value for item in items if isinstance(item.value, Unreadable)]
    assert [(value.row, value.reason) for value in bad] == [
        (2, "undecodable"),
        (3, "invalid"),
        (4, "invalid"),
        (5, "invalid"),
        (6, "invalid"),
    ]
    assert [value.value.product_id for value in items if not isinstance(value.value, Unreadable)] == ["p", "two\nlines"]
    assert all(json.loads(value.data) for value in bad)
    assert source.accounts.balanced()


def test_a_file_without_a_readable_row_is_an_error(make_source: MakeSource) -> None:
    """Where no row at all can be read the description is wrong, and the error shows the first reason."""
    with pytest.raises(SourceError, match=r"none of 2 rows can be read.*give unit or format"):
        list(make_source(CLICKS, **clicks("u,1704067200,p", "u,1704067201,p")).events())


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(astray=st.sets(st.integers(0, 39)))
def test_a_quote_astray_takes_no_rows_with_it(make_source: MakeSource, astray: set[int]) -> None:
    """Whether nothing closes it or another one does, in a cell far below: each row is read as it stands."""
    lines = [f"u,{DAY}00:00:{n:02}Z," + '"' * (n in astray) + f"p{n}" for n in range(40)]
    found = make_source(CLICKS, **clicks(*lines))
    assert [click.product_id for click in values(found)] == [f"p{n}" for n in range(40)]
    assert found.accounts.unreadable == {}


def test_a_cell_of_several_lines_is_one(make_source: MakeSource) -> None:
    """A closed quote may hold line ends and commas, and what is no CSV is counted by itself."""
    lines = [
        f'u,{DAY}00:00:00Z,"p\n1, and ""more"""',
        f'u,{DAY}00:00:01Z,"p" 2',
        f'u,{DAY}00:00:02Z,"p,3',
        f"u,{DAY}00:00:03Z,{'x' * 1_000_001}",
        f"u,{DAY}00:00:04Z,p5",
    ]
    found = make_source(CLICKS, **clicks(*lines))
    assert [click.product_id for click in values(found)] == ['p\n1, and "more"', "p 2", "p,3", "p5"]
    assert found.accounts.unreadable == {"clicks.row.undecodable": 1}


def test_a_damaged_file_is_an_error(make_source: MakeSource) -> None:
    """A gzip file that ends too early is an error, not the end of the source."""
    packed = gzip.compress(rows("user,time,product", *[f"u{i},2024-01-01,p{i}" for i in range(5_000)]).encode())
    source = make_source(CLICKS.replace("clicks.csv", "clicks.csv.gz"), **{"clicks.csv.gz": packed[: len(packed) // 2]})
    with pytest.raises(SourceError, match="is it whole"):
        list(source.events())


RECORDS: list[dict[str, Any]] = [
    {"user": 17850, "time": "2024-01-01T00:00:00Z", "product": "p", "m": 2.55},
    {"user": 17850.0, "time": "2024-01-01T00:00:01Z", "product": "q", "m": None},
    {"user": None, "time": "2024-01-01T00:00:02Z", "product": "p", "m": 3.0},
]


def _as_parquet(path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    table = {
        "user": pyarrow.array([17850.0, 17850.0, None]),
        "time": pyarrow.array([T0 * 10**6, T0 * 10**6 + 10**9, T0 * 10**6 + 2 * 10**9], pyarrow.timestamp("ns", "UTC")),
        "product": pyarrow.array(["p", "q", "p"]).dictionary_encode(),
        "m": pyarrow.array([2.55, None, 3.0]),
    }
    parquet.write_table(pyarrow.table(table), path)


@pytest.mark.parametrize("suffix", ["csv", "csv.gz", "jsonl", "jsonl.gz", "parquet"])
def test_all_forms_of_a_file_say_the_same(make_source: MakeSource, tmp_path: Path, suffix: str) -> None:
    """One table in five forms is one stream of events."""
    name = f"clicks.{suffix}"
    if suffix == "parquet":
        _as_parquet(tmp_path / name)
        data = (tmp_path / name).read_bytes()
    elif "jsonl" in suffix:
        data = "".join(json.dumps(record) + "\n" for record in RECORDS).encode()
    else:
        text = ["17850,2024-01-01T00:00:00Z,p,2.55", "17850,2024-01-01T00:00:01Z,q,", ",2024-01-01T00:00:02Z,p,3.0"]
        data = rows("user,time,product,m", *text).encode()
    if suffix.endswith(".gz"):
        data = gzip.compress(data)
    source = make_source(HEAD + CLICKS.replace("clicks.csv", name) + 'price = "m"\n', **{name: data})
    assert [(v.user_id, v.time - T0, v.product_id, v.unit_price) for v in values(source)] == [
        ("17850", 0, "p", 255),
        ("17850", 1_000, "q", None),
        (None, 2_000, "p", 300),
    ]


def test_bad_json_lines(make_source: MakeSource) -> None:
    """A line that is no JSON object is one unreadable row; nested values are too."""
    data = (
        '{"user":"u","time":"2024-01-01","product":"p"}\nnope\n[1]\n\n{"user":{},"time":"2024-01-01","product":"p"}\n'
    )
    source = make_source(CLICKS.replace("clicks.csv", "c.jsonl"), **{"c.jsonl": data})
    assert len(values(source)) == 1
    assert source.accounts.unreadable == {"clicks.row.undecodable": 2, "clicks.row.invalid": 1}


def test_sorting_keeps_bad_rows(make_source: MakeSource) -> None:
    """Rows that cannot be read survive the trip through the files of an external sort."""
    data = "user,time,product\n" + "".join(f"u,2024-01-{31 - i:02d},p\n" for i in range(20))
    mixed = data.encode() + b"u,2024-01-01,caf\xe9\nu,never,p\n"
    source = make_source(CLICKS + "sorted = false\n", chunk_rows=4, **{"clicks.csv": mixed})
    assert len(values(source)) == 20
    assert source.accounts.unreadable == {"clicks.row.undecodable": 1, "clicks.time.invalid": 1}


def test_events_are_values(make_source: MakeSource) -> None:
    """An event of a source is frozen."""
    [event] = make_source(CLICKS, **clicks("u,2024-01-01,p")).events()
    assert isinstance(event, SourceEvent)
    with pytest.raises(AttributeError):
        event.position = 5  # type: ignore[misc]


@pytest.mark.parametrize(
    "user", ['missing = ["u"], default = ""', 'map = { u = "" }', 'prefix = { u = "" }', 'default = ""']
)
def test_an_empty_text_is_no_value(make_source: MakeSource, user: str) -> None:
    """What a description calls "" names nobody: the event has no user, and its readers take it."""
    toml = CLICKS.replace('user = "user"', f'user = {{ column = "user", {user} }}')
    named = user == 'default = ""'
    [first, *_] = found = values(
        make_source(toml, **clicks("u,2024-01-01,p", ",2024-01-01,p") if named else clicks("u,2024-01-01,p"))
    )
    assert (first.user_id, found[-1].user_id) == ("u" if named else None, None)
    assert all(decode_click(encode_event(click)) == click for click in found)


def test_lines_apart_of_a_long_order_id_are_orders(make_source: MakeSource) -> None:
    """What is put behind the id finds room, so that every reader takes the order."""
    lines = [f"{'o' * 200},u,2024-01-{day:02},p,1,1" for day in range(1, 9)]
    found = values(make_source(ORDERS, **orders(*lines)))
    assert len({decode_order(encode_event(order)).order_id for order in found}) == 8


@pytest.mark.parametrize("text", ["1704067200.1234567890", "01704067200.0000000001", "1704067200" + "." + "9" * 40])
def test_seconds_have_as_many_digits_as_they_like(make_source: MakeSource, text: str) -> None:
    """Finer parts than milliseconds are cut."""
    toml = CLICKS.replace('time = "time"', 'time = { column = "time", unit = "s" }')
    [click] = values(make_source(toml, **clicks(f"u,{text},p")))
    assert click.time // 1_000 == T0 // 1_000


def test_what_a_parquet_file_holds_and_nobody_can_read_is_counted(make_source: MakeSource, tmp_path: Path) -> None:
    """Times after Python's last year, and text that is no UTF-8, are rows of their own; the others are read."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    broken = pyarrow.StringArray.from_buffers(
        3, pyarrow.py_buffer(b"\0\0\0\0\1\0\0\0\2\0\0\0\3\0\0\0"), pyarrow.py_buffer(b"p\xffq")
    )
    times = pyarrow.array([T0, T0 + 1, 9 * 10**15], pyarrow.timestamp("ms", "UTC"))
    table = pyarrow.table({"user": ["u", "u", "u"], "time": times, "product": broken})
    parquet.write_table(table, tmp_path / "clicks.parquet")
    source = make_source(HEAD + CLICKS.replace("clicks.csv", "clicks.parquet"))
    assert [click.product_id for click in values(source)] == ["p"]
    assert sum(source.accounts.unreadable.values()) == 2
    assert source.accounts.balanced()


def test_a_header_that_never_ends_is_an_error(make_source: MakeSource) -> None:
    """A quote opened in it makes one cell of the file."""
    with pytest.raises(SourceError, match="first row is no CSV"):
        make_source(CLICKS, **{"clicks.csv": 'user,"time,product\n' + "u,2024-01-01,p\n" * 100_000})


def test_quotes_astray_in_every_line_take_no_longer_than_the_file(make_source: MakeSource) -> None:
    """Where each line closes the cell of the one before and opens another, none is looked at again and again."""
    found = make_source(CLICKS, **clicks(f'u,{DAY}00:00:00Z,"p', *['q",x,y,"r'] * 10_000))
    started = time.process_time()
    events = values(found)
    assert time.process_time() - started < 25
    assert [click.product_id for click in events] == ["p"]
    assert sum(found.accounts.unreadable.values()) == 10_000
    assert found.accounts.rows == {"clicks": 10_001}

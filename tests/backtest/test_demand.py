"""Laws of the demand backtest."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import numpy as np
import pytest

from models import evaluation, seasonal
from schemas.wire import parse_time
from streams.backtest.closing import local_midnight
from streams.backtest.demand import DemandRequest, backtest_demand
from streams.backtest.files import stamp
from streams.backtest.scores import LEVELS
from streams.settings import KafkaSettings, Settings
from streams.sources import open_source
from tests.backtest.conftest import HOUR, START, Row, Shop, lines_of, random_shop, rows_of

LEVEL_NAMES = [f"q{level:g}" for level in LEVELS]
SEASON = {"D": 7, "W": 52}
Sold = dict[tuple[str, date], int]


def _run(path: Path, out: Path, freq: Any, origins: str, **options: Any) -> dict[str, Any]:
    request = DemandRequest(freq, **{"horizon": 5, "origins": origins, "top": 4, **options})
    return backtest_demand(open_source(path), Settings(), request, out)


def _sold(shop: Shop, zone: str, freq: str, before: int, level: str = "product") -> Sold:
    """Units by key and period, as known before a time: orders and purchase clicks less what was cancelled by then."""
    sold: Sold = defaultdict(int)
    lines = [(row, row["order"]) for row in shop.orders if row["status"] == "placed"]
    gone = {row["order"] for row in shop.orders if row["status"] == "cancelled" and parse_time(row["time"]) < before}
    clicks = [({**row, "quantity": "1"}, "") for row in shop.clicks if row["type"] == "purchase"]
    for row, order in (*lines, *clicks):
        time = parse_time(row["time"])
        if time >= before:
            continue
        key = row["product"] if level == "product" else f"c{int(row['product'][1:]) % 3}"
        sold[key, _period(time, zone, freq)] += 0 if order in gone else int(row["quantity"])
    return sold


def _period(time: int, zone: str, freq: str) -> date:
    day = datetime.fromtimestamp(time / 1_000, UTC).astimezone(ZoneInfo(zone)).date()
    return day if freq == "D" else day - timedelta(day.weekday())


def _history(sold: Sold, key: str, freq: str, until: date) -> list[int]:
    """A key's periods from its first sale up to before a day."""
    step = timedelta(1 if freq == "D" else 7)
    day = min(period for one, period in sold if one == key)
    found = []
    while day < until:
        found.append(sold.get((key, day), 0))
        day += step
    return found


@pytest.mark.parametrize(
    ("freq", "zone", "level", "days", "origins"),
    [
        ("D", "UTC", "product", 24, "2014-05-20,2014-05-31"),
        ("D", "Asia/Tokyo", "category", 24, "2014-05-20,2014-05-31"),
        ("W", "America/New_York", "product", 60, "2014-06-02,2014-06-23"),
    ],
)
def test_the_seasonal_forecast_is_that_of_the_history_before_the_origin(
    tmp_path: Path, freq: str, zone: str, level: str, days: int, origins: str
) -> None:
    """What is published is the seasonal forecast of what a brute-force reading counts before the origin."""
    shop = random_shop(21, clicks=900, days=days)
    metrics = _run(shop.write(tmp_path, timezone=zone), tmp_path / "out", freq, origins, level=level, top=3)
    rows = rows_of(tmp_path / "out" / "forecasts.csv")
    first = local_midnight(origins.split(",")[0], zone)
    totals: dict[str, int] = defaultdict(int)
    for (key, _), units in _sold(shop, zone, freq, first, level).items():
        totals[key] += units
    chosen = sorted(totals, key=lambda key: (-totals[key], key))[:3]
    assert {row["key"] for row in rows} == set(chosen)
    for origin in origins.split(","):
        sold = _sold(shop, zone, freq, local_midnight(origin, zone), level)
        for key in chosen:
            wanted = seasonal.forecast(_history(sold, key, freq, date.fromisoformat(origin)), SEASON[freq], 5, LEVELS)
            for model in ("seasonal", "champion"):
                mine = [r for r in rows if (r["key"], r["origin"], r["model"]) == (key, origin, model)]
                assert [float(row["mean"]) for row in mine] == wanted.mean.tolist()
                assert [[float(row[name]) for name in LEVEL_NAMES] for row in mine] == wanted.quantiles.tolist()
                assert [row["step"] for row in mine] == list("12345")
                step = timedelta(1 if freq == "D" else 7)
                starts = [date.fromisoformat(origin) + number * step for number in range(5)]
                assert [row["target_start"] for row in mine] == [start.isoformat() for start in starts]
    _check_figures(rows, metrics, _sold(shop, zone, freq, 1 << 60, level), shop, zone, freq)


def _check_figures(rows: list[Row], metrics: dict[str, Any], sold: Sold, shop: Shop, zone: str, freq: str) -> None:
    last = max(parse_time(row["time"]) for row in (*shop.clicks, *shop.orders))
    end = _period(last, zone, "D") + timedelta(1)
    step = timedelta(1 if freq == "D" else 7)
    for model, told in metrics["models"].items():
        mine = [r for r in rows if r["model"] == model and date.fromisoformat(r["target_start"]) + step <= end]
        actual = np.array([sold.get((row["key"], date.fromisoformat(row["target_start"])), 0) for row in mine])
        quantiles = np.array([[float(row[name]) for name in LEVEL_NAMES] for row in mine])
        assert told["values"] == len(mine) > 0
        assert told["wape"] == pytest.approx(evaluation.wape(actual, [float(r["mean"]) for r in mine]), abs=1e-6)
        assert told["wql"] == pytest.approx(evaluation.wql(actual, quantiles, LEVELS), abs=1e-6)
        inside = evaluation.coverage(actual, quantiles[:, 0], quantiles[:, -1])
        assert told["coverage_95"] == pytest.approx(inside, abs=1e-6)


def test_an_origin_sees_nothing_from_its_time_on(tmp_path: Path) -> None:
    """Whatever happens from the origin on, cancellations of earlier orders too, the forecast stays the same."""
    shop, other = random_shop(22, days=20), random_shop(23, days=20)
    origin = local_midnight("2014-05-24", "Europe/London")
    order = next(row for row in reversed(shop.orders) if row["time"] < stamp(origin) and row["status"] == "placed")
    at = {"time": stamp(origin)}
    planted = [{**order, **at, "status": "cancelled"}, {**order, **at, "order": "huge", "quantity": "9999"}]
    later = [[row for row in rows if row["time"] >= stamp(origin)] for rows in (other.clicks, other.orders)]
    past = shop.before(origin)
    changed = Shop(past.clicks + later[0], past.orders + planted + later[1])
    for name, one in (("a", shop), ("b", changed), ("c", past)):
        one.write(tmp_path / name, timezone="Europe/London")
        _run(tmp_path / name / "shop.toml", tmp_path / f"out{name}", "D", "2014-05-24", horizon=3)
    whole, with_future, cut = (lines_of(tmp_path / f"out{name}" / "forecasts.csv") for name in "abc")
    assert whole == with_future == cut
    assert len(whole) == 1 + 4 * 3 * 3


def test_what_the_stages_refuse_is_counted(tmp_path: Path) -> None:
    """An order larger than any event may be is in no forecast, and in the accounts."""
    shop = random_shop(24, days=10)
    row = next(row for row in shop.orders if row["status"] == "placed")
    lines = [{**row, "order": "huge", "product": f"{number:03d}" + "\u6f22" * 190} for number in range(1_000)]
    at = shop.orders.index(row)
    Shop(shop.clicks, [*shop.orders[:at], *lines, *shop.orders[at:]]).write(tmp_path)
    small = Settings(kafka=KafkaSettings(max_message_bytes=100_000))
    request = DemandRequest("D", horizon=1, origins="2014-05-18", top=4)
    counts = [
        backtest_demand(open_source(path), small, request, path.parent / "out")["counts"]
        for path in (tmp_path / "shop.toml", shop.write(tmp_path / "plain"))
    ]
    assert [one["dead_letters"] for one in counts] == [{"orders.oversized": 1}, {}]
    assert counts[0]["activity_rows"] == counts[1]["activity_rows"]


def test_a_cancellation_undoes_its_order_where_it_was_counted(tmp_path: Path) -> None:
    """What is known at an origin is net of the cancellations before it, even where the bucket had closed."""
    day = 24 * HOUR
    orders = [_order(START + n * day + HOUR, f"o{n}", "4") for n in range(10)]
    orders.append({**_order(START + 9 * day + 2 * HOUR, "o3", "4"), "status": "cancelled"})
    shop = Shop([], sorted(orders, key=lambda row: row["time"]))
    _run(shop.write(tmp_path), tmp_path / "out", "D", "2014-05-19,2014-05-20", horizon=1, top=1)
    before, after = [r for r in rows_of(tmp_path / "out" / "forecasts.csv") if r["model"] == "champion"]
    history = [4.0] * 10
    assert float(before["mean"]) == seasonal.forecast(history[:9], 7, 1, LEVELS).mean[0]
    history[3] = 0.0
    assert float(after["mean"]) == seasonal.forecast(history, 7, 1, LEVELS).mean[0]


def _order(time: int, order: str, quantity: str) -> Row:
    return {"time": stamp(time), "user": "u", "order": order, "status": "placed", "product": "p",
            "quantity": quantity, "price": "1.00"}  # fmt: skip


def test_gaps_are_unknown_where_the_source_says_so(tmp_path: Path) -> None:
    """With gaps = "missing" a day without a line is no zero, in history and in the figures; a line of 0 is one."""
    day = 24 * HOUR
    quantities = {0: "6", 1: "5", 4: "0", 5: "7", 9: "6", 11: "5"}
    shop = Shop([], [_order(START + n * day + HOUR, f"o{n}", units) for n, units in quantities.items()])
    path = shop.write(tmp_path, orders='gaps = "missing"')
    metrics = _run(path, tmp_path / "out", "D", "2014-05-20", horizon=3, top=1)
    history = [float(quantities.get(n, "nan")) for n in range(10)]
    wanted = seasonal.forecast(history, 7, 3, LEVELS)
    mine = [row for row in rows_of(tmp_path / "out" / "forecasts.csv") if row["model"] == "champion"]
    assert [float(row["mean"]) for row in mine] == wanted.mean.tolist()
    assert metrics["models"]["champion"]["values"] == 1
    assert metrics["counts"]["rows_filtered"] == {"orders.quantity.nothing_sold": 1}


def test_a_plan_is_known_ahead(tmp_path: Path) -> None:
    """Plan entries of any time are there at any origin, and are no future of the shop."""
    plan = '[plan]\npath = "plan.csv"\ntime = "start"\ncovariates = ["promotion"]\n'
    path = random_shop(24, days=20).write(tmp_path, plan=plan)
    (tmp_path / "plan.csv").write_text("start,promotion\n2014-05-12T00:00:00Z,1\n2014-05-26T00:00:00Z,0\n")
    metrics = _run(path, tmp_path / "out", "D", "2014-05-24", horizon=3)
    assert metrics["counts"]["sent"]["plan"] == 2
    assert len(rows_of(tmp_path / "out" / "forecasts.csv")) == 4 * 3 * 3


def test_the_sequence_model_is_trained_on_the_past_of_each_origin(tmp_path: Path) -> None:
    """Trained, it has rows of its own, the same whatever comes after the origin; the winner before it is champion."""
    pytest.importorskip("torch")
    shop = random_shop(25, clicks=2_000, days=60)
    settings = Settings(train={"epochs": 1, "device": "cpu"})
    request = DemandRequest("D", 4, "2014-06-25", top=3, train=True)
    origin = local_midnight("2014-06-25", "UTC")
    for name, one in (("a", shop), ("b", shop.before(origin))):
        source = open_source(one.write(tmp_path / name))
        metrics = backtest_demand(source, settings, request, tmp_path / f"out{name}")
    told = metrics["origins"]["2014-06-25"]
    assert lines_of(tmp_path / "outa" / "forecasts.csv") == lines_of(tmp_path / "outb" / "forecasts.csv")
    decision = told["sequence"]["backtest_before_origin"]["decision"]
    assert told["published"] == ("sequence" if decision == "promoted" else "seasonal")
    rows = rows_of(tmp_path / "outa" / "forecasts.csv")
    by_model = {m: [r["mean"] for r in rows if r["model"] == m] for m in ("champion", "seasonal", "sequence")}
    assert by_model["champion"] == by_model[told["published"]]
    assert by_model["sequence"] != by_model["seasonal"]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--origins", "2014-05-14", "--top", "2"], "is a Wednesday, and weeks start on Monday; use 2014-05-12 or"),
        (["--origins", "2015-01-05", "--top", "2"], "the latest possible origin is 2014-05-26"),
        (["--origins", "2013-05-13", "--top", "2"], "nothing sold before 2013-05-13"),
        (["--origins", "soon", "--top", "2"], "'soon': is no date"),
        (["--origins", "2014-05-19"], "give either --top N or --keys FILE"),
        (["--origins", "2014-05-19", "--keys", "none.txt"], "none.txt: cannot be read"),
        (["--origins", "2014-05-19", "--keys", "KEYS"], "'p999' (1 of 2) sold nothing before 2014-05-19"),
    ],
)
def test_what_cannot_be_answered_is_said_with_its_repair(
    tmp_path: Path, tidecast: Callable[..., int], capsys: pytest.CaptureFixture[str], options: list[str], told: str
) -> None:
    """A bad origin or key ends in one line and exit code 2, and leaves no forecasts behind."""
    path = random_shop(26, clicks=200, days=16).write(tmp_path)
    (tmp_path / "keys.txt").write_text("key\np0\np999\n")
    options = [str(tmp_path / "keys.txt") if one == "KEYS" else one for one in options]
    out = tmp_path / "out"
    assert tidecast("backtest", "demand", path, "--freq", "W", "--no-train", "--out", out, *options) == 2
    assert told in capsys.readouterr().err
    assert not (out / "forecasts.csv").exists()


def test_the_command_writes_all_files(
    tmp_path: Path, tidecast: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """The keys of a file are forecast; the last line of standard output is metrics.json."""
    path = random_shop(27, days=16).write(tmp_path)
    (tmp_path / "keys.txt").write_text("p3\np1\n")
    options = ["--freq", "D", "--origins", "2014-05-19", "--keys", tmp_path / "keys.txt", "--no-train"]
    assert tidecast("backtest", "demand", path, *options, "--horizon", "2", "--out", tmp_path / "out") == 0
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == metrics
    rows = rows_of(tmp_path / "out" / "forecasts.csv")
    assert {row["key"] for row in rows} == {"p1", "p3"}
    assert {row["model"] for row in rows} == {"champion", "seasonal", "seasonal_naive"}
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") == 2

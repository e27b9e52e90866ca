"""The four real sources through the backtests, beside the plainest reading of their files."""

from __future__ import annotations

import csv
import gzip
import json
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable
from datetime import date, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import evaluation, seasonal
from models.buckets import kept_buckets
from schemas.wire import parse_time
from streams.backtest.scores import LEVELS
from tests.backtest.conftest import Row, rows_of

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(1_800)]

Tidecast = Callable[..., int]


def _metrics(out: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((out / "metrics.json").read_text())
    return found


def _file(sources: Path, name: str) -> list[Row]:
    with gzip.open(sources.parent / "data" / name, "rt", encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_yoochoose_purchases(tmp_path: Path, tidecast: Tidecast, real_sources: Path) -> None:
    """Every click has a row, labelled as a plain reading says, and after 20,000 the model beats the base rate."""
    assert tidecast("backtest", "purchase", real_sources / "yoochoose.toml", "--out", tmp_path) == 0
    orders: dict[str, list[int]] = defaultdict(list)
    last = 0
    for row in _file(real_sources, "yoochoose_buys.csv.gz"):
        time = parse_time(row["timestamp"])
        mine = orders[row["session_id"]]
        last = max(last, time)
        if not mine or time > mine[-1] + 60_000:
            mine.append(time)
    clicks: dict[str, list[int]] = defaultdict(list)
    for row in _file(real_sources, "yoochoose_clicks.csv.gz"):
        clicks[row["session_id"]].append(parse_time(row["timestamp"]))
        last = max(last, clicks[row["session_id"]][-1])
    rows = rows_of(tmp_path / "predictions.csv")
    champion = [row for row in rows if row["model"] == "champion"]
    assert len(rows) == 2 * len(champion) == 2 * sum(map(len, clicks.values()))
    for row in champion:
        as_of = clicks[row["session_id"]][int(row["event_index"])]
        mine = orders.get(row["session_id"], [])
        after = bisect_right(mine, as_of)
        ordered = after < len(mine) and mine[after] <= as_of + 3_600_000
        assert row["label"] == ("" if as_of + 3_600_000 >= last else str(int(ordered)))
    losses = {}
    for model in ("champion", "base_rate"):
        later = [row for row in rows if row["model"] == model and row["label"]][20_000:]
        losses[model] = evaluation.log_loss(
            [float(row["label"]) for row in later], [float(row["probability"]) for row in later]
        )
    told = _metrics(tmp_path)
    print(f"yoochoose: {losses}, {told['seconds']} s, {told['events_per_s']} events/s")
    assert losses["champion"] < losses["base_rate"]


def test_taobao_purchases(tmp_path: Path, tidecast: Tidecast, real_sources: Path) -> None:
    """Purchases that come as clicks are outcomes too; all clicks are accounted for."""
    assert tidecast("backtest", "purchase", real_sources / "taobao.toml", "--out", tmp_path) == 0
    counts = _metrics(tmp_path)["counts"]
    assert counts["clicks"] == counts["predicted"] == 96_168
    assert 0 < counts["positive"] < counts["labelled"] < counts["predicted"]


def test_taobao_demand_by_category(tmp_path: Path, tidecast: Tidecast, real_sources: Path) -> None:
    """Two hours of one day are little, but the day after them can be forecast."""
    options = ["--freq", "D", "--origins", "2017-11-27", "--top", "5", "--level", "category", "--no-train"]
    assert tidecast("backtest", "demand", real_sources / "taobao.toml", *options, "--out", tmp_path) == 0
    assert len({row["key"] for row in rows_of(tmp_path / "forecasts.csv")}) == 5


def test_cdnow_demand(tmp_path: Path, tidecast: Tidecast, real_sources: Path) -> None:
    """Without a products column all is one product; its weeks are those of the file."""
    options = ["--freq", "W", "--horizon", "4", "--origins", "1998-03-02,1998-05-04", "--top", "3", "--no-train"]
    assert tidecast("backtest", "demand", real_sources / "cdnow.toml", *options, "--out", tmp_path) == 0
    weeks: dict[date, int] = defaultdict(int)
    for row in _file(real_sources, "cdnow.csv.gz"):
        day = date.fromisoformat(row["date"])
        weeks[day - timedelta(day.weekday())] += max(int(row["quantity"]), 0)
    rows = [row for row in rows_of(tmp_path / "forecasts.csv") if row["model"] == "seasonal"]
    assert {row["key"] for row in rows} == {"cd"}
    for origin in ("1998-03-02", "1998-05-04"):
        history = [weeks[week] for week in sorted(weeks) if week.isoformat() < origin]
        wanted = seasonal.forecast(history[-kept_buckets("W") :], 52, 4, LEVELS)
        assert [float(row["mean"]) for row in rows if row["origin"] == origin] == wanted.mean.tolist()


def test_online_retail_demand(tmp_path: Path, tidecast: Tidecast, real_sources: Path) -> None:
    """Keys, forecasts and figures are those of a plain reading of the invoices."""
    options = ["--freq", "D", "--horizon", "14", "--origins", "2011-05-02,2011-06-06", "--top", "20", "--no-train"]
    assert tidecast("backtest", "demand", real_sources / "online_retail.toml", *options, "--out", tmp_path) == 0
    sold: dict[str, dict[date, int]] = defaultdict(lambda: defaultdict(int))
    for row in _file(real_sources, "online_retail.csv.gz"):
        code = row["StockCode"]
        product = len(code) >= 5 and code[:5].isdigit() and (len(code) == 5 or code[5:].isalpha())
        if product and float(row["UnitPrice"]) > 0 and int(row["Quantity"]) > 0:
            sold[code][datetime.fromisoformat(row["InvoiceDate"]).date()] += int(row["Quantity"])
    first = date(2011, 5, 2)
    totals = {code: sum(units for day, units in days.items() if day < first) for code, days in sold.items()}
    top = sorted(totals, key=lambda code: (-totals[code], code))[:20]
    rows = [row for row in rows_of(tmp_path / "forecasts.csv") if row["model"] == "champion"]
    assert {row["key"] for row in rows} == set(top)
    by_series: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        by_series[row["key"], row["origin"]].append(row)
    for (code, origin), mine in by_series.items():
        until = date.fromisoformat(origin)
        born = min(sold[code])
        history = [sold[code].get(born + timedelta(n), 0) for n in range((until - born).days)]
        wanted = seasonal.forecast(history[-56:], 7, 14, LEVELS)
        assert [float(row["mean"]) for row in mine] == wanted.mean.tolist(), code
    told = _metrics(tmp_path)
    actual = np.array([sold[row["key"]].get(date.fromisoformat(row["target_start"]), 0) for row in rows])
    assert told["models"]["champion"]["wape"] == pytest.approx(
        evaluation.wape(actual, [float(row["mean"]) for row in rows]), abs=1e-6
    )
    print(f"online_retail: {told['models']}, {told['seconds']} s, {told['events_per_s']} events/s")

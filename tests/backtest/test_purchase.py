"""Laws of the purchase backtest."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from models import evaluation
from schemas.wire import parse_time
from streams.backtest.files import stamp
from streams.backtest.purchase import backtest_purchase
from streams.settings import Settings
from streams.sources import open_source
from tests.backtest.conftest import HOUR, START, Row, Shop, lines_of, random_shop, rows_of

HORIZON_S = 3_600
SETTINGS = Settings()


def _run(path: Path, out: Path, **options: Any) -> dict[str, Any]:
    return backtest_purchase(open_source(path), SETTINGS, out, **{"chunk_events": 64, **options})


def _labels(shop: Shop, rows: list[Row]) -> list[str]:
    """The labels of rows by looking at every order, its cancellation and purchase clicks."""
    last = max(parse_time(one["time"]) for one in (*shop.clicks, *shop.orders))
    bought: dict[str, list[int]] = defaultdict(list)
    gone = {one["order"]: parse_time(one["time"]) for one in shop.orders if one["status"] == "cancelled"}
    for one in shop.orders:
        time = parse_time(one["time"])
        # A cancellation at its order's very time is known no later than the order: it never counted.
        if one["status"] == "placed" and gone.get(one["order"], math.inf) > time:
            bought[one["user"]].append(time)
    for one in shop.clicks:
        if one["type"] == "purchase":
            bought[one["user"]].append(parse_time(one["time"]))
    labels = []
    for row in rows:
        as_of = parse_time(row["as_of"])
        until = as_of + HORIZON_S * 1_000
        found = any(as_of < time <= until for time in bought[row["user_id"]])
        labels.append("" if until >= last else str(int(found)))
    return labels


@pytest.mark.parametrize(("seed", "step_ms"), [(1, 1), (2, 600_000)])
def test_labels_are_those_of_a_brute_force_reading(tmp_path: Path, seed: int, step_ms: int) -> None:
    """A label is whether an order follows within the horizon, and is empty while the horizon is not over."""
    shop = random_shop(seed, step_ms=step_ms)
    _run(shop.write(tmp_path), tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert {row["label"] for row in rows} == {"", "0", "1"}
    assert [row["label"] for row in rows] == _labels(shop, rows)


@pytest.mark.parametrize("hours", [0.5, 7.3, 24.0, 41.7])
def test_a_cut_file_gives_the_prefix_byte_for_byte(tmp_path: Path, hours: float) -> None:
    """Cutting the file at a time changes nothing before it, but for labels that were not yet known."""
    shop = random_shop(3)
    cut = START + int(hours * HOUR)
    _run(shop.write(tmp_path / "whole"), tmp_path / "a")
    _run(shop.before(cut).write(tmp_path / "cut"), tmp_path / "b")
    whole, part = (lines_of(tmp_path / name / "predictions.csv") for name in "ab")
    assert len(part) > 1
    for row, ours, theirs in zip(rows_of(tmp_path / "b" / "predictions.csv"), part[1:], whole[1:], strict=False):
        if row["label"]:
            assert ours == theirs
        else:
            head, _, model = theirs.rsplit(",", 2)
            assert ours == f"{head},,{model}"
    last = parse_time(rows_of(tmp_path / "b" / "predictions.csv")[-1]["as_of"])
    assert last < cut
    assert len(part) == 1 + sum(parse_time(row["as_of"]) < cut for row in rows_of(tmp_path / "a" / "predictions.csv"))


def test_a_planted_future_changes_no_probability(tmp_path: Path) -> None:
    """What is changed from a time on leaves every earlier prediction as it was."""
    shop, other = random_shop(4), random_shop(5)
    now = START + 20 * HOUR
    past = shop.before(now)
    later = [[row for row in rows if row["time"] >= stamp(now)] for rows in (other.clicks, other.orders)]
    planted = Shop(past.clicks + later[0], past.orders + later[1])
    _run(shop.write(tmp_path / "a"), tmp_path / "outa")
    _run(planted.write(tmp_path / "b"), tmp_path / "outb")
    first, second = (rows_of(tmp_path / name / "predictions.csv") for name in ("outa", "outb"))
    told = [[(r["session_id"], r["event_index"], r["as_of"], r["probability"], r["model"]) for r in rows
             if r["as_of"] < stamp(now)] for rows in (first, second)]  # fmt: skip
    assert told[0] == told[1]
    assert told[0]


def test_every_click_is_accounted_for(tmp_path: Path) -> None:
    """Clicks are predicted, anonymous, duplicates or dead; each predicted one has a row per model."""
    shop = random_shop(6)
    shop.clicks[10]["type"] = "nonsense"
    metrics = _run(shop.write(tmp_path), tmp_path / "out")
    counts = metrics["counts"]
    assert counts["clicks"] == len(shop.clicks) - 1
    assert sum(counts["rows_unreadable"].values()) == 1
    assert counts["anonymous"] == sum(not row["user"] for row in shop.clicks if row["type"] != "nonsense")
    assert counts["clicks"] == counts["predicted"] + counts["anonymous"] + counts["duplicates"] + sum(
        counts["dead_letters"].values()
    )
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    assert len(rows) == 2 * counts["predicted"] == 2 * counts["predicted_from"]
    assert json.loads((tmp_path / "out" / "metrics.json").read_text()) == metrics
    assert (tmp_path / "out" / "report.html").read_text().count("<svg") == 1


@pytest.mark.parametrize("sessions", [True, False])
def test_event_index_counts_the_clicks_of_a_session(tmp_path: Path, sessions: bool) -> None:
    """A click's index is the number of clicks before it in its session; silence of 30 minutes ends one without id."""
    shop = random_shop(7, step_ms=60_000)
    _run(shop.write(tmp_path, sessions=sessions), tmp_path / "out")
    wanted, seen, last, number = [], defaultdict(int), {}, defaultdict(int)
    for row in shop.clicks:
        session = row["session"]
        if not sessions:
            time = parse_time(row["time"])
            if row["user"] not in last or time - last[row["user"]] > HOUR // 2:
                number[row["user"]] += 1
            last[row["user"]] = time
            session = f"{row['user']}-{number[row['user']]}"
        if row["user"]:
            wanted.append((session, row["user"], str(seen[session]), row["time"]))
        seen[session] += 1
    rows = [row for row in rows_of(tmp_path / "out" / "predictions.csv") if row["model"] == "champion"]
    assert [(row["session_id"], row["user_id"], row["event_index"], row["as_of"]) for row in rows] == wanted


def test_from_only_leaves_out_rows(tmp_path: Path, tidecast: Callable[..., int]) -> None:
    """--from drops the rows before it and changes no other; the horizon can be given."""
    source = random_shop(8).write(tmp_path, timezone="Europe/Berlin")
    options = ["backtest", "purchase", source, "--horizon", "900"]
    assert tidecast(*options, "--out", tmp_path / "a") == 0
    assert tidecast(*options, "--out", tmp_path / "b", "--from", "2014-05-10T20:00:00") == 0  # 18:00 in UTC
    whole, part = (lines_of(tmp_path / name / "predictions.csv") for name in "ab")
    kept = [line for line in whole[1:] if line.split(",")[3] >= "2014-05-10T18:00:00.000Z"]
    assert part[1:] == kept
    assert 0 < len(kept) < len(whole) - 1
    assert all(line.split(",")[4] == "900" for line in kept)


def test_figures_are_those_of_the_rows(tmp_path: Path) -> None:
    """metrics.json is what predictions.csv says, over the rows that have a label."""
    metrics = _run(random_shop(9).write(tmp_path), tmp_path / "out")
    rows = [row for row in rows_of(tmp_path / "out" / "predictions.csv") if row["label"]]
    for model, told in metrics["models"].items():
        p = np.array([float(row["probability"]) for row in rows if row["model"] == model])
        y = np.array([float(row["label"]) for row in rows if row["model"] == model])
        assert told["log_loss"] == pytest.approx(evaluation.log_loss(y, p), abs=1e-6)
        assert told["auc"] == pytest.approx(evaluation.auc(y, p), abs=1e-6)
        assert told["brier"] == pytest.approx(evaluation.brier(y, p), abs=1e-6)
        assert told["ece"] == pytest.approx(evaluation.calibration_error(y, p), abs=1e-6)


def test_the_base_rate_knows_settled_labels_only(tmp_path: Path) -> None:
    """Each base rate is the share of positives among the first so many clicks whose horizon and lateness are over."""
    _run(random_shop(10).write(tmp_path), tmp_path / "out")
    rows = rows_of(tmp_path / "out" / "predictions.csv")
    base = [row for row in rows if row["model"] == "base_rate"]
    wait = (HORIZON_S + SETTINGS.time.allowed_lateness_s) * 1_000
    times = [parse_time(row["as_of"]) for row in base]
    positives = np.concatenate([[0], np.cumsum([row["label"] == "1" for row in base])])
    possible = [(positives[n] + 1) / (n + 20) for n in range(len(base))]
    for row, time in zip(base, times, strict=True):
        over = sum(one + wait < time for one in times)
        assert any(math.isclose(float(row["probability"]), rate) for rate in possible[: over + 1])


def test_a_source_without_clicks_is_refused(
    tmp_path: Path, tidecast: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    """What cannot be is said in one line, with the repair, and exit code 2."""
    text = random_shop(1, clicks=30).write(tmp_path).read_text()
    head, orders = text.split("[clicks]")[0], text.split("[orders]")[1]
    (tmp_path / "shop.toml").write_text(head + "[orders]" + orders)
    assert tidecast("backtest", "purchase", tmp_path / "shop.toml", "--out", tmp_path / "out") == 2
    assert "has no [clicks]" in capsys.readouterr().err
    (tmp_path / "shop.toml").write_text(text)
    assert tidecast("backtest", "purchase", tmp_path / "shop.toml", "--out", tmp_path, "--from", "soon") == 2
    assert "--from soon" in capsys.readouterr().err

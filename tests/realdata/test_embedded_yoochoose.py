"""A real shop through a running embedded Tidecast: every click is accounted for, every row is what the files say."""

from __future__ import annotations

import json
import random
import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

import pytest

from features.columns import Event
from features.engine import ScoreFeatures
from features.oracle import oracle_user_summary
from features.oracle_products import product_values
from features.products import ProductFeatures
from features.summary import product_summary, user_summary
from models.buckets import kept_buckets
from schemas.internal import ActivityRow
from schemas.outputs import PurchasePrediction, decode_dead_letter, decode_prediction
from streams.kafka import read_to_end
from streams.records import CLICKSTREAM, DEADLETTERS, ORDERS, PREDICTIONS, Record
from streams.settings import DemandSettings
from streams.topologies.series import Series
from tests.real.harness import wait_until
from tests.realdata import files
from tests.realdata.running import Running, alive, running, tidecast

pytestmark = [pytest.mark.realdata, pytest.mark.timeout(1_200)]

SAMPLE = 200
ORACLE = 2_000
"""About so many vectors are recomputed by brute force."""
DAY_MS = 86_400_000
EXACT = 1e-9
TO: list[str] = []
"""Further arguments of the replay: ``["--to", "2014-04-08"]`` makes it a short one."""


def test_every_click_is_accounted_for_and_every_row_is_right(data: Path, sources: Path, tmp_path: Path) -> None:
    """Clicks read = predictions + dead letters + duplicates + filtered; rows equal brute force; SIGTERM ends it all."""
    folder = tmp_path / "data"
    try:
        with running(folder, tmp_path) as run:
            started = time.monotonic()
            told = _replay(run, sources, tmp_path)
            replayed = time.monotonic()
            clicks, lines = files.yoochoose_clicks(data), files.yoochoose_lines(data)
            if TO:
                clicks, lines = clicks[: told["sent"]["clickstream"]], lines[: told["sent_rows"]["orders"]]
            run.await_end(told["last_time"] + 1, {"score": 2, "demand": 2, "learn": 1}, 600)
            run.await_checkpoints(("score", "demand"))
            done = time.monotonic()
            print(f"replayed in {replayed - started:.0f} s, all applied after {done - started:.0f} s")
            lost = _account(run, told, clicks)
            kept = [click for number, click in enumerate(clicks, 1) if f"yoochoose:clicks:{number}" not in lost]
            assert len([name for name in lost if ":orders:" in name]) == 0, "orders that came late are no brute force's"
            events = files.merged(kept, lines)
            _check_sessions(run, events, told["last_time"])
            _check_products(run, events, told["last_time"])
            print(f"checked in {time.monotonic() - done:.0f} s")
            _verify(run, tmp_path, run.counts("score")["clicks_predicted"])
            children = run.descendants()
            assert len(children) >= 6, "broker, store and four roles"
            assert run.stop() == 0, run.log()
            assert [pid for pid in children if alive(pid)] == []
    finally:
        shutil.rmtree(folder, ignore_errors=True)  # more than a gigabyte


def _replay(run: Running, sources: Path, logs: Path) -> dict[str, dict[str, int]]:
    """Replay the whole source, and return the counts that the replay closes with."""
    log = logs / "replay.out"
    arguments = ["replay", str(sources / "yoochoose.toml"), "--state", str(logs / "replay.json"), *TO]
    process = tidecast(arguments, run.environment(), log)
    wait_until(lambda: process.poll() is not None, "the replay's end", deadline_s=600, tell=run.log)
    assert process.returncode == 0, log.with_suffix(".err").read_text()
    return dict(json.loads(log.read_text().splitlines()[-1]))


def _account(run: Running, told: dict[str, dict[str, int]], clicks: Sequence[Event]) -> set[str]:
    """Check the accounts of clicks, from the replay's line, the topics and the tallies; return the lost events' ids."""
    ids: Counter[str] = Counter()
    events: Counter[str] = Counter()
    letters: Counter[str] = Counter()
    lost: set[str] = set()

    def take(record: Record) -> None:
        assert record.value is not None
        if record.input.topic == DEADLETTERS:
            letter = decode_dead_letter(record.value)
            letters[letter.topic] += 1
            if letter.topic in (CLICKSTREAM, ORDERS):
                lost.add(json.loads(letter.value() or b"{}")["event_id"])
            return
        said = decode_prediction(record.value)
        ids[said.id] += 1
        if isinstance(said, PurchasePrediction):
            events[said.payload.event_id] += 1

    read_to_end(run.settings(), [PREDICTIONS, DEADLETTERS], take, timeout_s=60)
    counts = run.counts("score")
    filtered = sum(count for rule, count in told["filtered"].items() if rule.startswith("clicks."))
    duplicates = counts[f"duplicates_{CLICKSTREAM}"]
    dead = letters[CLICKSTREAM] + letters["yoochoose:clicks"]
    print(
        f"clicks read {told['rows']['clicks']} = predictions {events.total()} + dead letters {dead} + duplicates "
        f"{duplicates} + filtered {filtered}; predictions of demand {ids.total() - events.total()}"
    )
    read = told["rows"]["clicks"] if not TO else told["sent"]["clickstream"]
    assert read == events.total() + dead + duplicates + filtered
    assert events.total() == counts["clicks_predicted"]
    assert letters[CLICKSTREAM] == sum(
        counts[f"rejected_{why}"] for why in ("undecodable", "invalid", "future", "late")
    )
    assert [name for name, count in ids.items() if count > 1] == [], "an id was given twice"
    sent = {f"yoochoose:clicks:{number}" for number in range(1, len(clicks) + 1)}
    assert set(events) == sent - lost, "each click has its own prediction"
    assert max(events.values()) == 1
    return lost


def _verify(run: Running, logs: Path, predicted: int) -> None:
    """Check that `tidecast verify features` finds every vector served to be what the log says, by both ways at once.

    What columns of a product say is checked at the version of its row that was used, however old that was.
    """
    started = time.monotonic()
    command = ["verify", "features", "--json", "--by"]
    sampled: dict[str, list[str]] = {"engine": [], "oracle": ["--sample", str(ORACLE)]}
    out = {by: logs / f"verify-{by}.out" for by in sampled}
    processes = {by: tidecast([*command, by, *more], run.environment(), out[by]) for by, more in sampled.items()}
    wait_until(
        lambda: all(process.poll() is not None for process in processes.values()),
        "the verification",
        deadline_s=400,
        tell=run.log,
    )
    for by, process in processes.items():
        assert process.returncode == 0, (out[by].read_text(), out[by].with_suffix(".err").read_text())
        found = json.loads(out[by].read_text())
        assert found["accepted"] == found["examples"] == predicted
        assert found["compared"] == predicted if by == "engine" else found["compared"] > ORACLE // 2
        assert found["unverifiable"]["count"] == found["other_definition"] == 0
        print(f"{found['compared']} vectors equal the {by}'s")
    print(f"verified in {time.monotonic() - started:.0f} s")


def _check_sessions(run: Running, events: Sequence[Event], end: int) -> None:
    """Check rows of random sessions: those within memory must be there, and whatever is there must be right."""
    users = files.by_user(events)
    live = sorted(user for user, mine in users.items() if mine[-1].time >= end - ScoreFeatures.memory_ms)
    chance = random.Random(7)
    must = chance.sample(live, min(SAMPLE, len(live)))
    any_ = chance.sample(sorted(users), min(SAMPLE, len(users)))
    found = run.rows("score", [f"u:{user}" for user in dict.fromkeys([*must, *any_])])
    assert [user for user in must if f"u:{user}" not in found] == []
    for key, row in found.items():
        _same(key, user_summary(row), oracle_user_summary(users[key[2:]]))
    print(f"sessions: {len(must)} that must be there and {len(found) - len(must)} others equal brute force")


def _check_products(run: Running, events: Sequence[Event], end: int) -> None:
    """Check rows and series of random products, as `_check_sessions` does."""
    products = files.by_product(events)
    newest = {product: max(row.time for row in rows) for product, rows in products.items()}
    live = sorted(product for product, at in newest.items() if at >= end - ProductFeatures.memory_ms)
    chance = random.Random(8)
    must = chance.sample(live, min(SAMPLE, len(live)))
    any_ = chance.sample(sorted(products), min(SAMPLE, len(products)))
    asked = list(dict.fromkeys([*must, *any_]))
    found = run.rows("demand", [f"p:{product}" for product in asked])
    assert [product for product in must if f"p:{product}" not in found] == []
    for key, row in found.items():
        rows = products[key[2:]]
        # A reader may stand anywhere from just behind the newest event to long after it.
        for now in (newest[key[2:]] + 1, newest[key[2:]] + 300_000, max(end, newest[key[2:]]) + DAY_MS):
            _same(f"{key} at {now}", product_summary(row, now), product_values(rows, now, -1))
    series = run.rows("demand", [f"s:{product}" for product in asked])
    for key, row in series.items():
        _check_series(key, Series.unpack(row), products[key[2:]])
    sold = [product for product in must if any(row.kind == 5 for row in products[product])]
    assert [product for product in sold if f"s:{product}" not in series] == []
    print(
        f"products: {len(must)} that must be there and {len(found) - len(must)} others equal brute force, and so do "
        f"the daily sales of {len(series)}"
    )


def _check_series(key: str, series: Series, rows: Sequence[ActivityRow]) -> None:
    """Check that a series holds what was sold, seen and carted each day from its first sale on (within its memory)."""
    days: dict[int, list[int]] = defaultdict(lambda: [0, 0, 0])
    for row in rows:
        counted = {5: 0, 0: 1, 2: 2}.get(row.kind)
        if counted is not None:
            days[row.time // DAY_MS][counted] += row.quantity if counted == 0 else 1
    sales = [day for day, (sold, _, _) in days.items() if sold]
    if not sales:
        assert series.closed == [], f"{key}: a series without a sale"
        return
    first = series.last - len(series.closed) + 1 if series.closed else min(sales)
    closed = {first + index: bucket for index, bucket in enumerate(series.closed)}
    # A series that has not sold for so long rests: nobody counts views until its next sale.
    rest = DemandSettings().retire_after
    lives = {day for day in closed if any(0 <= day - sale <= rest for sale in sales)}
    told = {day: [bucket.quantity, bucket.views, bucket.carts] for day, bucket in closed.items()}
    assert told == {day: days.get(day, [0, 0, 0]) if day in lives else [0, 0, 0] for day in closed}, key
    still_open = {day: bucket.quantity for day, bucket in series.open.items() if bucket.sales}
    assert still_open == {day: counts[0] for day, counts in days.items() if day > series.last and counts[0]}, key
    # It begins with the first sale of all, or as far back as is kept, or anew after a rest as long as that.
    kept = kept_buckets("D")
    before = max((sale for sale in sales if sale < first), default=first)
    anew = first in sales and first - (before + rest) > kept
    assert not series.closed or first == min(sales) or len(series.closed) == kept or anew, f"{key}: it begins too late"


def _same(what: str, found: dict[str, float], expected: dict[str, float]) -> None:
    wrong = {
        name: (value, expected[name])
        for name, value in found.items()
        if abs(value - expected[name]) > EXACT * max(1.0, abs(expected[name]))
    }
    assert not wrong, f"{what}: feature, (stored, brute force) {wrong}"

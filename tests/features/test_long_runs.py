"""Long histories: many users and weeks, real clicks; and that installations can ship what was compiled."""

from __future__ import annotations

import csv
import gzip
import os
import random
import subprocess
import sys
from collections import defaultdict
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from features import columns as columns_module
from features import hashing, kernel, product_kernel, product_rows, rows
from features.columns import Event
from features.engine import ScoreFeatures, warm_up
from features.layout import COLUMN
from features.oracle import UserOracle, oracle_user_summary
from features.sets import DAY, DISTINCT_LIMIT, HOUR, MINUTE
from features.summary import user_summary
from tests.features.strategies import START, columns
from tests.features.test_engine import assert_same, loaded

DATA = Path(os.environ.get("TIDECAST_DATA", Path(__file__).parents[3] / "shared" / "data"))


def busy_history(seed: int, events: int, span_ms: int) -> list[Event]:
    """Events of one busy user: visits of a few products each, 5% late, 1% again, returns of what was bought."""
    draw = random.Random(seed)
    stamps = sorted(START + draw.randrange(span_ms) for _ in range(events // 8))
    history: list[Event] = []
    bought: list[int] = []
    for visit, start in enumerate(stamps):
        time = start
        for _ in range(draw.randint(1, 15)):
            time += draw.randrange(2 * MINUTE)
            kind = draw.choices(range(8), (80, 5, 8, 3, 3, 6, 2, 1))[0]
            late = draw.randrange(10 * MINUTE) if draw.random() < 0.05 else 0
            undo = draw.choice(bought) if kind > 5 and bought else 0
            if kind == 5:
                bought.append(time - late)
            product = f"p{draw.randrange(40)}" if kind != 1 else None
            session = f"s{visit}" if visit % 3 else None
            named = draw.choice((None, "a", "b", "c", f"{draw.randrange(20)}"))
            value = draw.randrange(9000)
            history.append(Event("u1", kind, time - late, product, session, 1, value, 100, undo, category=named))
            if draw.random() < 0.01:
                history.append(history[-1])
    return history


@pytest.mark.parametrize(("seed", "span_ms"), [(1, HOUR), (2, DAY), (3, 45 * DAY)])
def test_busy_users_are_oracle(seed: int, span_ms: int) -> None:
    """Hundreds of events of one user, over an hour, a day or weeks, match the oracle at every event."""
    history = busy_history(seed, 240, span_ms)
    oracle = UserOracle()
    for event, found in zip(history, loaded(history).apply(columns(history)), strict=True):
        assert_same(found, oracle.vector(event, []))


@pytest.mark.parametrize("seed", range(6))
def test_sessions_of_many_products_are_oracle(seed: int) -> None:
    """More products than a session counts, seen again and again and in disorder, match the oracle at every event."""
    draw = random.Random(seed)
    history = [
        Event("u1", draw.choice((0, 0, 2)), START + i * MINUTE - late * MINUTE, f"p{draw.randrange(60)}", "s")
        for i in range(150)
        for late in [draw.randrange(12) if draw.random() < 0.2 else 0]
    ]
    oracle = UserOracle()
    seen = set()
    for event, found in zip(history, loaded(history).apply(columns(history)), strict=True):
        assert_same(found, oracle.vector(event, []))
        seen.add((found[COLUMN["session_distinct_products"]], found[COLUMN["session_product_seen"]]))
    assert {(DISTINCT_LIMIT, 0.0), (DISTINCT_LIMIT, 1.0)} <= seen


def test_warm_up_compiles_what_is_used() -> None:
    """After `warm_up` every kernel is compiled once, for the types that the engine passes, and for no others later."""
    warm_up()
    history = busy_history(4, 60, DAY)
    features = loaded(history)
    features.apply(columns(history))
    features.load_users(features.drain_users())
    modules = (columns_module, hashing, kernel, product_kernel, product_rows, rows)
    found = {
        name: len(value.signatures)
        for module in modules
        for name, value in vars(module).items()
        if value.__class__.__name__ == "CPUDispatcher" and getattr(value._cache, "_cache_file", None) is not None
    }
    assert len(found) >= 8
    assert set(found.values()) == {1}


def test_compiled_kernels_come_from_the_cache() -> None:
    """A second process compiles nothing: it loads every kernel from disk."""
    warm_up()
    script = (
        "from features.engine import warm_up; from features import kernel, rows; warm_up();"
        "used = (kernel.apply_events, rows.pack_users, rows.unpack_users);"
        "print(sum(sum(one.stats.cache_misses.values()) for one in used))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0"


@pytest.mark.realdata
def test_real_sessions_are_oracle() -> None:
    """Of real clicks and purchases, cut into odd batches, 200 users' vectors and stored rows equal the oracle's."""
    place = DATA / "yoochoose_clicks.csv.gz"
    if not place.exists():
        pytest.skip(f"{place} is missing; point TIDECAST_DATA at the data")
    events = real_events()
    chosen = set(random.Random(5).sample(sorted({event.user for event in events}), 200))
    features = ScoreFeatures()
    store: dict[str, bytes] = {}
    oracles: defaultdict[str, UserOracle] = defaultdict(UserOracle)
    for start in range(0, len(events), 997):
        part = events[start : start + 997]
        features.load_users({user: store.get(user) for user in features.missing_users([e.user for e in part])})
        vectors = loaded(part, features).apply(columns(part))
        for event, found in zip(part, vectors, strict=True):
            if event.user in chosen:
                assert_same(found, oracles[event.user].vector(event, []))
        store |= features.drain_users()
        features.evict(2_000, 2_000)
    for user in sorted(chosen):
        expected = oracle_user_summary([event for event in events if event.user == user])
        assert user_summary(store[user]) == pytest.approx(expected, rel=1e-9)
    assert np.mean([len(row) for row in store.values()]) < 100


def real_events() -> list[Event]:
    """Return April's clicks and purchases in time order; the session is the user."""
    events: list[Event] = []
    for name, kind in (("yoochoose_clicks.csv.gz", 0), ("yoochoose_buys.csv.gz", 5)):
        with gzip.open(DATA / name, "rt") as lines:
            for row in csv.DictReader(lines):
                if row["timestamp"] < "2014-05":
                    time = round(datetime.fromisoformat(row["timestamp"]).timestamp() * 1000)
                    value = int(row.get("price") or 0) * int(row.get("quantity") or 0)
                    events.append(Event(row["session_id"], kind, time, row["item_id"], row["session_id"], 1, value))
    return sorted(events, key=lambda event: event.time)

"""Events per CPU-second of the feature engine alone: ``python -m benchmarks.features [events] [users]``.

Zipf users and products, sessions, 3% late; rows are loaded when first touched and drained every 20 batches, as the
score stage does. Prints one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from typing import Any

import numpy as np

from features.columns import EventColumns
from features.engine import ScoreFeatures, warm_up
from features.hashing import visitors
from features.products import ProductFeatures

BATCH = 1_000
DRAIN_EVERY = 20
CATEGORIES = 200
START = 1_700_000_000_000


def make(events: int, users: int, products: int, seed: int = 7) -> list[EventColumns]:
    """Return batches of `BATCH` events over about four days, as lists, as the stage builds them."""
    draw = np.random.default_rng(seed)
    shares = 1 / np.arange(1, users + 1)
    user = draw.choice(users, events, p=shares / shares.sum())
    shares = 1 / np.arange(1, products + 1)
    product = draw.choice(products, events, p=shares / shares.sum())
    stamps = START + np.sort(draw.integers(0, 4 * 86_400_000, events))
    stamps -= np.where(draw.random(events) < 0.03, draw.integers(0, 600_000, events), 0)
    kind = draw.choice([0, 1, 2, 3, 4, 5], events, p=[0.8, 0.05, 0.08, 0.02, 0.02, 0.03])
    price = draw.integers(100, 100_000, events)
    batches = []
    for first in range(0, events, BATCH):
        part = slice(first, first + BATCH)
        batches.append(
            EventColumns(
                [f"user-{i:07d}" for i in user[part]],
                kind[part].tolist(),
                stamps[part].tolist(),
                [f"product-{i:05d}" for i in product[part]],
                [f"session-{u:07d}-{t // 3_600_000}" for u, t in zip(user[part], stamps[part], strict=True)],
                [1] * len(kind[part]),
                np.where(kind[part] == 5, price[part], 0).tolist(),
                price[part].tolist(),
                [0] * len(kind[part]),
                ["DE"] * len(kind[part]),
                ["web"] * len(kind[part]),
                price[part].tolist(),
                [-1] * len(kind[part]),
                [9] * len(kind[part]),
                [0.0] * len(kind[part]),
                [f"category-{i % CATEGORIES}" for i in product[part]],
            )
        )
    return batches


def run(events: int, users: int) -> dict[str, Any]:
    """Run once; return events per CPU-second, microseconds by part, and bytes per user."""
    warm_up()
    batches = make(events, users, 10_000)
    source, sections, features = ProductFeatures(), ProductFeatures("category"), ScoreFeatures()
    store: dict[str, bytes] = {}
    spent = dict.fromkeys(("load", "apply", "drain"), 0.0)
    for number, batch in enumerate(batches):
        new = source.missing(dict.fromkeys(filter(None, batch.product)))
        source.load_all(dict.fromkeys(new))
        source.apply(
            [p or "" for p in batch.product],
            batch.kind,
            batch.time,
            batch.price_minor,
            visitors(batch.user),
            (0, number),
        )
        rows = source.drain()
        sections.load_all(dict.fromkeys(sections.missing(filter(None, batch.category))))
        named = [c or "" for c in batch.category]
        sections.apply(named, batch.kind, batch.time, batch.price_minor, [0] * len(batch), (0, number))
        others = sections.drain()

        begin = time.process_time()
        features.load_users({user: store.get(user) for user in features.missing_users(batch.user)})
        features.load_products(rows)
        features.load_categories(others)
        loaded = time.process_time()
        features.apply(batch)
        applied = time.process_time()
        if number % DRAIN_EVERY == DRAIN_EVERY - 1:
            store |= features.drain_users()
        spent["load"] += loaded - begin
        spent["apply"] += applied - loaded
        spent["drain"] += time.process_time() - applied
    store |= features.drain_users()
    return {
        "events": events,
        "users": features.users,
        "events_per_cpu_second": round(events / (spent["apply"] + spent["drain"])),
        "microseconds_per_event": {part: round(1e6 * seconds / events, 3) for part, seconds in spent.items()},
        "packed_bytes_per_user": round(sum(map(len, store.values())) / len(store)),
        "memory_bytes_per_user": round(features.memory_bytes / features.users),
    }


def main() -> None:
    """Run once and print what was found."""
    events = int(sys.argv[1]) if len(sys.argv) > 1 else 400_000
    users = int(sys.argv[2]) if len(sys.argv) > 2 else 100_000
    print(json.dumps(run(events, users)))


if __name__ == "__main__":
    main()

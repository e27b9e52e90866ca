"""`python -m benchmarks.memory`: bytes per user and per product, in Redis and in the worker's process.

Events of Zipf users on Zipf products over thirty days go through the feature engines; what changed is written to a
Redis of its own by the same store, under the same keys and with the same lists of expiry as in production. Redis' own
count of used memory, the rows' packed size, and the process's resident memory are divided by the users and products
touched.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
import redis
from rich.progress import track

from benchmarks.workload import CATEGORIES, START_MS, zipf
from features.columns import EventColumns
from features.engine import ScoreFeatures, warm_up
from features.hashing import visitors
from features.products import ProductFeatures
from streams.runtime.checkpoint import Checkpoint
from streams.settings import Settings
from streams.store import RedisStore, last_touched

_DAYS_MS = 30 * 86_400_000
_CHUNK = 5_000
_ROWS = 10_000
_NOTED = Path(__file__).parent / "memory.json"


def resident() -> int:
    """Return this process's resident memory in bytes."""
    return int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")


class Filled:
    """A store's task that is written row by row."""

    def __init__(self, store: RedisStore, name: str) -> None:
        self._store, self._name = store, name
        self._header: bytes | None = None
        self._number = 0
        self.packed: dict[str, int] = {}
        self._listed: dict[str, int] = {}
        # One object a day: a million of them would count as the worker's.
        self._days: dict[int, int] = {}

    def write(self, rows: dict[str, bytes]) -> None:
        """Write a checkpoint of these rows."""
        self._number += 1
        header = str(self._number).encode()
        touched: dict[int, list[str]] = {}
        for key, row in rows.items():
            day = last_touched(row) // 86_400_000
            day = self._days.setdefault(day, day)
            if self._listed.get(key) != day:
                self._listed[key] = day
                touched.setdefault(day, []).append(key)
        self._store.checkpoint(self._name, Checkpoint(self._header, header, dict(rows), touched, {}))
        self._header = header
        self.packed.update((key, len(row)) for key, row in rows.items())

    def notes(self) -> int:
        """Return the bytes of this measurement's own notes."""
        return sys.getsizeof(self.packed) + sys.getsizeof(self._listed) + sum(map(sys.getsizeof, self.packed))


def main() -> None:
    """Fill, measure, print a table and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--products", type=int, default=100_000)
    parser.add_argument("--events", type=int, default=5_000_000)
    parser.add_argument("--exponent", type=float, default=0.8, help="of Zipf's law, for users")
    parser.add_argument("--cache", type=int, default=Settings().runtime.cache_max_rows, help="rows kept in the process")
    parser.add_argument("--save", action="store_true", help="note it in benchmarks/memory.json")
    arguments = parser.parse_args()
    from tests.real.servers import RedisServer

    with tempfile.TemporaryDirectory() as folder:
        server = RedisServer(Path(folder)).start()
        try:
            told = _fill(RedisStore.connect(Settings(redis={"url": server.url})), server.client(), arguments)  # type: ignore[arg-type]
        finally:
            server.stop()
    for name, value in told.items():
        sys.stderr.write(f"{name:<32} {value:>14,.1f}\n")
    sys.stdout.write(json.dumps(told) + "\n")
    if arguments.save:
        noted = json.loads(_NOTED.read_text(encoding="utf-8")) if _NOTED.exists() else {}
        noted[f"{arguments.users:,} users, {arguments.products:,} products"] = told
        _NOTED.write_text(json.dumps(noted, indent=2) + "\n", encoding="utf-8")


def _fill(store: RedisStore, client: redis.Redis, arguments: argparse.Namespace) -> dict[str, float]:
    chance = np.random.default_rng(1)
    count = arguments.events
    users = zipf(chance, arguments.users, count, arguments.exponent)
    products = zipf(chance, arguments.products, count)
    kinds = np.where(chance.random(count) < 0.9, 0, 2)
    times = np.linspace(START_MS, START_MS + _DAYS_MS, count).astype(np.int64)
    scored, sold = ScoreFeatures(), ProductFeatures()
    # What compiled kernels and their libraries take is the process's, whatever the number of users.
    warm_up()
    gc.collect()
    before, before_redis = resident(), client.info("memory")["used_memory"]
    task = Filled(store, "score.memory-0")
    for start in track(range(0, count, _CHUNK), description="users", console=_console()):
        part = slice(start, start + _CHUNK)
        columns = EventColumns()
        taken = (column[part].tolist() for column in (users, kinds, times, products))
        for user, kind, time, product in zip(*taken, strict=True):
            columns.append(
                f"u{user}",
                kind,
                time,
                f"p{product}",
                price_minor=999,
                list_minor=999,
                stock=9,
                category=f"c{product % CATEGORIES}",
            )
        wanted = scored.missing_users(columns.user)
        found = store.read("score.memory-0", [f"u:{user}" for user in wanted])[1]
        scored.load_users(dict(zip(wanted, found, strict=True)))
        scored.load_products(dict.fromkeys(scored.missing_products(columns.product)))
        scored.load_categories(dict.fromkeys(scored.missing_categories(columns.category)))
        scored.apply(columns)
        if scored.dirty_users() > _ROWS:
            task.write({f"u:{user}": row for user, row in scored.drain_users().items()})
            scored.evict(arguments.cache, arguments.cache)
    task.write({f"u:{user}": row for user, row in scored.drain_users().items()})
    process = resident() - before - task.notes()
    used = client.info("memory")["used_memory"] - before_redis
    touched = len(task.packed)
    told = {
        "users touched": float(touched),
        "redis bytes per user": used / touched,
        "packed bytes per user": sum(task.packed.values()) / touched,
        "users in the process": float(scored.users),
        "process bytes": float(process),
        "of them rows and tiles": float(scored.memory_bytes),
        "process bytes per touched user": process / touched,
        "process bytes per cached user": process / max(scored.users, 1),
    }
    before_redis = client.info("memory")["used_memory"]
    task = Filled(store, "demand.memory-0")
    for start in track(range(0, count, _CHUNK), description="products", console=_console()):
        part = slice(start, start + _CHUNK)
        names = [f"p{product}" for product in products[part].tolist()]
        sold.load_all(dict.fromkeys(sold.missing(names)))
        ones = np.ones(len(names), np.int64)
        people = visitors([f"u{user}" for user in users[part].tolist()])
        sold.apply(names, kinds[part], times[part], 999 * ones, people, version=(0, start))
    drained = list(sold.drain().items())
    for start in range(0, len(drained), _ROWS):
        task.write({f"p:{product}": row for product, row in drained[start : start + _ROWS]})
    used = client.info("memory")["used_memory"] - before_redis
    told["products touched"] = float(len(task.packed))
    told["redis bytes per product"] = used / len(task.packed)
    told["packed bytes per product"] = sum(task.packed.values()) / len(task.packed)
    return told


def _console() -> object:
    from rich.console import Console

    return Console(stderr=True)


if __name__ == "__main__":
    main()

"""`python -m benchmarks.plan`: what a shop needs, by a model of measured costs; `--page` writes docs/scaling.md.

The model is plain: CPU by the event, memory by the user and the product. Its figures are those of `results.json` (by
`make bench`) and `memory.json` (by `python -m benchmarks.memory`), and the page shows where it was checked.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import ceil, inf
from pathlib import Path
from typing import Any

from benchmarks.report import number, row, rows
from streams.settings import Settings

_HERE = Path(__file__).parent
PAGE = _HERE.parent / "docs" / "scaling.md"
_DAY_S = 86_400
_MOST = 1e15
_MB = 1e6
_PROCESS_BASE = 300 * _MB
"""Python, its libraries and the compiled kernels."""


@dataclass(frozen=True, slots=True)
class Costs:
    """What one event, user, product costs: `rate` in events per CPU-second of a worker, `store_us` in CPU-microseconds
    of Redis per event, bytes of Redis and of the worker's process, seconds to the first prediction after a kill.
    """

    rate: float
    store_us: float
    user: float
    product: float
    cached_user: float
    restart_s: float

    @classmethod
    def of(cls, results: Mapping[str, Any], memory: Mapping[str, float]) -> Costs:
        """Return the medians of a benchmark's results and of a measurement of memory."""
        medians = {one["name"]: one["median"] for one in results["measurements"]}
        return cls(
            rate=medians["score/tidecast"],
            store_us=medians["score/redis"],
            user=memory["redis bytes per user"],
            product=memory["redis bytes per product"],
            cached_user=memory["process bytes per cached user"],
            restart_s=medians["restart/first"],
        )


@dataclass(frozen=True, slots=True)
class Shop:
    """Clicks and orders a day, users and products within the features' memory (30 days), `peak` over the mean rate."""

    events_per_day: float
    users: float
    products: float
    peak: float = 3.0


@dataclass(frozen=True, slots=True)
class Limits:
    """How full things may be: share of a core that a worker or Redis may use at peak, bytes of one Redis shard, rows
    that a task keeps in memory, and how many tasks a worker should be able to lose or gain (partitions a worker).
    """

    load: float = 0.5
    shard_bytes: float = 16e9
    cache_rows: int = Settings().runtime.cache_max_rows
    tasks: int = 4


@dataclass(frozen=True, slots=True)
class Plan:
    """What it takes: events a second at peak, score workers of one core each, partitions, bytes and shards of Redis,
    bytes of a worker's process when its caches are full.
    """

    peak_rate: float
    workers: int
    partitions: int
    redis_bytes: float
    shards: int
    worker_bytes: float


def plan(shop: Shop, costs: Costs, limits: Limits = Limits()) -> Plan:
    """Return what `shop` needs.

    >>> costs = Costs(rate=30_000, store_us=1.0, user=300, product=400, cached_user=4_000, restart_s=3)
    >>> needed = plan(Shop(events_per_day=1e9, users=50e6, products=1e6), costs)
    >>> needed.workers, needed.partitions, needed.shards
    (3, 12, 2)
    """
    peak_rate = shop.events_per_day / _DAY_S * shop.peak
    workers = max(1, ceil(peak_rate / (costs.rate * limits.load)))
    redis_bytes = shop.users * costs.user + shop.products * costs.product
    by_memory = ceil(redis_bytes * 1.5 / limits.shard_bytes)
    by_cpu = ceil(peak_rate * costs.store_us / 1e6 / limits.load)
    shards = max(1, by_memory, by_cpu)
    # A task's rows lie on one shard, so fewer tasks than shards would leave some of them empty.
    partitions = max(workers * limits.tasks, shards)
    # What a task keeps is no more than its share of the users.
    cached = min(limits.cache_rows, shop.users / partitions) * ceil(partitions / workers)
    return Plan(
        peak_rate,
        workers,
        partitions,
        redis_bytes,
        shards,
        _PROCESS_BASE + cached * costs.cached_user,
    )


EXAMPLES = {
    "a million events a day": Shop(1e6, 200e3, 20e3),
    "a hundred million": Shop(100e6, 10e6, 500e3),
    "a billion": Shop(1e9, 50e6, 2e6),
}

_PAGE = """\
# Scaling

Written by `python -m benchmarks.plan --page` from what was measured: [performance.md](performance.md), and
`benchmarks/memory.json`. For a shop of your own:
`python -m benchmarks.plan --events-per-day 2e8 --users 2e7 --products 1e5`.

## The model

- **CPU.** A score worker is one process on one core. It takes {rate} events per CPU-second here, whatever the number of
  users; at peak it should be busy for {load:.0%} of the time, so that it catches up after a stop.
- **Workers and partitions.** The worker's unit is the partition of `clickstream` and `orders`. Their number cannot be
  changed later without rebuilding every feature, so begin with {tasks} a worker: growth by that factor needs no change.
  Demand has as many tasks; learn is one process whatever the size. Their CPU is not in this model.
- **Redis.** {user} bytes a user, {product} bytes a product within the last 30 days, times 1.5 for fragmentation and
  what a fork copies. A task's rows share a slot, so there are at least as many partitions as shards. Of its CPU an
  event takes {store_us} microseconds.
- **Memory of a worker.** {base:.0f} MB, and {cached} bytes a user in its cache, `runtime.cache_max_rows` ({cache:,}) a
  task at most: a smaller cache costs reads of Redis, nothing else. From 1,024 users on a task reserves 1 GB of address
  space, most of which it never touches: leave `vm.overcommit_memory` at 0 or 1, and RLIMIT_AS alone.
- **Restart.** {restart} s from the start of a killed worker's successor to its first prediction, of what was not yet
  written (`runtime.checkpoint_max_rows`). Without Redis' rows a task reads 30 days of its partition again, at no less
  than the rate at which it scores: with n events in it, n / {rate} s.

## Three shops

Mean rate times {peak:.0f} at peak, {shard:.0f} GB a shard.

{shops}
On paper, for nobody ran the larger ones here. What speaks for it: tasks share nothing, so two workers cost what one
does (below); and the rate does not fall with the number of users.

## Checked

{checks}
"""


def page(results: Mapping[str, Any], memory: Mapping[str, Mapping[str, float]]) -> str:
    """Return docs/scaling.md."""
    largest = max(memory.values(), key=lambda one: one["users touched"])
    costs, limits = Costs.of(results, largest), Limits()
    shops = rows(("shop", "users, products", "events/s at peak", "workers, partitions", "Redis", "a worker's memory"))
    for name, shop in EXAMPLES.items():
        needed = plan(shop, costs, limits)
        shops += row(
            name,
            f"{shop.users:,.0f}, {shop.products:,.0f}",
            f"{needed.peak_rate:,.0f}",
            f"{needed.workers}, {needed.partitions}",
            f"{needed.redis_bytes / 1e9:,.1f} GB in {needed.shards}",
            f"up to {needed.worker_bytes / 1e9:,.1f} GB",
        )
    return _PAGE.format(
        rate=number(costs.rate),
        load=limits.load,
        tasks=limits.tasks,
        user=number(costs.user),
        product=number(costs.product),
        store_us=number(costs.store_us),
        base=_PROCESS_BASE / _MB,
        cached=number(costs.cached_user),
        cache=limits.cache_rows,
        restart=number(costs.restart_s),
        peak=3.0,
        shard=limits.shard_bytes / 1e9,
        shops=shops,
        checks=_checks(results, memory, costs),
    )


def _checks(results: Mapping[str, Any], memory: Mapping[str, Mapping[str, float]], costs: Costs) -> str:
    """Return what the model says of each thing measured besides, and what was measured."""
    checked = rows(("measured", "by the model", "measured", "measured / model"))

    def check(what: str, said: float, found: float, unit: str) -> str:
        return row(what, f"{number(said)} {unit}", f"{number(found)} {unit}", f"{found / said:.2f}")

    for one in results["measurements"]:
        if one["name"].startswith(("users/", "workers/")):
            checked += check(f"`{one['name']}`", costs.rate, one["median"], "events per CPU-second")
    for name, found in memory.items():
        users, products = found["users touched"], found["products touched"]
        said = users * costs.user + products * costs.product
        real = users * found["redis bytes per user"] + products * found["redis bytes per product"]
        checked += check(f"Redis, {name}", said / _MB, real / _MB, "MB")
        cached = found["users in the process"]
        real = found["process bytes per cached user"]
        checked += check(f"process, {name}", cached * costs.cached_user / _MB, cached * real / _MB, "MB")
    return checked


def write_page() -> None:
    """Make docs/scaling.md of the figures that are kept."""
    results = json.loads((_HERE / "results.json").read_text(encoding="utf-8"))
    memory = json.loads((_HERE / "memory.json").read_text(encoding="utf-8"))
    PAGE.write_text(page(results, memory), encoding="utf-8")


def main() -> None:
    """Print what a shop needs, or write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--events-per-day", type=_number(0), default=1e9, help="clicks and orders (%(default)g)")
    parser.add_argument("--users", type=_number(0), default=50e6, help="within 30 days (%(default)g)")
    parser.add_argument("--products", type=_number(0), default=2e6, help="within 30 days (%(default)g)")
    parser.add_argument("--peak", type=_number(1), default=3.0, help="the busiest hour over the mean (%(default)g)")
    parser.add_argument("--page", action="store_true", help="write docs/scaling.md instead")
    arguments = parser.parse_args()
    if arguments.page:
        write_page()
        return
    results = json.loads((_HERE / "results.json").read_text(encoding="utf-8"))
    memory = json.loads((_HERE / "memory.json").read_text(encoding="utf-8"))
    largest = max(memory.values(), key=lambda one: one["users touched"])
    shop = Shop(arguments.events_per_day, arguments.users, arguments.products, arguments.peak)
    needed = plan(shop, Costs.of(results, largest))
    print(f"{needed.peak_rate:,.0f} events a second at peak")
    print(f"score workers of one core: {needed.workers:,}, each of up to {needed.worker_bytes / 1e9:,.1f} GB")
    print(f"partitions of clickstream and of orders: {needed.partitions:,}")
    print(f"Redis shards: {needed.shards:,}, with {needed.redis_bytes / 1e9:,.1f} GB of rows in all")


def _number(least: float) -> Callable[[str], float]:
    """Return what reads an argument: a number from `least` to 1e15, beyond which nothing was meant."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = -inf
        if not least <= value <= _MOST:
            raise argparse.ArgumentTypeError(f"{text!r}: give a number from {least:g} to {_MOST:g}")
        return value

    return read


if __name__ == "__main__":
    main()

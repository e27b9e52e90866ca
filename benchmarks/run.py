"""The complete score stage beside the bare loop and the same job in Faust, Quix Streams and bytewax, in one run.

Events per CPU-second (user + system, all threads) of each process from its first event to its last, on the same
preloaded topics; the Redis server's own CPU is shown beside it. Contenders take turns, in the other direction every
second time; medians and ratios count. A peer counts only if its plain pass-through (consume, decode, produce) comes
near to what was measured of its library by itself, so that nobody is beaten who was held back.

Runs on real Kafka and Redis natively (Java and redis-server), else on the embedded servers. Peers are installed from
pins into environments of their own, in .cache/bench.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from benchmarks import plan, windows
from benchmarks.contenders import ROOT, Rates, bare, latency, peer, tidecast, variant
from benchmarks.peers.environments import PEERS, python_of
from benchmarks.report import UNITS, VARIED_USERS, describe, number, page, save, table
from benchmarks.restart import restart
from benchmarks.servers import Servers, servers
from benchmarks.workload import Workload, create_topics, preload, write_catalog
from streams.settings import Settings
from streams.topics import create

_LATENCY_S = 15
_WINDOW_EVENTS = 300_000
_KEPT = ROOT / "benchmarks" / "results.json"


def main() -> None:
    """Measure, print a table, write the results and the page made of them."""
    asked = _arguments()
    # Before the measurement, not after it: a folder that cannot be made costs nothing then.
    for file in (asked.out, asked.page):
        file.parent.mkdir(parents=True, exist_ok=True)
    work = Workload(events=asked.events)
    events = dict.fromkeys(asked.peers, min(asked.peer_events, work.events))
    if "faust" in events:
        events["faust"] = min(asked.faust_events, work.events)
    for name in asked.peers:
        python_of(name)
    rates: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as running:
        sys.stderr.write(f"on {running.kind}\n")
        # The broker's own compiler takes a first turn's worth of CPU beside whoever comes first.
        _prepare(running, "bench-warm-", work, {})
        for turn in (tidecast, bare):
            turn(running, "bench-warm-", work)
        for repeat in range(asked.repeats):
            prefix = f"bench{repeat}-"
            _prepare(running, prefix, work, events)
            turns = _turns(running, prefix, work, events)
            for turn in reversed(turns) if repeat % 2 else turns:
                _note(rates, turn(), f"repeat {repeat + 1} of {asked.repeats}")
        if not asked.quick:
            _vary(running, work, rates, min(3, asked.repeats))
        result = describe(rates, work, events, running.kind)
    save(asked.out, result)
    asked.page.write_text(page(result), encoding="utf-8")
    if asked.out == _KEPT and not asked.quick:
        plan.write_page()
    sys.stdout.write(table(result))


def _note(rates: dict[str, list[float]], found: Rates, when: str) -> None:
    for name, rate in found.items():
        rates.setdefault(name, []).append(rate)
        sys.stderr.write(f"{when}: {name} {number(rate)} {UNITS[name]}\n")


def _vary(running: Servers, work: Workload, rates: dict[str, list[float]], repeats: int) -> None:
    """Measure the score role alone: over other numbers of users, workers and windows, its latency, and its restart."""
    kinds = {f"users/{users}": (replace(work, users=users), 1) for users in VARIED_USERS}
    # Two workers share what is left when both have their task.
    kinds["workers/2"] = (replace(work, events=3 * work.events, partitions=2), 2)
    for name, (other, workers) in kinds.items():
        for repeat in range(repeats):
            prefix = f"bench-{name.replace('/', '-')}-{repeat}-"
            _prepare(running, prefix, other, {})
            _note(rates, variant(name, running, prefix, other, workers), f"repeat {repeat + 1} of {repeats}")
    for repeat in range(repeats):
        prefix = f"bench-latency{repeat}-"
        create(_settings(running, prefix, 1))
        write_catalog(running.bootstrap, prefix, work)
        half = int(statistics.median(rates["score/wall"]) / 2)
        _note(rates, latency(running, prefix, half, _LATENCY_S), f"repeat {repeat + 1} of {repeats}")
    with tempfile.TemporaryDirectory() as kernels:
        for repeat in range(repeats):
            found = windows.costs(Path(kernels), _WINDOW_EVENTS, backwards=bool(repeat % 2))
            _note(rates, {name: found[name] for name in UNITS if name in found}, f"repeat {repeat + 1} of {repeats}")
    for repeat in range(repeats):
        _note(rates, restart(running, f"bench-restart{repeat}-").rates(), f"repeat {repeat + 1} of {repeats}")


def _settings(running: Servers, prefix: str, partitions: int) -> Settings:
    return Settings(kafka={"bootstrap_servers": running.bootstrap, "prefix": prefix, "partitions": partitions})  # type: ignore[arg-type]


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="make bench ARGS='...'", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )

    def number(option: str, default: int, text: str) -> None:
        parser.add_argument(option, type=_count, metavar="N", default=default, help=f"{text} (%(default)s)")

    number("--events", 200_000, "clicks for Tidecast and the bare loop")
    number("--repeats", 5, "turns of every contender")
    parser.add_argument(
        "--peers", nargs="*", choices=sorted(PEERS), default=list(PEERS), help="which peers to run (all of them)"
    )
    number("--peer-events", 50_000, "clicks for Quix Streams and bytewax")
    number("--faust-events", 5_000, "clicks for Faust")
    parser.add_argument(
        "--quick", action="store_true", help="no other numbers of users, no second worker, no latency, no restart"
    )
    parser.add_argument("--out", type=Path, metavar="FILE", default=_KEPT, help="where the data go")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", default=ROOT / "docs" / "performance.md", help="where the page goes"
    )
    return parser.parse_args()


def _count(text: str) -> int:
    """Return a number from 1 on. Raises ArgumentTypeError."""
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"must be a number from 1 on, not {text!r}")
    return int(text)


def _prepare(running: Servers, prefix: str, work: Workload, events: dict[str, int]) -> None:
    """Create the topics of a repeat and write the work to them; peers read the first clicks of the same."""
    create(_settings(running, prefix, work.partitions))
    create_topics(running.bootstrap, prefix, ("bare", "clicks", *events))
    preload(running.bootstrap, prefix, work, max((0, *events.values())))


def _turns(running: Servers, prefix: str, work: Workload, events: dict[str, int]) -> list[Callable[[], Rates]]:
    """Return the contenders of a repeat."""

    def of(name: str, job: str) -> Callable[[], Rates]:
        return lambda: peer(name, job, running, prefix, events[name])

    return [
        lambda: tidecast(running, prefix, work),
        lambda: bare(running, prefix, work),
        *(of(name, job) for name in events for job in ("pass", "score")),
    ]

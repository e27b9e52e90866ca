"""What a run found, as data, as lines for the terminal and as a page: `describe`, `table`, `page`.

The page is made of the data alone, so that `benchmarks/results.json` and `docs/performance.md` cannot differ.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.peers.environments import PEERS, pins
from benchmarks.workload import Workload

Result = dict[str, Any]

_RATE = "events per CPU-second"
VARIED_USERS = (1_000, 1_000_000)
"""Numbers of users that the score role is measured with besides."""
UNITS = {
    "score/tidecast": _RATE,
    "score/bare": _RATE,
    **{f"{job}/{peer}": _RATE for peer in PEERS for job in ("score", "pass")},
    "score/wall": "events per second",
    "score/redis": "CPU-microseconds per event",
    "score/answers": "predictions per click",
    **{f"users/{users}": _RATE for users in VARIED_USERS},
    "workers/2": _RATE,
    "windows/first": "CPU-microseconds per event",
    "windows/tenth": "CPU-microseconds per event",
    "latency/rate": "events per second",
    "latency/p50": "ms",
    "latency/p99": "ms",
    "restart/first": "s",
    "restart/imports": "s",
    "restart/kernels": "s",
    "restart/rebuilding": "s",
}

ALONE = {"faust": 0.02, "quix": 0.22, "bytewax": 0.35}
"""The plain pass-through of each library over the bare loop, as measured by itself before there was a job to score."""
SHARE = 0.8
"""A peer counts if its pass-through reaches this share of that."""

TITLES = {"tidecast": "Tidecast", "faust": "Faust", "quix": "Quix Streams", "bytewax": "bytewax"}
PACKAGES = ("confluent-kafka", "numba", "numpy", "msgspec", "redis")

_INTRODUCTION = """\
# Performance

Written by `make bench` from [benchmarks/results.json](../benchmarks/results.json). Events per CPU-second: user and
system time of all threads of a process, from its first event to its last, one partition, medians of {repeats} turns.
Compare ratios: the figures themselves are this machine's.

Measured on {cpus} CPUs ({system}), {servers}, Python {python}, commit {commit}, with {events:,} clicks of up to
{users:,} users on {products:,} products. Contenders took turns within each repeat, in alternating order,
after a turn that does not count: a broker just started compiles itself beside whoever comes first.
"""

_COMPARED = """\
## What is compared

**score/tidecast** is the shipped score role, whole: exactly once by a transaction per batch, state checkpointed to
Redis, late and repeated events judged, {features} features as of each event, those of a catalog of all products among
them, a prediction per click, messages of activity and examples per batch and partition. Redis' own CPU is not in it,
but shown; **score/answers** are the predictions that a consumer of committed records finds, no two of them with the
same id.

**score/bare** is a loop over confluent-kafka that consumes 500, decodes with orjson and produces one for one: what
Kafka costs in Python before anything is done.

**score/faust, score/quix, score/bytewax** are the same job as their documentation recommends to write it, on each
library's own state and its default guarantees: {peer_features} features over the same four windows, a linear model,
an answer per click. All three share one module of plain Python for features and model, so that they differ by their
frameworks. They do less than Tidecast: at least once at best (bytewax keeps no state beyond the process by default), no
vectors as of late events, no deduplication, product counters of all time that are not kept, no examples, no activity.
Environments are pinned in `benchmarks/peers`. They run over the first clicks of the same, since they are slower.

**users/...** is score/tidecast with so many users, **workers/2** two workers on a partition each, over three times the
clicks. **latency** is from a click's append to its committed prediction, at half of score/wall, of live clicks and one
order in a hundred; broker (its JVM as Kafka's own start script sets it up), store, worker, sender and readers share the
machine.

**windows/first** is what the first window adds to an event in the feature engine alone, with the tiles and the log that
all windows share, **windows/tenth** what a tenth one adds to nine (`python -m benchmarks.windows`); each shows views
and carts.

**restart/first** is from the start of a worker's process to the first new prediction that a consumer of committed
records holds, after its predecessor of the same id was killed with SIGKILL as its unwritten rows stood at their bound
(`runtime.checkpoint_max_rows`), under 1,000 events a second; in it are Python's **imports**, loading the compiled
**kernels** from their cache, and **rebuilding** state from the log. `python -m benchmarks.restart` shows all steps.

**pass/...** is their plain pass-through: consume, decode, produce. **A peer counts** only if that reaches {share:.0%}
of the ratio to the bare loop that was measured of its library by itself: nobody is beaten who was held back here.
"""


def describe(rates: Mapping[str, Sequence[float]], work: Workload, events: Mapping[str, int], servers: str) -> Result:
    """Return all there is to say of a run: of its rates by name, and of the circumstances."""
    medians = {name: statistics.median(values) for name, values in rates.items()}
    bare = medians["score/bare"]
    return {
        "machine": {"system": platform.platform(), "cpus": os.cpu_count(), "servers": servers},
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in PACKAGES},
            **{PEERS[peer]: pins(peer)[PEERS[peer]] for peer in events},
        },
        "commit": _commit(),
        "workload": {"events": work.events, "users": work.users, "products": work.products, "peer_events": {**events}},
        "measurements": [
            {
                "name": name,
                "unit": UNITS[name],
                "repeats": [round(value, 2) for value in rates[name]],
                "median": round(medians[name], 2),
                **({"ratio_to_bare": round(medians[name] / bare, 4)} if UNITS[name] == _RATE else {}),
            }
            for name in UNITS
            if name in rates
        ],
        "peers": [judge(peer, medians) for peer in events],
    }


def judge(peer: str, medians: Mapping[str, float]) -> dict[str, Any]:
    """Return whether a peer counts, and how many times its rate Tidecast makes.

    >>> judge("quix", {"score/bare": 100.0, "score/tidecast": 30.0, "pass/quix": 18.0, "score/quix": 3.0})["counts"]
    True
    """
    passed = medians[f"pass/{peer}"] / medians["score/bare"]
    needed = SHARE * ALONE[peer]
    return {
        "name": peer,
        "pass_to_bare": round(passed, 4),
        "needed": round(needed, 4),
        "counts": passed >= needed,
        "tidecast_to_peer": round(medians["score/tidecast"] / medians[f"score/{peer}"], 2),
    }


def save(out: Path, result: Result) -> None:
    """Write the data."""
    out.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def table(result: Result) -> str:
    """Return the lines for a terminal."""
    lines = []
    for one in result["measurements"]:
        ratio = f"  {one['ratio_to_bare']:.3f} of the bare loop" if "ratio_to_bare" in one else ""
        lines.append(f"{one['name']:<16} {one['median']:>12,.1f}  {one['unit']}{ratio}")
    for peer in result["peers"]:
        lines.append(
            f"{TITLES[peer['name']]} {'counts' if peer['counts'] else 'does not count'}: its pass-through makes "
            f"{peer['pass_to_bare']:.3f} of the bare loop ({peer['needed']:.3f} is needed); "
            f"Tidecast makes {peer['tidecast_to_peer']:.1f} times its rate"
        )
    return "\n".join(lines) + "\n"


def page(result: Result) -> str:
    """Return the page in Markdown."""
    # Not at the top: the features take a second to import, and the terminal's lines do not need them.
    from benchmarks.peers.features import FEATURES
    from features.sets import SCORE_FEATURES

    turns = max(len(one["repeats"]) for one in result["measurements"])
    head = _INTRODUCTION.format(
        repeats=turns,
        commit=result["commit"],
        python=result["versions"]["python"],
        **result["machine"],
        **result["workload"],
    )
    measured = rows(("measurement", "median", "lowest to highest", "unit", "of the bare loop", "events"))
    for one in result["measurements"]:
        peer = one["name"].rpartition("/")[2]
        measured += row(
            f"`{one['name']}`",
            number(one["median"]),
            f"{number(min(one['repeats']))} to {number(max(one['repeats']))}",
            one["unit"],
            f"{one['ratio_to_bare']:.3f}" if "ratio_to_bare" in one else "",
            f"{result['workload']['peer_events'].get(peer, result['workload']['events']):,}",
        )
    judged = rows(("peer", "version", "pass-through, of the bare loop", "needed", "counts", "Tidecast, times its rate"))
    for peer in result["peers"]:
        judged += row(
            TITLES[peer["name"]],
            result["versions"][PEERS[peer["name"]]],
            f"{peer['pass_to_bare']:.3f}",
            f"{peer['needed']:.3f}",
            "yes" if peer["counts"] else "no",
            f"{peer['tidecast_to_peer']:.1f}",
        )
    compared = _COMPARED.format(features=len(SCORE_FEATURES), peer_features=len(FEATURES), share=SHARE)
    used = ", ".join(f"{name} {number}" for name, number in result["versions"].items() if name in PACKAGES)
    parts = [head, measured, "## The peers\n", *([judged] if result["peers"] else []), compared]
    return "\n".join([*parts, f"Tidecast ran with {used}.\n"])


def rows(titles: Sequence[str]) -> str:
    """Return the head of a table in Markdown."""
    return row(*titles) + row(*("---" for _ in titles))


def row(*cells: str) -> str:
    """Return a row of a table in Markdown."""
    return f"| {' | '.join(cells)} |\n"


def number(value: float) -> str:
    """Return it with as many places as a reader wants."""
    return f"{value:,.0f}" if value >= 100 else f"{value:,.1f}"


def _commit() -> str:
    """Return the commit, with a mark where files differ from it; "unknown" where there is no git."""
    command = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip() or "unknown"
    except OSError:
        return "unknown"

"""What one more window costs: ``python -m benchmarks.windows [--events N] [--repeats N]``.

The same events through the engine without sums over windows, with the four that are declared, with nine and with ten;
each window shows views and carts. Processes of their own take turns; medians of microseconds per event count.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile

DECLARED = 4
COUNTS = (0, DECLARED, 9, 10)
"""Numbers of windows measured; with 0 the declared ones are there, but nothing is summed."""
_SPANS_D = (9, 12, 15, 18, 21, 25)
"""Days that the further windows look back: between the last two that are declared."""


def main() -> None:
    """Measure each number of windows in turn and print what the declared ones and the last one cost."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.windows", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--events", type=int, metavar="N", default=300_000, help="events a turn (%(default)s)")
    parser.add_argument("--repeats", type=int, metavar="N", default=5, help="turns of each (%(default)s)")
    parser.add_argument("--windows", type=int, choices=COUNTS, help="one turn with so many, in this process")
    asked = parser.parse_args()
    if asked.windows is not None:
        _declare(asked.windows)
        print(_cost_us(asked.events))
        return
    costs: dict[int, list[float]] = {count: [] for count in COUNTS}
    # Kernels of other layouts than the declared one must not lie beside its own.
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(asked.repeats):
            for count in reversed(COUNTS) if repeat % 2 else COUNTS:
                costs[count].append(_measure(count, asked.events, f"{folder}/{count}"))
    medians = {count: statistics.median(found) for count, found in costs.items()}
    for count, found in costs.items():
        print(f"windows/{count:<8} {medians[count]:>8.2f}  us per event  ({min(found):.2f} to {max(found):.2f})")
    first = (medians[DECLARED] - medians[0]) / DECLARED
    print(f"windows/first    {first:>8.2f}  us per event and window, of the first {DECLARED}")
    print(f"windows/tenth    {medians[10] - medians[9]:>8.2f}  us per event")


def _measure(count: int, events: int, cache: str) -> float:
    command = [sys.executable, "-m", "benchmarks.windows", "--windows", str(count), "--events", str(events)]
    done = subprocess.run(
        command, env=os.environ | {"NUMBA_CACHE_DIR": cache}, capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}\n{done.stderr[-2_000:]}")
    return float(done.stdout)


def _declare(count: int) -> None:
    """Declare so many windows: before anything is imported that is laid out by them."""
    from features import sets

    days = _SPANS_D[: max(0, count - DECLARED)]
    further = tuple(sets.Window(f"{span}d", sets.DAY, span) for span in days)
    sets.USER_WINDOWS = (*sets.USER_WINDOWS[:-1], *further, sets.USER_WINDOWS[-1])  # type: ignore[assignment]
    sets.SCORE_SET += (
        *sets._user_counts("views", "view", further),
        *sets._user_counts("carts", "add_to_cart", further),
    )
    sets.SCORE_FEATURES = tuple(feature.name for feature in sets.SCORE_SET)
    if count == 0:
        from features import kernel
        from features.jit import helper

        def nothing(*_):  # type: ignore[no-untyped-def]  # compiled
            return 0

        kernel._log_windows = kernel._tile_windows = helper(nothing)


def _cost_us(events: int) -> float:
    """Return what applying an event costs, in microseconds of this process."""
    from benchmarks.features import run

    return run(events, 20_000)["microseconds_per_event"]["apply"]


if __name__ == "__main__":
    main()

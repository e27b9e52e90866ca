"""What one more window costs: ``python -m benchmarks.windows [--events N] [--repeats N]``.

The same events through the engine without windows, with one, with nine and with ten; each window shows views and carts.
Processes of their own take turns; medians count. windows/first is what the first one adds to none, with the tiles and
the log that all share; windows/tenth what the tenth one adds to nine.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

DECLARED = 4
COUNTS = (0, 1, 9, 10)
"""Numbers of windows measured; of those declared, the ones left out are not counted in tiles, summed or shown."""
_TURNS = 3
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
    parser.add_argument("--kernels", type=Path, metavar="DIR", help="where that turn keeps its compiled kernels")
    asked = parser.parse_args()
    if asked.windows is not None:
        # Kernels of another layout than the declared one must never lie where its own are looked for.
        with tempfile.TemporaryDirectory() as folder:
            os.environ["NUMBA_CACHE_DIR"] = str(asked.kernels or folder)
            _declare(asked.windows)
            print(_cost_us(asked.events))
        return
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(asked.repeats):
            for name, cost in costs(Path(folder), asked.events, backwards=bool(repeat % 2)).items():
                found.setdefault(name, []).append(cost)
    for name, values in found.items():
        middle, lowest, highest = statistics.median(values), min(values), max(values)
        print(f"{name:<16} {middle:>8.2f}  CPU-microseconds per event  ({lowest:.2f} to {highest:.2f})")


def costs(folder: Path, events: int, *, backwards: bool) -> dict[str, float]:
    """Return CPU-microseconds per event with each number of windows, and of the first ones and the tenth.

    Compiled kernels go to `folder`.
    """
    turns = reversed(COUNTS) if backwards else COUNTS
    found = {count: _measure(count, events, str(folder / str(count))) for count in turns}
    told = {f"windows/{count}": found[count] for count in COUNTS}
    return {**told, "windows/first": found[1] - found[0], "windows/tenth": found[10] - found[9]}


def _measure(count: int, events: int, kernels: str) -> float:
    command = [sys.executable, "-m", "benchmarks.windows", "--windows", str(count), "--events", str(events)]
    command += ["--kernels", kernels]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
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
    if count < DECLARED:
        spans = [window.name for window in sets.USER_WINDOWS[count:]]
        left = [f"user_{what}_{span}" for what in ("views", "carts") for span in spans]
        sets.SCORE_SET = tuple(feature for feature in sets.SCORE_SET if feature.name not in left)
    sets.SCORE_FEATURES = tuple(feature.name for feature in sets.SCORE_SET)
    if count >= DECLARED:
        return
    from features import log
    from features.jit import helper

    # Rows stay as they are; what goes over the windows goes over so many.
    log.LEVELS = count  # type: ignore[attr-defined]
    if count == 0:

        def nothing(*_):  # type: ignore[no-untyped-def]  # compiled
            return 0

        log._flush_tiles = log._advance = helper(nothing)
    from features import kernel

    kernel.LEVELS = count  # type: ignore[attr-defined]
    if count == 0:
        kernel._log_windows = kernel._tile_windows = helper(nothing)


def _cost_us(events: int) -> float:
    """Return what applying an event costs, in microseconds of this process: the least of some turns over the same."""
    from benchmarks.features import run

    return min(float(run(events, 20_000)["microseconds_per_event"]["apply"]) for _ in range(_TURNS))


if __name__ == "__main__":
    main()

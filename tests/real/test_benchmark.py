"""The README's `make bench`, in its smallest form, memory and a restart: on servers of their own, without the peers."""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.report import page
from benchmarks.restart import STEPS

pytestmark = pytest.mark.realbroker

ROOT = Path(__file__).parents[2]
BENCH = "-m benchmarks"
"""What the target runs with the environment's Python."""
KEPT = (ROOT / "benchmarks" / "results.json", ROOT / "docs" / "performance.md")


def bench(*options: str, module: str = BENCH) -> subprocess.CompletedProcess[str]:
    """Run the benchmark to its end."""
    command = [sys.executable, *module.split(), *options]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=240)


def test_the_smallest_benchmark_keeps_its_laws(tmp_path: Path) -> None:
    """Every click has its prediction, every figure is positive, and what is kept of former runs stays as it was."""
    before = [file.read_bytes() for file in KEPT]
    out, page_of_it = tmp_path / "a" / "results.json", tmp_path / "b" / "performance.md"
    small = ("--events", "20000", "--repeats", "1", "--peers", "--quick")
    done = bench(*small, "--out", str(out), "--page", str(page_of_it))
    assert done.returncode == 0, done.stderr[-3_000:]
    assert [file.read_bytes() for file in KEPT] == before
    result = json.loads(out.read_text(encoding="utf-8"))
    assert page_of_it.read_text(encoding="utf-8") == page(result)
    medians = {}
    for one in result["measurements"]:
        assert one["unit"]
        assert len(one["repeats"]) == 1
        assert one["median"] == statistics.median(one["repeats"]) > 0
        assert one["name"] in done.stdout
        medians[one["name"]] = one["median"]
    assert {"score/tidecast", "score/bare"} <= medians.keys()
    assert medians["score/answers"] == 1, "a prediction for each click, no more and no less"
    assert result["workload"]["events"] == 20_000


def test_memory_is_measured_by_user_and_product() -> None:
    """Every figure is positive; the last line is data."""
    done = bench("--users", "2000", "--products", "200", "--events", "20000", module="-m benchmarks.memory")
    assert done.returncode == 0, done.stderr[-3_000:]
    told = json.loads(done.stdout)
    assert told["users touched"] > 1_000
    assert told["redis bytes per user"] > told["packed bytes per user"] > 0


def test_a_restart_is_measured_step_by_step() -> None:
    """A worker killed with its rows at their bound predicts again; the steps add up to the time until then."""
    done = bench("--repeats", "1", module="-m benchmarks.restart")
    assert done.returncode == 0, done.stderr[-3_000:]
    told = {name: float(value) for name, value, _ in map(str.split, done.stdout.splitlines())}
    assert [*told] == [*STEPS, "first", "cpu", "restart/first"]
    assert told["imports"] > 0
    assert told["rebuilding"] > 0
    assert sum(told[name] for name in (*STEPS, "first")) == pytest.approx(told["restart/first"], abs=0.05)


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (("--events", "0"), "--events: must be a number from 1 on, not '0'"),
        (("--repeats", "many"), "--repeats: must be a number from 1 on, not 'many'"),
        (("--peers", "kafka"), "--peers: invalid choice: 'kafka'"),
        (("--fast",), "unrecognized arguments: --fast"),
    ],
)
def test_a_bad_argument_is_refused_in_one_line(options: tuple[str, ...], named: str) -> None:
    """Exit code 2 before anything is started; the last line names the option and what it takes."""
    done = bench(*options)
    assert done.returncode == 2
    assert named in done.stderr.splitlines()[-1]
    assert done.stdout == ""

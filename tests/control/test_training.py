"""One training at a time, watched to its end."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path

from streams.control.training import Training

_WAITS = "import sys, time; print('begun', flush=True); time.sleep(60)"
_GENTLE = (
    "import signal, sys, time\n"
    "signal.signal(signal.SIGTERM, lambda *_: sys.exit(print('saved', flush=True) or 0))\n"
    "print('begun', flush=True)\n"
    "time.sleep(60)\n"
)


def _training(folder: Path, code: str) -> Training:
    return Training([sys.executable, "-c", code], folder)


def _until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, "waited for 20 s"
        time.sleep(0.01)


def test_a_second_is_refused_while_one_runs(tmp_path: Path) -> None:
    """While one runs, none is started: not by the same worker, not by another on the same registry."""
    first, other = _training(tmp_path, _WAITS), _training(tmp_path, _WAITS)
    assert first.start("schedule", 1_000) is None
    assert "running for 4 s" in (first.start("asked for", 5_000) or "")
    assert "started elsewhere" in (other.start("schedule", 5_000) or "")
    assert not other.running
    first.stop(6_000, grace_s=5)
    assert other.start("schedule", 7_000) is None
    other.stop(8_000, grace_s=5)
    assert (first.refused, other.refused) == (1, 1)


def test_exit_code_and_log_are_told(tmp_path: Path) -> None:
    """What a training printed and how it ended is in the status; the next one begins a new log and keeps the old."""
    training = _training(tmp_path, "print('loss 0.5'); raise SystemExit(3)")
    for number in (1, 2):
        assert training.start("schedule", 1_000 * number) is None
        _until(lambda: training.poll(9_000) is not None)
        status = training.status()
        assert (status["running"], status["last"]["exit_code"], status["failed"]) == (False, 3, number)
        assert status["tail"] == ["loss 0.5"]
    assert training.log.with_suffix(".log.1").read_text() == "loss 0.5\n"


def test_stopped_gently(tmp_path: Path) -> None:
    """Asked to stop, a training may save what it has."""
    training = _training(tmp_path, _GENTLE)
    training.start("schedule", 0)
    _until(lambda: training.log.exists() and "begun" in training.log.read_text())
    run = training.stop(1_000, grace_s=10)
    assert run is not None
    assert run.exit_code == 0
    assert training.log.read_text() == "begun\nsaved\n"
    assert training.stop(2_000, grace_s=1) is None


def test_one_that_does_not_stop_is_killed(tmp_path: Path) -> None:
    """After the grace a training that ignores SIGTERM is killed, so that the worker ends in time."""
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('begun', flush=True); time.sleep(60)"
    )
    training = _training(tmp_path, code)
    training.start("schedule", 0)
    _until(lambda: training.log.exists() and "begun" in training.log.read_text())
    run = training.stop(1_000, grace_s=0.1)
    assert run is not None
    assert run.exit_code == -9

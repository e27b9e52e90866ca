"""Named places in the shipped loop where a test may kill the process.

``TIDECAST_HOOK=after_commit:3`` makes the worker SIGKILL itself when it reaches `after_commit` the third time;
``TIDECAST_HOOK_LOG`` names a file that gets one line first, so that the test can show that the point was hit.
Without the variable a hook costs one comparison.
"""

from __future__ import annotations

import os
import signal

POINTS = (
    "after_decode",
    "before_produce",
    "after_produce",
    "before_commit",
    "after_commit",
    "mid_checkpoint",
    "after_checkpoint",
    "during_recovery",
    "after_model_swap",
)

_point, _, _count = os.environ.get("TIDECAST_HOOK", "").partition(":")
_left = int(_count or 1)


def reach(point: str) -> None:
    """Say that `point` was reached; dies here when the environment asks for it."""
    global _left
    if point != _point:
        return
    _left -= 1
    if _left == 0:
        _die(point)


def _die(point: str) -> None:
    log = os.environ.get("TIDECAST_HOOK_LOG")
    if log:
        with open(log, "a", encoding="utf-8") as file:
            file.write(f"{point} {os.getpid()}\n")
            file.flush()
            os.fsync(file.fileno())
    os.kill(os.getpid(), signal.SIGKILL)

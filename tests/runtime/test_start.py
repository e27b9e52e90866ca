"""What a worker loads before it can begin: no library that its role has no use for."""

from __future__ import annotations

import subprocess
import sys

SCORE = """
import sys
from streams import kernels
from streams.roles import stage_of
from streams.runtime import dedup
from streams.runtime.worker import Worker
from streams.settings import Settings
from streams.store import RedisStore

stage_of("score", Settings())
kernels.load("score")
assert dedup._put.signatures and dedup._move.signatures and dedup._judge.signatures, "compiled while it works"
print(*sys.modules)
"""


def test_a_score_worker_starts_without_the_libraries_of_others() -> None:
    """River and the statistics of scipy alone take longer to import than all that it needs."""
    done = subprocess.run([sys.executable, "-c", SCORE], capture_output=True, text=True, check=True, timeout=120)
    loaded = set(done.stdout.split())
    assert {"numba", "confluent_kafka", "redis"} <= loaded
    assert not loaded & {"river", "pandas", "torch", "faust", "holidays", "rich", "scipy.stats"}

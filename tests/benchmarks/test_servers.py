"""What a benchmark says of another process."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pytest

from benchmarks.servers import cpu_s


def test_cpu_of_a_process_is_what_it_says_itself() -> None:
    """Its own clock and ours agree, far below a tick."""
    before = time.process_time()
    told = cpu_s(os.getpid())
    children = os.times().children_user + os.times().children_system
    assert before <= told - children <= time.process_time() + 1e-3


def test_a_little_work_is_seen() -> None:
    """A process that did a millisecond's work since is not told to have done none."""
    code = "import sys\nfor line in sys.stdin:\n    sum(range(20_000))\n    print('done', flush=True)"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdin
        assert other.stdout
        for _ in range(3):
            before = cpu_s(other.pid)
            other.stdin.write(b"again\n")
            other.stdin.flush()
            assert other.stdout.readline() == b"done\n"
            assert cpu_s(other.pid) > before
        other.stdin.close()


def test_a_process_that_is_gone_has_no_clock() -> None:
    """An error, no figure."""
    with subprocess.Popen([sys.executable, "-c", ""]) as gone:
        pass
    with pytest.raises((FileNotFoundError, ProcessLookupError)):
        cpu_s(gone.pid)

"""The one training that may run: a child process, started, watched and stopped here; never two at a time.

A lock on a file in the registry is inherited by the child, so that a training which outlives its starter still keeps
others out.
"""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from streams.children import start_child, stop_child, tail

_TOLD_LINES = 5


@dataclass(frozen=True, slots=True)
class Run:
    """One training; times in ms UTC. `exit_code` is None while it runs, negative for the signal that ended it."""

    cause: str
    started_at: int
    ended_at: int | None = None
    exit_code: int | None = None


class Training:
    """Starts `command` when asked, unless one runs. Call `poll` regularly, and all of it from one thread.

    The child gets SIGTERM when that thread ends: trainings can be resumed, so nothing is lost by it.
    """

    def __init__(self, command: Sequence[str], folder: Path) -> None:
        self._command = tuple(command)
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self.last: Run | None = None
        self.finished = 0
        self.failed = 0
        self.refused = 0

    @property
    def log(self) -> Path:
        """What the latest training printed; the one before has `.1` at its end."""
        return self._folder / "training.log"

    @property
    def running(self) -> bool:
        """Whether one runs that was started here."""
        return self._process is not None

    def start(self, cause: str, now_ms: int) -> str | None:
        """Start one. Returns None, or why it was refused."""
        self.poll(now_ms)
        if self._process is not None and self.last is not None:
            self.refused += 1
            return f"a training has been running for {(now_ms - self.last.started_at) // 1_000} s"
        self._folder.mkdir(parents=True, exist_ok=True)
        lock = os.open(self._folder / "training.lock", os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if self.log.exists():
                self.log.replace(self.log.with_suffix(".log.1"))
            self._process = start_child(self._command, log=self.log, death_signal=signal.SIGTERM, keep_fds=[lock])
        except BlockingIOError:
            self.refused += 1
            return f"a training that was started elsewhere holds {self._folder / 'training.lock'}"
        finally:
            os.close(lock)  # the child has a copy of it
        self.last = Run(cause, now_ms)
        return None

    def poll(self, now_ms: int) -> Run | None:
        """Return the run that ended since the last call, if one did."""
        if self._process is None or self._process.poll() is None:
            return None
        return self._ended(self._process.returncode, now_ms)

    def stop(self, now_ms: int, *, grace_s: float) -> Run | None:
        """End a running one by SIGTERM, after `grace_s` by SIGKILL; its next start resumes it."""
        if self._process is None:
            return None
        return self._ended(stop_child(self._process, grace_s=grace_s), now_ms)

    def status(self) -> dict[str, Any]:
        """Return what the views show."""
        return {
            "running": self.running,
            "last": None if self.last is None else asdict(self.last),
            "finished": self.finished,
            "failed": self.failed,
            "refused": self.refused,
            "log": str(self.log),
            "tail": tail(self.log, _TOLD_LINES).splitlines() if self.last is not None else [],
        }

    def _ended(self, code: int, now_ms: int) -> Run:
        assert self.last is not None
        self._process = None
        self.last = replace(self.last, ended_at=now_ms, exit_code=code)
        if code == 0:
            self.finished += 1
        else:
            self.failed += 1
        return self.last

"""What a peer is asked to do, and how it tells what that cost: the frame of every job here.

The standard library is all this may import: it runs in the environment of each peer.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Task:
    """Read the first `events` clicks of the topic `source` and answer each on the topic `sink`.

    The job `pass` decodes and encodes; `score` keeps users' state and computes. `name` is new for each run: for
    consumer groups and the like; files go to `folder`.
    """

    job: str
    name: str
    bootstrap: str
    source: str
    sink: str
    events: int
    folder: Path

    def arguments(self) -> list[str]:
        """Return the task as `parse` takes it."""
        return [f"--{name}={getattr(self, name)}" for name in self.__slots__]


def parse(description: str | None, arguments: Sequence[str] | None = None) -> Task:
    """Read the task from the command line."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--job", choices=("score", "pass"), required=True)
    for name in ("name", "bootstrap", "source", "sink"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--events", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True)
    return Task(**vars(parser.parse_args(arguments)))


def echo(click: dict[str, Any]) -> dict[str, Any]:
    """Return what the plain pass-through says of a click, as the bare loop does."""
    return {"id": click["event_id"], "user": click["user_id"], "probability": 0.5}


class Meter:
    """CPU seconds of this process, all its threads and the children it waited for, from the first event on."""

    def __init__(self) -> None:
        self.started = 0.0

    def start(self) -> None:
        """Begin to measure, at the first call."""
        self.started = self.started or _cpu_s()

    def report(self, events: int) -> None:
        """Print what `events` cost; past `sys.stdout`, in whose place a library may have put its logger."""
        if not self.started:
            raise SystemExit("no event was read")
        os.write(1, f"{json.dumps({'events': events, 'cpu_s': _cpu_s() - self.started})}\n".encode())


def _cpu_s() -> float:
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime

"""The files of one training run: its lock, the history it trains on, and what it was asked to do.

They lie under ``<registry>/.training``. The history is kept with the run because its topic is compacted: after a crash
the same rows could no longer be read, and the resumed run must end in the same weights.
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from models.checkpoint import write_atomically
from models.windows import Panel
from streams.errors import TidecastError

_ARRAYS = ("quantity", "price", "views", "carts", "covariates")


class TrainingRunning(TidecastError):
    """Another process trains; one at a time."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What a run was asked for, and what it read; `asked` must be equal for a run to be resumed."""

    version: str
    created_at: int
    asked: dict[str, Any]
    offsets: dict[str, dict[str, int]]


class RunFolder:
    """The files of the run in progress."""

    def __init__(self, registry: Path) -> None:
        self.path = registry / ".training" / "run"

    @contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the lock; TrainingRunning names who has it. The kernel frees it when a holder dies: none goes stale."""
        path = self.path.parent / "lock"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(path, os.O_RDWR | os.O_CREAT, 0o644), "r+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                holder = file.read().strip() or "another process"
                raise TrainingRunning(f"{path}: {holder} is training; wait for it, or stop it") from error
            file.truncate(0)
            file.write(f"process {os.getpid()}\n")
            file.flush()
            yield

    def open(self, asked: dict[str, Any]) -> tuple[Plan, Panel] | None:
        """Return the run that was interrupted, if it was asked for the same; None: begin a new one."""
        try:
            plan = Plan(**json.loads((self.path / "plan.json").read_bytes()))
            with safe_open(self.path / "panel.safetensors", framework="numpy") as file:
                about = json.loads(file.metadata()["panel"])
                arrays = {name: file.get_tensor(name) for name in _ARRAYS}
        except (OSError, ValueError, TypeError, KeyError, SafetensorError):
            return None
        if plan.asked != asked:
            return None
        names = tuple(about.pop("covariate_names"))
        return plan, Panel(**about | {"products": tuple(about["products"])}, **arrays, covariate_names=names)

    def begin(self, plan: Plan, panel: Panel) -> None:
        """Start a run afresh; its plan is written last, so that half a start is none."""
        self.clear()
        self.path.mkdir(parents=True)
        about = {name: getattr(panel, name) for name in ("freq", "timezone", "products", "first_index")}
        about["covariate_names"] = panel.covariate_names
        arrays = {name: np.ascontiguousarray(getattr(panel, name)) for name in _ARRAYS}
        write_atomically(self.path / "panel.safetensors", save(arrays, {"panel": json.dumps(about)}))
        data = {"version": plan.version, "created_at": plan.created_at, "asked": plan.asked, "offsets": plan.offsets}
        write_atomically(self.path / "plan.json", data)

    def clear(self) -> None:
        """Forget the run: it ended, or a fresh one was asked for."""
        if self.path.exists():
            # The plan first: what is left of a folder without one is no run.
            (self.path / "plan.json").unlink(missing_ok=True)
            shutil.rmtree(self.path)

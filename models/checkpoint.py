"""Checkpoints of a training run: one safetensors file, replaced atomically, with its bookkeeping as JSON inside.

Plain data only; nothing is unpickled. Random numbers need no state of their own: every epoch draws from (seed, epoch).
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

Tensors = dict[str, NDArray[Any]]
_FILE = "checkpoint.safetensors"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A run after `state["epoch"]` epochs: its tensors by name, and everything else as JSON data."""

    tensors: Tensors
    state: dict[str, Any]

    def part(self, prefix: str) -> Tensors:
        """Return the tensors under ``prefix/``, without it."""
        return {name.removeprefix(prefix + "/"): t for name, t in self.tensors.items() if name.startswith(prefix + "/")}


def save_checkpoint(folder: Path, checkpoint: Checkpoint) -> None:
    """Replace the folder's checkpoint; after a crash at any moment there is the old one or the new one, whole."""
    folder.mkdir(parents=True, exist_ok=True)
    data = save(
        {k: np.ascontiguousarray(v) for k, v in checkpoint.tensors.items()}, {"state": json.dumps(checkpoint.state)}
    )
    write_atomically(folder / _FILE, data)


def load_checkpoint(folder: Path, fingerprint: str) -> Checkpoint | None:
    """Return the folder's checkpoint if it belongs to the run of this fingerprint, else None: start anew."""
    path = folder / _FILE
    if not path.exists():
        return None
    try:
        with safe_open(path, framework="numpy") as file:
            state = json.loads(file.metadata()["state"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # no mapping, only keys()
    except (SafetensorError, KeyError, TypeError, ValueError):
        return None  # a file that is not ours, or of a disk that lied: nothing is lost but time
    return Checkpoint(tensors, state) if state.get("fingerprint") == fingerprint else None


def write_atomically(path: Path, data: bytes | Mapping[str, Any], mode: int = 0o644) -> None:
    """Write bytes (or JSON data) to `path` so that it is there whole or not at all, also after a power cut."""
    if not isinstance(data, bytes):
        data = (json.dumps(data, indent=1, sort_keys=True) + "\n").encode()
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode), "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside the folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

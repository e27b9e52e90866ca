"""An environment for each peer, made when first asked for: they pin clients that Tidecast and the others do not want.

What goes in is pinned as a whole in `<peer>.txt` here; it lies in `.cache/bench/<peer>` and is made anew when that file
or the Python changes.
"""

from __future__ import annotations

import hashlib
import platform
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent
CACHE = HERE.parents[1] / ".cache" / "bench"

PEERS = {"faust": "faust-streaming", "quix": "quixstreams", "bytewax": "bytewax"}
"""The distribution that each peer is."""


def pins(peer: str) -> dict[str, str]:
    """Return the pinned version of every distribution of a peer's environment.

    >>> set(PEERS.values()) == {name for peer, name in PEERS.items() if name in pins(peer)}
    True
    """
    lines = _requirements(peer).read_text(encoding="utf-8").split()
    return dict(line.split("==") for line in lines)


def python_of(peer: str, cache: Path = CACHE) -> Path:
    """Return the interpreter of a peer's environment, which is made if it is not there as pinned."""
    folder = cache / peer
    python, stamp = folder / "bin" / "python", folder / "made-of"
    wanted = _digest(peer)
    if not (stamp.exists() and stamp.read_text(encoding="ascii") == wanted):
        sys.stderr.write(f"installing {PEERS[peer]} {pins(peer)[PEERS[peer]]} into {folder} ...\n")
        shutil.rmtree(folder, ignore_errors=True)
        _run(peer, [sys.executable, "-m", "venv", str(folder)])
        quiet = ["--quiet", "--disable-pip-version-check"]
        _run(peer, [str(python), "-m", "pip", "install", *quiet, "--no-deps", "-r", str(_requirements(peer))])
        stamp.write_text(wanted, encoding="ascii")
    return python


def _requirements(peer: str) -> Path:
    return HERE / f"{peer}.txt"


def _digest(peer: str) -> str:
    return hashlib.blake2b(platform.python_version().encode() + _requirements(peer).read_bytes()).hexdigest()


def _run(peer: str, command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        tail = (done.stderr or done.stdout)[-1_000:].strip()
        raise RuntimeError(f"{peer}: {' '.join(command[1:4])} failed; --peers leaves a peer out\n{tail}")

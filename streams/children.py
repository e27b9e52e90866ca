"""Child processes that do not outlive their parent, whatever ends it.

Linux sends a child the signal it asked for when the *thread* that started it ends, so start children from a thread
that lives as long as they should. On other systems a SIGKILLed parent leaves its children behind.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

# Runs in the child, before the program: no preexec_fn, which is unsafe once the parent has threads.
# The check of the parent closes the gap between the fork and prctl.
_LAUNCHER = """
import ctypes, os, resource, sys
parent, death_signal, limit = (int(argument) for argument in sys.argv[1:4])
if sys.platform == "linux" and death_signal:
    ctypes.CDLL(None, use_errno=True).prctl(1, death_signal, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        sys.exit(1)
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
os.execvp(sys.argv[4], sys.argv[4:])
"""


def start_child(
    command: Sequence[str | Path],
    *,
    log: Path | None = None,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
    death_signal: int = signal.SIGKILL,
    memory_bytes: int = 0,
    keep_fds: Sequence[int] = (),
) -> subprocess.Popen[bytes]:
    """Start `command` in a session of its own; it gets `death_signal` when the thread that called this ends.

    Output is appended to `log` (None: inherited). `memory_bytes` bounds the address space (0: no bound). `env` is
    added to this process's environment. The child inherits `keep_fds` (a lock, say). It does not see the terminal's
    Ctrl-C: its owner stops it.
    """
    launcher = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        _LAUNCHER,
        str(os.getpid()),
        str(int(death_signal)),
        str(memory_bytes),
    ]
    output: IO[bytes] | None = log.open("ab") if log is not None else None
    try:
        return subprocess.Popen(
            [*launcher, *map(str, command)],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT if output is not None else None,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
            pass_fds=keep_fds,
        )
    finally:
        if output is not None:
            output.close()


def stop_child(process: subprocess.Popen[bytes], *, grace_s: float = 10.0) -> int:
    """Ask `process` to end, kill it after `grace_s`, and return its exit code."""
    if process.poll() is None:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        try:
            return process.wait(grace_s)
        except subprocess.TimeoutExpired:
            process.kill()
    return process.wait()


def free_port() -> int:
    """Return a TCP port of this host that nobody listens on now, from below the range of outgoing connections.

    A port from the outgoing range could be taken by any client between two starts of a server that must keep it.
    """
    first = int.from_bytes(os.urandom(2), "big")
    for step in range(16_000):
        port = 16_000 + (first + step * 7) % 16_000
        if port_is_free(port):
            return port
    raise OSError("no free port between 16000 and 32000 on 127.0.0.1")


def port_is_free(port: int) -> bool:
    """Tell whether 127.0.0.1:`port` could be listened on now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def tail(log: Path, lines: int = 20) -> str:
    """Return the last `lines` of a log file for an error message ('' where there is none)."""
    try:
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    except OSError:
        return ""

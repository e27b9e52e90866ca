"""A Docker daemon of our own: private socket and data folder, started for the purpose, gone with its parent.

``python -m tests.containers.daemon COMMAND…`` runs a command with ``DOCKER_HOST`` pointing at it. Needs root, and
Debian's ``docker.io`` (its defaults suffice). Images stay in ``.cache/containers/docker`` between runs.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import docker
from docker.errors import DockerException

from streams.children import start_child, stop_child, tail

CACHE = Path(__file__).parents[2] / ".cache" / "containers"


class DaemonError(RuntimeError):
    """The daemon cannot be started; the message says how to repair it."""


@contextmanager
def docker_daemon() -> Iterator[str]:
    """Run a daemon and yield its address for ``DOCKER_HOST``."""
    if os.geteuid() != 0:
        raise DaemonError("a Docker daemon can be started by root only; run this as root")
    binary = shutil.which("dockerd") or shutil.which("dockerd", path="/usr/sbin:/sbin")
    if binary is None:
        raise DaemonError("dockerd is missing; repair: apt-get install docker.io")
    CACHE.mkdir(parents=True, exist_ok=True)
    log = CACHE / "dockerd.log"
    # The socket's path must be short (108 bytes), the other run-time files must not outlive the machine.
    with tempfile.TemporaryDirectory(prefix="tc-docker-", ignore_cleanup_errors=True) as folder:
        host = f"unix://{folder}/docker.sock"
        daemon = start_child(
            [
                *(binary, "--host", host, "--data-root", CACHE / "docker"),
                *("--exec-root", f"{folder}/exec", "--pidfile", f"{folder}/pid"),
            ],
            log=log,
            death_signal=signal.SIGTERM,  # so that it stops its containers, too
        )
        try:
            deadline = time.monotonic() + 60
            while not _answers(host):
                if daemon.poll() is not None or time.monotonic() > deadline:
                    raise DaemonError(f"dockerd did not come up:\n{tail(log)}")
                time.sleep(0.2)
            yield host
        finally:
            stop_child(daemon, grace_s=60)


def _answers(host: str) -> bool:
    try:
        client = docker.DockerClient(base_url=host, timeout=5)
        try:
            return bool(client.ping())
        finally:
            client.close()
    except DockerException:
        return False


def main() -> int:
    """Run the command line's command beside a daemon and return its exit code."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with docker_daemon() as host:
        process = subprocess.Popen(sys.argv[1:], env={**os.environ, "DOCKER_HOST": host})
        try:
            return process.wait()
        except KeyboardInterrupt:
            process.terminate()
            return process.wait()


if __name__ == "__main__":
    sys.exit(main())

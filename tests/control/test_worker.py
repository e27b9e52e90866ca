"""The whole control worker as a process, against real Kafka and against the embedded broker."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from math import log
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from schemas.outputs import encode_demand, encode_history, encode_purchases
from streams import kafka as edge
from streams.children import free_port
from streams.embedded import EmbeddedServers
from streams.records import CLICKSTREAM, HISTORY, MARKER_HEADER, ORDERS, PREDICTIONS, SHADOW, STATUS
from streams.settings import KafkaSettings, Settings
from streams.topics import create

_T0 = 1_700_000_000_000
_HOUR = 3_600_000
_PARTITIONS = 2
_USERS = 40


class _Worker:
    """A `tidecast run --role control` and its two addresses."""

    def __init__(self, folder: Path, bootstrap: str, prefix: str, **more: str) -> None:
        self.log = folder / "control.log"
        self.health, self.web = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
        self.environment = {
            "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": bootstrap,
            "TIDECAST_KAFKA__PREFIX": prefix,
            "TIDECAST_KAFKA__PARTITIONS": str(_PARTITIONS),
            "TIDECAST_TRAIN__REGISTRY": str(folder / "registry"),
            "TIDECAST_TRAIN__SCHEDULE": "* * * * *",
            "TIDECAST_CONTROL__STATUS_INTERVAL_S": "1",
            "TIDECAST_CONTROL__STATUS_URLS": json.dumps([self.health, f"http://127.0.0.1:{free_port()}"]),
            "TIDECAST_CONTROL__WEB_PORT": self.web.rpartition(":")[2],
            "TIDECAST_RUNTIME__METRICS_PORT": self.health.rpartition(":")[2],
            **more,
        }
        self.process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self.log.open("ab") as log:
            command = [sys.executable, "-m", "streams.cli", "run", "--role", "control"]
            return subprocess.Popen(command, env={**os.environ, **self.environment}, stdout=log, stderr=log)

    def kill_and_restart(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process = self._start()

    def get(self, url: str, **options: Any) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, **options), timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            return error.code, error.read().decode()
        except OSError:
            return 0, ""

    def overview(self) -> dict[str, Any]:
        status, body = self.get(f"{self.web}/status.json")
        return dict(json.loads(body)) if status == 200 else {}

    def until(self, what: str, condition: Callable[[], Any], limit_s: float = 60) -> Any:
        deadline = time.monotonic() + limit_s
        while True:
            found = condition()
            if found:
                return found
            assert self.process.poll() is None, f"it ended with {self.process.returncode}:\n{self.log.read_text()}"
            assert time.monotonic() < deadline, f"{what}: waited for {limit_s} s:\n{self.log.read_text()}"
            time.sleep(0.1)

    def stop(self) -> tuple[int, float]:
        started = time.monotonic()
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(30), time.monotonic() - started


@pytest.fixture(params=[pytest.param("kafka", marks=pytest.mark.realbroker), "embedded"])
def bootstrap(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """Give the address of a broker of each sort."""
    if request.param == "kafka":
        yield request.getfixturevalue("kafka").bootstrap
    else:
        with EmbeddedServers(tmp_path / "servers") as servers:
            yield servers.bootstrap


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., _Worker]]:
    """Start workers that do not outlive the test."""
    begun: list[_Worker] = []

    def begin(*arguments: str, **more: str) -> _Worker:
        begun.append(_Worker(tmp_path, *arguments, **more))
        return begun[-1]

    yield begin
    for worker in begun:
        if worker.process.poll() is None:
            worker.process.kill()
            worker.process.wait()


def _fill(settings: Settings) -> dict[str, tuple[float, bool]]:
    """Write predictions, what came of them, and an aborted prediction; return probability and outcome by user."""
    prefix = settings.kafka.prefix
    plain = Producer(edge.producer_config(settings))
    transactional = Producer(edge.producer_config(settings, transactional_id=f"{prefix}test"))
    transactional.init_transactions(30)
    truth = {}
    transactional.begin_transaction()
    for number in range(_USERS):
        user, probability, bought = f"u{number}", 0.05 + 0.9 * (number % 10) / 10, number % 3 == 0
        truth[user] = (probability, bought)
        as_of = _T0 + number * 1_000
        transactional.produce(prefix + PREDICTIONS, _purchase(user, as_of, probability), key=user)
        # Half an hour later, or just after the horizon.
        at = as_of + (_HOUR // 2 if bought else _HOUR + 1)
        if number % 2:
            click = {"event_id": user, "type": "purchase", "time": at, "user_id": user, "product_id": "p"}
            plain.produce(prefix + CLICKSTREAM, json.dumps(click), key=user)
        else:
            order = {"event_id": user, "order_id": user, "status": "paid", "time": at, "user_id": user}
            plain.produce(prefix + ORDERS, json.dumps({**order, "lines": [{"product_id": "p"}]}), key=user)
    starts = [_T0 + day * 24 * _HOUR for day in (1, 2)]
    for topic, model, mean in ((PREDICTIONS, "seasonal", 8.0), (SHADOW, "sequence", 9.0)):
        forecast = encode_demand(
            id="p|demand|0",
            subject="p",
            as_of=starts[0],
            produced_at=_T0,
            model_name=model,
            model_version="1",
            horizon_s=2 * 86_400,
            revision=0,
            bucket="D",
            starts=starts,
            mean=[mean, mean],
            quantiles=[[5.0, 12.0]] * 2,
            levels=[0.1, 0.9],
        )
        transactional.produce(prefix + topic, forecast, key="p")
    transactional.produce(prefix + HISTORY, _bucket(starts[0], 10), key=f"p|{starts[0]}")
    transactional.commit_transaction(30)
    transactional.begin_transaction()
    transactional.produce(prefix + PREDICTIONS, _purchase("aborted", _T0, 0.5), key="aborted")
    transactional.flush(30)
    transactional.abort_transaction(30)
    for topic in (CLICKSTREAM, ORDERS):
        plain.produce(prefix + topic, b"no JSON", partition=0)
        for partition in range(_PARTITIONS):
            marker = json.dumps({"time": _T0 + 3 * _HOUR, "source": "test"})
            plain.produce(prefix + topic, marker, partition=partition, headers={MARKER_HEADER: b"time"})
    plain.produce(prefix + STATUS, b"\xff no status", key=b"somebody")
    plain.flush(30)
    return truth


def _purchase(user: str, as_of: int, probability: float) -> bytes:
    return encode_purchases(
        ids=[f"{user}-{as_of}"],
        subjects=[user],
        as_of=[as_of],
        produced_at=as_of,
        model_name="purchase",
        model_version="7",
        horizon_s=3_600,
        probabilities=[probability],
        event_ids=[user],
        session_ids=[None],
    )[0]


def _bucket(start: int, quantity: int) -> bytes:
    return encode_history(
        id=f"p|{start}",
        product_id="p",
        bucket_start=start,
        freq="D",
        quantity=quantity,
        value_minor=0,
        views=0,
        carts=0,
        price=None,
        covariates={},
        revision=0,
    )


def test_the_whole_worker(
    request: pytest.FixtureRequest, bootstrap: str, topic_prefix: str, start: Callable[..., _Worker]
) -> None:
    """It judges what was committed, tells on page and topic, trains one at a time, survives a kill, ends in time."""
    kafka = KafkaSettings(bootstrap_servers=bootstrap, prefix=topic_prefix, partitions=_PARTITIONS)
    settings = Settings(kafka=kafka)
    create(settings)
    truth = _fill(settings)
    real = "kafka" in request.node.callspec.id
    worker = start(bootstrap, topic_prefix)
    worker.until("ready", lambda: worker.get(f"{worker.health}/health/ready")[0] == 200)

    def judged() -> Any:
        quality = worker.overview().get("control", {}).get("quality", {})
        model = quality.get("purchase", {}).get("purchase", {})
        return quality if model.get("judged", 0) >= _USERS and quality["demand"] and quality["shadow"] else None

    quality = worker.until("quality", judged)
    figures = quality["purchase"]["purchase"]
    assert (figures["judged"], figures["version"], quality["pending"]["purchase"]) == (_USERS, "7", 0)
    losses = [-log(p if bought else 1 - p) for p, bought in truth.values()]
    assert figures["log_loss"] == pytest.approx(sum(losses) / _USERS)
    assert figures["positives"] == sum(bought for _, bought in truth.values())
    assert quality["demand"]["seasonal"]["wape"] == pytest.approx(0.2)
    assert quality["demand"]["seasonal"]["coverage_80"] == 1.0
    assert (list(quality["demand"]), list(quality["shadow"])) == (["seasonal"], ["sequence"])
    assert quality["shadow"]["sequence"]["wape"] == pytest.approx(0.1)
    assert quality["pending"]["demand"] == 1

    heard = worker.until("a published status", lambda: worker.overview().get("workers"))
    worker.until("its own status on the topic", lambda: "control/worker-0" in worker.overview()["workers"])
    assert any("no answer from" in str(one["reason"]) for one in heard.values())
    assert "Purchase predictions against what happened" in worker.get(worker.web + "/")[1]
    assert (
        'tidecast_quality{figure="judged",kind="purchase",model="purchase"} 40.0'
        in worker.get(worker.health + "/metrics")[1]
    )
    shown = subprocess.run(
        [sys.executable, "-m", "streams.cli", "status", "--json"],
        env={**os.environ, **worker.environment},
        capture_output=True,
        check=True,
    )
    assert "control/worker-0" in json.loads(shown.stdout)

    if real:
        worker.until("a scheduled training", lambda: worker.overview()["control"]["training"]["last"], 90)
        assert worker.overview()["control"]["training"]["last"]["cause"] == "schedule"
    foreign = worker.get(f"{worker.web}/train", method="POST", headers={"Origin": "http://elsewhere"})
    assert foreign[0] == 403
    answers = {worker.get(f"{worker.web}/train", method="POST")[0] for _ in range(2)}
    assert 409 in answers

    worker.kill_and_restart()
    worker.until("quality after a kill", judged)
    worker.until("a status after a kill", lambda: "control/worker-0" in worker.overview()["workers"])
    worker.get(f"{worker.web}/train", method="POST")
    code, seconds = worker.stop()
    assert code == 0, worker.log.read_text()
    assert seconds < 10
    assert "Traceback" not in worker.log.read_text()


def test_without_a_broker_it_waits(start: Callable[..., _Worker]) -> None:
    """No broker: alive, not ready, with the reason; SIGTERM ends it all the same."""
    worker = start(f"127.0.0.1:{free_port()}", "")

    def waiting() -> bool:
        status, body = worker.get(f"{worker.health}/health/ready")
        return status == 503 and "no Kafka broker answers" in body

    worker.until("the reason", waiting)
    assert worker.get(f"{worker.health}/health/live")[0] == 200
    code, seconds = worker.stop()
    assert (code, seconds < 10) == (0, True)


def test_without_topics_it_says_what_to_do(tmp_path: Path, start: Callable[..., _Worker]) -> None:
    """Topics that nobody created end it with their own exit code and the command that creates them."""
    with EmbeddedServers(tmp_path / "servers") as servers:
        worker = start(servers.bootstrap, "none-")
        assert worker.process.wait(60) == 3
    assert "tidecast topics create" in worker.log.read_text()

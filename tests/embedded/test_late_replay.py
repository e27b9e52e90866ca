"""`tidecast replay` against workers that are further than its source."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from confluent_kafka import Producer
from typer.testing import CliRunner

from streams.cli.app import app
from streams.embedded import EmbeddedServers
from streams.kafka import producer_config
from streams.records import STATUS
from streams.roles import wall_ms
from streams.settings import KafkaSettings, Settings
from streams.topics import create

SOURCE = """
name = "late"
[clicks]
path = "clicks.csv"
time = "time"
user = "user"
product = "product"
type = { value = "view" }
"""


@pytest.mark.parametrize(("prefix", "reached", "late"), [("l1-", 2_000_000, True), ("l2-", 1_000, False)])
def test_a_replay_of_what_is_late_says_so(
    servers: EmbeddedServers, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prefix: str, reached: int, late: bool
) -> None:
    """Events before the watermark that the score workers published are announced as dead letters, others are not."""
    settings = Settings(kafka=KafkaSettings(bootstrap_servers=servers.bootstrap, prefix=prefix, partitions=1))
    create(settings)
    status = {"stage": "score", "at": wall_ms(), "tasks": {"score-0": {"watermark": reached}}}
    producer = Producer(producer_config(settings))
    producer.produce(prefix + STATUS, json.dumps(status), key="score/worker-0")
    assert producer.flush(30) == 0
    (tmp_path / "late.toml").write_text(SOURCE)
    (tmp_path / "clicks.csv").write_text("time,user,product\n1970-01-01T00:20:00Z,u,p\n1970-01-01T00:25:00Z,u,p\n")
    monkeypatch.setenv("TIDECAST_KAFKA__PREFIX", prefix)
    arguments = ["--bootstrap", servers.bootstrap, "--state", str(tmp_path / "state.json")]
    result = CliRunner().invoke(app, ["replay", str(tmp_path / "late.toml"), *arguments])
    assert result.exit_code == 0, result.output
    assert ("warning: the events up to 1970-01-01 00:25:00Z are late" in result.stderr) == late
    assert json.loads(result.stdout.splitlines()[-1])["sent"] == {"clickstream": 2}

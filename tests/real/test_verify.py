"""`tidecast verify features` and `backfill` on Apache Kafka: what the roles served is what both make of the log.

What is planted or deleted is told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
from confluent_kafka import TopicPartition

from schemas.internal import decode_examples, encode_examples
from streams.kafka import admin
from streams.records import CLICKSTREAM, EXAMPLES
from tests.backfill.conftest import OWN, rows_of, vector_of
from tests.real.harness import Shop
from tests.real.shop import closed_log

pytestmark = [pytest.mark.realbroker, pytest.mark.timeout(300)]


def verify(shop: Shop, *arguments: str) -> tuple[int, Any, str]:
    """Run the command; return exit code, its JSON, and standard error."""
    command = [sys.executable, "-m", "streams.cli", "verify", "features", "--json", *arguments]
    environment = {**os.environ, **shop.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def check_backfill(shop: Shop, out: Path) -> None:
    """Check that a backfill of the topics has a row an example, with all columns but those of activity to the bit."""
    command = [sys.executable, "-m", "streams.cli", "backfill", "--out", str(out)]
    environment = {**os.environ, **shop.environment}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    batches = [decode_examples(record.value or b"") for record in shop.read(EXAMPLES)]
    examples = {example.id: example for batch in batches for example in batch.examples}
    rows = rows_of(out)
    assert {row["prediction_id"] for row in rows} == set(examples)
    for row in rows:
        ours, theirs = (np.frombuffer(v, "<f8") for v in (vector_of(row), examples[row["prediction_id"]].vector))
        assert ours[OWN].tobytes() == theirs[OWN].tobytes(), row["prediction_id"]
    card = json.loads(done.stdout.splitlines()[-1])
    assert card["rows"] == len(rows)
    assert 0 < card["unlabelled"] < len(rows) // 10


def test_what_was_served_is_what_the_log_says(shop: Shop, tmp_path: Path) -> None:
    """Exit code 0 by both ways; an example appended by another hand is extra; a truncated log is a named error."""
    log = closed_log(clicks=1_000)
    shop.preload(log)
    shop.finish([shop.start("score"), shop.start("demand")], log.end, {"score": 2, "demand": 2})
    for arguments in ((), ("--by", "oracle", "--sample", "200")):
        code, found, said = verify(shop, *arguments)
        assert code == 0, said
        assert found["accepted"] == found["examples"] > 900
        assert found["compared"] == (found["examples"] if not arguments else found["compared"]) > 50
        assert "verify features: 100%, " in said
    check_backfill(shop, tmp_path / "table")
    record = next(one for one in shop.read(EXAMPLES) if decode_examples(one.value or b"").examples)
    batch = decode_examples(record.value or b"")
    again = msgspec.structs.replace(batch, examples=batch.examples[:1], outcomes=[])
    producer = shop.producer()
    producer.produce(shop.prefix + EXAMPLES, encode_examples(again), key=b"0", partition=record.input.partition)
    assert producer.flush(30) == 0
    code, found, _ = verify(shop)
    assert code == 1
    assert (found["extra"]["count"], found["mismatched"]["count"], found["missing"]["count"]) == (1, 0, 0)
    client = admin(shop.settings())
    places = [TopicPartition(shop.prefix + CLICKSTREAM, partition, 100) for partition in range(shop.partitions)]
    for deleted in client.delete_records(places).values():
        deleted.result(30)
    code, found, said = verify(shop)
    assert code == 4
    assert found is None
    assert "can be verified: clickstream[0] starts at offset 100" in said

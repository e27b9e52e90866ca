"""The bare loop: consume 500, decode with orjson, produce one for one. Prints its CPU seconds as JSON.

Run by `benchmarks.contenders` as a process of its own: `python -m benchmarks.bare BOOTSTRAP PREFIX EVENTS`.
"""

from __future__ import annotations

import json
import sys
import time

import orjson
from confluent_kafka import Consumer, KafkaError, Message, Producer


def main(bootstrap: str, prefix: str, events: int) -> None:
    """Pass `events` clicks through and print what it cost."""
    consumer = Consumer(
        {"bootstrap.servers": bootstrap, "group.id": f"{prefix}bare-{time.time_ns()}", "auto.offset.reset": "earliest"}
    )
    producer = Producer({"bootstrap.servers": bootstrap, "linger.ms": 5, "compression.type": "lz4"})
    consumer.subscribe([prefix + "clickstream"])
    done, started = 0, 0.0
    lost: list[str] = []

    def delivered(error: KafkaError | None, _message: Message) -> None:
        if error is not None:
            lost.append(error.str())

    while done < events:
        messages = consumer.consume(500, timeout=1.0)
        if messages and not started:
            started = time.process_time()
        for message in messages:
            if message.error() or message.headers():
                continue
            click = orjson.loads(message.value())
            out = orjson.dumps({"id": click["event_id"], "user": click["user_id"], "probability": 0.5})
            producer.produce(prefix + "bare", out, key=message.key(), on_delivery=delivered)
            done += 1
        producer.poll(0)
    if producer.flush(60) or lost:
        raise SystemExit(f"{len(lost) or 'some'} messages were not written: {lost[:1]}")
    sys.stdout.write(json.dumps({"events": done, "cpu_s": time.process_time() - started}) + "\n")
    consumer.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))

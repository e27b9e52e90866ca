"""The job in bytewax: a dataflow from Kafka to Kafka, the users' state in a stateful step.

As its documentation recommends: batches of 1,000 (its default, which it calls fit for high throughput) that are decoded
and encoded as a whole, and `stateful_map` by key. It runs without recovery, its default: the state lives in memory and
is lost with the process, which no other contender's is. It reads `source` to its end. Run as
`python -m benchmarks.peers.bytewax_job` in an environment of its own.
"""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import bytewax.operators as op
import orjson
from bytewax.connectors.kafka import KafkaSink, KafkaSinkMessage, KafkaSource, KafkaSourceMessage
from bytewax.dataflow import Dataflow
from bytewax.run import cli_main

from benchmarks.peers.features import Products, Row, new_row, score
from benchmarks.peers.task import Meter, Task, echo, parse


def main(task: Task) -> None:
    """Answer the clicks of `task` and print what it cost."""
    meter = Meter()
    read = 0
    products: Products = {}

    def decode(batch: list[KafkaSourceMessage]) -> list[tuple[str, Any]]:
        nonlocal read
        meter.start()
        read += len(batch)
        return [(message.key.decode(), orjson.loads(message.value)) for message in batch]

    def scored(row: Row | None, click: Any) -> tuple[Row, Any]:
        row = row or new_row()
        return row, score(row, products, click)

    def encode(batch: list[tuple[str, Any]]) -> list[KafkaSinkMessage]:
        return [KafkaSinkMessage(key.encode(), orjson.dumps(said)) for key, said in batch]

    flow = Dataflow(task.job)
    stream: Any = op.input("clicks", flow, KafkaSource([task.bootstrap], [task.source], tail=False))
    stream = op.flat_map_batch("decode", stream, decode)
    if task.job == "score":
        stream = op.stateful_map("score", stream, scored)
    else:
        stream = op.map_value("echo", stream, echo)
    stream = op.flat_map_batch("encode", stream, encode)
    op.output("answers", stream, KafkaSink([task.bootstrap], task.sink))
    # What `python -m bytewax.run` calls, with its default interval.
    cli_main(flow, epoch_interval=timedelta(seconds=10))
    if read != task.events:
        raise SystemExit(f"{task.source} holds {read} clicks, not {task.events}")
    meter.report(read)


if __name__ == "__main__":
    main(parse(__doc__))

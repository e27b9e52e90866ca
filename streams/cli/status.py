"""`tidecast status`: what the workers say of themselves."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from streams.runtime.refusals import in_words, total, without_refusals

if TYPE_CHECKING:
    from rich.table import Table

    from streams.settings import Settings

app = typer.Typer(help="Show what the workers say of themselves.")

_TAIL = 2_000
_TIMEOUT_S = 10.0


@app.command()
def status(
    url: Annotated[list[str] | None, typer.Option(help="http://host:port of a worker's health; repeatable")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Show the latest status of every worker.

    With --url the workers themselves are asked, and exit code 1 says that none is ready; without, the topic that the
    control worker writes them to.
    """
    from streams.errors import ConfigurationError
    from streams.settings import load_settings

    for address in url or ():
        if not address.startswith(("http://", "https://")):
            raise ConfigurationError(f"--url {address!r}: must look like http://127.0.0.1:8080; workers log theirs")
    found = _ask(url) if url else published(load_settings())
    if as_json:
        typer.echo(json.dumps(found, indent=2))
    elif found:
        from rich.console import Console

        console = Console()
        console.print(_table(found))
        for name, one in found.items():
            for line in _notes(one):
                console.print(f"{name}: {line}", markup=False, highlight=False, soft_wrap=True)
    else:
        typer.echo("no status was published lately; is the control worker running? Or ask workers by --url", err=True)
        raise typer.Exit(1)
    if url and not any(one.get("ready") for one in found.values()):
        raise typer.Exit(1)


def _ask(urls: list[str]) -> dict[str, dict[str, Any]]:
    import asyncio
    import time

    from streams.control.workers import Workers, status_key

    answers = asyncio.run(Workers(urls).ask(time.time_ns() // 1_000_000))
    return {status_key(one): one for one in answers}


def published(settings: Settings) -> dict[str, dict[str, Any]]:
    """Return the newest status by worker, from the end of the status topic."""
    from confluent_kafka import Consumer, TopicPartition

    from streams import kafka
    from streams.control.workers import Workers
    from streams.errors import TopicsError
    from streams.records import STATUS

    topic = settings.kafka.prefix + STATUS
    consumer = Consumer(kafka.table_config(settings))
    workers = Workers(())
    try:
        if topic not in kafka.partition_counts(consumer):
            raise TopicsError(f"topics are missing: {topic}; run 'tidecast topics create'")
        low, high = kafka.bounds(consumer, TopicPartition(topic, 0))
        consumer.assign([TopicPartition(topic, 0, max(low, high - _TAIL))])
        ended = low == high
        while not ended:
            message = consumer.poll(_TIMEOUT_S)
            # At the end, or nothing for so long that Kafka must be gone: what was read is shown.
            ended = message is None or message.error() is not None
            if not ended:
                workers.hear(message.key(), message.value(), message.timestamp()[1])
    finally:
        consumer.close()
    return dict(sorted(workers.heard.items()))


def _table(found: Mapping[str, Mapping[str, Any]]) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for name in ("worker", "ready", "tasks", "watermark", "as of"):
        table.add_column(name, no_wrap=True)
    # As many as there are tasks: on a narrow terminal the epochs alone give way.
    table.add_column("epochs")
    for name, one in found.items():
        tasks = one.get("tasks", {}).values()
        marks = [task.get("watermark") for task in tasks]
        least = None if None in marks else min(marks, default=None)
        ready = Text("yes", "green") if one.get("ready") else Text("no", "red")
        told = ", ".join(str(task.get("epoch")) for task in tasks)
        epochs = Text(told, no_wrap=True, overflow="ellipsis")
        table.add_row(Text(name), ready, str(len(tasks)), _time(least), _time(one.get("at")), epochs)
    return table


def _notes(one: Mapping[str, Any]) -> list[str]:
    """Return lines on what does not fit the table: tallies of a stage, training and quality of the control worker."""
    lines = [] if one.get("ready") else [f"not ready: {one.get('reason')}"]
    counts = total(task.get("counts", {}) for task in one.get("tasks", {}).values())
    if others := without_refusals(counts):
        lines.append(", ".join(f"{what} {count:,}" for what, count in sorted(others.items())))
    if refused := in_words(counts):
        lines.append(f"refused {refused}")
    lines.extend(f"{what} {said}" for what, said in one.get("serves", {}).items())
    training = one.get("training")
    if training is not None:
        last = training["last"]
        said = "running" if training["running"] else "none yet" if last is None else f"exit code {last['exit_code']}"
        lines.append(f"training {said}; next {_time(training['next_at'])}")
    for name, figures in one.get("quality", {}).get("purchase", {}).items():
        lines.append(
            f"{name}:{figures['version']} log loss {figures['log_loss']:.4f} (best constant "
            f"{figures['base_log_loss']:.4f}) over {figures['judged']:,}; drift: {figures['drift']['risen']}"
        )
    quality = one.get("quality", {})
    for role in ("demand", "shadow"):
        for name, figures in quality.get(role, {}).items():
            if figures["wape"] is None:
                continue
            lines.append(
                f"{role} {name}:{figures['version']} WAPE {figures['wape']:.3f}, WQL {figures['wql']:.3f} over "
                f"{figures['judged']:,} buckets"
            )
    return lines


def _time(at_ms: int | None) -> str:
    """Return a time of today as such, any other with its date."""
    if at_ms is None:
        return "–"
    at = datetime.fromtimestamp(at_ms / 1_000, UTC)
    return at.strftime("%H:%M:%SZ" if at.date() == datetime.now(UTC).date() else "%Y-%m-%d %H:%M:%SZ")

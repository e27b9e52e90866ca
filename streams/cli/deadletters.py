"""`tidecast deadletters`: look at what was refused, and send it again after a fix."""

from __future__ import annotations

import json
from collections import Counter, deque
from typing import Annotated, Any

import typer

app = typer.Typer(no_args_is_help=True, help="Look at and redrive dead letters.")

_REASON = Annotated[
    list[str] | None, typer.Option(help="undecodable, invalid, future, late or oversized; repeatable; default: all")
]


@app.command()
def show(
    reason: _REASON = None,
    limit: Annotated[int, typer.Option(min=1, help="how many of the newest")] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="print JSON lines, as they are in the topic")] = False,
) -> None:
    """Show the newest dead letters, and how many there are by topic and reason."""
    from streams.deadletters import check_reasons, read
    from streams.settings import load_settings

    reasons = check_reasons(reason)
    counts: Counter[tuple[str, str]] = Counter()
    newest: deque[Any] = deque(maxlen=limit)
    for letter in read(load_settings()):
        if letter.reason in reasons:
            counts[letter.topic, letter.reason] += 1
            newest.append(letter)
    if as_json:
        import msgspec

        for letter in newest:
            typer.echo(msgspec.json.encode(letter).decode())
    else:
        for letter in newest:
            # The bytes are a stranger's: nothing of them may reach the terminal as control characters.
            head = ascii((letter.value() or b"")[:100].decode("utf-8", "replace"))[1:-1]
            typer.echo(
                f"{letter.topic}[{letter.partition}] {letter.offset}  {letter.reason}: {ascii(letter.detail)[1:-1]}"
            )
            typer.echo(f"    {letter.size} bytes{', cut' if letter.truncated else ''}: {head}")
    for (topic, why), count in sorted(counts.items()):
        typer.echo(f"{topic}: {why} {count:,}", err=True)
    if not counts:
        typer.echo("no dead letters", err=True)


@app.command()
def redrive(
    reason: _REASON = None,
    dry_run: Annotated[bool, typer.Option(help="say what would be sent, send nothing")] = False,
) -> None:
    """Send dead letters to where they came from, once each: they correct state and labels, and predict nothing.

    Late letters are sent where --reason names them: one may be the repeat of an event that counted, and counts again.
    Letters that were too long to be kept whole cannot be sent, and are listed. The last line is a JSON summary.
    """
    from streams.deadletters import DEFAULT_REASONS, check_reasons
    from streams.deadletters import redrive as send
    from streams.settings import load_settings

    summary = send(
        load_settings(),
        check_reasons(reason or DEFAULT_REASONS),
        dry_run=dry_run,
        refused=lambda line: typer.echo(line, err=True),
    )
    typer.echo(json.dumps(summary))

"""`tidecast features`: what is counted, and what a stored row says."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

app = typer.Typer(no_args_is_help=True, help="List the features, and show what a stored row says.")

_JSON = Annotated[bool, typer.Option("--json", help="print JSON")]


@app.command(name="list")
def list_(
    entity: Annotated[
        Literal["user", "user_category", "session", "product", "category", "context"] | None,
        typer.Option(help="only those of it; default: all"),
    ] = None,
    as_json: _JSON = False,
) -> None:
    """List the features: entity, aggregate, window and tiles or half-life, memory, unit, type, and what each says.

    At the head stand the feature schema's hash, which rows and models must share, and the longest memory: so much of
    the log rebuilds all of them. On a terminal this is a table, elsewhere tab-separated text. docs/features.md explains
    how windows slide, what a session is, and what a return takes back.
    """
    from rich.console import Console

    from features.documentation import FIELDS, as_data, duration, in_words, listed
    from features.sets import SCORE_SET, memory_ms
    from streams.settings import load_settings
    from streams.topologies.shop import feature_schema

    found, schema = listed(entity), feature_schema(load_settings())
    if as_json:
        head = {"schema_hash": schema, "memory_ms": memory_ms()}
        typer.echo(json.dumps({**head, "features": [as_data(feature) for feature in found]}, indent=2))
        return
    longest = duration(memory_ms())
    typer.echo(f"feature schema {schema}: {len(SCORE_SET)} features, longest memory {longest}")
    console = Console()
    if console.is_terminal:
        console.print(_table([in_words(feature) for feature in found], console.width))
        return
    typer.echo("\t".join(FIELDS))
    for feature in found:
        typer.echo("\t".join(in_words(feature)))


@app.command()
def show(
    kind: Annotated[Literal["user", "product", "category"], typer.Argument(help="whose row", show_default=False)],
    id_: Annotated[str, typer.Argument(metavar="ID", help="as in the events", show_default=False)],
    time: Annotated[
        str | None,
        typer.Option(
            help="ISO 8601, in the shop's time zone where it names none: a product or category as of then, a user as "
            "of the last event up to then; default: the newest"
        ),
    ] = None,
    as_json: _JSON = False,
) -> None:
    """Show the row of a user, product or category as it lies in the store: its features, their units, how old they are.

    Of a user also the last events, the session, and the book of its orders. The row is as of its task's last
    checkpoint, a moment behind the worker; nothing is changed. Exit code 1 says that there is no such row, 4 that it
    cannot be read (a row of another feature schema, say), 6 that the store does not answer.
    """
    from streams.cli._times import time_of
    from streams.settings import load_settings
    from streams.store import RedisStore

    settings = load_settings()
    at = time_of(time, settings.shop.timezone, "--time")
    store = RedisStore.connect(settings)
    try:
        from streams.rows import find_category, find_product, find_user

        find = {"user": find_user, "product": find_product, "category": find_category}[kind]
        found = find(settings, store, id_, at)
    finally:
        store.close()
    typer.echo(json.dumps(found.as_data(), indent=2) if as_json else "\n".join(found.lines()))


_WIDE = 150
"""Columns of a terminal from which on every word has a column of its own."""


def _table(rows: Sequence[tuple[str, ...]], width: int) -> Table:
    """Return the features' words as a table that fits `width` columns: on a narrow terminal in two lines each."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    from features.documentation import FIELDS

    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0))
    if width >= _WIDE:
        for name in FIELDS:
            table.add_column(name, no_wrap=name != FIELDS[-1])
        for row in rows:
            table.add_row(*map(Text, row))
        return table
    table.add_column(FIELDS[0], no_wrap=True)
    table.add_column("how, and what it says")
    before = None
    for name, entity, aggregate, window, tile, half_life, memory, unit, dtype, said in rows:
        if entity != before:
            table.add_section()
            table.add_row(Text(entity, "bold"))
            before = entity
        over = f" over {window} by {tile}" if window else ""
        halved = f", half-life {half_life}" if half_life else ""
        remembered = f", memory {memory}" if memory else ""
        how = f"{aggregate}{over}{halved}{remembered}; {unit}, {dtype}"
        table.add_row(Text(name), Text.assemble((how, "dim"), "\n", said))
    return table

"""`tidecast verify`: what was served, computed again from the log alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated, Literal

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from streams.verification.report import Report

app = typer.Typer(no_args_is_help=True, help="Compute what was served again, from the log alone.")

_ORACLE_SAMPLE = 1_000


@app.callback()
def _group() -> None:
    """Keep `features` a subcommand."""


@app.command()
def features(
    sample: Annotated[
        int | None,
        typer.Option(min=1, help="compare about N vectors, all those of some users; default: all, by oracle 1,000"),
    ] = None,
    by: Annotated[
        Literal["engine", "oracle"],
        typer.Option(help="engine: a fresh pass of the kernels; oracle: brute force in plain Python, slow"),
    ] = "engine",
    as_json: Annotated[bool, typer.Option("--json", help="print JSON")] = False,
) -> None:
    """Recompute every vector in tidecast.examples from the raw log, and compare it with what was served.

    Reads clickstream and orders by the plain rules of order, lateness and repeats, and tidecast.activity up to the
    versions of the product's and the category's row that each example names. Shows how often each feature differs,
    which accepted clicks have no example, and which examples no click. Exit code 0: none of these; 1: some, or nothing
    could be compared; 4: the log no longer holds what any example needs. The settings under `time` and `shop` must be
    those of the workers.
    """
    from streams.kafka import base_config
    from streams.settings import load_settings

    settings = load_settings()
    base_config(settings)  # a missing address is said now, not after numba was loaded
    from streams.cli._progress import EventProgress
    from streams.logs import KafkaTopics
    from streams.verification.features import verify_features

    with EventProgress("verify features", "records") as shown:
        found = verify_features(
            KafkaTopics(settings),
            settings,
            by=by,
            sample=_ORACLE_SAMPLE if sample is None and by == "oracle" else sample,
            report=lambda p: shown.update(p.records, p.time_ms, p.done),
        )
    if as_json:
        typer.echo(json.dumps(found.as_dict()))
    else:
        from rich.console import Console

        console = Console()
        console.print(_table(found))
        for line in in_words(found):
            console.print(line, markup=False, highlight=False, soft_wrap=True)
    if not found.compared:
        repair = "; give the workers' own settings under shop, or use the tidecast that served" * bool(
            found.other_definition
        )
        typer.echo(f"warning: there was no example to compare{repair}", err=True)
    if not found.clean or not found.compared:
        raise typer.Exit(1)


def _table(found: Report) -> Table:
    """Return a row a feature."""
    from rich.table import Table

    from features.sets import SCORE_FEATURES

    table = Table("feature", title="served against recomputed")
    table.add_column("differ", justify="right")
    table.add_column("rate", justify="right")
    for name in SCORE_FEATURES:
        count = found.mismatches[name]
        table.add_row(name, f"{count:,}", f"{found.rate(name):.4%}", style="bold red" if count else None)
    return table


def in_words(found: Report) -> list[str]:
    """Return what was found, line by line.

    >>> from streams.verification.report import Report
    >>> in_words(Report("engine", "25742257dc119004", accepted=8, examples=6, compared=6, missing=2))[:2]
    ['6 vectors compared with the engine: 0 differ (0.0000%)', 'missing: 2 of 8 accepted clicks (25.0000%)']
    """
    share = found.mismatched / found.compared if found.compared else 0.0
    lines = [
        f"{found.compared:,} vectors compared with the {found.by}: {found.mismatched:,} differ ({share:.4%})",
        f"missing: {found.missing:,} of {found.accepted:,} accepted clicks ({found.missing_rate:.4%})",
        f"extra: {found.extra:,} of {found.examples:,} examples ({found.extra_rate:.4%})",
    ]
    if found.misplaced:
        lines.append(f"misplaced: {found.misplaced:,} examples name another user, time or offset than their clicks")
    if found.unverifiable:
        lines.append(f"not verifiable: {found.unverifiable:,} examples; {found.why_unverifiable}")
    if found.other_definition:
        lines.append(f"of another definition: {found.other_definition:,} examples not compared")
    lines += [
        f"{one.example}: {one.feature} was served as {one.served!r}, recomputed as {one.recomputed!r}"
        for one in found.differences
    ]
    return lines + found.strays

"""`tidecast models`: what is in the registry, and which version serves."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True, help="List, show, promote and roll back versions of the demand model.")
_Version = Annotated[str, typer.Argument(help="a version, as `list` names it")]


@app.command(name="list")
def list_() -> None:
    """Print one line a version: name, decision, WQL, the seasonal forecast's WQL; the champion is marked."""
    from models.registry import RegistryError
    from streams.announcing import DEMAND
    from streams.serving import registry_of
    from streams.settings import load_settings

    registry = registry_of(load_settings())
    champion = registry.champion(DEMAND)
    versions = registry.list_versions(DEMAND)
    if not versions:
        typer.echo(
            f"{registry.root}: no version yet; 'tidecast train' makes one once enough buckets have closed", err=True
        )
    for version in versions:
        try:
            card = registry.card(DEMAND, version)
        except RegistryError as error:
            typer.echo(f"{version}\trefused\t{error}")
            continue
        figures = "\t".join(f"{card.metrics.get(name, float('nan')):.4f}" for name in ("wql", "wql_seasonal"))
        typer.echo(f"{version}\t{card.decision}\t{figures}\t{'champion' if version == champion else ''}".rstrip())


@app.command()
def show(version: _Version) -> None:
    """Verify a version, tensors included, and print its card as JSON."""
    from models.registry import RegistryError
    from streams.announcing import DEMAND, VersionRefused
    from streams.serving import registry_of
    from streams.settings import load_settings

    try:
        card = registry_of(load_settings()).load(DEMAND, version).card
    except RegistryError as error:
        raise VersionRefused(str(error)) from error
    typer.echo(json.dumps(asdict(card), indent=2))


@app.command()
def promote(version: _Version) -> None:
    """Make a version champion, and tell the workers; they swap between batches."""
    from streams.announcing import promote as promote_version
    from streams.settings import load_settings

    card = promote_version(load_settings(), version, time.time_ns() // 1_000_000)
    typer.echo(f"{card.name} {card.version} is champion")


@app.command()
def rollback() -> None:
    """Make the champion before this one serve again: an earlier version, or the seasonal forecast."""
    from streams.announcing import SEASONAL
    from streams.announcing import rollback as roll_back
    from streams.settings import load_settings

    card = roll_back(load_settings(), time.time_ns() // 1_000_000)
    name, version = (card.name, card.version) if card else SEASONAL
    typer.echo(f"{name} {version} is champion")

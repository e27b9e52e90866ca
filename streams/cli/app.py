"""The commands and their groups."""

from __future__ import annotations

import importlib
import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

# Command name → module under streams.cli that holds `app` (a group) or a function of that name.
_COMMANDS = {
    "run": "run a role, or everything with embedded servers",
    "topics": "create what is missing",
    "config": "show the settings",
    "replay": "stream a shop's files into the topics",
    "simulate": "make a shop whose truth is known",
    "backtest": "the same topologies over files, without a broker",
    "backfill": "training tables of the past, by the code that serves",
    "train": "train the sequence model",
    "features": "what is counted, and what a stored row says",
    "models": "list, show, promote and roll back versions",
    "demo": "a live view of everything on a simulated shop",
    "status": "what the workers say of themselves",
    "state": "look at and reset a task's state",
    "verify": "compute what was served again, from the log alone",
    "deadletters": "look at and redrive dead letters",
}


class _LazyGroup(TyperGroup):
    """Imports a command's module only when that command is asked for: --help stays quick."""

    def list_commands(self, ctx: Any) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        if cmd_name not in _COMMANDS:
            return None
        module = importlib.import_module(f"streams.cli.{cmd_name}")
        command = typer.main.get_command(module.app)
        command.name = cmd_name
        # Completion is of the whole command, which offers none.
        command.params = [one for one in command.params if one.name not in ("install_completion", "show_completion")]
        _unwrap_help(command)
        return command

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands from the table, importing none of them."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _COMMANDS[name]) for name in self.list_commands(ctx)])


def _unwrap_help(command: Any) -> None:
    """Make a line of each paragraph of the help, which the terminal wraps once more; lists keep their lines."""
    if command.help:
        command.help = re.sub(r"(?<=\S)\n(?=[^\s*-])", " ", inspect.cleandoc(command.help))
    for one in getattr(command, "commands", {}).values():
        _unwrap_help(one)


app = typer.Typer(
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    help="Tidecast: a streaming, event-driven demand forecaster for online shops.",
)


def _say_version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"tidecast {version('tidecast')}")
        raise typer.Exit


@app.callback()
def _root(
    config: Annotated[Path | None, typer.Option(help="settings in TOML; the environment wins over it")] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_say_version, is_eager=True, help="print the version and exit")
    ] = False,
) -> None:
    if config is not None:
        import os

        os.environ["TIDECAST_CONFIG"] = str(config)

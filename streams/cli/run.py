"""`tidecast run`: one role, or all of them with embedded servers where no broker is set."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from streams.roles import Role

app = typer.Typer(help="Run a role, or everything.")


@app.command()
def run(
    role: Annotated[Role | None, typer.Option(help="one alone; without it: all of them")] = None,
    data_dir: Annotated[Path, typer.Option(help="where the embedded servers keep their data")] = Path(".tidecast/data"),
) -> None:
    """Run one role in this process, or supervise all of them.

    Without kafka.bootstrap_servers an embedded broker and store are started (extra `embedded`), and their addresses
    are the first line printed. Other commands reach them after `. DATA_DIR/environment`.
    """
    from streams.settings import load_settings

    settings = load_settings()
    if role is not None:
        from streams.roles import run_role

        raise typer.Exit(run_role(role, settings))
    from streams.supervisor import run_all

    raise typer.Exit(run_all(settings, data_dir))

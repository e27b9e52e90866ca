"""The `tidecast` command: one module per group, heavy imports only inside the command that needs them."""

from __future__ import annotations

import sys

from streams.cli.app import app
from streams.errors import TidecastError

__all__ = ["main"]


def main() -> None:
    """Run the command line; a TidecastError becomes one clear line on standard error and its exit code."""
    try:
        app()
    except TidecastError as error:
        sys.stderr.write(f"tidecast: {error}\n")
        sys.exit(error.exit_code)

"""The `tidecast` command: one module per group, heavy imports only inside the command that needs them."""

from __future__ import annotations

import os
import socket
import sys

from streams.cli.app import app
from streams.errors import TidecastError

__all__ = ["main"]


_INVALID_SETTING = -186
"""librdkafka's `_INVALID_ARG`."""


def _kafka_error() -> type[Exception]:
    """Return the client's error, if a command has loaded the client; else one that nobody raises."""
    client = sys.modules.get("confluent_kafka")
    error: type[Exception] = client.KafkaException if client is not None else _NeverRaised
    return error


class _NeverRaised(Exception):
    """Stands where there is nothing to catch."""


def main() -> None:
    """Run the command line; a TidecastError becomes one clear line on standard error and its exit code."""
    try:
        app()
    except TidecastError as error:
        sys.stderr.write(f"tidecast: {error}\n")
        sys.exit(error.exit_code)
    except BrokenPipeError:
        # Whoever read standard output has enough; what is still buffered goes nowhere.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except _kafka_error() as error:
        said = error.args[0]
        repair = "; check the settings under kafka" if said.code() == _INVALID_SETTING else ""
        sys.stderr.write(f"tidecast: Kafka: {said.str()} ({said.name()}){repair}\n")
        sys.exit(2 if repair else 1)
    except (ConnectionError, TimeoutError, socket.gaierror) as error:
        sys.stderr.write(f"tidecast: {error.strerror or error}; check the address, and that something answers there\n")
        sys.exit(1)
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        sys.stderr.write(f"tidecast: {place}{error.strerror or error}; check the path, its rights and the room there\n")
        sys.exit(2 if isinstance(error, FileExistsError | NotADirectoryError | IsADirectoryError) else 1)

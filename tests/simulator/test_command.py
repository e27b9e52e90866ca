"""`tidecast simulate` and `tidecast replay` as commands: data on standard output, people's text on standard error."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from streams.cli.app import app
from streams.errors import ConfigurationError, SourceError
from streams.sources import open_source


def test_simulate_writes_a_source(tmp_path: Path) -> None:
    """The command's folder is a source; the last line of its output is JSON with its place."""
    arguments = ["simulate", "--out", str(tmp_path), "--users", "100", "--products", "10", "--days", "3", "--seed", "4"]
    result = CliRunner().invoke(app, [*arguments, "--end", "2024-05-01T12:00:00"])
    assert result.exit_code == 0, result.output
    told = json.loads(result.stdout.splitlines()[-1])
    source = open_source(told["source"])
    assert sum(event.topic == "clickstream" for event in source.events()) == told["clicks"] > 0


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["simulate"], "give either --out FOLDER or --to-kafka"),
        (["simulate", "--out", "x", "--users", "0"], "--users 0"),
        (["simulate", "--out", "x", "--end", "soon"], "--end soon: is no time"),
        (["replay", "x.toml", "--speed", "fast"], "--speed fast: is one of max"),
    ],
)
def test_wrong_options_are_named(arguments: list[str], said: str) -> None:
    """An option that cannot be is refused with its name, its value and the allowed form."""
    result = CliRunner().invoke(app, arguments)
    assert isinstance(result.exception, ConfigurationError)
    assert said in str(result.exception)


def test_replay_needs_its_source() -> None:
    """A source that is not there is an error that names it."""
    result = CliRunner().invoke(app, ["replay", "nowhere.toml"])
    assert isinstance(result.exception, SourceError)
    assert "nowhere.toml" in str(result.exception)

"""Laws of the commands: what they share, what they refuse, and what they say of where things are."""

from __future__ import annotations

import json
import logging
import os
import shlex
import socket
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
from rich.console import Console
from typer.testing import CliRunner

from features.documentation import in_words
from features.sets import SCORE_SET, memory_ms, schema_hash
from streams.cli.app import _COMMANDS, app
from streams.cli.features import _table as _features_table
from streams.cli.status import _table
from streams.cli.train import _in_words
from streams.errors import ConfigurationError, StoreUnavailable
from streams.kafka import _SAME_LINE_S, _Sparing
from streams.settings import Settings, load_settings
from streams.supervisor import _kept_port, _tell, _told, embedded_environment


def test_the_defaults_agree_on_the_registry() -> None:
    """The registry of `tidecast run` with embedded servers is the one that every other command takes."""
    environment = embedded_environment("127.0.0.1:1", "redis://127.0.0.1:2/0", Path(".tidecast/data"))
    assert environment["TIDECAST_TRAIN__REGISTRY"] == str(Settings().train.registry.absolute())


def test_embedded_servers_leave_what_was_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Partitions and registry of a settings file or the environment hold on embedded servers too."""
    file = tmp_path / "settings.toml"
    file.write_text('[kafka]\npartitions = 7\n[train]\nregistry = "/models"\n')
    monkeypatch.setenv("TIDECAST_CONFIG", str(file))
    monkeypatch.setenv("TIDECAST_KAFKA__REST_AT_END_MS", "9")
    monkeypatch.setenv("TIDECAST_KAFKA__RENEW_PRODUCERS", "false")
    environment = embedded_environment("127.0.0.1:1", "redis://127.0.0.1:2/0", tmp_path)
    assert environment["TIDECAST_KAFKA__PARTITIONS"] == "7"
    assert environment["TIDECAST_KAFKA__REST_AT_END_MS"] == "9"
    assert environment["TIDECAST_KAFKA__RENEW_PRODUCERS"] == "false"
    assert environment["TIDECAST_TRAIN__REGISTRY"] == "/models"


def test_another_shell_has_the_settings_of_what_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose rows are whose depends on the shop: what was set, in a file or not, is written down, but no password."""
    file = tmp_path / "settings.toml"
    file.write_text(
        '[shop]\ntimezone = "Europe/London"\ncurrency = "GBP"\nrates = { EUR = 0.86 }\n'
        '[kafka]\nsasl_password = "hush"\nextra = { "ssl.key.password" = "hush" }\n'
        '[demand]\nhorizon = 9\n[runtime]\nmetrics_port = 0\n[control]\nstatus_urls = ["http://u:hush@b/"]\n'
    )
    monkeypatch.setenv("TIDECAST_CONFIG", str(file))
    monkeypatch.setenv("TIDECAST_SHOP__COUNTRY", "GB")
    there = load_settings()
    environment = embedded_environment("127.0.0.1:1", "redis://127.0.0.1:2/0", tmp_path)
    assert "hush" not in str(environment)
    monkeypatch.delenv("TIDECAST_CONFIG")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    here = load_settings()
    for section in ("shop", "demand", "learn", "score", "time"):
        assert getattr(here, section) == getattr(there, section)


@pytest.mark.parametrize("folder", ["data", "it's $HOME & more", "two\nlines"])
def test_a_shell_reads_what_run_wrote(tmp_path: Path, folder: str) -> None:
    """The file and the line to paste set the same variables, whatever the folder's name; `run` knows them again."""
    data = tmp_path / folder
    data.mkdir()
    environment = {"TIDECAST_TRAIN__REGISTRY": str(data / "registry"), "TIDECAST_REDIS__URL": "redis://127.0.0.1:2/0"}
    line = _tell(data, environment)
    for script in (f". {shlex.quote(str(data / 'environment'))}", line):
        shown = subprocess.run(["sh", "-c", f"{script}; env -0"], capture_output=True, text=True, check=True).stdout
        assert {f"{name}={value}" for name, value in environment.items()} <= set(shown.split("\0"))
    assert _told(data) == environment


def test_the_port_of_the_web_view_is_kept(tmp_path: Path) -> None:
    """A folder's port stays as long as nobody else takes it."""
    port = _kept_port(tmp_path / "web-port")
    assert _kept_port(tmp_path / "web-port") == port
    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        moved = _kept_port(tmp_path / "web-port")
    assert moved != port
    assert _kept_port(tmp_path / "web-port") == moved


@pytest.mark.parametrize("command", _COMMANDS)
def test_help_is_about_the_command(command: str) -> None:
    """No command offers what is not its own."""
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "completion" not in result.stdout


def test_help_fills_the_lines_of_a_narrow_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """A paragraph is wrapped once: no line but its last is so short that the next one's first word would fit."""
    monkeypatch.setenv("COLUMNS", "80")
    result = CliRunner().invoke(app, ["backfill", "--help"])
    lines = [line.strip() for line in result.stdout.partition("╭")[0].splitlines()]
    told = lines[lines.index(next(line for line in lines if line.startswith("Writes part-"))) : -1]
    assert len(told) > 5
    for line, following in pairwise(told):
        assert len(line) + 1 + len(following.split()[0]) > 78


def test_the_version_is_that_of_the_package() -> None:
    """`--version` says what is installed, and needs no command."""
    from importlib.metadata import version

    result = CliRunner().invoke(app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"tidecast {version('tidecast')}\n")


@pytest.mark.parametrize("entity", [None, "user", "user_category", "session", "product", "context"])
def test_features_are_listed_with_all_that_is_declared(entity: str | None) -> None:
    """Text and JSON name the same features in the order of the vector, the hash and the longest memory at the head."""
    chosen = [] if entity is None else ["--entity", entity]
    names = [feature.name for feature in SCORE_SET if entity in (None, feature.entity)]
    plain = CliRunner().invoke(app, ["features", "list", *chosen])
    head, columns, *rows = plain.stdout.splitlines()
    assert head == f"feature schema {schema_hash()}: {len(SCORE_SET)} features, longest memory 30 d"
    assert [row.split("\t")[0] for row in rows] == names
    assert {row.count("\t") for row in rows} == {columns.count("\t")}
    found = json.loads(CliRunner().invoke(app, ["features", "list", "--json", *chosen]).stdout)
    assert (found["schema_hash"], found["memory_ms"]) == (schema_hash(), memory_ms())
    assert [feature["name"] for feature in found["features"]] == names


@pytest.mark.parametrize("command", ["features show user u1", "state list"])
def test_a_store_that_does_not_answer_is_named(command: str) -> None:
    """One line that says where to look, and the exit code of a store that is away."""
    environment = os.environ | {"TIDECAST_REDIS__URL": "redis://127.0.0.1:1/0"}
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", *command.split()],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout) == (StoreUnavailable.exit_code, "")
    [line] = done.stderr.splitlines()
    assert "TIDECAST_REDIS__URL" in line


def test_a_time_that_is_none_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """`--time` takes ISO 8601, and says so."""
    monkeypatch.setenv("TIDECAST_REDIS__URL", "redis://127.0.0.1:1/0")
    result = CliRunner().invoke(app, ["features", "show", "user", "u1", "--time", "noon"])
    assert isinstance(result.exception, ConfigurationError)
    assert "--time noon: is no time from 1970 to 2099; give ISO 8601" in str(result.exception)


@pytest.mark.parametrize("width", [80, 149, 150, 200])
def test_a_terminal_shows_features_as_a_table(width: int) -> None:
    """However narrow, each feature's name and description are whole, words broken between lines at most."""
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115  # the console's own
    console.print(_features_table([in_words(feature) for feature in SCORE_SET], width))
    text = console.export_text()
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    words = set(text.split())
    for feature in SCORE_SET:
        assert {feature.name, *feature.description.split()} <= words


def test_an_unknown_role_is_named_with_the_known_ones() -> None:
    """A role that is none is refused before anything starts."""
    result = CliRunner().invoke(app, ["run", "--role", "foo"])
    assert result.exit_code == 2
    assert "'foo'" in result.stderr
    assert all(role in result.stderr for role in ("score", "demand", "learn", "control"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ("backtest demand x.toml --out y --freq D --origins 2026-11-20", "give either --top N or --keys FILE"),
        ("train", "kafka.bootstrap_servers is not set"),
        ("features show user u1", "redis.url is not set"),
        ("replay x.toml", "x.toml"),
    ],
)
def test_what_cannot_be_is_said_before_anything_heavy_is_loaded(
    arguments: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A wrong call costs no import of numba or torch."""
    script = (
        "import sys\nfrom streams.cli import main\n"
        "try:\n    main()\nfinally:\n    print(sorted({'numba', 'torch', 'river'} & set(sys.modules)))"
    )
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDECAST_")}
    command = [sys.executable, "-c", script, *arguments.split()]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == ConfigurationError.exit_code
    assert said in done.stderr
    assert done.stdout == "[]\n"


@pytest.mark.parametrize("command", ["topics create", "status", "deadletters redrive", "replay {shop}"])
def test_a_setting_that_the_client_refuses_is_one_line(shop: Path, command: str) -> None:
    """Whatever the command: what librdkafka says of it, where to look, exit code 2."""
    environment = os.environ | {
        "TIDECAST_KAFKA__BOOTSTRAP_SERVERS": "127.0.0.1:1",
        "TIDECAST_KAFKA__EXTRA": '{"no.such.setting": "1"}',
    }
    arguments = [str(shop) if word == "{shop}" else word for word in command.split()]
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", *arguments], env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    [line] = done.stderr.splitlines()
    assert "no.such.setting" in line
    assert "check the settings under kafka" in line


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shop")
    size = ["--users", "100", "--products", "10", "--days", "3", "--end", "2024-05-01"]
    result = CliRunner().invoke(app, ["simulate", "--out", str(folder), *size])
    assert result.exit_code == 0, result.output
    return folder / "source.toml"


@pytest.mark.parametrize(
    ("arguments", "file", "code"),
    [
        (["purchase", "--from", "2030-01-01"], "predictions.csv", 1),
        (["demand", "--freq", "D", "--origins", "2024-05-01", "--top", "3", "--no-train"], "forecasts.csv", 0),
    ],
)
def test_a_backtest_without_scores_says_so(
    shop: Path, tmp_path: Path, arguments: list[str], file: str, code: int
) -> None:
    """The files are written, standard error says why; no prediction at all is a failure, a forecast ahead is none."""
    kind, *options = arguments
    result = CliRunner().invoke(app, ["backtest", kind, str(shop), "--out", str(tmp_path), *options])
    assert result.exit_code == code, result.output
    assert "warning: " in result.stderr
    assert {path.name for path in tmp_path.iterdir()} >= {file, "metrics.json", "report.html"}


def test_status_breaks_no_line_at_80_columns() -> None:
    """One line a worker, its name and times whole, however many tasks it has."""
    tasks = {str(number): {"watermark": 1_700_000_000_000, "epoch": 100 + number} for number in range(32)}
    found = {name: {"ready": True, "at": 1_700_000_100_000, "tasks": tasks} for name in ("control/worker-0", "a/b")}
    console = Console(width=80, record=True, file=open(os.devnull, "w"))  # noqa: SIM115  # the console's own
    console.print(_table(found))
    lines = [line for line in console.export_text().splitlines() if "/" in line]
    assert [line.split()[0] for line in lines] == list(found)
    for line in lines:
        assert "2023-11-14 22:13:20Z" in line
        assert "2023-11-14 22:15:00Z" in line


def test_a_client_without_a_broker_says_so_once_a_minute() -> None:
    """Lines that differ by client and duration are one; another line, or a later minute, is heard."""
    sparing = _Sparing()

    def passes(text: str, at: float) -> bool:
        record = logging.LogRecord("tidecast.kafka", logging.WARNING, "", 0, text, None, None)
        record.created = at
        return bool(sparing.filter(record))

    line = "FAIL [rdkafka#consumer-{}] [thrd:a:1/1]: Connect to ipv4#a:1 failed: refused (after {}ms in state CONNECT)"
    assert passes(line.format(1, 0), 1_000.0)
    assert not passes(line.format(2, 15), 1_001.0)
    assert passes(line.format(1, 0).replace("refused", "timed out"), 1_001.0)
    assert passes(line.format(1, 3), 1_000.0 + _SAME_LINE_S)


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        (
            {"wql_lstm": 0.4977, "wql_seasonal": 0.5244, "win": 0.051, "decision": "promoted"},
            "0.5244 (+5.1%): promoted",
        ),
        ({"win": 0.0, "decision": "shadow"}, "stays in shadow, for neither can win: nothing was sold in the buckets"),
    ],
)
def test_training_says_who_won_and_why_nobody_could(figures: dict[str, object], said: str) -> None:
    """Figures that are none are left out of the JSON, and are no words either."""
    line = _in_words({"version": "7", **figures})
    assert said in line
    assert "nan" not in line

"""`make demo` as a user starts it: with an environment that is there already, on a shop of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

from tests.sources.conftest import HEAD

ROOT = Path(__file__).parents[2]
SOURCE = """
[clicks]
path = "clicks.csv"
user = "user"
time = "time"
product = "product"
type = { column = "action", map = { pv = "view" } }
"""


def a_source(folder: Path) -> Path:
    """Write a small shop: 34 clicks, 4 of them without a user, and 16 rows of a type that the map does not know."""
    folder.mkdir()
    lines = ["user,time,product,action"]
    for number in range(50):
        user = f"u{number % 7}" if number < 46 else ""
        lines.append(f"{user},2024-01-01T00:{number:02d}:00Z,p{number % 5},{'pv' if number >= 16 else 'unknown'}")
    (folder / "clicks.csv").write_text("\n".join(lines) + "\n")
    (folder / "source.toml").write_text(HEAD + SOURCE)
    return folder / "source.toml"


def make_demo(folder: Path, source: Path | None) -> subprocess.Popen[str]:
    """Start `make demo`, with this interpreter's Tidecast in place of the one that it would install."""
    venv = folder / "venv"
    (venv / "bin").mkdir(parents=True)
    program = venv / "bin" / "tidecast"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m streams.cli "$@"\n')
    program.chmod(0o755)
    for stamp in (".created", ".embedded"):
        (venv / stamp).touch()
    return subprocess.Popen(
        ["make", "demo", f"VENV={venv}", *([f"SOURCE={source}"] if source is not None else [])],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def test_a_small_shop_is_shown_to_its_end(tmp_path: Path) -> None:
    """However soon all is sent, every click with a user is scored; and what was not used is said."""
    # Such a folder must survive make and the shell.
    process = make_demo(tmp_path, a_source(tmp_path / "ann's own shop"))
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0, said
    assert "50 rows, of which 16 unreadable (clicks.type.invalid 16)" in said
    assert "34 events sent, 30 clicks scored, 4 without user, 0 demand forecasts, 0 doubled ids" in said
    assert f"tidecast backtest purchase '{tmp_path}/ann" in said


def test_ctrl_c_is_no_failure(tmp_path: Path) -> None:
    """Stopped early, the demo says when, advertises nothing, and make has no error to report."""
    process = make_demo(tmp_path, None)
    assert process.stdout is not None
    try:
        said = ""
        while "kafka=" not in said:
            part = process.stdout.readline()
            assert part, said
            said += part
        # As a terminal does: to make and to the command at once.
        os.killpg(process.pid, signal.SIGINT)
        said += process.communicate(timeout=100)[0]
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    assert "stopped after" in said
    for absent in ("***", "next:", "done in", "Traceback", "nothing was scored"):
        assert absent not in said, said


def test_a_typo_starts_no_server(tmp_path: Path) -> None:
    """A source that is not there is said in one line, before anything is started, and no log is shown."""
    command = [sys.executable, "-m", "streams.cli", "demo", "--source", str(tmp_path / "typo.toml")]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert "starting" not in done.stdout
    assert done.stderr.startswith("tidecast: ")
    assert "typo.toml" in done.stderr
    assert done.stderr.count("\n") == 1

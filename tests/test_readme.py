"""Every command in the README is run: those of `tidecast` here, in order; those of make and docker by the checks.

Of those, `make bench` is run small, by a test on real servers; the tests that are commands of their own are themselves.

First `run` alone, with embedded servers; then the roles, on an embedded pair in place of one's own Kafka and Redis.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from streams import errors
from streams.children import free_port
from streams.embedded import EmbeddedServers
from tests.containers.test_compose import UP
from tests.real.harness import Role, wait_until
from tests.real.test_benchmark import BENCH
from tests.real.test_benchmark import pytestmark as MARKER

pytestmark = pytest.mark.timeout(600)

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def commands_of(text: str) -> list[str]:
    """Return the lines of a page's shell blocks without their remarks."""
    return [
        line.split("  #")[0].strip()
        for block in re.findall(r"```sh\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
        if line.strip() and not line.startswith("#")
    ]


COMMANDS = commands_of(README)
MAKE = sorted(
    {
        line
        for page in ("README.md", "CONTRIBUTING.md")
        for line in commands_of((ROOT / page).read_text(encoding="utf-8"))
        if line.startswith("make ")
    }
)
SCRIPTS = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
TIDECAST = ".venv/bin/tidecast "


class Session:
    """A user's shell: its folder, its environment, and what was left running in it."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder = folder
        self.environment = dict(os.environ)
        self.roles: list[Role] = []
        self._stack = stack
        self._servers: EmbeddedServers | None = None
        self._alone: subprocess.Popen[bytes] | None = None

    def run_alone(self, arguments: list[str]) -> None:
        """Start `run` without a broker, and wait until it says that it is ready."""
        out, said = self.folder / "run.out", self.folder / "run.err"
        with out.open("wb") as sink, said.open("wb") as errors:
            self._alone = subprocess.Popen(
                [sys.executable, "-m", "streams.cli", *arguments],
                cwd=self.folder,
                env=self.environment,
                stdout=sink,
                stderr=errors,
            )
        self._stack.callback(self._alone.kill)
        wait_until(
            lambda: b"\nready; web view http://127.0.0.1:" in said.read_bytes(),
            "run ready",
            tell=lambda: said.read_text()[-3_000:],
        )
        assert re.fullmatch(r"kafka=127\.0\.0\.1:\d+ redis=redis://127\.0\.0\.1:\d+/0\n", out.read_text())

    def stop_alone(self) -> None:
        """End it by SIGTERM: it says so, and exits 0."""
        if self._alone is not None:
            self._alone.send_signal(signal.SIGTERM)
            assert self._alone.wait(60) == 0
            assert (self.folder / "run.err").read_text().endswith("stopped\n")
            self._alone = None

    def source(self, line: str) -> None:
        """Read a file of variables, as a shell does."""
        show = "import json, os; print(json.dumps(dict(os.environ)))"
        done = subprocess.run(
            ["sh", "-c", '. "$1" && exec "$2" -c "$3"', "sh", shlex.split(line)[1], sys.executable, show],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
            check=True,
        )
        self.environment = json.loads(done.stdout)

    def export(self, line: str) -> None:
        """Set what the README sets, with the address of servers begun here in place of the example's."""
        if self._servers is None:
            self.stop_alone()
            self._servers = self._stack.enter_context(EmbeddedServers(self.folder.parent / "servers"))
        name, _, value = line.removeprefix("export ").partition("=")
        place = {"localhost:9092": self._servers.bootstrap, "redis://localhost:6379/0": self._servers.redis_url}
        self.environment[name] = place[value]

    def run(self, arguments: list[str]) -> subprocess.CompletedProcess[str]:
        """Run a command to its end."""
        command = [sys.executable, "-m", "streams.cli", *arguments]
        return subprocess.run(
            command, cwd=self.folder, env=self.environment, capture_output=True, text=True, timeout=300, check=False
        )

    def start(self, arguments: list[str]) -> None:
        """Start a role and wait until it is ready."""
        name, port = arguments[-1], free_port()
        log = (self.folder / f"{name}.log").open("wb")
        process = subprocess.Popen(
            [sys.executable, "-m", "streams.cli", *arguments],
            cwd=self.folder,
            env={**self.environment, "TIDECAST_RUNTIME__METRICS_PORT": str(port)},
            stdout=log,
            stderr=subprocess.STDOUT,
        )
        role = Role(name, process, port)
        self.roles.append(role)
        wait_until(lambda: role.ready()[0] or process.poll() is not None, f"{name} ready", deadline_s=90)
        assert process.poll() is None, (self.folder / f"{name}.log").read_text()[-3_000:]


@pytest.fixture(scope="module")
def session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    folder = tmp_path_factory.mktemp("readme") / "checkout"
    folder.mkdir()
    with ExitStack() as stack:
        session = Session(folder, stack)
        yield session
        for role in session.roles:
            if role.process.poll() is None:
                role.process.kill()
                role.process.wait()


def test_the_commands_are_those_known_here() -> None:
    """A command that nobody runs is none that the README may show."""
    known = (TIDECAST, "export ", ". ", "make ", "docker compose ")
    strangers = [line for line in COMMANDS if not line.startswith(known)]
    assert strangers == []
    assert sum(line.startswith(TIDECAST) for line in COMMANDS) >= 12


def test_tidecast_commands_do_what_they_say(session: Session) -> None:
    """Each ends with exit code 0; roles come up, end cleanly by SIGTERM, and leave nothing beside their data."""
    for line in COMMANDS:
        if line.startswith("export "):
            session.export(line)
        elif line.startswith(". "):
            session.source(line)
        elif line.startswith(TIDECAST):
            arguments = shlex.split(line.removeprefix(TIDECAST))
            if arguments[:2] == ["run", "--data-dir"]:
                session.run_alone(arguments)
            elif arguments[0] == "run":
                session.start(arguments)
            elif arguments[0] == "status":
                # The control worker publishes every few seconds.
                wait_until(lambda: session.run(["status"]).returncode == 0, "a status", deadline_s=60)
            else:
                started = time.monotonic()
                done = session.run(arguments)
                print(f"{time.monotonic() - started:6.1f} s  {line}")
                assert done.returncode == 0, f"{line}\n{done.stdout[-2_000:]}\n{done.stderr[-3_000:]}"
                assert done.stdout.strip() or done.stderr.strip(), f"{line}: says nothing"
    for script in SCRIPTS:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env=session.environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=True,
        )
        assert json.loads(done.stdout)["kind"] in ("purchase", "demand")
    for role in reversed(session.roles):
        assert role.stop() == 0, role.name
    assert {path.name for path in session.folder.iterdir() if path.is_dir()} == {".tidecast", "shop"}


OF_THEIR_OWN = {"make test-containers", "make test-cluster"}
"""Tests that need a Docker daemon of their own, or six more servers."""


@pytest.mark.parametrize("line", MAKE)
def test_make_commands_are_run_by_the_checks(line: str) -> None:
    """Each target exists, and the checks of every change run it, but for those that are commands of their own."""
    command = ["make", "-n", "--no-print-directory", *shlex.split(line)[1:]]
    # A make around these tests hands down what it was told.
    alone = {
        name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS", "ARGS")
    }
    shown = subprocess.run(command, cwd=ROOT, env=alone, capture_output=True, text=True, check=True)
    steps = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
    if line == "make bench":
        # In its smallest form, among the tests on real servers, which are a step.
        assert shown.stdout.rstrip().endswith(BENCH)
        assert MARKER.name == "realbroker"
        line = "make test-real"
    assert (f"step {line}" in steps) == (line not in OF_THEIR_OWN)


@pytest.mark.parametrize("line", [line for line in COMMANDS if line.startswith("docker compose ")])
def test_compose_commands_are_run_by_the_container_tests(line: str) -> None:
    """What the README starts with docker, the end-to-end test of the compose file starts with the same words."""
    assert line == f"docker compose {UP}"


def test_every_exit_code_is_explained() -> None:
    """Those that the page names are those that errors have."""
    told = re.search(r"The other exit codes,(.*?)\. Each role", README, re.DOTALL)
    assert told
    assert {int(code) for code in re.findall(r"\b\d\b", told[1])} == {
        kind.exit_code for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)
    }

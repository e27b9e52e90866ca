"""A role is one process: its stage, its store, its health, and a graceful end."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import time
from collections.abc import Callable
from types import FrameType
from typing import Literal, get_args

from streams.errors import ConfigurationError, TidecastError
from streams.settings import Settings
from streams.topologies.stage import Stage

Role = Literal["score", "demand", "learn", "control"]
ROLES: tuple[Role, ...] = get_args(Role)
KERNEL_ROLES = ("score", "demand")
_COLLECTED = (50_000, 20, 20)
"""Thresholds of the collector: a batch makes thousands of objects, none in a cycle, and drops them with its end."""


def wall_ms() -> int:
    """Return the wall clock in ms: the one place where a running role asks it."""
    return time.time_ns() // 1_000_000


def stage_of(role: str, settings: Settings) -> Stage:
    """Return the stage that a role carries. Raises ConfigurationError for an unknown one."""
    if role == "score":
        from streams.topologies.score import ScoreStage

        return ScoreStage(settings)
    if role == "demand":
        from streams.topologies.demand import DemandStage

        return DemandStage(settings)
    if role == "learn":
        from streams.topologies.learn import LearnStage

        return LearnStage(settings)
    raise ConfigurationError(f"role {role!r} is none of {', '.join(ROLES)}")


def run_role(role: str, settings: Settings) -> int:
    """Run one role in this process until SIGTERM or SIGINT; returns the exit code."""
    log_to_stderr(role)
    if role == "control":
        from streams.control.worker import run_control

        return run_control(settings)
    # What is built before the work begins lives for good: the collector would walk it again and again, now and later.
    gc.disable()
    from streams import kernels
    from streams.runtime.worker import Worker
    from streams.store import RedisStore
    from streams.telemetry import Telemetry, serve

    telemetry = Telemetry(role)
    server = None
    if settings.runtime.metrics_port >= 0:
        server = serve(telemetry, settings.runtime.metrics_host, settings.runtime.metrics_port)
        logging.getLogger("tidecast").info("health and metrics on http://%s:%d", *server.server_address[:2])
    store = RedisStore.connect(settings)
    worker = Worker(stage_of(role, settings), settings, store, telemetry, wall_ms)
    on_stop(worker.stop)
    worker.settle()
    if role in KERNEL_ROLES:
        # Before it joins its group: where no compiled kernel is cached, this takes longer than a session may.
        telemetry.set_ready("compiling kernels")
        logging.getLogger("tidecast").info("compiling kernels, or loading them")
        kernels.load(role)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_COLLECTED)
    gc.enable()
    try:
        worker.run()
    except TidecastError as error:
        telemetry.fail(str(error))
        sys.stderr.write(f"tidecast {role}: {error}\n")
        return error.exit_code
    finally:
        store.close()
        if server is not None:
            server.shutdown()
    return 0


def on_stop(stop: Callable[[], None]) -> None:
    """Call `stop` on SIGTERM and SIGINT."""

    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


def log_to_stderr(role: str) -> None:
    """Send the project's log lines to standard error."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter(f"%(asctime)s {role} %(levelname)s %(message)s"))
    logger = logging.getLogger("tidecast")
    logger.handlers[:] = [handler]
    logger.setLevel(logging.INFO)

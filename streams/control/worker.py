"""The control role: waits for Kafka, runs the Faust app and the reader, begins anew when they fail, ends on SIGTERM.

Its loss hurts nobody: no worker waits for it, and it commits nothing that another one reads.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import sys
from concurrent.futures import TimeoutError as FutureTimeoutError

from streams import kafka
from streams.children import free_port
from streams.control.control import Control
from streams.control.facts import Batch
from streams.control.reader import Reader
from streams.errors import ConfigurationError, TidecastError, TopicsError
from streams.records import STATUS
from streams.settings import Settings
from streams.telemetry import Telemetry, serve

_LOG = logging.getLogger("tidecast.control")
_RETRY_S = (1.0, 2.0, 5.0, 10.0)
# Together under ten seconds, whatever hangs.
_TRAINING_GRACE_S = 5.0
_STOP_S = 3.0


def run_control(settings: Settings) -> int:
    """Run the control role until SIGTERM or SIGINT; returns the exit code."""
    from streams.roles import wall_ms

    telemetry = Telemetry("control")
    server = None
    # Faust's and aiokafka's own lines matter when something is wrong, and only then.
    for name in ("faust", "mode", "aiokafka"):
        logger = logging.getLogger(name)
        logger.handlers[:] = logging.getLogger("tidecast").handlers
        logger.setLevel(logging.ERROR)
    try:
        if settings.runtime.metrics_port >= 0:
            server = serve(telemetry, settings.runtime.metrics_host, settings.runtime.metrics_port)
            _LOG.info("health and metrics on http://%s:%d", *server.server_address[:2])
        command = [sys.executable, "-m", "streams.cli", "train"]
        asyncio.run(_run(Control(settings, telemetry, wall_ms, command)))
    except TidecastError as error:
        telemetry.fail(str(error))
        sys.stderr.write(f"tidecast control: {error}\n")
        return error.exit_code
    finally:
        if server is not None:
            server.shutdown()
    return 0


async def _run(control: Control) -> None:
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stopping.set)
    failures = 0
    try:
        while not stopping.is_set():
            try:
                await _await_kafka(control, stopping)
                if not stopping.is_set():
                    await _serve(control, stopping)
                failures = 0
            except (ConfigurationError, TopicsError):
                raise
            except Exception as error:  # noqa: BLE001  (whatever Faust or a client dies of, the role goes on)
                _LOG.warning("the control app failed (%s: %s); starting it again", type(error).__name__, error)
                control.telemetry.set_ready(f"starting again after: {error}")
                await _pause(stopping, _RETRY_S[min(failures, len(_RETRY_S) - 1)])
                failures += 1
    finally:
        stopped = await asyncio.to_thread(control.training.stop, control.wall_ms(), grace_s=_TRAINING_GRACE_S)
        if stopped is not None:
            _LOG.info("the training was stopped (exit code %s); the next one resumes it", stopped.exit_code)


async def _await_kafka(control: Control, stopping: asyncio.Event) -> None:
    """Wait until a broker answers and the topics are there. Raises TopicsError where they are not."""
    client = kafka.admin(control.settings)
    tries = 0
    while not stopping.is_set():
        control.telemetry.set_ready("waiting for Kafka")
        try:
            counts = await asyncio.to_thread(kafka.partition_counts, client, 3.0)
        except TidecastError as error:
            if tries == 0:
                _LOG.warning("%s; trying until one does", error)
            control.telemetry.set_ready(f"waiting for Kafka: {error}")
            await _pause(stopping, _RETRY_S[min(tries, len(_RETRY_S) - 1)])
            tries += 1
            continue
        topic = control.settings.kafka.prefix + STATUS
        if topic not in counts:
            raise TopicsError(f"topics are missing: {topic}; run 'tidecast topics create'")
        return


async def _serve(control: Control, stopping: asyncio.Event) -> None:
    """Run app and reader until `stopping` or until one of them fails, which is raised."""
    from streams.control.app import ControlApp, stop

    port = control.settings.control.web_port
    port = free_port() if port == 0 else port
    app = ControlApp(control, port)
    loop = asyncio.get_running_loop()
    leaving = asyncio.Event()

    def hand_over(batch: Batch) -> None:
        waiting = asyncio.run_coroutine_threadsafe(app.judge(batch), loop)
        while not leaving.is_set():
            with contextlib.suppress(FutureTimeoutError):
                waiting.result(0.2)
                return
        waiting.cancel()

    reader = Reader(control.settings, control.sampler, hand_over, lambda: control.quality.pending)
    try:
        await app.app.start()
        reader.start()
        control.telemetry.set_ready(None)
        if port > 0:
            _LOG.info("web view on http://%s:%d", control.settings.control.web_host, port)
        while not stopping.is_set():
            if app.app.crashed:
                raise app.app.crash_reason or TidecastError("Faust stopped without saying why")
            if reader.failure is not None:
                raise reader.failure
            await _pause(stopping, 0.5)
    finally:
        control.telemetry.set_ready("stopping")
        leaving.set()
        reader.stop()
        await stop(app, _STOP_S)
        if reader.is_alive():
            await asyncio.to_thread(reader.join, 1.0)


async def _pause(stopping: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stopping.wait(), seconds)

"""The Faust app: timers, agents and the web view, built in a function and bound to one `Control`.

Nothing is kept in Faust's tables: what the agents know is rebuilt from the log within minutes, or asked for again.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import faust
from faust.app.base import BootStrategy
from faust.web import View
from faust.web.drivers.aiohttp import Web

from streams.control.broker import broker_options
from streams.control.control import Control
from streams.control.facts import Batch
from streams.control.page import render
from streams.control.resting import resting_consumer
from streams.control.workers import Status, status_key
from streams.records import STATUS

_LOG = logging.getLogger("tidecast.control")
_TICK_S = 1.0


class _Web(Web):  # type: ignore[misc]  # faust has no types that mypy --strict accepts
    """Only the pages of this module: Faust's own would show its inside, and take the first page's place."""

    default_blueprints = ()
    production_blueprints = ()
    debug_blueprints = ()
    optional_blueprints = ()


class _App(faust.App):  # type: ignore[misc]  # as above
    def _new_web(self) -> Web:
        return _Web(self)


class ControlApp:
    """A Faust app over `control`. Hand batches of facts to `judge`; `web_port` -1 serves no pages."""

    def __init__(self, control: Control, web_port: int) -> None:
        self._control = control
        settings = control.settings
        prefix = settings.kafka.prefix

        class Boot(BootStrategy):  # type: ignore[misc]  # as above
            # With web_enabled=False Faust binds its port all the same; this is what leaves it out.
            enable_web = web_port >= 0

        rest_s = settings.kafka.rest_at_end_ms / 1_000

        class App(_App):
            def _new_transport(self) -> Any:
                transport = super()._new_transport()
                if rest_s:
                    transport.Consumer = resting_consumer(rest_s)
                return transport

        App.BootStrategy = Boot
        identity = f"{prefix}tidecast.control.{settings.runtime.worker_id}"
        self.app = App(
            f"{prefix}tidecast.control",
            **broker_options(settings),
            # A static member: the embedded broker never gives up on a killed one without a name.
            consumer_group_instance_id=identity,
            consumer_auto_offset_reset="latest",
            broker_session_timeout=settings.kafka.session_timeout_ms / 1_000,
            broker_heartbeat_interval=min(3.0, settings.kafka.session_timeout_ms / 3_000),
            topic_disable_leader=True,
            topic_allow_declare=False,
            store="memory://",
            datadir=_data_folder(settings.train.registry),
            web_bind=settings.control.web_host,
            # Faust refuses 0 and -1, also where nothing is served.
            web_port=max(web_port, 1),
            autodiscover=False,
            loghandlers=[],
        )
        self._status = self.app.topic(
            # Bytes, read by ourselves: what Faust cannot read would end the agent.
            prefix + STATUS,
            key_type=bytes,
            value_type=bytes,
            key_serializer="raw",
            value_serializer="raw",
        )
        self._facts = self.app.channel(maxsize=4)
        self.app.agent(self._facts, name="judge")(self._judge)
        self.app.agent(self._status, name="hear")(self._hear)
        self.app.timer(_TICK_S, name="tick")(self._tick)
        self.app.timer(float(settings.control.status_interval_s), name="publish")(self._publish)
        self.app.task(self._publish)
        self._add_pages()

    async def judge(self, batch: Batch) -> None:
        """Give the judging agent a batch; waits while it has several."""
        await self._facts.send(value=batch)

    async def _judge(self, batches: AsyncIterator[Batch]) -> None:
        async for batch in batches:
            self._control.quality.take(batch)

    async def _hear(self, statuses: Any) -> None:
        async for key, value in statuses.items():
            self._control.workers.hear(key, value, self._control.wall_ms())

    async def _tick(self) -> None:
        control = self._control
        ended = control.training.poll(control.wall_ms())
        if ended is not None:
            level = logging.INFO if ended.exit_code == 0 else logging.WARNING
            _LOG.log(level, "training ended with exit code %s; see %s", ended.exit_code, control.training.log)
        refused = control.start_due_training()
        if refused is not None:
            _LOG.warning("scheduled training not started: %s", refused)
        control.refresh()

    async def _publish(self) -> None:
        control = self._control
        statuses: list[Status] = [*await control.workers.ask(control.wall_ms()), control.status()]
        for status in statuses:
            await self._status.send(key=status_key(status).encode(), value=json.dumps(status).encode())

    def _add_pages(self) -> None:
        control = self._control

        async def index(view: Any, request: Any) -> Any:
            """Show everything, readable."""
            control.refresh()
            return view.html(render(control.overview()))

        async def status(view: Any, request: Any) -> Any:
            """Show everything, as JSON."""
            control.refresh()
            return view.json(control.overview())

        class Train(View):  # type: ignore[misc]  # as above
            """Start a training by hand."""

            async def post(self, request: Any) -> Any:
                """Start one, unless one runs (409). Pages of other sites may not ask (403)."""
                origin = request.headers.get("Origin")
                if origin is not None and origin.partition("://")[2] != request.headers.get("Host"):
                    return self.json({"started": False, "reason": "asked by a page of another site"}, status=403)
                refused = control.training.start("asked for", control.wall_ms())
                control.refresh()
                if "text/html" in request.headers.get("Accept", ""):
                    return self.text("", status=303, headers={"Location": "/"})
                return self.json({"started": refused is None, "reason": refused}, status=409 if refused else 202)

        self.app.page("/", name="index")(index)
        self.app.page("/status.json", name="status")(status)
        self.app.page("/train", name="train")(Train)


def _data_folder(registry: Path) -> Path:
    """Make the folder that Faust wants though it has no tables: beside what this role writes, not where it began."""
    folder = registry / ".control"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


async def stop(app: ControlApp, timeout_s: float) -> None:
    """Stop the app; give up on what hangs after `timeout_s`."""
    try:
        await asyncio.wait_for(app.app.stop(), timeout_s)
    except TimeoutError:
        _LOG.warning("Faust did not stop within %.0f s", timeout_s)

"""Sends the shop's events at a pace that fills the demo's time."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

from streams.demo.figures import Figures
from streams.demo.shops import Item
from streams.errors import TidecastError
from streams.records import CATALOG, CLICKSTREAM, ORDERS, PLAN
from streams.settings import Settings
from streams.sources.sending import Sender

_TOPICS = (CATALOG, PLAN, CLICKSTREAM, ORDERS)
_MARK_EVERY = 200
_LEAST_RATE = 100.0
# Of the time there is; the rest is for what was sent last.
_SHARE = 0.75


class Feeder(threading.Thread):
    """Sends the events with time markers, and an end marker; what does not fit into `seconds` is left out."""

    def __init__(self, settings: Settings, items: Iterator[Item], figures: Figures, seconds: float) -> None:
        super().__init__(name="feeder", daemon=True)
        self._settings, self._items, self._figures, self._seconds = settings, items, figures, seconds
        self._stopping = threading.Event()
        self.error: TidecastError | None = None
        self.done = False

    def run(self) -> None:
        """Send until the end or until told to stop."""
        try:
            with Sender(self._settings, "demo", _TOPICS) as sender:
                self._send(sender)
        except TidecastError as error:
            self.error = error
        self.done = True

    def stop(self) -> None:
        """Stop sending and wait until it has ended. Raises TidecastError where an event could not be sent."""
        self._stopping.set()
        self.join(10)
        if self.error is not None:
            raise self.error

    def _send(self, sender: Sender) -> None:
        figures, started = self._figures, time.monotonic()
        rate = max(_LEAST_RATE, figures.total / (self._seconds * _SHARE))
        for item in self._items:
            # Noted first: its prediction may be back before the next line.
            figures.sending(item)
            sender.send(item.topic, item.key, item.value)
            if figures.sent % _MARK_EVERY == 0:
                if figures.at:
                    sender.mark(figures.at)
                elapsed = time.monotonic() - started
                if self._stopping.wait(max(0.0, figures.sent / rate - elapsed)):
                    return
                if elapsed > self._seconds:
                    break
        if figures.at:
            sender.mark(figures.at, b"end")

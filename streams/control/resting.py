"""Faust's consumer on the embedded broker, which lets no fetch wait: there it rests before each, and does not spin."""

from __future__ import annotations

import asyncio
from typing import Any

from aiokafka.protocol.fetch import FetchRequest
from faust.transport.drivers.aiokafka import AIOKafkaConsumerThread, Consumer


def resting_consumer(rest_s: float) -> type[Consumer]:
    """Return Faust's consumer class, with `rest_s` seconds between one fetch and the next."""

    class RestingThread(AIOKafkaConsumerThread):  # type: ignore[misc]  # faust has no types that mypy --strict accepts
        """Faust's thread of the consumer, whose client rests before each fetch."""

        def _create_consumer(self, loop: asyncio.AbstractEventLoop) -> Any:
            consumer = super()._create_consumer(loop)
            client = consumer._client
            send = client.send

            async def send_rested(node: int, request: Any, **options: Any) -> Any:
                if isinstance(request, FetchRequest):
                    await asyncio.sleep(rest_s)
                return await send(node, request, **options)

            client.send = send_rested
            return consumer

    class RestingConsumer(Consumer):  # type: ignore[misc]  # as above
        """Faust's consumer in that thread."""

        def _new_consumer_thread(self) -> AIOKafkaConsumerThread:
            return RestingThread(self, loop=self.loop, beacon=self.beacon)

    return RestingConsumer

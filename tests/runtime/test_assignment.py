"""Laws of opening a task: what passes by itself ends no worker."""

from __future__ import annotations

from typing import Any, cast

import pytest
from confluent_kafka import Consumer, KafkaError, KafkaException

from streams.records import Input
from streams.runtime.assignment import KafkaLog
from streams.settings import Settings


class _Broker:
    """Refuses with these codes, one a call, and then answers."""

    def __init__(self, *codes: int) -> None:
        self._codes = list(codes)

    def get_watermark_offsets(self, *arguments: Any, **options: Any) -> tuple[int, int]:
        if self._codes:
            raise KafkaException(KafkaError(self._codes.pop(0)))
        return 3, 7


@pytest.mark.parametrize("code", [KafkaError.NOT_LEADER_FOR_PARTITION, KafkaError.LEADER_NOT_AVAILABLE])
def test_a_leader_that_is_still_being_told_is_waited_for(code: int) -> None:
    """Bounds are asked for again while the partition's leader moves; another refusal is raised."""
    log = KafkaLog(cast(Consumer, _Broker(code, code)), Settings())
    assert log.bounds(Input("clickstream", 0)) == (3, 7)
    log = KafkaLog(cast(Consumer, _Broker(KafkaError.TOPIC_AUTHORIZATION_FAILED)), Settings())
    with pytest.raises(KafkaException):
        log.bounds(Input("clickstream", 0))

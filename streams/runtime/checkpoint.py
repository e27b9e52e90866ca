"""What a checkpoint is: the changed rows of one task and a header that says at which offsets they are right."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec

Rows = dict[str, bytes | None]
"""Packed rows by key; None deletes."""


class Header(msgspec.Struct, frozen=True):
    """The head of a task's checkpoint. `token` differs in each checkpoint, so a header's bytes name exactly one."""

    layout: str
    epoch: int
    sequence: int
    offsets: list[tuple[str, int, int]]
    clock: int | None
    watermark: int | None
    dedup: tuple[int, int]
    touched: list[int]
    extra: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


def encode_header(header: Header) -> bytes:
    """Return the header's bytes; equal headers give equal bytes."""
    return _encoder.encode(header)


def decode_header(data: bytes) -> Header:
    """Return the header in `data`. Raises msgspec.DecodeError."""
    return _decoder.decode(data)


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One atomic write: `rows` and `header` replace what was written under the header `expected`.

    `touched` lists keys by the expiry period (day) they were first touched in; of those lists, `trimmed` says how many
    keys at the head have been looked at and go.
    """

    expected: bytes | None
    header: bytes
    rows: Rows
    touched: Mapping[int, Sequence[str]]
    trimmed: Mapping[int, int]


class Store(Protocol):
    """Where rows and checkpoints live. Every method raises StoreUnavailable where no answer comes."""

    def read(self, task: str, keys: Sequence[str]) -> tuple[bytes | None, list[bytes | None]]:
        """Return the task's header and the rows under `keys`, read in one atomic step."""
        ...

    def checkpoint(self, task: str, checkpoint: Checkpoint) -> None:
        """Write all of it or nothing. Raises CheckpointConflict where another header than the expected is there."""
        ...

    def old_keys(self, task: str, period: int, before: int, limit: int) -> tuple[list[str], int]:
        """Look at the first `limit` keys listed for `period`.

        Return those whose row was last touched before `before` (event time, ms), and how many keys were looked at.
        """
        ...

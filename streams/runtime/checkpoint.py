"""What a checkpoint is: the changed rows of one task and a header that says at which offsets they are right."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import msgspec

from schemas.internal import Watermark
from streams.errors import RecoveryError

Rows = dict[str, bytes | None]
"""Packed rows by key; None deletes."""


class Header(msgspec.Struct, frozen=True):
    """The head of a task's checkpoint. `token` differs in each checkpoint, so a header's bytes name exactly one."""

    layout: str
    epoch: int
    sequence: int
    offsets: list[tuple[str, int, int]]
    clock: Watermark | None
    watermark: Watermark | None
    dedup: tuple[int, int]
    touched: list[int]
    extra: bytes = b""


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Header)


def encode_header(header: Header) -> bytes:
    """Return the header's bytes; equal headers give equal bytes."""
    return _encoder.encode(header)


def decode_header(data: bytes) -> Header:
    """Return the header in `data`. Raises msgspec.DecodeError, and ValueError for text that is no UTF-8."""
    return _decoder.decode(data)


@contextmanager
def reading(task: str) -> Iterator[None]:
    """Read what is stored of `task`; damaged bytes become a RecoveryError, which says how to be rid of them.

    >>> with reading("score.1f2e-0"):
    ...     header = decode_header(b"cut")
    Traceback (most recent call last):
        ...
    streams.errors.RecoveryError: score.1f2e-0: what is stored cannot be read (Expected `object`, got `int`); stop its \
worker and run 'tidecast state reset score.1f2e-0': the next start rebuilds it from the log
    """
    try:
        yield
    except (ValueError, msgspec.DecodeError) as error:
        raise RecoveryError(
            f"{task}: what is stored cannot be read ({error}); stop its worker and run 'tidecast state reset {task}': "
            "the next start rebuilds it from the log"
        ) from error


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

    def check(self) -> None:
        """Raise ConfigurationError where rows may vanish by themselves: a user without one would be taken for new."""
        ...

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

"""The ids seen lately, so that a repeated event counts once.

An event is remembered until the watermark has passed its event time: after that a repeat is late anyway, so the
window is exactly the allowed lateness. Only ids new since the last checkpoint are written with it, as one chunk.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

import msgspec

from features.hashing import hash_texts
from streams.runtime.checkpoint import Rows


class Dedup:
    """Ids as 64-bit hashes with their event times (ms).

    >>> seen = Dedup()
    >>> a, b = seen.digests(["a", "b"])
    >>> seen.add(a, 10, None), seen.add(a, 10, None), seen.add(b, 10, None)
    (True, False, True)
    >>> seen.add(a, 30, watermark=20)  # the first was before the watermark: forgotten, whenever that is tidied up
    True
    """

    def __init__(self) -> None:
        self._times: dict[int, int] = {}
        self._fresh: list[tuple[int, int]] = []
        self._chunks: deque[tuple[int, int, list[tuple[int, int]]]] = deque()
        self._next = 0

    def __len__(self) -> int:
        return len(self._times)

    @staticmethod
    def digests(ids: Sequence[str]) -> list[int]:
        """Return what `add` knows each id by; all of a batch at once, which takes a quarter of the time."""
        digests: list[int] = hash_texts(ids).tolist()
        return digests

    def add(self, digest: int, time: int, watermark: int | None) -> bool:
        """Remember an id by its digest (event time in ms); say whether it is new."""
        known = self._times.get(digest)
        if known is not None and (watermark is None or known >= watermark):
            return False
        self._times[digest] = time
        self._fresh.append((digest, time))
        return True

    def drain(self, watermark: int | None) -> Rows:
        """Return the chunk rows to write, and None for those that the watermark has passed."""
        rows: Rows = {}
        if self._fresh:
            rows[_key(self._next)] = _encoder.encode(self._fresh)
            self._chunks.append((self._next, max(time for _, time in self._fresh), self._fresh))
            self._next += 1
            self._fresh = []
        while self._chunks and watermark is not None and self._chunks[0][1] < watermark:
            number, _, pairs = self._chunks.popleft()
            for digest, time in pairs:
                if self._times.get(digest) == time:
                    del self._times[digest]
            rows[_key(number)] = None
        return rows

    def span(self) -> tuple[int, int]:
        """Numbers of the first live chunk and of the next one."""
        return (self._chunks[0][0] if self._chunks else self._next), self._next

    @staticmethod
    def keys(span: tuple[int, int]) -> list[str]:
        """Keys of the chunks in a span."""
        return [_key(number) for number in range(*span)]

    def restore(self, span: tuple[int, int], rows: list[bytes | None]) -> bool:
        """Take back the chunks of `span`; say whether all of them were there."""
        for number, row in zip(range(*span), rows, strict=True):
            if row is None:
                return False
            pairs = _decoder.decode(row)
            self._times.update(pairs)
            self._chunks.append((number, max(time for _, time in pairs), pairs))
        self._next = span[1]
        return True


def _key(number: int) -> str:
    return f"d:{number}"


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(list[tuple[int, int]])

"""Which slot of the arrays a key owns: growth, reuse, and whom to forget first."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
from numpy.typing import NDArray

Slots = NDArray[np.int64]


class SlotMap:
    """Keys and their slots, the last time each was touched, and whether it changed since it was drained.

    >>> slots = SlotMap(reserved=0)
    >>> slots.place(["a", "b"]).tolist(), slots.missing(["b", "c", "c"])
    ([0, 1], ['c'])
    """

    def __init__(self, reserved: int) -> None:
        self.of: dict[str | None, int] = {}
        self.keys: list[str | None] = [None] * reserved
        self.dirty = np.zeros(64, np.bool_)
        self._touched = np.zeros(64, np.int64)
        self._reserved = reserved
        self._free: list[int] = []
        self._tick = 0

    def __len__(self) -> int:
        return len(self.keys) - len(self._free)

    @property
    def high(self) -> int:
        """All slots in use lie below this."""
        return len(self.keys)

    def missing(self, keys: Iterable[str | None]) -> list[str]:
        """Return the keys that own no slot, each once, sorted; None never does, and needs none."""
        lost = (keys if isinstance(keys, set) else set(keys)).difference(self.of)
        return sorted(key for key in lost if key is not None) if lost else []

    def place(self, keys: Iterable[str]) -> Slots:
        """Return the slot of each key, giving slots to new ones."""
        slots = []
        for key in keys:
            slot = self.of.get(key)
            if slot is None:
                if self._free:
                    slot = self._free.pop()
                    self.keys[slot] = key
                else:
                    slot = len(self.keys)
                    self.keys.append(key)
                self.of[key] = slot
            slots.append(slot)
        if self.high > len(self.dirty):
            size = roomy(len(self.dirty), self.high)
            self.dirty = grown(self.dirty, size)
            self._touched = grown(self._touched, size)
            self.dirty[self.high :] = False
        found = np.array(slots, np.int64)
        self.dirty[found] = False
        self.touch(found)
        return found

    def touch(self, slots: Slots) -> None:
        """Note that `slots` were needed just now."""
        self._tick += 1
        self._touched[slots] = self._tick

    def changed(self) -> Slots:
        """Return the slots that changed since they were last cleaned."""
        return np.flatnonzero(self.dirty[: self.high])

    def oldest_clean(self, keep: int) -> Slots:
        """Return the clean slots to give up, longest untouched first, where there are more than `keep` keys.

        They are an eighth more than need be, so that the search is rare.
        """
        surplus = len(self) - keep
        if surplus <= 0:
            return np.empty(0, np.int64)
        touched = self._touched[: self.high].copy()
        touched[: self._reserved] = 0
        clean = np.flatnonzero((touched > 0) & ~self.dirty[: self.high])
        age = touched[clean] << 32 | clean
        return clean[np.argsort(age)[: surplus + keep // 8]]

    def known(self, keys: Iterable[str]) -> Slots:
        """Return the slots of those `keys` that are in memory, each once."""
        return np.array([slot for key in dict.fromkeys(keys) if (slot := self.of.get(key)) is not None], np.int64)

    def release(self, slots: Slots) -> None:
        """Take the slots from their keys."""
        for slot in slots.tolist():
            del self.of[self.keys[slot]]
            self.keys[slot] = None
            self._free.append(slot)
        self._touched[slots] = 0


_STEPS = (64, 1_024, 131_072)


def roomy(have: int, need: int) -> int:
    """Return for how many rows to make room where there is room for `have` and `need` are needed.

    In few and long steps: memory that nobody touches costs nothing, but every copy touches all of it anew, and what
    comes meanwhile waits. Of 30,000 users, that takes 0.1 s.

    >>> roomy(64, 65), roomy(1_024, 1_100), roomy(131_072, 131_073)
    (1024, 131072, 262144)
    """
    return next((step for step in _STEPS if need <= step), max(need, 2 * have))


def grown(old: NDArray[Any], size: int) -> NDArray[Any]:
    """Return a copy of `old` with room for `size` rows; the new ones hold anything."""
    new = np.empty((size, *old.shape[1:]), old.dtype)
    new[: len(old)] = old
    return new

"""How far the workers are, as their own health pages say it."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Mapping
from typing import Any

_TIMEOUT_S = 1.0


class Workers:
    """The latest status of each role; `look` asks for it."""

    def __init__(self, ports: Mapping[str, int]) -> None:
        self._ports = ports
        self.statuses: dict[str, dict[str, Any]] = {role: {"reason": "not asked yet"} for role in ports}

    def look(self) -> None:
        """Ask every role."""
        self.statuses = {role: _status(port) for role, port in self._ports.items()}

    def lacking(self) -> dict[str, str]:
        """Return the roles that are not ready, with the reason."""
        return {role: str(said.get("reason")) for role, said in self.statuses.items() if not said.get("ready")}

    def past(self, time_ms: int) -> bool:
        """Tell whether every task of every role has done all up to this event time."""
        marks = [[task["watermark"] for task in said.get("tasks", {}).values()] for role, said in self.statuses.items()]
        return all(of_role and all(mark is not None and mark >= time_ms for mark in of_role) for of_role in marks)

    def counts(self) -> Counter[str]:
        """Return what all tasks counted, together."""
        total: Counter[str] = Counter()
        for said in self.statuses.values():
            for task in said.get("tasks", {}).values():
                total.update(task["counts"])
        return total


def _status(port: int) -> dict[str, Any]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/status", timeout=_TIMEOUT_S) as answer:
            return dict(json.load(answer))
    except (urllib.error.URLError, OSError, ValueError):
        return {"reason": "does not answer yet"}

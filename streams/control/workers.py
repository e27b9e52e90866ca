"""What the workers say of themselves: asked over HTTP, published to `tidecast.status`, remembered for the views."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from typing import Any

import aiohttp

from schemas.wire import TIME_END

_TIMEOUT = aiohttp.ClientTimeout(total=3.0)
_FORGET_AFTER_MS = 3_600_000

Status = dict[str, Any]


def status_key(status: Mapping[str, Any]) -> str:
    """Return the key of a worker's status: its role and name.

    >>> status_key({"stage": "score", "worker": "worker-0"})
    'score/worker-0'
    """
    return f"{status.get('stage', '?')}/{status.get('worker', '?')}"


class Workers:
    """Asks the workers at `urls`, and remembers the latest status of each worker that was heard of."""

    def __init__(self, urls: Sequence[str]) -> None:
        self._urls = tuple(url.rstrip("/") for url in urls)
        self._last: dict[str, Status] = {}
        self.heard: dict[str, Status] = {}

    async def ask(self, now_ms: int) -> list[Status]:
        """Return one status for each address; of a worker that does not answer, the last one with the reason."""
        if not self._urls:
            return []
        async with aiohttp.ClientSession(timeout=_TIMEOUT) as session:
            return list(await asyncio.gather(*(self._ask(session, url, now_ms) for url in self._urls)))

    def hear(self, key: bytes | None, value: bytes | None, now_ms: int) -> None:
        """Take a status from the topic; those of workers long silent are forgotten, what is no status is passed by."""
        try:
            status = json.loads(value or b"")
            name = (key or b"").decode()
        except ValueError:
            return
        if not _is_status(status):
            return
        self.heard[name] = status
        for other, known in list(self.heard.items()):
            if now_ms - known["at"] > _FORGET_AFTER_MS:
                del self.heard[other]

    async def _ask(self, session: aiohttp.ClientSession, url: str, now_ms: int) -> Status:
        try:
            async with session.get(f"{url}/status") as response:
                response.raise_for_status()
                found = await response.json()
            if not _is_status({**found, "at": now_ms} if isinstance(found, dict) else found):
                raise ValueError("what it answers is no status")
        except (aiohttp.ClientError, TimeoutError, ValueError, OSError) as error:
            reason = f"no answer from {url}: {error or type(error).__name__}"
            known = self._last.get(url, {"stage": "unknown", "worker": url.rpartition("/")[2]})
            return {**known, "at": now_ms, "ready": False, "reason": reason}
        self._last[url] = found
        return {**found, "at": now_ms, "url": url}


def _is_status(found: object) -> bool:
    """Say whether a foreigner's words can be shown as a worker's status."""
    if not isinstance(found, dict) or type(at := found.get("at")) is not int or not 0 <= at < TIME_END:
        return False
    tasks, serves = found.get("tasks", {}), found.get("serves", {})
    return isinstance(serves, dict) and isinstance(tasks, dict) and all(map(_is_task, tasks.values()))


def _is_task(found: object) -> bool:
    if not isinstance(found, dict) or not isinstance(counts := found.get("counts", {}), dict):
        return False
    mark = found.get("watermark")
    return (mark is None or (type(mark) is int and abs(mark) < TIME_END)) and all(
        type(count) is int for count in counts.values()
    )

"""Which session a click belongs to, and its number in it."""

from __future__ import annotations

from features.sets import SESSION_GAP_MS
from schemas.codec import Click


class Sessions:
    """Numbers the clicks of each session from 0, in the order they come.

    A source's own session id wins. Without one a user's clicks are cut after 30 minutes of silence, and the sessions
    are called ``<user>-1``, ``<user>-2`` and so on. A click with neither has no session.

    >>> sessions = Sessions()
    >>> click = lambda time: Click("e", "view", time, user_id="ann", product_id="p")
    >>> [sessions.place(click(minute * 60_000)) for minute in (0, 30, 61)]
    [('ann-1', 0), ('ann-1', 1), ('ann-2', 0)]
    """

    def __init__(self) -> None:
        self._next: dict[str, int] = {}
        self._users: dict[str, tuple[int, int, int]] = {}

    def place(self, click: Click) -> tuple[str, int] | None:
        """Return the session of the next click and its number there."""
        if click.session_id is not None:
            number = self._next.get(click.session_id, 0)
            self._next[click.session_id] = number + 1
            return click.session_id, number
        if click.user_id is None:
            return None
        last, session, number = self._users.get(click.user_id, (-SESSION_GAP_MS - 1, 0, 0))
        if click.time - last > SESSION_GAP_MS:
            session, number = session + 1, 0
        self._users[click.user_id] = (click.time, session, number + 1)
        return f"{click.user_id}-{session}", number

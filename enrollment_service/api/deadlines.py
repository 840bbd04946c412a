"""A deadline for calls that set none: whoever is still waiting after so long is cancelled.

One look a second at all of them, because a timer for each costs more than the rest of what surrounds a call.
"""

from __future__ import annotations

import asyncio
from typing import Any

LOOK_SECONDS = 1.0


class Deadlines:
    """Watches tasks, each from `begin` to `end`, and cancels those that take longer than `seconds`."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._latest: dict[asyncio.Task[Any], float] = {}
        self._expired: set[asyncio.Task[Any]] = set()
        self._timer: asyncio.TimerHandle | None = None

    def begin(self, task: asyncio.Task[Any]) -> float:
        """Starts the clock for a task; the time of the event loop at which it runs out."""
        loop = asyncio.get_running_loop()
        latest = self._latest[task] = loop.time() + self._seconds
        if self._timer is None:
            self._timer = loop.call_later(min(LOOK_SECONDS, self._seconds), self._look, loop)
        return latest

    def end(self, task: asyncio.Task[Any]) -> bool:
        """Stops the clock; tells whether it had run out."""
        self._latest.pop(task, None)
        if task in self._expired:
            self._expired.remove(task)
            return True
        return False

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timer = None
        now = loop.time()
        for task in [task for task, latest in self._latest.items() if latest <= now]:
            del self._latest[task]
            self._expired.add(task)
            task.cancel()
        if self._latest:
            self._timer = loop.call_later(min(LOOK_SECONDS, self._seconds), self._look, loop)

"""Turns: so many are under way at once, so many more wait in line, and whoever else comes is refused.

Generic: knows nothing of what the turns are taken for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from enrollment_service.domain.errors import Overloaded


class Turns:
    """Lets up to `max_running` blocks run at once, in order of arrival, while up to `max_waiting` wait."""

    def __init__(self, *, max_running: int, max_waiting: int) -> None:
        self._free = asyncio.Semaphore(max_running)
        self._max_waiting = max_waiting
        # How many wait in line.
        self.waiting = 0

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Waits for a turn, which lasts as long as the block.

        Raises:
            Overloaded: too many wait already; nothing was done.
        """
        if self._free.locked() and self.waiting >= self._max_waiting:
            raise Overloaded
        self.waiting += 1
        try:
            await self._free.acquire()
        finally:
            self.waiting -= 1
        try:
            yield
        finally:
            self._free.release()

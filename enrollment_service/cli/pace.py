"""How many rows the chunks of an import have: so many that the server takes a moment for each, and no longer.

While a chunk is in the database, single calls for its courses wait. So its size follows how quickly answers come.
"""

from __future__ import annotations

import time
from collections.abc import Callable

CHUNK_SECONDS = 0.1
FIRST_ROWS = 1_000
MIN_ROWS, MAX_ROWS = 100, 10_000


class Pace:
    """The size of the next chunk, in rows."""

    def __init__(self, fixed: int | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        """Starts the clock.

        Args:
            fixed: a size to keep, whatever the server does.
            clock: tells seconds.
        """
        self._fixed = fixed
        self._clock = clock
        self._rows = float(FIRST_ROWS)
        self._last = clock()

    @property
    def rows(self) -> int:
        """Of the next chunk."""
        return self._fixed or round(self._rows)

    def answered(self, rows: int) -> None:
        """A chunk of so many rows was answered just now; a single one that was slow does not change much."""
        now = self._clock()
        fitting = rows / max(now - self._last, 0.001) * CHUNK_SECONDS
        self._last = now
        self._rows = min(max((self._rows + min(fitting, 2 * self._rows)) / 2, MIN_ROWS), MAX_ROWS)

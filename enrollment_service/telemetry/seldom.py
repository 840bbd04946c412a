"""Log lines about what may happen on every call, written seldom, so that they do not flood the log."""

from __future__ import annotations

import time
from collections.abc import Hashable


class Seldom:
    """Says when a thing of some kind is to be told: the first time, and then once per interval at the most."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._next: dict[Hashable, float] = {}
        self._untold: dict[Hashable, int] = {}

    def due(self, kind: Hashable) -> int:
        """How often it has happened since it was told last, this time included; 0: not to be told now."""
        now = time.monotonic()
        times = self._untold.pop(kind, 0) + 1
        if now < self._next.get(kind, now):
            self._untold[kind] = times
            return 0
        self._next[kind] = now + self._seconds
        return times

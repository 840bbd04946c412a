"""Reads once a second what cannot be counted as it happens: how many wait, connections, and how late the loop is."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from enrollment_service.telemetry import logs, metrics

LOOK_SECONDS = 1.0


class Sampler:
    """Sets the gauges of this process. On the event loop, because what it reads belongs to the loop."""

    def __init__(self, samples: Sequence[metrics.Sample]) -> None:
        self._samples = samples
        self._dropped_before = logs.dropped_lines()

    async def run(self) -> None:
        """Looks until it is cancelled."""
        clock = asyncio.get_running_loop().time
        metrics.say_what_runs()
        while True:
            self.look()
            due = clock() + LOOK_SECONDS
            await asyncio.sleep(LOOK_SECONDS)
            metrics.loop_lag.observe(max(0.0, clock() - due))

    def look(self) -> None:
        """Reads everything once."""
        for gauge, read in self._samples:
            gauge.set(read())
        dropped = logs.dropped_lines()
        metrics.log_lines_dropped.inc(max(0, dropped - self._dropped_before))
        self._dropped_before = dropped

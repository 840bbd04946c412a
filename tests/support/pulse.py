"""A server that feels the pulse of its event loop: `python -m tests.support.pulse`.

SIGUSR1 begins a measurement. When the server ends, it writes to standard error how long the loop was away at the most
since then. What counts is the processor time that the process has used meanwhile, by whatever thread, not the time on
the clock: on a busy machine the operating system stops any process for longer than a loop may be away.

`python -m tests.support.pulse inline` is the negative control: what the service does in a thread is done on the loop.
"""

from __future__ import annotations

import asyncio
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

from enrollment_service.app import App
from enrollment_service.cli.main import cli

LONGEST = "longest_gap_ms"
BEAT_SECONDS = 0.001


class Pulse:
    """Beats once a millisecond, and remembers by how much the latest beat came."""

    def __init__(self) -> None:
        self.longest = 0.0

    def begin(self) -> None:
        """Forgets what has been."""
        self.longest = 0.0

    async def beat(self) -> None:
        """Goes on for ever."""
        while True:
            clock, processor = time.perf_counter(), time.process_time()
            await asyncio.sleep(BEAT_SECONDS)
            away = min(time.perf_counter() - clock, time.process_time() - processor)
            self.longest = max(self.longest, away)


async def inline(work: Callable[..., Any], *arguments: Any) -> Any:
    """Takes the place of `asyncio.to_thread`."""
    return work(*arguments)


def feel(pulse: Pulse) -> None:
    """Lets the next server of this process be measured."""
    start = App.start

    async def start_beating(app: App) -> None:
        await start(app)
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGUSR1, pulse.begin)
        vars(app)["pulse"] = loop.create_task(pulse.beat())

    setattr(App, "start", start_beating)  # noqa: B010 - mypy would not have it assigned


if __name__ == "__main__":
    if "inline" in sys.argv:
        vars(asyncio)["to_thread"] = inline
    felt = Pulse()
    feel(felt)
    try:
        cli(["serve"], prog_name="pulse")
    finally:
        print(f"{LONGEST}={felt.longest * 1000:.1f}", file=sys.stderr)

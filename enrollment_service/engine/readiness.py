"""Finds out whether the database can be written, all the time, so that callers need not try in vain.

What is committed meanwhile is answer enough. While nothing is, the database is asked, twice a second. One failure says
nothing: a connection may break by itself. Three looks in a row without an answer do, and so does one answer that it
cannot be written.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from enrollment_service.store.database import Database
from enrollment_service.store.probe import State
from enrollment_service.telemetry import metrics

log = structlog.get_logger()

LOOK_SECONDS = 0.5
# Looks are counted, not seconds: while this process itself stands still, it learns nothing of the database.
MAX_MISSES = 3
SILENT = "no answer"


class Readiness:
    """Tells `changed` whenever the database can no longer be written, and when it can again.

    It could be written a moment ago when this begins; `changed` is not told so.
    """

    def __init__(self, database: Database, changed: Callable[[bool], None]) -> None:
        self._database = database
        self._probe = database.probe()
        self._changed = changed
        self._asking: asyncio.Task[State] | None = None
        self._misses = 0
        self._writes_seen = 0
        self._ready = True
        self._looking: asyncio.Task[None] | None = None

    def begin(self) -> None:
        """Looks from now on, until it is closed."""
        self._looking = asyncio.create_task(self._look_for_ever())

    async def close(self) -> None:
        """Looks no more."""
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.wait({self._looking})
        await self._probe.close()

    async def _look_for_ever(self) -> None:
        clock = asyncio.get_running_loop().time
        metrics.ready.set(1)
        try:
            while True:
                next_look = clock() + LOOK_SECONDS
                self._judge(await self._look())
                await asyncio.sleep(next_look - clock())
        finally:
            metrics.ready.set(0)
            if self._asking is not None:
                self._asking.cancel()
                await asyncio.wait({self._asking})

    async def _look(self) -> State | None:
        """The state of the database; None where there is no answer yet, or will be none."""
        if self._database.writes != self._writes_seen:
            self._writes_seen = self._database.writes
            return State.WRITABLE
        if self._asking is None:
            self._asking = asyncio.create_task(self._probe.ask())
        await asyncio.wait({self._asking}, timeout=LOOK_SECONDS)
        if not self._asking.done():
            return None
        asked, self._asking = self._asking, None
        return None if asked.exception() is not None else asked.result()

    def _judge(self, state: State | None) -> None:
        if state is State.WRITABLE:
            self._misses = 0
            self._become(True, state.value)
        elif state is not None:
            self._become(False, state.value)
        else:
            self._misses += 1
            if self._misses >= MAX_MISSES:
                self._become(False, SILENT)

    def _become(self, ready: bool, why: str) -> None:
        if ready == self._ready:
            return
        self._ready = ready
        metrics.ready.set(int(ready))
        if ready:
            log.info("ready again")
        else:
            log.warning("not ready", database=why)
            if why == State.READ_ONLY.value:
                # Who only reads would go on reading the past from a server that is no longer the primary.
                self._database.leave()
        self._changed(ready)

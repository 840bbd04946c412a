"""Connections to the database on which nothing comes back: found here and cut.

A network that swallows packets, or a server that is frozen, answers nothing at all, not even the server's own
timeouts. Who waits on a connection that is cut sees a lost connection, and goes the way of every lost connection.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from weakref import WeakSet

import structlog

from enrollment_service.store.driver import DriverConnection
from enrollment_service.telemetry import metrics

log = structlog.get_logger()

# One look at all connections together: a timer for each statement costs a third of what the driver does for it.
LOOK_SECONDS = 1.0
# After so long without an answer it is worth a question whether the server is there at all.
DOUBT_SECONDS = 2.0
# How often, at the most, one bad connection throws suspicion on all others.
LEAVE_SECONDS = 1.0


class _Seen(NamedTuple):
    """How many statements had been sent on a connection, and since when there were no more, by the loop's clock."""

    statements: int
    since: float


class Watch:
    """Cuts connections that are in use and on which no statement has come to an end for `max_silence_seconds`.

    Args:
        max_silence_seconds: longer than the server lets a statement take.
        answers: whether the server of a connection still answers newcomers; given where there is another server to
            go to. Then a silent connection is cut as soon as its server turns out to be silent altogether.
    """

    def __init__(
        self, max_silence_seconds: float, answers: Callable[[DriverConnection], Awaitable[bool]] | None = None
    ) -> None:
        self._max_silence = max_silence_seconds
        self._answers = answers
        self._asking: asyncio.Task[None] | None = None
        self._look_after = min(LOOK_SECONDS, max_silence_seconds / 4)
        self._known: WeakSet[DriverConnection] = WeakSet()
        self._in_use: dict[DriverConnection, _Seen | None] = {}
        self._left: WeakSet[DriverConnection] = WeakSet()
        self._left_at = float("-inf")
        self._timer: asyncio.TimerHandle | None = None

    def samples(self) -> list[metrics.Sample]:
        """What can be seen from outside."""
        return [
            (metrics.connections_open, lambda: sum(not connection.is_closed() for connection in self._known)),
            (metrics.connections_in_use, lambda: len(self._in_use)),
        ]

    def know(self, connection: DriverConnection) -> None:
        """Tells of a new connection."""
        self._known.add(connection)

    def begin(self, connection: DriverConnection) -> None:
        """From now on until `end`, statements are expected on the connection, one after the other."""
        self._in_use[connection] = None
        if self._timer is None:
            self._look_later()

    def end(self, connection: DriverConnection) -> None:
        """Nothing is expected on the connection any more."""
        self._in_use.pop(connection, None)
        if connection in self._left:
            connection.terminate()

    def leave(self) -> None:
        """Gives up all connections there are now: idle ones at once, the others when their work is done.

        For when one of them shows that its server is not to be trusted any more; each is replaced at its next use.
        """
        now = asyncio.get_running_loop().time()
        if now - self._left_at < LEAVE_SECONDS:
            return
        self._left_at = now
        for connection in list(self._known):
            if connection in self._in_use:
                self._left.add(connection)
            else:
                connection.terminate()

    def cut(self) -> None:
        """Cuts all connections, whatever goes on there."""
        for connection in list(self._known):
            connection.terminate()

    def _look_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(self._look_after, self._look)

    def _look(self) -> None:
        self._timer = None
        now = asyncio.get_running_loop().time()
        silent = {connection: self._silence(connection, now) for connection in list(self._in_use)}
        self._give_up([one for one, seconds in silent.items() if seconds > self._max_silence])
        doubtful = [one for one, seconds in silent.items() if DOUBT_SECONDS < seconds <= self._max_silence]
        if doubtful and self._answers is not None and self._asking is None:
            self._asking = asyncio.create_task(self._ask(doubtful, self._answers))
        if self._in_use:
            self._look_later()

    def _give_up(self, silent: list[DriverConnection]) -> None:
        for connection in silent:
            connection.terminate()
        if silent:
            log.warning("silent database connections cut", count=len(silent))
            self.leave()

    async def _ask(
        self, doubtful: list[DriverConnection], answers: Callable[[DriverConnection], Awaitable[bool]]
    ) -> None:
        """Gives up doubtful connections that are still in use when their server does not answer newcomers either."""
        try:
            if not await answers(doubtful[0]):
                self._give_up([connection for connection in doubtful if connection in self._in_use])
        finally:
            self._asking = None

    def _silence(self, connection: DriverConnection, now: float) -> float:
        """For how many seconds nothing has moved on a connection in use, as far as looks can tell."""
        if connection.is_closed():
            return 0.0
        # asyncpg's own count for its own pool; there is no public one that costs nothing.
        statements: int = connection._protocol.queries_count  # type: ignore[attr-defined]
        seen = self._in_use[connection]
        if seen is None or seen.statements != statements:
            self._in_use[connection] = _Seen(statements, now)
            return 0.0
        return now - seen.since

"""The connections of this process: taken from one pool, each within a time limit, and watched while they are in use."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from enrollment_service.settings import Settings
from enrollment_service.store.connect import answers, one_by_one
from enrollment_service.store.driver import DriverConnection
from enrollment_service.store.mistakes import mistakes_named
from enrollment_service.store.watch import Watch

# Our own limits lie so much above those of the server, the pool and the driver, which tell more of what was wrong.
MARGIN_SECONDS = 1.0
CLOSE_SECONDS = 1.0


def watch_over(settings: Settings) -> Watch:
    """A watch over all connections of a process, whatever pool they are of."""
    with mistakes_named(settings.database_url):
        elsewhere = len(one_by_one(settings.database_url)) > 1
    return Watch(settings.statement_timeout_ms / 1000 + MARGIN_SECONDS, answers if elsewhere else None)


class Pool:
    """Hands out the connections of an engine. No wait here is without a limit, whatever the database does."""

    def __init__(self, engine: AsyncEngine, settings: Settings, watch: Watch) -> None:
        self._engine = engine
        self._patience = settings.connect_timeout + MARGIN_SECONDS
        self._closed = False
        self.watch = watch
        event.listen(engine.sync_engine, "connect", self._opened)
        event.listen(engine.sync_engine, "invalidate", _terminate)

    async def take(self) -> AsyncConnection:
        """A connection, checked; it goes back to the pool when it is closed.

        Raises:
            TimeoutError: none could be opened, or the one that was there did not answer.
            ConnectionError: the pool is closed.
        """
        if self._closed:
            raise ConnectionError("the pool is closed")
        try:
            async with asyncio.timeout(self._patience) as limit:
                return await self._engine.connect()
        except TimeoutError:
            if limit.expired():
                # An idle connection did not answer when it was checked. The others are no younger.
                self.watch.leave()
            raise

    @asynccontextmanager
    async def taken(self) -> AsyncIterator[AsyncConnection]:
        """A connection for a block, watched until it is back in the pool."""
        connection = await self.take()
        driver = await driver_of(connection)
        self.watch.begin(driver)
        try:
            yield connection
        finally:
            # It ends with a ROLLBACK; whoever is cancelled meanwhile leaves that to go on, still watched.
            closing = asyncio.create_task(connection.close())
            closing.add_done_callback(lambda _: self.watch.end(driver))
            await asyncio.shield(closing)

    def cut(self) -> None:
        """Cuts all connections and opens no more: whoever still waits for the database is told at once."""
        self._closed = True
        self.watch.cut()

    async def close(self) -> None:
        """Closes all connections; those whose server does not answer are cut."""
        self._closed = True
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_SECONDS):
                await self._engine.dispose()
        self.watch.cut()

    def _opened(self, adapted: Any, _: object) -> None:
        self.watch.know(adapted.driver_connection)


async def driver_of(connection: AsyncConnection) -> DriverConnection:
    """The driver's own connection behind one of SQLAlchemy's."""
    driver = (await connection.get_raw_connection()).driver_connection
    assert isinstance(driver, DriverConnection)  # noqa: S101 - for the type checker
    return driver


def _terminate(adapted: Any, *_: object) -> None:
    """What is thrown away is cut first: SQLAlchemy would say goodbye to a server that may not answer."""
    adapted.driver_connection.terminate()

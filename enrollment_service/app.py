"""Wires the service together, runs it until it is told to stop, and drains it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator
from datetime import timedelta

import structlog

from enrollment_service.api.health import Health
from enrollment_service.api.server import SERVICE, build_server
from enrollment_service.api.servicer import Servicer
from enrollment_service.engine.creator import course_creator, student_creator
from enrollment_service.engine.housekeeping import purge_for_ever
from enrollment_service.engine.reader import Reader
from enrollment_service.engine.writer import Writer
from enrollment_service.settings import Settings
from enrollment_service.store.database import SCHEMA_REVISION, Clock, Database
from enrollment_service.store.faults import fault_of
from enrollment_service.telemetry.logs import describe

log = structlog.get_logger()

DATABASE_POLL_SECONDS = 0.5
# While a large decision is made in a thread, the event loop waits for so long whenever it has let go of Python's lock,
# which may be several times in one turn. Python's default is five times as long.
MAX_THREAD_TURN_SECONDS = 0.001


class WrongSchemaError(Exception):
    """The database has another schema than this code is written for."""


class App:
    """The service in this process, from connecting to the database until the last answer is out."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._database = Database(settings, clock)
        self._writer = Writer(self._database, settings)
        self._reader = Reader(self._database, settings)
        self._students = student_creator(self._database, settings)
        self._courses = course_creator(self._database, settings)
        self._health = Health()
        servicer = Servicer(self._writer, self._reader, self._students, self._courses)
        self._server = build_server(settings, servicer, self._health)
        self._housekeeping: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Serves; returns once calls are answered.

        Raises:
            WrongSchemaError: the database is not migrated, or by another version.
        """
        await _check_schema(self._database)
        self.port = self._server.add_insecure_port(self._settings.listen)
        await self._server.start()
        await self._health.serving(("", SERVICE))
        self._housekeeping = asyncio.create_task(
            purge_for_ever(
                self._database,
                retention=timedelta(hours=self._settings.request_retention_hours),
                interval=self._settings.purge_interval,
            )
        )

    async def drain(self) -> None:
        """Refuses new calls, finishes those under way, then lets go of the database."""
        await self._health.stopping()
        await asyncio.sleep(self._settings.shutdown_delay)
        self._health.end_watches()
        await self._server.stop(self._settings.shutdown_grace)
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        for part in (self._writer, self._reader, self._students, self._courses, self._database):
            await part.close()


@contextlib.asynccontextmanager
async def serving(settings: Settings, clock: Clock | None = None) -> AsyncIterator[App]:
    """The service, serving inside the block and drained after it."""
    app = App(settings, clock)
    await app.start()
    try:
        yield app
    finally:
        await app.drain()


async def serve(settings: Settings, *, ends_with_parent: bool = False) -> None:
    """Serves until SIGTERM or SIGINT. A second signal changes nothing: a drain is never cut short.

    Args:
        settings: where and how to serve.
        ends_with_parent: drain also when standard input ends, as it does when the parent process is gone.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    if ends_with_parent:
        loop.add_reader(0, _stop_at_end_of_input, loop, stop)
    await wait_for_database(settings, stop)
    if stop.is_set():
        return
    async with serving(settings) as app:
        _calm_garbage_collector()
        sys.setswitchinterval(MAX_THREAD_TURN_SECONDS)
        log.info(
            "serving",
            listen=settings.listen,
            port=app.port,
            profile=settings.profile,
            reflection=settings.reflection_on,
            authentication="none",
        )
        await stop.wait()
        log.info("draining", grace_seconds=settings.shutdown_grace)
    log.info("stopped")


def _calm_garbage_collector() -> None:
    """What is there now stays; calls leave little that needs the collector, so it need not look so often.

    With Python's own thresholds it takes 7 % of the time under load.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(200_000, 20, 100)


def _stop_at_end_of_input(loop: asyncio.AbstractEventLoop, stop: asyncio.Event) -> None:
    if not os.read(0, 1024):
        loop.remove_reader(0)
        stop.set()


async def wait_for_database(settings: Settings, stop: asyncio.Event) -> None:
    """Waits until the database answers, however long it takes to come up."""
    database = Database(settings)
    try:
        while not stop.is_set():
            try:
                await database.schema_revision()
            except Exception as error:  # noqa: BLE001 - whatever keeps it from answering may pass
                log.warning("waiting for the database", fault=fault_of(error).name, error=describe(error)["type"])
            else:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), DATABASE_POLL_SECONDS)
    finally:
        await database.close()


async def _check_schema(database: Database) -> None:
    revision = await database.schema_revision()
    if revision != SCHEMA_REVISION:
        raise WrongSchemaError(
            f"the database has schema revision {revision or 'none'}, this version needs {SCHEMA_REVISION}; "
            "run `python -m enrollment_service migrate`"
        )

"""Wires the service together, runs it until it is told to stop, and drains it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
import sys
from collections.abc import AsyncIterator, Coroutine
from datetime import timedelta
from typing import Any

import structlog

from enrollment_service.api.auth.stage import authentication_of
from enrollment_service.api.drain import Drain
from enrollment_service.api.health import READY, Health
from enrollment_service.api.server import SERVICE, build_server
from enrollment_service.api.servicer import Servicer
from enrollment_service.engine.feed import Feed
from enrollment_service.engine.housekeeping import purge_for_ever, settle_for_ever
from enrollment_service.engine.reader import Reader
from enrollment_service.engine.readiness import Readiness
from enrollment_service.engine.writer import Writer
from enrollment_service.settings import Settings
from enrollment_service.store.database import Clock, Database
from enrollment_service.store.faults import Fault, facts_of, fault_of
from enrollment_service.telemetry.sampler import Sampler

log = structlog.get_logger()

DATABASE_POLL_SECONDS = 0.5
KEYS_POLL_SECONDS = 2.0
# After the grace: for telling those who were still waiting, and for commits that are under way.
TELL_SECONDS = 1.0
LOOK_SECONDS = 1.0
COMMIT_SECONDS = 1.0
# While a large decision is made in a thread, the event loop waits for so long whenever it has let go of Python's lock,
# which may be several times in one turn. Python's default is five times as long.
MAX_THREAD_TURN_SECONDS = 0.001


class App:
    """The service in this process, from connecting to the database until the last answer is out."""

    def __init__(self, settings: Settings, clock: Clock | None = None) -> None:
        self._settings = settings
        self._database = Database(settings, clock)
        self._writer = Writer(self._database, settings)
        self._reader = Reader(self._database, settings)
        self._feed = Feed(self._database, settings, self._reader.lists)
        self._health = Health()
        self._readiness = Readiness(self._database, lambda ready: self._health.set([READY], serving=ready))
        self._drain = Drain()
        self._authentication = authentication_of(settings, self._reader)
        servicer = Servicer(self._writer, self._reader, self._feed, settings.stream_idle_timeout)
        self._server = build_server(settings, servicer, self._authentication, self._health, self._drain)
        self._housekeeping: list[asyncio.Task[None]] = []
        parts = (self._writer, self._reader, self._feed, self._database, self._drain)
        self._sampler = Sampler([sample for part in parts for sample in part.samples()])
        self._sampling: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Serves; returns once calls are answered.

        Raises:
            WrongSchemaError: the database is not migrated, or by another version.
            MisconfiguredError: the event log was restored from another database.
            UnusableFileError: a certificate cannot be read, or is none.
        """
        await self._database.check_schema()
        await self._database.check_log()
        await self._authentication.start()
        self.port = self._listen()
        await self._server.start()
        self._health.set(["", SERVICE, READY])
        self._readiness.begin()
        self._sampling = asyncio.create_task(self._sampler.run())
        days = self._settings.event_retention_days
        purging = purge_for_ever(
            self._database,
            retention=timedelta(hours=self._settings.request_retention_hours),
            event_retention=None if days is None else timedelta(days=days),
            interval=self._settings.purge_interval,
        )
        settling = settle_for_ever(self._database, self._writer)
        self._housekeeping = [asyncio.create_task(purging), asyncio.create_task(settling)]

    def _listen(self) -> int:
        """The port, once the server has it."""
        if not self._settings.tls_cert:
            return self._server.add_insecure_port(self._settings.listen)
        # Loaded only where there is TLS.
        from enrollment_service.api.auth.certificates import server_credentials

        return self._server.add_secure_port(self._settings.listen, server_credentials(self._settings))

    async def drain(self) -> None:
        """Refuses new calls, finishes those under way, then lets go of the database.

        Takes no longer than the delay, the grace and 5 seconds, whatever callers and the database do.
        """
        self._health.stopping()
        await asyncio.sleep(self._settings.shutdown_delay)
        self._health.end_watches()
        self._drain.begin()
        self._feed.end()
        patience_ends = asyncio.get_running_loop().time() + self._settings.shutdown_grace
        await self._finish_calls()
        await self._finish_batches(patience_ends)
        await self._authentication.stop()
        await self._database.close()
        if self._sampling is not None:
            self._sampling.cancel()
            self._sampler.look()

    async def _finish_calls(self) -> None:
        """Lets calls end; who is still under way after the grace is told before gRPC ends the call without a word."""
        stopping = asyncio.create_task(self._server.stop(self._settings.shutdown_grace + TELL_SECONDS))
        grace = asyncio.create_task(asyncio.sleep(self._settings.shutdown_grace))
        while not (stopping.done() or grace.done()):
            await asyncio.wait({stopping, grace}, timeout=LOOK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            if self._drain.only_unread_left():
                # gRPC itself would wait for clients that do not read.
                await self._server.stop(TELL_SECONDS)
        grace.cancel()
        self._drain.give_up()
        await stopping

    async def _finish_batches(self, patience_ends: float) -> None:
        """Lets batches under way commit, and cuts those that the database or a lock holds up."""
        parts = (self._writer, self._reader, self._feed, self._readiness)
        closing = {asyncio.create_task(part.close()) for part in parts}
        for task in self._housekeeping:
            task.cancel()
            closing.add(task)
        left = max(patience_ends - asyncio.get_running_loop().time(), 0)
        _, late = await asyncio.wait(closing, timeout=left + COMMIT_SECONDS)
        if late:
            log.warning("batches did not end in time; their connections are cut", waiting=len(late))
            self._database.cut()
            await asyncio.wait(late, timeout=COMMIT_SECONDS)


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
    # Whoever started us may have held them back until now.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGTERM, signal.SIGINT))
    if ends_with_parent:
        loop.add_reader(0, _stop_at_end_of_input, loop, stop)
    await _unless_stopped(wait_for_database(settings, stop), stop)
    await _unless_stopped(wait_for_keys(settings, stop), stop)
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
            authentication=settings.auth or "none",
            tls=settings.tls or ("on" if settings.tls_cert else "off"),
        )
        await stop.wait()
        log.info("draining", grace_seconds=settings.shutdown_grace)
    log.info("stopped")


async def _unless_stopped(work: Coroutine[Any, Any, None], stop: asyncio.Event) -> None:
    """Does something to its end, but does not wait for that when the process is to stop."""
    working, told = asyncio.create_task(work), asyncio.create_task(stop.wait())
    await asyncio.wait({working, told}, return_when=asyncio.FIRST_COMPLETED)
    told.cancel()
    if working.done():
        await working
    else:
        working.cancel()
        await asyncio.wait({working}, timeout=TELL_SECONDS)


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
    """Waits until the database answers, however long it takes to come up.

    Raises:
        Exception: MISCONFIGURED is what `fault_of` says of it, and no waiting helps.
    """
    database = Database(settings)
    try:
        while not stop.is_set():
            try:
                await database.schema_revision()
            except Exception as error:
                if fault_of(error) is Fault.MISCONFIGURED:
                    raise
                log.warning("waiting for the database", **facts_of(error))
            else:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), DATABASE_POLL_SECONDS)
    finally:
        await database.close()


async def wait_for_keys(settings: Settings, stop: asyncio.Event) -> None:
    """Waits until the keys of the tokens can be fetched, if they come from an address.

    Raises:
        UnusableFileError: they come from a file, and it is of no use.
    """
    if "jwt" not in settings.auth_kinds:
        return
    from enrollment_service.api.auth.keys import KeysUnavailableError, check_source

    while not stop.is_set():
        try:
            await check_source(settings.jwt_jwks)
        except KeysUnavailableError as error:
            log.warning("waiting for the keys of the tokens", problem=str(error))
        else:
            return
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), KEYS_POLL_SECONDS)

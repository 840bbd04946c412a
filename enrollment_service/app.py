"""Builds the gRPC server, runs it until it is told to stop, and drains it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import os
import signal
from collections.abc import AsyncIterator
from datetime import datetime, timedelta
from typing import Any

import grpc
import structlog
from grpc.aio import ServicerContext
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_health.v1._async import HealthServicer
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.api import calls
from enrollment_service.api.servicer import Servicer
from enrollment_service.engine.creator import course_creator, student_creator
from enrollment_service.engine.housekeeping import purge_for_ever
from enrollment_service.engine.reader import Reader
from enrollment_service.engine.writer import Writer
from enrollment_service.settings import Settings
from enrollment_service.store.courses import CourseMemory
from enrollment_service.store.database import SCHEMA_REVISION, build_engine, fault_of, schema_revision
from enrollment_service.telemetry.logs import describe
from enrollment_service.v1 import enrollment_pb2 as pb

log = structlog.get_logger()

SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"].full_name
HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
# grpc_health waits for its watchers, and one that reads nothing would hold up the shutdown.
HEALTH_TIMEOUT = 1.0
# How long a watcher has to read that the server stops before its stream is ended.
LAST_WORD = 0.1
DATABASE_POLL = 0.5


class WrongSchemaError(Exception):
    """The database has another schema than this code is written for."""


class Health(HealthServicer):
    """Health whose watchers can be sent away: they never go by themselves, and a drain would wait for them."""

    def __init__(self) -> None:
        super().__init__()
        self._ending = asyncio.Event()

    async def Watch(self, request: health_pb2.HealthCheckRequest, context: ServicerContext[Any, Any]) -> None:  # noqa: N802
        """Tells every change until `end_watches`."""
        watch = asyncio.create_task(super().Watch(request, context))
        ending = asyncio.create_task(self._ending.wait())
        try:
            await asyncio.wait([watch, ending], return_when=asyncio.FIRST_COMPLETED)
            await asyncio.wait([watch], timeout=LAST_WORD)
        finally:
            watch.cancel()
            ending.cancel()
            await asyncio.gather(watch, ending, return_exceptions=True)

    def end_watches(self) -> None:
        """Ends all streams of watchers, in a moment."""
        self._ending.set()


class Server:
    """The service in this process, from connecting to the database until the last answer is out."""

    def __init__(self, settings: Settings, clock: ColumnElement[datetime] | None = None) -> None:
        self._settings = settings
        self._engine = build_engine(settings)
        memory = CourseMemory()
        self._writer = Writer(self._engine, settings, memory, clock)
        self._reader = Reader(self._engine, settings, memory, clock)
        self._students = student_creator(self._engine, settings)
        self._courses = course_creator(self._engine, settings)
        self._health = Health()
        self._grpc = grpc.aio.server(options=_options(settings))
        self._housekeeping: asyncio.Task[None] | None = None
        self.port = 0

    async def start(self) -> None:
        """Serves; returns once calls are answered.

        Raises:
            WrongSchemaError: the database is not migrated, or by another version.
        """
        await _check_schema(self._engine)
        servicer = Servicer(self._writer, self._reader, self._students, self._courses)
        self._grpc.add_generic_rpc_handlers((calls.handlers(servicer, self._settings.default_deadline),))
        health_pb2_grpc.add_HealthServicer_to_server(self._health, self._grpc)
        if self._settings.reflection_on:
            _add_reflection(self._grpc)
        self.port = self._grpc.add_insecure_port(self._settings.listen)
        await self._grpc.start()
        for name in ("", SERVICE):
            await self._health.set(name, health_pb2.HealthCheckResponse.SERVING)
        self._housekeeping = asyncio.create_task(
            purge_for_ever(
                self._engine,
                retention=timedelta(hours=self._settings.request_retention_hours),
                interval=self._settings.purge_interval,
            )
        )

    async def drain(self) -> None:
        """Refuses new calls, finishes those under way, then lets go of the database."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._health.enter_graceful_shutdown(), HEALTH_TIMEOUT)
        await asyncio.sleep(self._settings.shutdown_delay)
        self._health.end_watches()
        await self._grpc.stop(self._settings.shutdown_grace)
        if self._housekeeping is not None:
            self._housekeeping.cancel()
            await asyncio.gather(self._housekeeping, return_exceptions=True)
        for part in (self._writer, self._reader, self._students, self._courses):
            await part.close()
        await self._engine.dispose()


@contextlib.asynccontextmanager
async def serving(settings: Settings, clock: ColumnElement[datetime] | None = None) -> AsyncIterator[Server]:
    """A server that serves inside the block and is drained after it."""
    server = Server(settings, clock)
    await server.start()
    try:
        yield server
    finally:
        await server.drain()


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
    async with serving(settings) as server:
        _calm_garbage_collector()
        log.info(
            "serving",
            listen=settings.listen,
            port=server.port,
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
    engine = build_engine(settings)
    try:
        while not stop.is_set():
            try:
                await schema_revision(engine)
            except Exception as error:  # noqa: BLE001 - whatever keeps it from answering may pass
                log.warning("waiting for the database", fault=fault_of(error).name, error=describe(error)["type"])
            else:
                return
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(stop.wait(), DATABASE_POLL)
    finally:
        await engine.dispose()


async def _check_schema(engine: AsyncEngine) -> None:
    revision = await schema_revision(engine)
    if revision != SCHEMA_REVISION:
        raise WrongSchemaError(
            f"the database has schema revision {revision or 'none'}, this version needs {SCHEMA_REVISION}; "
            "run `python -m enrollment_service migrate`"
        )


def _options(settings: Settings) -> list[tuple[str, int]]:
    return [
        # Otherwise a second server would silently share the port. Workers share it on purpose.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", 10_000),
        ("grpc.max_metadata_size", 16 * 1024),
    ]


def _add_reflection(server: grpc.aio.Server) -> None:
    """Reflection under both names: the package knows only v1alpha, whose wire format v1 has kept."""
    reflection.enable_server_reflection((SERVICE, HEALTH, reflection.SERVICE_NAME), server)
    method = grpc.stream_stream_rpc_method_handler(
        ReflectionServicer((SERVICE, HEALTH, reflection.SERVICE_NAME)).ServerReflectionInfo,
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    handler = grpc.method_handlers_generic_handler(REFLECTION_V1, {"ServerReflectionInfo": method})
    server.add_generic_rpc_handlers((handler,))

"""Builds the gRPC server: its limits, and the services that it offers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection, reflection_pb2
from grpc_reflection.v1alpha._async import ReflectionServicer

from enrollment_service.api import calls
from enrollment_service.api.auth.stage import Authentication
from enrollment_service.api.drain import Drain
from enrollment_service.api.health import Health
from enrollment_service.api.limits import Allowance, Limits
from enrollment_service.api.status import metadata_of, status_of
from enrollment_service.domain.errors import ShuttingDown
from enrollment_service.settings import Settings
from enrollment_service.v1 import enrollment_pb2 as pb

SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"].full_name
_HEALTH = health_pb2.DESCRIPTOR.services_by_name["Health"].full_name
_REFLECTION_V1 = "grpc.reflection.v1.ServerReflection"
# Beyond its own limits gRPC ends calls not yet handed over with bare CANCELLED; max_streams bounds them instead.
_UNLIMITED = 2**31 - 1
# How long a connection may take to be made, and then be without a call. Clients open another when they need one.
HANDSHAKE_MS = 10_000
IDLE_MS = 300_000
_REFLECTED = (SERVICE, _HEALTH, reflection.SERVICE_NAME)


def build_server(
    settings: Settings, servicer: Any, authentication: Authentication, health: Health, drain: Drain
) -> grpc.aio.Server:
    """A server that listens nowhere yet."""
    server = grpc.aio.server(options=_options(settings))
    guards = calls.Guards(authentication, _limits(settings), drain)
    server.add_generic_rpc_handlers((calls.handlers(servicer, settings.default_deadline, guards),))
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    if settings.reflection_on:
        _add_reflection(server, drain)
    return server


def _limits(settings: Settings) -> Limits:
    allowance = Allowance(
        calls=settings.max_caller_calls,
        streams=settings.max_caller_streams,
        rate=settings.max_caller_rate,
        burst=settings.max_caller_burst,
    )
    return Limits(allowance, settings.max_open_streams)


def _options(settings: Settings) -> list[tuple[str, int]]:
    options = [
        # Otherwise a second server would silently share the port. Workers share it on purpose.
        ("grpc.so_reuseport", int(settings.workers > 1)),
        ("grpc.max_receive_message_length", settings.max_message_bytes),
        ("grpc.max_concurrent_streams", settings.max_streams),
        # gRPC refuses a connection's new calls (REFUSED_STREAM: UNAVAILABLE to the caller) while more than so many are
        # over for the client but not yet for us. A client that waits for its answers never gets there: at most, all
        # that it has under way ends in one batch. One whose calls expire in our queue does, and nowhere is it cheaper
        # to say no: without this, under a lasting overload, every answer comes too late.
        ("grpc.http2.max_deallocating_streams", settings.max_streams),
        ("grpc.server.max_pending_requests", _UNLIMITED),
        ("grpc.server.max_pending_requests_hard_limit", _UNLIMITED),
        # A soft and a hard limit; between two that differ gRPC refuses calls at random.
        ("grpc.max_metadata_size", settings.max_metadata_bytes),
        ("grpc.absolute_max_metadata_size", settings.max_metadata_bytes),
    ]
    # Whoever connects and says nothing holds a descriptor; strangers can do that, too.
    options.append(("grpc.server_handshake_timeout_ms", HANDSHAKE_MS))
    options.append(("grpc.max_connection_idle_ms", IDLE_MS))
    if settings.max_connection_age is not None:
        # gRPC itself varies it by a tenth for each connection, so that they do not all come back at once. Calls under
        # way are not cut: only new ones go to the next connection.
        options.append(("grpc.max_connection_age_ms", round(settings.max_connection_age * 1000)))
    return options


def _answers(drain: Drain) -> Any:
    """The method of the reflection services; its streams, which clients keep open for long, end at a drain."""
    servicer: Any = ReflectionServicer(_REFLECTED)

    async def handle(requests: AsyncIterator[Any], context: Any) -> AsyncIterator[Any]:
        try:
            async for answer in servicer.ServerReflectionInfo(drain.until_begun(requests), context):
                yield answer
        except ShuttingDown as error:
            code, message, status = status_of(error)
            await context.abort(code, message, metadata_of(status))

    return handle


def _add_reflection(server: grpc.aio.Server, drain: Drain) -> None:
    """Reflection under both names: the package knows only v1alpha, whose wire format v1 has kept."""
    method = grpc.stream_stream_rpc_method_handler(
        _answers(drain),
        request_deserializer=reflection_pb2.ServerReflectionRequest.FromString,
        response_serializer=reflection_pb2.ServerReflectionResponse.SerializeToString,
    )
    for name in (reflection.SERVICE_NAME, _REFLECTION_V1):
        handler = grpc.method_handlers_generic_handler(name, {"ServerReflectionInfo": method})
        server.add_generic_rpc_handlers((handler,))

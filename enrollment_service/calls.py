"""What every call goes through on its way in and out: decoding, deadline, error to status, one log line.

Wrapped around the methods where they are registered rather than as gRPC interceptors: the effect is the same, but an
interceptor cannot reach the decoding of requests, and costs something on every call.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, NoReturn, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from grpc.aio import AbortError, ServicerContext

from enrollment_service import logs
from enrollment_service.errors import EnrollmentError, Reason, ShuttingDown
from enrollment_service.patience import Patience
from enrollment_service.status import metadata_of, status_of
from enrollment_service.v1 import enrollment_pb2 as pb

Request = TypeVar("Request", bound=Message)
Context = ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Any]]
StreamMethod = Callable[[AsyncIterator[Any], Context], AsyncIterator[Any]]

# Fields of requests that may be logged: ids of ours and of the caller, nothing else.
LOGGED_FIELDS = (
    "student_id",
    "course_id",
    "course_ids",
    "from_course_id",
    "to_course_id",
    "request_id",
    "validate_only",
    "chunk_id",
)


class Malformed:
    """Stands for a request whose bytes are not a message; it is refused where errors are answered."""


MALFORMED = Malformed()


def decoder(kind: type[Request]) -> Callable[[bytes], Request | Malformed]:
    """A deserializer that never raises: gRPC would tell the caller the text of the exception."""

    def decode(data: bytes) -> Request | Malformed:
        try:
            return kind.FromString(data)
        except DecodeError:
            return MALFORMED

    return decode


def encoder(kind: type[Message]) -> Callable[[Any], bytes]:
    """A serializer that lets through what a method has encoded itself."""
    encode = kind.SerializeToString
    return lambda response: response if type(response) is bytes else encode(response)


def handlers(servicer: Any, default_deadline: float) -> grpc.GenericRpcHandler:
    """The methods of a servicer, each wrapped, ready to be added to a server."""
    service = pb.DESCRIPTOR.services_by_name["EnrollmentService"]
    patience = Patience(default_deadline)
    wrapped = {}
    for method in service.methods:
        request = getattr(pb, method.input_type.name)
        behaviour = getattr(servicer, method.name)
        names = tuple(name for name in LOGGED_FIELDS if name in method.input_type.fields_by_name)
        coding: dict[str, Any] = {
            "request_deserializer": decoder(request),
            "response_serializer": encoder(getattr(pb, method.output_type.name)),
        }
        if method.client_streaming:
            wrapped[method.name] = grpc.stream_stream_rpc_method_handler(
                _stream(method.name, behaviour, _decoded), **coding
            )
        elif method.server_streaming:
            wrapped[method.name] = grpc.unary_stream_rpc_method_handler(
                _stream(method.name, behaviour, _checked), **coding
            )
        else:
            wrapped[method.name] = grpc.unary_unary_rpc_method_handler(
                _unary(method.name, behaviour, names, patience), **coding
            )
    return grpc.method_handlers_generic_handler(service.full_name, wrapped)


def _unary(name: str, method: Method, names: tuple[str, ...], patience: Patience) -> Method:
    async def call(request: Any, context: Context) -> Any:
        started = time.perf_counter()
        task = None
        if context.time_remaining() is None:
            # Callers that set a deadline are cancelled by gRPC; nobody waits for ever.
            task = asyncio.current_task()
            patience.begin(task)  # type: ignore[arg-type]
        try:
            response = await method(_checked(request, name), context)
        except BaseException as error:  # noqa: BLE001 - the caller is told, whatever it is
            expired = task is not None and patience.end(task)
            await _fail(name, started, TimeoutError() if expired else error, context, _ids(request, names))
        if task is not None:
            patience.end(task)
        _log_call(name, started, "OK", context, _ids(request, names))
        return response

    return call


def _stream(name: str, method: Any, prepare: Callable[[Any, str], Any]) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        started = time.perf_counter()
        try:
            async for response in method(prepare(request, name), context):
                yield response
        except BaseException as error:  # noqa: BLE001 - the caller is told, whatever it is
            await _fail(name, started, error, context, {})
        _log_call(name, started, "OK", context, {})

    return call


def _checked(request: Any, name: str) -> Any:
    if request is MALFORMED:
        raise EnrollmentError.one(
            Reason.MALFORMED_REQUEST, "", "The bytes are not a request of this method.", method=name
        )
    return request


async def _decoded(requests: AsyncIterator[Any], name: str) -> AsyncIterator[Any]:
    async for request in requests:
        yield _checked(request, name)


async def _fail(name: str, started: float, error: BaseException, context: Context, ids: dict[str, Any]) -> NoReturn:
    if isinstance(error, AbortError):
        raise error
    if isinstance(error, asyncio.CancelledError | GeneratorExit) and (context.cancelled() or context.done()):
        # The caller has gone or its deadline has passed; gRPC has answered already.
        _log_call(name, started, "CANCELLED", context, ids)
        raise error
    refusal = _refusal(error)
    code, message, status = status_of(refusal)
    _log_call(name, started, code.name, context, ids | _shown(refusal, error))
    await context.abort(code, message, metadata_of(status))


def _refusal(error: BaseException) -> EnrollmentError:
    if isinstance(error, EnrollmentError):
        return error
    if isinstance(error, TimeoutError):
        return EnrollmentError.one(Reason.DEADLINE_EXCEEDED, "", "The deadline passed.")
    if isinstance(error, asyncio.CancelledError):
        # Cancelled from inside: without a status the caller would wait out its whole deadline (grpc#29248).
        return ShuttingDown()
    return EnrollmentError.one(
        Reason.INTERNAL, "", "Something went wrong on our side; the error_id finds it in the log.",
        error_id=uuid.uuid4().hex,
    )  # fmt: skip


def _shown(refusal: EnrollmentError, error: BaseException) -> dict[str, Any]:
    shown: dict[str, Any] = {"reason": refusal.reason}
    if refusal.reason is Reason.INTERNAL:
        shown |= refusal.violations[0].observed
        shown["error"] = logs.describe(error)
    return shown


def _ids(request: Any, names: tuple[str, ...]) -> dict[str, Any]:
    if request is MALFORMED:
        return {}
    ids: dict[str, Any] = {}
    for name in names:
        value = getattr(request, name)
        if value:
            ids[name] = list(value) if name == "course_ids" else value
    return ids


def _log_call(name: str, started: float, code: str, context: Context, fields: dict[str, Any]) -> None:
    fields["method"] = name
    fields["code"] = code
    fields["duration_ms"] = round((time.perf_counter() - started) * 1000, 2)
    fields["peer"] = context.peer()
    logs.call("error" if code == "INTERNAL" else "info", fields)

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
from google.protobuf.descriptor import Descriptor
from google.protobuf.message import DecodeError, Message
from grpc.aio import AbortError, ServicerContext

from enrollment_service.api import requests
from enrollment_service.api.deadlines import Patience
from enrollment_service.api.status import metadata_of, status_of
from enrollment_service.domain.errors import EnrollmentError, Reason, ShuttingDown
from enrollment_service.telemetry import logs
from enrollment_service.v1 import enrollment_pb2 as pb

Request = TypeVar("Request", bound=Message)
Context = ServicerContext[Any, Any]
Method = Callable[[Any, Context], Awaitable[Any]]

# Fields of requests that may be logged: ids of ours and of the caller, nothing else.
LOGGED_FIELDS = (
    "student_id",
    "course_id",
    "course_ids",
    "from_course_id",
    "to_course_id",
    "request_id",
    "validate_only",
)
# Messages inside requests and responses that have such a field.
LOGGED_PARTS = {"student": "student_id", "course": "course_id"}


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
        behaviour = getattr(servicer, method.name)
        coding: dict[str, Any] = {
            "request_deserializer": decoder(getattr(pb, method.input_type.name)),
            "response_serializer": encoder(getattr(pb, method.output_type.name)),
        }
        if method.client_streaming:
            call = _stream(method.name, behaviour, _decoded)
            wrapped[method.name] = grpc.stream_stream_rpc_method_handler(call, **coding)
        elif method.server_streaming:
            call = _stream(method.name, behaviour, _checked)
            wrapped[method.name] = grpc.unary_stream_rpc_method_handler(call, **coding)
        else:
            call = _unary(method.name, behaviour, _ids_of(method.input_type), patience)
            wrapped[method.name] = grpc.unary_unary_rpc_method_handler(call, **coding)
    return grpc.method_handlers_generic_handler(service.full_name, wrapped)


class _Record:
    """What the log says of one call. The peer is read first: once a call is over, its context must not be asked."""

    __slots__ = ("_name", "_peer", "_started")

    def __init__(self, name: str, context: Context) -> None:
        self._name = name
        self._peer = context.peer()
        self._started = time.perf_counter()

    def write(self, code: str, fields: dict[str, Any]) -> None:
        """Writes the line."""
        fields["method"] = self._name
        fields["code"] = code
        fields["duration_ms"] = round((time.perf_counter() - self._started) * 1000, 2)
        fields["peer"] = self._peer
        logs.call("error" if code == "INTERNAL" else "info", fields)


def _unary(name: str, method: Method, ids: Callable[[Any], dict[str, Any]], patience: Patience) -> Method:
    async def call(request: Any, context: Context) -> Any:
        record = _Record(name, context)
        task = None
        if context.time_remaining() is None:
            # Callers that set a deadline are cancelled by gRPC; nobody waits for ever.
            task = asyncio.current_task()
            patience.begin(task)  # type: ignore[arg-type]
        try:
            response = await method(_checked(request, name), context)
        except BaseException as error:  # noqa: BLE001 - the caller is told, whatever it is
            expired = task is not None and patience.end(task)
            await _fail(record, TimeoutError() if expired else error, context, ids(request))
        if task is not None:
            patience.end(task)
        record.write("OK", ids(request))
        return response

    return call


def _stream(name: str, method: Any, prepare: Callable[[Any, str], Any]) -> Any:
    async def call(request: Any, context: Context) -> AsyncIterator[Any]:
        record = _Record(name, context)
        answers = 0
        try:
            async for response in method(prepare(request, name), context):
                yield response
                answers += 1
        except BaseException as error:  # noqa: BLE001 - the caller is told, whatever it is
            await _fail(record, error, context, {"answers": answers})
        record.write("OK", {"answers": answers})

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


async def _fail(record: _Record, error: BaseException, context: Context, ids: dict[str, Any]) -> NoReturn:
    if isinstance(error, AbortError):
        raise error
    if isinstance(error, GeneratorExit) or (isinstance(error, asyncio.CancelledError) and _told_to_stop()):
        # The caller has gone or its deadline has passed; gRPC has answered already.
        record.write("CANCELLED", ids)
        raise error
    refusal = _refusal(error)
    code, message, status = status_of(refusal)
    record.write(code.name, ids | _shown(refusal, error))
    await context.abort(code, message, metadata_of(status))


def _told_to_stop() -> bool:
    """Whether gRPC has cancelled this call; otherwise a cancellation comes from inside."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


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


def _loggable(name: str, value: Any) -> Any:
    """What may be logged of a field that has not been checked yet: no text but a UUID, and no list without end."""
    if name == "request_id":
        return value if requests.is_uuid(value) else ""
    return list(value[: requests.MOST_COURSES]) if name == "course_ids" else value


def _ids_of(kind: Descriptor) -> Callable[[Any], dict[str, Any]]:
    """Reads what may be logged from requests of one type."""
    names = tuple(name for name in LOGGED_FIELDS if name in kind.fields_by_name)
    parts = tuple((part, name) for part, name in LOGGED_PARTS.items() if part in kind.fields_by_name)

    def read(request: Any) -> dict[str, Any]:
        ids: dict[str, Any] = {}
        if request is MALFORMED:
            return ids
        for name in names:
            if value := _loggable(name, getattr(request, name)):
                ids[name] = value
        for part, name in parts:
            if value := getattr(getattr(request, part), name):
                ids[name] = value
        return ids

    return read

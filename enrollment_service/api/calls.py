"""What every call goes through, in this order: authenticate, limit, decode, authorize, run, status, record.

Authentication comes first, before anything is said of the request, of malformed bytes too. Limits come before the work
of decoding, and so does the question whether the caller may call the method at all. Rules about rows need the ids of
the request, so the rest of authorization follows it. Whatever a stage raises becomes a status, and each call ends with
one line in the log.

Wrapped around the methods where they are registered rather than as gRPC interceptors: the effect is the same, but an
interceptor is called after the request has been decoded, and malformed bytes would never reach it.
"""

from __future__ import annotations

import asyncio
import time
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, NamedTuple, NoReturn, TypeAlias

import grpc
from google.protobuf.descriptor import MethodDescriptor
from google.protobuf.message import DecodeError, Message
from grpc.aio import AbortError, ServicerContext

from enrollment_service.api.access import RULES
from enrollment_service.api.auth.stage import Authentication
from enrollment_service.api.deadlines import Deadlines
from enrollment_service.api.drain import Drain
from enrollment_service.api.ends import FIELD, EndedError, end_message, is_asked_for
from enrollment_service.api.limits import Admission, Limits
from enrollment_service.api.loggable import Ids, ids_reader
from enrollment_service.api.shedding import Shedding
from enrollment_service.api.status import CODES, metadata_of, status_of
from enrollment_service.domain.access import may_ask, may_call
from enrollment_service.domain.caller import Caller, StudentKey
from enrollment_service.domain.errors import (
    Overloaded,
    PermissionDenied,
    Reason,
    Refusal,
    ServiceError,
    ShuttingDown,
    Unauthenticated,
)
from enrollment_service.telemetry import logs, metrics, tracing
from enrollment_service.v1 import enrollment_pb2 as pb

Context: TypeAlias = ServicerContext[Any, Any]

# Whoever calls, until it is known.
NOBODY = Caller()
_SERVICE = pb.DESCRIPTOR.services_by_name["EnrollmentService"].full_name
# By one of which GetStudent finds a student.
_STUDENT_KEYS = frozenset({"student_id", "external_id", "email"})
# What is watched for: shown as 0 before the first.
_EXPECTED = [
    (CODES[reason].name, reason) for reason in (Reason.INTERNAL, Reason.DATABASE_UNAVAILABLE, Reason.OVERLOADED)
]


class Call:
    """One call: what is known of it beside its request. Methods take it where gRPC hands them its context.

    The peer is read first: once a call is over, its context must not be asked.
    """

    __slots__ = ("admission", "caller", "deadline", "metadata", "method", "peer", "started", "trace")

    def __init__(self, method: str, context: Context) -> None:
        self.method = method
        self.peer = context.peer()
        self.started = time.perf_counter()
        self.metadata: tracing.Metadata = context.invocation_metadata() or ()
        self.trace = tracing.begin(_SERVICE, method, self.metadata)
        self.caller: Caller = NOBODY
        # What the limits have counted it as.
        self.admission: Admission | None = None
        # When it ends, by the event loop's clock in seconds; None where the caller has set no deadline.
        self.deadline = _deadline_of(context)


def _deadline_of(context: Context) -> float | None:
    remaining: float | None = context.time_remaining()
    return None if remaining is None else asyncio.get_running_loop().time() + remaining


class Guards(NamedTuple):
    """What stands before all methods of a server."""

    authentication: Authentication
    limits: Limits
    drain: Drain


def handlers(servicer: Any, default_deadline: float, guards: Guards) -> grpc.GenericRpcHandler:
    """The methods of a servicer, each behind its stages, ready to be added to a server."""
    service = pb.DESCRIPTOR.services_by_name["EnrollmentService"]
    deadlines, shedding = Deadlines(default_deadline), Shedding()
    by_name = {
        method.name: _handler(Stages(method, guards, shedding), method, getattr(servicer, method.name), deadlines)
        for method in service.methods
    }
    return grpc.method_handlers_generic_handler(service.full_name, by_name)


def _handler(
    stages: Stages, method: MethodDescriptor, behaviour: Any, deadlines: Deadlines
) -> grpc.RpcMethodHandler[Any, Any]:
    if method.client_streaming:
        return grpc.stream_stream_rpc_method_handler(_stream_stream(stages, behaviour))
    if method.server_streaming:
        return grpc.unary_stream_rpc_method_handler(_unary_stream(stages, behaviour))
    return grpc.unary_unary_rpc_method_handler(_unary_unary(stages, behaviour, deadlines))


class Stages:
    """The stages of one method's calls, all but `run`, which is the method itself."""

    def __init__(self, method: MethodDescriptor, guards: Guards, shedding: Shedding) -> None:
        self._name = method.name
        self._rule = RULES[method.name]
        self._about_a_student = "student_id" in method.input_type.fields_by_name
        self._by_several_keys = set(method.input_type.fields_by_name) >= _STUDENT_KEYS
        self._is_stream = method.server_streaming
        # For those answers that can tell how their stream ends.
        self._ends = method if FIELD in method.output_type.fields_by_name else None
        self._guards = guards
        self._meter = metrics.CallMeter(method.name, _EXPECTED)
        self._shedding = shedding
        self._decode: Callable[[bytes], Message] = getattr(pb, method.input_type.name).FromString
        self.ids: Callable[[Message | None], Ids] = ids_reader(method.input_type)
        self.drain = guards.drain

    def begin(self, context: Context) -> Call:
        """A call of which nothing is known yet."""
        return Call(self._name, context)

    async def admit(self, call: Call, context: Context) -> None:
        """Authenticate and limit, and what can be authorized before the request is looked at.

        Raises:
            Refusal: UNAUTHENTICATED, RATE_LIMITED, OVERLOADED or PERMISSION_DENIED.
        """
        call.caller = await self._guards.authentication.caller_of(call.metadata, context)
        call.admission = self._guards.limits.enter(call.caller.subject, call.peer, stream=self._is_stream)
        self._check_method(call)

    def accept(self, data: bytes, call: Call) -> Message:
        """Decode and authorize: the request, if the caller may make it.

        Raises:
            Refusal: MALFORMED_REQUEST or PERMISSION_DENIED.
        """
        try:
            request = self._decode(data)
        except DecodeError:
            raise Refusal.of(
                Reason.MALFORMED_REQUEST, "", "The bytes are not a request of this method.", method=call.method
            ) from None
        self.authorize(request, call)
        return request

    def authorize(self, request: Message, call: Call) -> None:
        """Returns if the caller may make this request.

        Raises:
            PermissionDenied: it may not.
        """
        student: int | StudentKey = request.student_id if self._about_a_student else 0  # type: ignore[attr-defined]
        if self._by_several_keys:
            student = _only_key(request)
        if not may_ask(call.caller, self._rule, student):
            raise PermissionDenied

    async def admit_again(self, call: Call, context: Context) -> None:
        """Whether a stream may go on: its credentials may have expired or been taken back meanwhile.

        Raises:
            Refusal: UNAUTHENTICATED or PERMISSION_DENIED.
        """
        call.caller = await self._guards.authentication.caller_of(call.metadata, context)
        self._check_method(call)

    def _check_method(self, call: Call) -> None:
        if not may_call(call.caller, self._rule):
            raise PermissionDenied

    def dismiss(self, call: Call) -> None:
        """Counts a call out."""
        if call.admission is not None:
            self._guards.limits.leave(call.admission)
            call.admission = None

    async def with_end(self, call: Call, answers: AsyncIterator[Any]) -> AsyncIterator[Any]:
        """The answers of a stream and, where its caller asks for that, a message that says how it ended.

        Who got no answer yet gets an error, in the way of every other method.

        Raises:
            EndedError: of what the message has told.
        """
        told = self._ends if is_asked_for(call.metadata) else None
        before = 0
        try:
            async for answer in answers:
                yield answer
                before += 1
        except Exception as error:
            if told is None or not before:
                raise
            failure = _failure(error)
            yield end_message(told, failure)
            raise EndedError(failure) from error
        if told is not None:
            yield end_message(told, None)

    async def fail(self, call: Call, error: BaseException, context: Context, ids: Ids) -> NoReturn:
        """Status and record of a call that did not succeed."""
        if isinstance(error, AbortError):
            raise error
        if isinstance(error, GeneratorExit) or (isinstance(error, asyncio.CancelledError) and _told_to_stop()):
            # The caller has gone or its deadline has passed; gRPC has answered already.
            self.record(call, "CANCELLED", ids)
            raise error
        if isinstance(error, Overloaded):
            self._meter.shed(CODES[error.reason].name, error.reason)
            call.trace.end(CODES[error.reason].name, error.reason)
            await self._shedding.refuse(context)
        failure = _failure(error)
        code, message, status = status_of(failure)
        cause = error.__cause__ if isinstance(error, EndedError) else error
        self.record(call, code.name, ids | _shown(failure, cause or error))
        await context.abort(code, message, metadata_of(status))

    def record(self, call: Call, code: str, fields: Ids) -> None:
        """Writes the line of a call, counts it, and ends its span."""
        seconds = time.perf_counter() - call.started
        reason = fields.get("reason", "")
        self._meter.ended(code, reason, seconds)
        call.trace.end(code, reason)
        fields["method"] = call.method
        fields["code"] = code
        fields["duration_ms"] = round(seconds * 1000, 2)
        fields["peer"] = call.peer
        if call.caller.subject:
            fields["actor"] = call.caller.subject
        if call.trace.trace_id:
            fields["trace_id"] = call.trace.trace_id
        logs.call("error" if code == "INTERNAL" else "info", fields)


def _only_key(request: Any) -> StudentKey:
    """The key in a request for a student; of none, or of several, one that nobody has."""
    given = [(name, getattr(request, name)) for name in _STUDENT_KEYS if getattr(request, name)]
    (name, value), *others = given or [("", "")]
    return StudentKey("", "") if others else StudentKey(name, str(value))


def _unary_unary(stages: Stages, method: Callable[[Any, Call], Awaitable[Any]], deadlines: Deadlines) -> Any:
    drain = stages.drain

    async def handle(data: bytes, context: Context) -> bytes:
        call = stages.begin(context)
        task = _current_task()
        drain.enter(task)
        # Callers that set a deadline are cancelled by gRPC; nobody waits for ever.
        timed = call.deadline is None
        if timed:
            call.deadline = deadlines.begin(task)
        request: Message | None = None
        try:
            await stages.admit(call, context)
            request = stages.accept(data, call)
            response = _encoded(await method(request, call))
        except BaseException as error:  # noqa: BLE001 - the caller is told, whatever it is
            expired = timed and deadlines.end(task)
            given_up = drain.leave(task)
            stages.dismiss(call)
            told = TimeoutError() if expired else ShuttingDown() if given_up else error
            await stages.fail(call, told, context, stages.ids(request))
        drain.leave(task)
        if timed:
            deadlines.end(task)
        stages.dismiss(call)
        stages.record(call, "OK", stages.ids(request))
        return response

    return handle


def _unary_stream(stages: Stages, method: Callable[[Any, Call], AsyncGenerator[Any, None]]) -> Any:
    async def handle(data: bytes, context: Context) -> AsyncIterator[bytes]:
        call = stages.begin(context)
        async for response in _answers(stages, call, context, lambda: _allowed(stages, call, context, data, method)):
            yield response

    return handle


async def _allowed(
    stages: Stages, call: Call, context: Context, data: bytes, method: Callable[[Any, Call], AsyncGenerator[Any, None]]
) -> AsyncGenerator[Any, None]:
    """The answers to one request, each for as long as its caller may have it."""
    request = stages.accept(data, call)
    async with aclosing(method(request, call)) as answers:
        async for answer in answers:
            await stages.admit_again(call, context)
            stages.authorize(request, call)
            yield answer


def _stream_stream(stages: Stages, method: Callable[[Any, Call], AsyncIterator[Any]]) -> Any:
    async def handle(incoming: AsyncIterator[bytes], context: Context) -> AsyncIterator[bytes]:
        call = stages.begin(context)
        requests = _accepted(stages, call, context, incoming)
        async for response in _answers(stages, call, context, lambda: method(requests, call)):
            yield response

    return handle


async def _accepted(
    stages: Stages, call: Call, context: Context, incoming: AsyncIterator[bytes]
) -> AsyncIterator[Message]:
    """The requests of a stream, each for as long as its caller may make it."""
    async for data in stages.drain.until_begun(incoming):
        await stages.admit_again(call, context)
        yield stages.accept(data, call)


async def _answers(
    stages: Stages, call: Call, context: Context, run: Callable[[], AsyncIterator[Any]]
) -> AsyncIterator[bytes]:
    """The answers of a stream, and its end."""
    answers = 0
    task, drain = _current_task(), stages.drain
    drain.enter(task, stream=True)
    try:
        await stages.admit(call, context)
        async for response in stages.with_end(call, run()):
            drain.handing(task, answers)
            yield _encoded(response)
            drain.handed(task)
            answers += 1
    except BaseException as error:  # noqa: BLE001 - the caller is told, whatever it is
        drain.handed(task)
        given_up = drain.leave(task)
        stages.dismiss(call)
        # Who has gone or reads nothing cannot be told.
        told = ShuttingDown() if given_up and not isinstance(error, GeneratorExit) else error
        await stages.fail(call, told, context, {"answers": answers})
    drain.leave(task)
    stages.dismiss(call)
    stages.record(call, "OK", {"answers": answers})


def _current_task() -> asyncio.Task[Any]:
    task = asyncio.current_task()
    assert task is not None  # noqa: S101 - for the type checker
    return task


def _encoded(response: Any) -> bytes:
    """An answer as bytes; lets through what a method has encoded itself."""
    encoded: bytes = response if type(response) is bytes else response.SerializeToString()
    return encoded


def _told_to_stop() -> bool:
    """Whether gRPC has cancelled this call; otherwise a cancellation comes from inside."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def _failure(error: BaseException) -> ServiceError:
    """What the caller is told of an error."""
    if isinstance(error, EndedError):
        return error.failure
    if isinstance(error, ServiceError):
        return error
    if isinstance(error, TimeoutError):
        return ServiceError.of(Reason.DEADLINE_EXCEEDED, "", "The deadline passed.")
    if isinstance(error, asyncio.CancelledError):
        # Cancelled from inside: without a status the caller would wait out its whole deadline (grpc#29248).
        return ShuttingDown()
    return ServiceError.of(
        Reason.INTERNAL, "", "Something went wrong on our side; the error_id finds it in the log.",
        error_id=uuid.uuid4().hex,
    )  # fmt: skip


def _shown(failure: ServiceError, error: BaseException) -> Ids:
    """What the log says of a failure."""
    shown: Ids = {"reason": failure.reason}
    if failure.reason is Reason.INTERNAL:
        shown |= failure.violations[0].observed
        shown["error"] = logs.describe(error)
    if isinstance(error, Unauthenticated):
        shown["cause"] = error.cause
    return shown

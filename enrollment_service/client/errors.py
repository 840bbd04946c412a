"""What a failed call tells its caller: the status of gRPC and the details of google.rpc as one exception."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

DETAILS_KEY = "grpc-status-details-bin"

# Whoever answers one of these has decided not to do it.
_REFUSALS = frozenset(
    {
        grpc.StatusCode.INVALID_ARGUMENT,
        grpc.StatusCode.NOT_FOUND,
        grpc.StatusCode.ALREADY_EXISTS,
        grpc.StatusCode.FAILED_PRECONDITION,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAUTHENTICATED,
        grpc.StatusCode.PERMISSION_DENIED,
        grpc.StatusCode.UNIMPLEMENTED,
    }
)
_DETAILS = {
    f"google.rpc.{name}": getattr(error_details_pb2, name)
    for name in ("ErrorInfo", "BadRequest", "PreconditionFailure", "ResourceInfo", "RetryInfo")
}


@dataclass(frozen=True, slots=True)
class Violation:
    """One thing that stood in the way."""

    subject: str
    """A field of the request, like `student.email`, or a resource, like `courses/12`."""
    description: str
    """For a person to read; never decide by it."""
    reason: str
    """A name of ErrorReason without its prefix; empty where the service names one for the whole error only."""


class ServiceError(Exception):
    """A call that failed, after whatever retries were allowed. Decide by its class, `code` and `reason`.

    Attributes:
        code: the status code.
        reason: a name of ErrorReason without its prefix; empty where the service had no say (a lost connection).
        message: for a person to read; never decide by it.
        metadata: what was observed, like `{"course_id": "12", "enrolled": "30", "capacity": "30"}`.
        violations: everything that stood in the way, at most twenty.
        retry_delay: how long the service asks to wait, in seconds; None if it does not ask.
        details: the details as messages of google.rpc; a kind that is not known here stays packed.
        request_id: the id that the call was sent with; empty if it had none.
        attempts: how often the call was sent.
    """

    def __init__(self, code: grpc.StatusCode, message: str, details: Sequence[Any] = ()) -> None:
        self.code = code
        self.message = message
        self.details = tuple(details)
        info = self._detail(error_details_pb2.ErrorInfo)
        self.reason: str = info.reason if info else ""
        self.metadata: dict[str, str] = dict(info.metadata) if info else {}
        self.violations = [one for detail in details for one in _violations_of(detail)]
        retry = self._detail(error_details_pb2.RetryInfo)
        self.retry_delay: float | None = retry.retry_delay.ToTimedelta().total_seconds() if retry else None
        self.request_id = ""
        self.attempts = 1
        super().__init__(code, message, details)

    def __str__(self) -> str:
        return f"{' '.join(filter(None, (self.code.name, self.reason)))}: {self.message}"

    def _detail(self, kind: type[Any]) -> Any:
        return next((detail for detail in self.details if isinstance(detail, kind)), None)


class Refused(ServiceError):
    """The service said no: nothing was changed."""


class OutcomeUnknown(ServiceError):
    """No answer that says: the change may have happened or not, never by half.

    Calling again with the same `request_id` is safe and tells.
    """


class Closed(OutcomeUnknown):
    """The client was closed while the call was under way."""


@contextlib.contextmanager
def translated() -> Iterator[None]:
    """Raises what grpc raises inside the block as a ServiceError.

    A task that is cancelled stays so: `asyncio.CancelledError` passes through. Where nobody cancelled the task, it is
    the channel that was closed.
    """
    try:
        yield
    except grpc.aio.AioRpcError as error:
        raise error_of(error) from error
    except asyncio.CancelledError:
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise Closed(grpc.StatusCode.CANCELLED, "The client was closed during the call.") from None


def error_of(error: grpc.aio.AioRpcError) -> ServiceError:
    """What grpc raised, as an exception of ours."""
    status = status_pb2.Status()
    for key, value in error.trailing_metadata() or ():
        if key == DETAILS_KEY and isinstance(value, bytes):
            status.MergeFromString(value)
    code = error.code()
    details = [_unpacked(packed) for packed in status.details]
    # Without details this is gRPC's own: a message too large. It may be the answer, and then the change was made.
    refused = code in _REFUSALS or (code is grpc.StatusCode.RESOURCE_EXHAUSTED and bool(details))
    return (Refused if refused else OutcomeUnknown)(code, error.details() or "", details)


def _unpacked(packed: Any) -> Any:
    kind = _DETAILS.get(packed.TypeName())
    if kind is None:
        return packed
    detail = kind()
    packed.Unpack(detail)
    return detail


def _violations_of(detail: Any) -> list[Violation]:
    match detail:
        case error_details_pb2.BadRequest():
            return [Violation(one.field, one.description, one.reason) for one in detail.field_violations]
        case error_details_pb2.PreconditionFailure():
            return [Violation(one.subject, one.description, one.type) for one in detail.violations]
        case error_details_pb2.ResourceInfo():
            return [Violation(detail.resource_name, detail.description, "")]
    return []

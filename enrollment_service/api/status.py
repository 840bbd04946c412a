"""From an error to a `google.rpc.Status`, in one place: all that a caller ever learns of a failure."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2

from enrollment_service.domain.errors import BeforeTheLog, RateLimited, Reason, ServiceError, Violation

DOMAIN = "enrollment.v1"
DETAILS_KEY = "grpc-status-details-bin"
MAX_VIOLATIONS = 20
# Peers refuse metadata beyond 8 KB or so; the status travels base64-encoded beside the message.
MAX_DETAIL_BYTES = 4096

RETRY_SECONDS = {
    Reason.OVERLOADED: 1,
    Reason.WATCHER_TOO_SLOW: 1,
    Reason.DATABASE_UNAVAILABLE: 1,
    Reason.SHUTTING_DOWN: 1,
}

_BY_CODE = {
    grpc.StatusCode.INVALID_ARGUMENT: (
        Reason.INVALID_FIELD,
        Reason.MALFORMED_REQUEST,
        Reason.PAGE_TOKEN_INVALID,
        Reason.RESUME_TOKEN_INVALID,
        Reason.REQUEST_ID_REUSED,
    ),
    grpc.StatusCode.NOT_FOUND: (Reason.STUDENT_NOT_FOUND, Reason.COURSE_NOT_FOUND, Reason.NOT_ENROLLED),
    grpc.StatusCode.ALREADY_EXISTS: (
        Reason.ALREADY_ENROLLED,
        Reason.ALREADY_WAITLISTED,
        Reason.EMAIL_TAKEN,
        Reason.CODE_TAKEN,
        Reason.EXTERNAL_ID_TAKEN,
    ),
    grpc.StatusCode.FAILED_PRECONDITION: (
        Reason.PERMIT_REQUIRED,
        Reason.SWAP_CHAIN_TOO_LONG,
        Reason.COURSE_FULL,
        Reason.WAITLIST_FULL,
        Reason.ENROLLMENT_NOT_OPEN,
        Reason.ENROLLMENT_CLOSED,
        Reason.CAPACITY_BELOW_ENROLLED,
        Reason.TOO_MANY_REMOVALS,
        Reason.HAS_ENROLLMENTS,
    ),
    grpc.StatusCode.ABORTED: (Reason.ETAG_MISMATCH,),
    grpc.StatusCode.OUT_OF_RANGE: (Reason.RESUME_TOKEN_EXPIRED,),
    grpc.StatusCode.UNAUTHENTICATED: (Reason.UNAUTHENTICATED,),
    grpc.StatusCode.PERMISSION_DENIED: (Reason.PERMISSION_DENIED,),
    grpc.StatusCode.RESOURCE_EXHAUSTED: (Reason.OVERLOADED, Reason.RATE_LIMITED, Reason.WATCHER_TOO_SLOW),
    grpc.StatusCode.UNAVAILABLE: (Reason.DATABASE_UNAVAILABLE, Reason.SHUTTING_DOWN),
    grpc.StatusCode.DEADLINE_EXCEEDED: (Reason.DEADLINE_EXCEEDED,),
    grpc.StatusCode.UNIMPLEMENTED: (Reason.UNIMPLEMENTED,),
    grpc.StatusCode.INTERNAL: (Reason.INTERNAL,),
}
CODES = {reason: code for code, reasons in _BY_CODE.items() for reason in reasons}

_RESOURCE_TYPES = {"students": "enrollment.v1.Student", "courses": "enrollment.v1.Course"}


def status_of(error: ServiceError) -> tuple[grpc.StatusCode, str, status_pb2.Status]:
    """The code, the message and the whole status of an error."""
    code = _code_of(error)
    status = status_pb2.Status(code=code.value[0], message=_message(error))
    shown = list(error.violations[:MAX_VIOLATIONS])
    while True:
        del status.details[:]
        for detail in _details(code, error, shown):
            status.details.add().Pack(detail)
        if len(shown) <= 1 or status.ByteSize() <= MAX_DETAIL_BYTES:
            return code, status.message, status
        shown = shown[: len(shown) // 2]


def metadata_of(status: status_pb2.Status) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that carries a status."""
    return ((DETAILS_KEY, status.SerializeToString()),)


def _code_of(error: ServiceError) -> grpc.StatusCode:
    # Another time would have been valid, and once this one was.
    return grpc.StatusCode.OUT_OF_RANGE if isinstance(error, BeforeTheLog) else CODES[error.reason]


def _names_fields(error: ServiceError) -> bool:
    return CODES[error.reason] is grpc.StatusCode.INVALID_ARGUMENT


def _message(error: ServiceError) -> str:
    first = error.violations[0]
    if _names_fields(error) and first.subject:
        return f"{first.subject}: {first.text}"
    return first.text


def _details(code: grpc.StatusCode, error: ServiceError, shown: Sequence[Violation]) -> list[Any]:
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=dict(shown[0].observed))
    if len(error.violations) > 1:
        info.metadata["violation_count"] = str(len(error.violations))
    details = [info]
    if _names_fields(error):
        details.append(_bad_request(shown))
    elif code in (grpc.StatusCode.NOT_FOUND, grpc.StatusCode.ALREADY_EXISTS, grpc.StatusCode.ABORTED):
        details.extend(map(_resource, shown))
    elif code is grpc.StatusCode.FAILED_PRECONDITION:
        details.append(_precondition(shown))
    if (seconds := _retry_seconds(error)) is not None:
        retry = error_details_pb2.RetryInfo()
        retry.retry_delay.FromMilliseconds(math.ceil(seconds * 1000))
        details.append(retry)
    return details


def _retry_seconds(error: ServiceError) -> float | None:
    """When to try again, in seconds from now; None where the same call would fail again."""
    return error.retry_seconds if isinstance(error, RateLimited) else RETRY_SECONDS.get(error.reason)


def _bad_request(violations: Sequence[Violation]) -> Any:
    request = error_details_pb2.BadRequest()
    for violation in violations:
        request.field_violations.add(field=violation.subject, description=violation.text, reason=violation.reason)
    return request


def _resource(violation: Violation) -> Any:
    resource = error_details_pb2.ResourceInfo(resource_name=violation.subject, description=violation.text)
    kinds = violation.subject.split("/")[0::2]
    resource.resource_type = "enrollment.v1.Enrollment" if len(kinds) > 1 else _RESOURCE_TYPES.get(kinds[0], "")
    return resource


def _precondition(violations: Sequence[Violation]) -> Any:
    failure = error_details_pb2.PreconditionFailure()
    for violation in violations:
        observed = " ".join(f"{key}={value}" for key, value in violation.observed.items() if not key.endswith("_id"))
        failure.violations.add(
            type=violation.reason, subject=violation.subject, description=f"{violation.text} {observed}".rstrip()
        )
    return failure

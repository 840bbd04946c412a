"""The ways a call can be refused or fail, in the terms of the domain. Imports nothing of ours.

How each becomes a gRPC status stands in `api/status.py`; nothing here knows of gRPC.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Self


class Reason(StrEnum):
    """Why a call was refused; the values of `ErrorReason` in the proto, without their prefix."""

    INVALID_FIELD = "INVALID_FIELD"
    MALFORMED_REQUEST = "MALFORMED_REQUEST"
    PAGE_TOKEN_INVALID = "PAGE_TOKEN_INVALID"
    RESUME_TOKEN_INVALID = "RESUME_TOKEN_INVALID"
    REQUEST_ID_REUSED = "REQUEST_ID_REUSED"
    STUDENT_NOT_FOUND = "STUDENT_NOT_FOUND"
    COURSE_NOT_FOUND = "COURSE_NOT_FOUND"
    NOT_ENROLLED = "NOT_ENROLLED"
    ALREADY_ENROLLED = "ALREADY_ENROLLED"
    ALREADY_WAITLISTED = "ALREADY_WAITLISTED"
    EMAIL_TAKEN = "EMAIL_TAKEN"
    CODE_TAKEN = "CODE_TAKEN"
    COURSE_FULL = "COURSE_FULL"
    WAITLIST_FULL = "WAITLIST_FULL"
    ENROLLMENT_NOT_OPEN = "ENROLLMENT_NOT_OPEN"
    ENROLLMENT_CLOSED = "ENROLLMENT_CLOSED"
    CAPACITY_BELOW_ENROLLED = "CAPACITY_BELOW_ENROLLED"
    TOO_MANY_REMOVALS = "TOO_MANY_REMOVALS"
    HAS_ENROLLMENTS = "HAS_ENROLLMENTS"
    ETAG_MISMATCH = "ETAG_MISMATCH"
    RESUME_TOKEN_EXPIRED = "RESUME_TOKEN_EXPIRED"
    UNAUTHENTICATED = "UNAUTHENTICATED"
    PERMISSION_DENIED = "PERMISSION_DENIED"
    OVERLOADED = "OVERLOADED"
    RATE_LIMITED = "RATE_LIMITED"
    DATABASE_UNAVAILABLE = "DATABASE_UNAVAILABLE"
    SHUTTING_DOWN = "SHUTTING_DOWN"
    INTERNAL = "INTERNAL"
    DEADLINE_EXCEEDED = "DEADLINE_EXCEEDED"
    UNIMPLEMENTED = "UNIMPLEMENTED"
    WATCHER_TOO_SLOW = "WATCHER_TOO_SLOW"
    PERMIT_REQUIRED = "PERMIT_REQUIRED"
    SWAP_CHAIN_TOO_LONG = "SWAP_CHAIN_TOO_LONG"


@dataclass(frozen=True, slots=True)
class Violation:
    """One broken rule: why, at which field or resource (`course_ids`, `courses/12`), with what was observed."""

    reason: Reason
    subject: str
    text: str
    observed: Mapping[str, str] = field(default_factory=dict)


class ServiceError(Exception):
    """A call that failed in a way its caller is told. Unless it is a `Refusal`, its effect is unknown.

    Carries at least one violation; the first one gives the reason.
    """

    def __init__(self, violations: Sequence[Violation]) -> None:
        super().__init__(violations[0].reason)
        self.violations = tuple(violations)

    @property
    def reason(self) -> Reason:
        """Why, in one word: the first violation's."""
        return self.violations[0].reason

    @classmethod
    def of(cls, reason: Reason, subject: str, text: str, **observed: object) -> Self:
        """An error with a single violation."""
        return cls([Violation(reason, subject, text, {key: str(value) for key, value in observed.items()})])


class Refusal(ServiceError):
    """A call that was refused: it had no effect."""


class Overloaded(Refusal):
    """Too many calls wait already."""

    def __init__(self) -> None:
        super().__init__([Violation(Reason.OVERLOADED, "", "Too many calls are waiting.")])


class RateLimited(Refusal):
    """The caller asks for more than its share.

    Attributes:
        retry_seconds: when it may ask again, in seconds from now.
    """

    def __init__(self, limit: str, retry_seconds: float) -> None:
        text = "This caller has reached one of its limits."
        super().__init__([Violation(Reason.RATE_LIMITED, "", text, {"limit": limit})])
        self.retry_seconds = retry_seconds


class Unauthenticated(Refusal):
    """Nobody knows who calls. The caller learns no more than that.

    Attributes:
        cause: what was wrong with the credentials, for the log.
    """

    def __init__(self, cause: str) -> None:
        super().__init__([Violation(Reason.UNAUTHENTICATED, "", "Send the credentials that this server asks for.")])
        self.cause = cause


class PermissionDenied(Refusal):
    """The caller is known and may not do this, whether or not there is anything to do it with."""

    def __init__(self) -> None:
        super().__init__([Violation(Reason.PERMISSION_DENIED, "", "This caller may not do this.")])


class WatcherTooSlow(Refusal):
    """The watcher does not read as fast as events happen."""

    def __init__(self) -> None:
        text = "This watcher does not read as fast as events happen; go on from its last resume_token."
        super().__init__([Violation(Reason.WATCHER_TOO_SLOW, "", text)])


class ResumeTokenExpired(Refusal):
    """What happened since the token was given out cannot be told any more."""

    def __init__(self) -> None:
        text = "What happened since this resume_token is not known any more; list again, then watch."
        super().__init__([Violation(Reason.RESUME_TOKEN_EXPIRED, "", text, {"field": "resume_token"})])


class DatabaseUnavailable(ServiceError):
    """The database does not answer; a change may or may not have happened."""

    def __init__(self) -> None:
        super().__init__([Violation(Reason.DATABASE_UNAVAILABLE, "", "The database is not available.")])


class ShuttingDown(ServiceError):
    """This server is stopping; a change may or may not have happened."""

    def __init__(self) -> None:
        super().__init__([Violation(Reason.SHUTTING_DOWN, "", "The server is stopping.")])


def student_not_found(student_id: int) -> Violation:
    """No student has this id."""
    return Violation(
        Reason.STUDENT_NOT_FOUND,
        f"students/{student_id}",
        "There is no student with this id.",
        {"student_id": str(student_id)},
    )


def course_not_found(course_id: int) -> Violation:
    """No course has this id."""
    return Violation(
        Reason.COURSE_NOT_FOUND,
        f"courses/{course_id}",
        "There is no course with this id.",
        {"course_id": str(course_id)},
    )


def not_enrolled(student_id: int, course_id: int) -> Violation:
    """The student neither sits in the course nor waits for it."""
    return Violation(
        Reason.NOT_ENROLLED,
        f"students/{student_id}/courses/{course_id}",
        "The student is neither enrolled in nor waiting for the course.",
        {"student_id": str(student_id), "course_id": str(course_id)},
    )


def invalid_field(name: str, text: str) -> Violation:
    """A request field with a value that no state of the database could make valid."""
    return Violation(Reason.INVALID_FIELD, name, text, {"field": name})


def resume_token_invalid() -> Violation:
    """A resume token that is none of ours, or was given out for something else."""
    text = "is no token that was given out for this; list again, then watch"
    return Violation(Reason.RESUME_TOKEN_INVALID, "resume_token", text, {"field": "resume_token"})


def etag_mismatch(subject: str, id_name: str, resource_id: int, etag: str) -> Refusal:
    """The resource has changed since the caller read it; `etag` is the present one."""
    return Refusal.of(
        Reason.ETAG_MISMATCH,
        subject,
        "The resource has changed since this etag was given out; read it again.",
        **{id_name: resource_id, "etag": etag},
    )


def email_taken(owner: int | None) -> Refusal:
    """Another student has the e-mail address; the owner may have gone again meanwhile."""
    known = {} if owner is None else {"student_id": owner}
    subject = "students" if owner is None else f"students/{owner}"
    return Refusal.of(Reason.EMAIL_TAKEN, subject, "Another student has this e-mail address.", **known)


def code_taken(owner: int | None) -> Refusal:
    """Another course has the code; the owner may have gone again meanwhile."""
    known = {} if owner is None else {"course_id": owner}
    subject = "courses" if owner is None else f"courses/{owner}"
    return Refusal.of(Reason.CODE_TAKEN, subject, "Another course has this code.", **known)

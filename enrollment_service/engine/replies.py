"""Answers as they are kept for retries, in an encoding that outlives a deploy.

Encoding 1 is JSON: `v`, and what the method answers in terms of the domain, each field by a name that is written down
here and owes nothing to the names of Python's classes. Times are ISO 8601 in UTC. Details of students and courses are
left out: a retry is told today's. `tests/engine/test_replies.py` holds golden bytes, to be added to, never changed.
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from enrollment_service.domain.commands import Answer, EnrollmentsAnswer, ImportAnswer, ReconcileAnswer
from enrollment_service.domain.errors import Reason
from enrollment_service.domain.records import Enrollment, EnrollmentView

_ENCODING = 1


def encode(answer: Answer) -> str:
    """An answer as JSON."""
    if isinstance(answer, EnrollmentsAnswer):
        value: dict[str, Any] = {"enrollments": [_encode_enrollment(view.enrollment) for view in answer.enrollments]}
    elif isinstance(answer, ImportAnswer):
        value = {"import": _encode_import(answer)}
    elif isinstance(answer, ReconcileAnswer):
        value = {"reconcile": _encode_reconcile(answer)}
    else:
        raise TypeError(f"{type(answer).__name__} is not kept for retries")
    return orjson.dumps({"v": _ENCODING, **value}).decode()


def decode(text: str) -> EnrollmentsAnswer | ImportAnswer | ReconcileAnswer:
    """The answer that was kept; of enrollments without their courses."""
    value = orjson.loads(text)
    if "enrollments" in value:
        return EnrollmentsAnswer(tuple(EnrollmentView(_decode_enrollment(kept)) for kept in value["enrollments"]))
    if "import" in value:
        return _decode_import(value["import"])
    return _decode_reconcile(value["reconcile"])


def _encode_enrollment(enrollment: Enrollment) -> dict[str, Any]:
    return {
        "student_id": enrollment.student_id,
        "course_id": enrollment.course_id,
        "state": enrollment.state,
        "waitlist_position": enrollment.waitlist_position,
        "enroll_time": enrollment.enroll_time,
        "create_time": enrollment.create_time,
        "sequence": enrollment.sequence,
    }


def _decode_enrollment(kept: dict[str, Any]) -> Enrollment:
    return Enrollment(
        student_id=kept["student_id"],
        course_id=kept["course_id"],
        state=kept["state"],
        waitlist_position=kept["waitlist_position"],
        enroll_time=_time(kept["enroll_time"]),
        create_time=_time(kept["create_time"]),
        sequence=kept["sequence"],
    )


def _encode_import(answer: ImportAnswer) -> dict[str, Any]:
    return {
        "enrolled": answer.enrolled,
        "waitlisted": answer.waitlisted,
        "already_enrolled": answer.already_enrolled,
        "rejected": answer.rejected,
    }


def _decode_import(kept: dict[str, Any]) -> ImportAnswer:
    return ImportAnswer(
        enrolled=kept["enrolled"],
        waitlisted=kept["waitlisted"],
        already_enrolled=kept["already_enrolled"],
        rejected=tuple((index, Reason(reason)) for index, reason in kept["rejected"]),
    )


def _encode_reconcile(answer: ReconcileAnswer) -> dict[str, Any]:
    return {"added": answer.added, "removed": answer.removed, "unchanged_count": answer.unchanged_count}


def _decode_reconcile(kept: dict[str, Any]) -> ReconcileAnswer:
    return ReconcileAnswer(tuple(kept["added"]), tuple(kept["removed"]), kept["unchanged_count"])


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None

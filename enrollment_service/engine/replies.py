"""Answers as they are kept for retries, in an encoding that outlives a deploy.

Encoding 1 is JSON: `v`, and what the method answers in terms of the domain, each field by a name that is written down
here and owes nothing to the names of Python's classes. Times are ISO 8601 in UTC. Details of students and courses are
left out: a retry is told today's. So of a student or a course only the id is kept. `tests/engine/test_replies.py` holds
golden bytes, to be added to, never changed.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Any, TypeAlias

import orjson

from enrollment_service.domain.commands import (
    Answer,
    CourseId,
    Done,
    EnrollmentsAnswer,
    ImportAnswer,
    ReconcileAnswer,
    StudentId,
    UpsertAnswer,
    WaiversAnswer,
)
from enrollment_service.domain.errors import Reason
from enrollment_service.domain.records import CountedCourse, Enrollment, EnrollmentView, Student, Waiver

_ENCODING = 1

Kept: TypeAlias = (
    EnrollmentsAnswer | ImportAnswer | UpsertAnswer | ReconcileAnswer | WaiversAnswer | StudentId | CourseId | Done
)


def encode(answer: Answer) -> str:
    """An answer as JSON."""
    if isinstance(answer, EnrollmentsAnswer):
        value: dict[str, Any] = {"enrollments": [_encode_enrollment(view.enrollment) for view in answer.enrollments]}
    elif isinstance(answer, ImportAnswer):
        value = {"import": _encode_import(answer)}
    elif isinstance(answer, UpsertAnswer):
        value = {"upsert": _encode_upsert(answer)}
    elif isinstance(answer, ReconcileAnswer):
        value = {"reconcile": _encode_reconcile(answer)}
    elif isinstance(answer, WaiversAnswer):
        value = {"waivers": [_encode_waiver(waiver) for waiver in answer.waivers]}
    elif isinstance(answer, Student | StudentId):
        value = {"student": {"student_id": answer.student_id}}
    elif isinstance(answer, CountedCourse):
        value = {"course": {"course_id": answer.course.course_id}}
    elif isinstance(answer, CourseId):
        value = {"course": {"course_id": answer.course_id}}
    else:
        value = {"done": {}}
    return orjson.dumps({"v": _ENCODING, **value}).decode()


def decode(text: str) -> Kept:
    """The answer that was kept: enrollments without their courses, a student or a course by its id."""
    (kind, value), *_ = ((name, kept) for name, kept in orjson.loads(text).items() if name != "v")
    return _DECODERS[kind](value)


def _encode_enrollment(enrollment: Enrollment) -> dict[str, Any]:
    kept = {
        "student_id": enrollment.student_id,
        "course_id": enrollment.course_id,
        "state": enrollment.state,
        "waitlist_position": enrollment.waitlist_position,
        "enroll_time": enrollment.enroll_time,
        "create_time": enrollment.create_time,
        "sequence": enrollment.sequence,
    }
    # Of who waits to swap; of others left out, as before there were any.
    more = {"swap_from_course_id": enrollment.swap_from_course_id, "latest": enrollment.latest}
    return kept | {name: value for name, value in more.items() if value}


def _decode_enrollment(kept: dict[str, Any]) -> Enrollment:
    return Enrollment(
        student_id=kept["student_id"],
        course_id=kept["course_id"],
        state=kept["state"],
        waitlist_position=kept["waitlist_position"],
        enroll_time=_time(kept["enroll_time"]),
        create_time=_time(kept["create_time"]),
        sequence=kept["sequence"],
        swap_from_course_id=kept.get("swap_from_course_id", 0),
        latest=kept.get("latest", 0),
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


def _encode_upsert(answer: UpsertAnswer) -> dict[str, Any]:
    return {
        "ids": answer.ids,
        "created": answer.created,
        "updated": answer.updated,
        "unchanged": answer.unchanged,
        "rejected": answer.rejected,
    }


def _decode_upsert(kept: dict[str, Any]) -> UpsertAnswer:
    return UpsertAnswer(
        ids=tuple(kept["ids"]),
        created=kept["created"],
        updated=kept["updated"],
        unchanged=kept["unchanged"],
        rejected=tuple((index, Reason(reason)) for index, reason in kept["rejected"]),
    )


def _encode_reconcile(answer: ReconcileAnswer) -> dict[str, Any]:
    return {"added": answer.added, "removed": answer.removed, "unchanged_count": answer.unchanged_count}


def _decode_reconcile(kept: dict[str, Any]) -> ReconcileAnswer:
    return ReconcileAnswer(tuple(kept["added"]), tuple(kept["removed"]), kept["unchanged_count"])


def _encode_waiver(waiver: Waiver) -> dict[str, Any]:
    return {
        "course_id": waiver.course_id,
        "student_id": waiver.student_id,
        "reasons": waiver.reasons,
        "expire_time": waiver.expire_time,
        "create_time": waiver.create_time,
        "actor": waiver.actor,
        "sequence": waiver.sequence,
    }


def _decode_waiver(kept: dict[str, Any]) -> Waiver:
    return Waiver(
        course_id=kept["course_id"],
        student_id=kept["student_id"],
        reasons=tuple(map(Reason, kept["reasons"])),
        expire_time=_time(kept["expire_time"]),
        create_time=datetime.fromisoformat(kept["create_time"]),
        actor=kept["actor"],
        sequence=kept["sequence"],
    )


_DECODERS: dict[str, Callable[[Any], Kept]] = {
    "enrollments": lambda kept: EnrollmentsAnswer(tuple(EnrollmentView(_decode_enrollment(one)) for one in kept)),
    "import": _decode_import,
    "upsert": _decode_upsert,
    "reconcile": _decode_reconcile,
    "waivers": lambda kept: WaiversAnswer(tuple(map(_decode_waiver, kept))),
    "student": lambda kept: StudentId(kept["student_id"]),
    "course": lambda kept: CourseId(kept["course_id"]),
    "done": lambda _: Done(),
}


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None

"""Stored answers outlive a deploy: golden bytes of each kind. Add to them, never change one."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

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
from enrollment_service.domain.records import (
    DROPPED,
    ENROLLED,
    WAITLISTED,
    CountedCourse,
    Course,
    Enrollment,
    EnrollmentView,
    Student,
    Waiver,
)
from enrollment_service.engine import replies

THEN = datetime(2026, 9, 1, 8, 0, tzinfo=UTC)
LATER = datetime(2026, 9, 1, 8, 0, 0, 123456, tzinfo=UTC)

STUDENT = Student(7, "Ann Lee", "ann@example.org", "", THEN, LATER, 2)
COURSE = Course(12, "ART-1", "Drawing", "For Ann", 30, 5, None, None, "", True, THEN, LATER, 2)

GOLDEN: list[tuple[Answer, str]] = [
    (
        EnrollmentsAnswer((EnrollmentView(Enrollment(7, 12, WAITLISTED, 3, LATER, THEN, 41)),)),
        (
            '{"v":1,"enrollments":[{"student_id":7,"course_id":12,"state":2,"waitlist_position":3,'
            '"enroll_time":"2026-09-01T08:00:00.123456+00:00","create_time":"2026-09-01T08:00:00+00:00","sequence":41}]}'
        ),
    ),
    (
        EnrollmentsAnswer(
            (
                EnrollmentView(Enrollment(7, 12, DROPPED, 0, THEN, THEN, 42)),
                EnrollmentView(Enrollment(7, 9, ENROLLED, 0, THEN, THEN, 1)),
            )
        ),
        (
            '{"v":1,"enrollments":[{"student_id":7,"course_id":12,"state":3,"waitlist_position":0,'
            '"enroll_time":"2026-09-01T08:00:00+00:00","create_time":"2026-09-01T08:00:00+00:00","sequence":42},'
            '{"student_id":7,"course_id":9,"state":1,"waitlist_position":0,'
            '"enroll_time":"2026-09-01T08:00:00+00:00","create_time":"2026-09-01T08:00:00+00:00","sequence":1}]}'
        ),
    ),
    (
        EnrollmentsAnswer((EnrollmentView(Enrollment(7, 12, DROPPED, 0, None, None, 0)),)),
        (
            '{"v":1,"enrollments":[{"student_id":7,"course_id":12,"state":3,"waitlist_position":0,'
            '"enroll_time":null,"create_time":null,"sequence":0}]}'
        ),
    ),
    (
        EnrollmentsAnswer((EnrollmentView(Enrollment(7, 12, WAITLISTED, 1, THEN, THEN, 41, 9, 44)),)),
        (
            '{"v":1,"enrollments":[{"student_id":7,"course_id":12,"state":2,"waitlist_position":1,'
            '"enroll_time":"2026-09-01T08:00:00+00:00","create_time":"2026-09-01T08:00:00+00:00","sequence":41,'
            '"swap_from_course_id":9,"latest":44}]}'
        ),
    ),
    (
        ImportAnswer(3, 2, 1, ((4, Reason.COURSE_FULL), (5, Reason.STUDENT_NOT_FOUND))),
        (
            '{"v":1,"import":{"enrolled":3,"waitlisted":2,"already_enrolled":1,'
            '"rejected":[[4,"COURSE_FULL"],[5,"STUDENT_NOT_FOUND"]]}}'
        ),
    ),
    (
        UpsertAnswer((7, 8, 0, 9), 1, 1, 1, ((2, Reason.EMAIL_TAKEN),)),
        ('{"v":1,"upsert":{"ids":[7,8,0,9],"created":1,"updated":1,"unchanged":1,"rejected":[[2,"EMAIL_TAKEN"]]}}'),
    ),
    (
        ReconcileAnswer((1, 2), (3,), 4),
        '{"v":1,"reconcile":{"added":[1,2],"removed":[3],"unchanged_count":4}}',
    ),
    (
        WaiversAnswer(
            (Waiver(12, 7, (Reason.PERMIT_REQUIRED, Reason.ENROLLMENT_CLOSED), None, THEN, "registrar-7", 42),)
        ),
        (
            '{"v":1,"waivers":[{"course_id":12,"student_id":7,"reasons":["PERMIT_REQUIRED","ENROLLMENT_CLOSED"],'
            '"expire_time":null,"create_time":"2026-09-01T08:00:00+00:00","actor":"registrar-7","sequence":42}]}'
        ),
    ),
    (StudentId(7), '{"v":1,"student":{"student_id":7}}'),
    (CourseId(12), '{"v":1,"course":{"course_id":12}}'),
    (Done(), '{"v":1,"done":{}}'),
]


@pytest.mark.parametrize(("answer", "stored"), GOLDEN)
def test_golden_bytes(answer: Answer, stored: str) -> None:
    assert replies.encode(answer) == stored
    assert replies.decode(stored) == answer


@pytest.mark.parametrize("answer", [CountedCourse(COURSE, 3, 2), STUDENT])
def test_of_details_only_the_id_is_kept(answer: Answer) -> None:
    kept = replies.encode(answer)
    assert kept in {stored for _, stored in GOLDEN}
    assert "Ann" not in kept

"""The table of who may call which method. What a rule means stands in `domain/access.py`.

A method that is missing here cannot be registered: everything is denied that nobody has allowed.
"""

from __future__ import annotations

from enrollment_service.domain.access import Reach, Rule

_CHANGES = Rule(reader=False, student=Reach.NOTHING)
_READS = Rule(reader=True, student=Reach.NOTHING)
_OWN_CHANGES = Rule(reader=False, student=Reach.OWN)
_OWN_READS = Rule(reader=True, student=Reach.OWN)
_COURSE_READS = Rule(reader=True, student=Reach.ALL)

RULES = {
    "CreateStudent": _CHANGES,
    "GetStudent": _OWN_READS,
    "UpdateStudent": _CHANGES,
    "DeleteStudent": _CHANGES,
    "ListStudents": _READS,
    "CreateCourse": _CHANGES,
    "GetCourse": _COURSE_READS,
    "UpdateCourse": _CHANGES,
    "DeleteCourse": _CHANGES,
    "ListCourses": _COURSE_READS,
    "EnrollStudent": _OWN_CHANGES,
    "UnenrollStudent": _OWN_CHANGES,
    "SwapEnrollment": _OWN_CHANGES,
    "ExplainEnrollment": _OWN_READS,
    "GetEnrollment": _OWN_READS,
    "ListStudentCourses": _OWN_READS,
    "ListCourseStudents": _READS,
    "ImportEnrollments": _CHANGES,
    "ImportStudents": _CHANGES,
    "ImportCourses": _CHANGES,
    "ReconcileRoster": _CHANGES,
    "GrantWaivers": _CHANGES,
    "RevokeWaivers": _CHANGES,
    "ListWaivers": _READS,
    "WatchEnrollmentEvents": _OWN_READS,
}

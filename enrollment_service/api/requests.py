"""From a message to a command or a query: one function per method, named after it.

Each raises once, with all violations of its request: everything that no state of the database could make valid. What
it returns may be given to the engine. The checks of single fields stand in `fields.py`, those of pages in `pages.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar
from uuid import UUID

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.api import fields, pages, resume
from enrollment_service.api.pages import IDS, Page
from enrollment_service.api.timestamps import EPOCH, moment_of
from enrollment_service.domain.caller import Caller
from enrollment_service.domain.commands import (
    CreateCourse,
    CreateStudent,
    DeleteCourse,
    DeleteStudent,
    Enroll,
    GrantWaivers,
    Import,
    ImportCourses,
    ImportStudents,
    Reconcile,
    RevokeWaivers,
    Swap,
    Unenroll,
    UpdateCourse,
    UpdateStudent,
)
from enrollment_service.domain.errors import Refusal, Violation, invalid_field
from enrollment_service.domain.feed import Mark, Scope
from enrollment_service.domain.queries import (
    CourseQuery,
    CoursesQuery,
    CourseStudentsQuery,
    EnrollmentQuery,
    ExplainQuery,
    PastCourseStudentsQuery,
    PastStudentCoursesQuery,
    StudentCoursesQuery,
    StudentQuery,
    StudentsQuery,
    WaiversQuery,
)
from enrollment_service.domain.records import ENROLLED, WAITLISTED, NewCourse, NewStudent
from enrollment_service.v1 import enrollment_pb2 as pb

MAX_COURSES = 50
MAX_IMPORT_ROWS = 10_000
MAX_UPSERT_ROWS = 5_000
MAX_ROSTER = 5_000
MAX_WAIVERS = 5_000

_STUDENT_FIELDS = NewStudent._fields
_COURSE_FIELDS = NewCourse._fields
# Adds to the violations what is wrong with the value of a field.
Check: TypeAlias = Callable[[list[Violation], str, Any], None]
Part = TypeVar("Part", bound=Message)
New = TypeVar("New")
_STATES = range(ENROLLED, WAITLISTED + 1)


def _refuse_if(found: Sequence[Violation]) -> None:
    if found:
        raise Refusal(found)


class _Written(Protocol):
    """What requests of methods that change something have in common."""

    @property
    def request_id(self) -> str: ...


def _check_request(found: list[Violation], request: _Written) -> UUID | None:
    """The request_id, after the checks that all requests of writing methods share."""
    fields.check_request_id(found, request.request_id)
    fields.check_reason(found, getattr(request, "reason", ""))
    return None if found or not request.request_id else UUID(request.request_id)


def _check_one_key(found: list[Violation], request: Message, keys: Mapping[str, Check | None]) -> None:
    """Exactly one of the keys, the first of which is our id; the others have a check."""
    given = [name for name in keys if getattr(request, name)]
    if len(given) > 1:
        found.append(invalid_field(given[1], f"must not be given together with {given[0]}"))
        return
    (name,) = given or [next(iter(keys))]
    (keys[name] or fields.check_id)(found, name, getattr(request, name))


_check_key: Check = partial(fields.check_text, most=254)


# --- students ---------------------------------------------------------------------------------------------------


def create_student(request: pb.CreateStudentRequest, caller: Caller) -> CreateStudent:
    """A student to create."""
    found: list[Violation] = []
    _check_student(found, request.student, _STUDENT_FIELDS)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return CreateStudent(request_id=request_id, caller=caller, student=_new_student(request.student))


def get_student(request: pb.GetStudentRequest, _: Caller) -> StudentQuery:
    """One student, by exactly one key."""
    found: list[Violation] = []
    _check_one_key(found, request, {"student_id": None, "external_id": fields.check_external_id, "email": _check_key})
    _refuse_if(found)
    return StudentQuery(request.student_id, request.external_id, request.email)


def update_student(request: pb.UpdateStudentRequest, caller: Caller) -> UpdateStudent:
    """The fields of a student that the mask names."""
    found: list[Violation] = []
    fields.check_id(found, "student.student_id", request.student.student_id)
    names = _masked(found, request.update_mask.paths, _STUDENT_FIELDS)
    _check_student(found, request.student, names)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return UpdateStudent(
        request_id=request_id,
        caller=caller,
        student_id=request.student.student_id,
        changes={name: getattr(request.student, name) for name in names},
        etag=request.student.etag,
    )


def delete_student(request: pb.DeleteStudentRequest, caller: Caller) -> DeleteStudent:
    """A student to delete."""
    found: list[Violation] = []
    fields.check_id(found, "student_id", request.student_id)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return DeleteStudent(
        request_id=request_id,
        caller=caller,
        student_id=request.student_id,
        etag=request.etag,
        force=request.force,
    )


def list_students(request: pb.ListStudentsRequest, _: Caller) -> tuple[StudentsQuery, Page]:
    """A page of students."""
    found: list[Violation] = []
    fields.check_text(found, "query", request.query, 254, least=0)
    page = pages.parse(found, f"ListStudents {request.query}", request.page_size, request.page_token)
    _refuse_if(found)
    return StudentsQuery(page.after[0], page.rows_to_read, request.query), page


def _new_student(student: pb.Student) -> NewStudent:
    return NewStudent(student.full_name, student.email, student.external_id)


_STUDENT_CHECKS: dict[str, Check] = {
    "full_name": partial(fields.check_text, most=fields.MAX_NAME),
    "email": fields.check_email,
    "external_id": fields.check_external_id,
}


def _check_student(found: list[Violation], student: pb.Student, names: Iterable[str]) -> None:
    for name in names:
        _STUDENT_CHECKS[name](found, f"student.{name}", getattr(student, name))


# --- courses ----------------------------------------------------------------------------------------------------


def create_course(request: pb.CreateCourseRequest, caller: Caller) -> CreateCourse:
    """A course to create."""
    found: list[Violation] = []
    _check_course(found, request.course, _COURSE_FIELDS)
    request_id = _check_request(found, request)
    _refuse_if(found or _window_order(request.course, lambda opens, closes: opens < closes))
    return CreateCourse(
        request_id=request_id,
        caller=caller,
        reason=request.reason,
        course=_new_course(request.course),
    )


def get_course(request: pb.GetCourseRequest, _: Caller) -> CourseQuery:
    """One course, by exactly one key."""
    found: list[Violation] = []
    _check_one_key(found, request, {"course_id": None, "external_id": fields.check_external_id, "code": _check_key})
    _refuse_if(found)
    return CourseQuery(request.course_id, request.external_id, request.code)


def update_course(request: pb.UpdateCourseRequest, caller: Caller) -> UpdateCourse:
    """The fields of a course that the mask names; one that is unset is cleared."""
    found: list[Violation] = []
    fields.check_id(found, "course.course_id", request.course.course_id)
    names = _masked(found, request.update_mask.paths, _COURSE_FIELDS)
    _check_course(found, request.course, names)
    # A course may have had two equal times for long; whether it is given them now, the rule knows.
    if not found and {"enroll_open_time", "enroll_close_time"} <= set(names):
        found += _window_order(request.course, lambda opens, closes: opens <= closes)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return UpdateCourse(
        request_id=request_id,
        caller=caller,
        reason=request.reason,
        course_id=request.course.course_id,
        changes=_course_values(request.course, names),
        etag=request.course.etag,
    )


def delete_course(request: pb.DeleteCourseRequest, caller: Caller) -> DeleteCourse:
    """A course to delete."""
    found: list[Violation] = []
    fields.check_id(found, "course_id", request.course_id)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return DeleteCourse(
        request_id=request_id,
        caller=caller,
        reason=request.reason,
        course_id=request.course_id,
        etag=request.etag,
        force=request.force,
    )


def list_courses(request: pb.ListCoursesRequest, _: Caller) -> tuple[CoursesQuery, Page]:
    """A page of courses."""
    found: list[Violation] = []
    fields.check_text(found, "query", request.query, 254, least=0)
    scope = f"ListCourses {request.only_open} {request.query}"
    page = pages.parse(found, scope, request.page_size, request.page_token)
    _refuse_if(found)
    return CoursesQuery(page.after[0], page.rows_to_read, request.query, request.only_open), page


def _new_course(course: pb.Course) -> NewCourse:
    return NewCourse(**_course_values(course, _COURSE_FIELDS))


def _check_new_course(found: list[Violation], course: pb.Course) -> None:
    _check_course(found, course, _COURSE_FIELDS)
    found += [] if found else _window_order(course, lambda opens, closes: opens < closes)


def _check_course(found: list[Violation], course: pb.Course, names: Sequence[str]) -> None:
    checks: dict[str, Check] = {
        "code": fields.check_code,
        "title": partial(fields.check_text, most=fields.MAX_TITLE),
        "description": partial(fields.check_text, most=2000, least=0, lines=True),
        "capacity": fields.check_count,
        "waitlist_capacity": fields.check_count,
        "enroll_open_time": fields.check_time,
        "enroll_close_time": fields.check_time,
        "external_id": fields.check_external_id,
        "permit_required": lambda *_: None,
    }
    for name in names:
        checks[name](found, f"course.{name}", getattr(course, name))


def _window_order(course: pb.Course, in_order: Callable[[datetime, datetime], bool]) -> list[Violation]:
    """Compares what will be stored: times that differ by less than a microsecond are stored as equal."""
    if not (course.HasField("enroll_open_time") and course.HasField("enroll_close_time")):
        return []
    if in_order(moment_of(course.enroll_open_time), moment_of(course.enroll_close_time)):
        return []
    return [invalid_field("course.enroll_close_time", "must be after enroll_open_time")]


def _course_values(course: pb.Course, names: Iterable[str]) -> dict[str, Any]:
    return {name: _course_value(course, name) for name in names}


def _course_value(course: pb.Course, name: str) -> Any:
    if name == "capacity":
        return course.capacity if course.HasField("capacity") else None
    if name in ("enroll_open_time", "enroll_close_time"):
        return moment_of(getattr(course, name)) if course.HasField(name) else None
    return getattr(course, name)


def _masked(found: list[Violation], paths: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """The known fields that an update mask names."""
    if not paths:
        found.append(invalid_field("update_mask", f"is required; name one or more of {', '.join(allowed)}"))
    if any(path not in allowed for path in paths):
        found.append(invalid_field("update_mask", f"may only name {', '.join(allowed)}"))
    return [name for name in allowed if name in paths]


# --- enrollments ------------------------------------------------------------------------------------------------


def enroll_student(request: pb.EnrollStudentRequest, caller: Caller) -> Enroll:
    """A student to enroll in courses, and the courses to leave for them."""
    found: list[Violation] = []
    fields.check_id(found, "student_id", request.student_id)
    fields.check_ids(found, "course_ids", request.course_ids, MAX_COURSES)
    fields.check_ids(found, "drop_course_ids", request.drop_course_ids, MAX_COURSES, least=0)
    if not set(request.course_ids).isdisjoint(request.drop_course_ids):
        found.append(invalid_field("drop_course_ids", "must not name a course to enroll in"))
    fields.check_on_full(found, request.on_full)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return Enroll(
        request_id=request_id,
        caller=caller,
        reason=request.reason,
        validate_only=request.validate_only,
        student_id=request.student_id,
        course_ids=tuple(request.course_ids),
        waitlist=request.on_full == pb.ON_FULL_WAITLIST,
        drop_course_ids=tuple(request.drop_course_ids),
    )


def unenroll_student(request: pb.UnenrollStudentRequest, caller: Caller) -> Unenroll:
    """A student to remove from a course."""
    found: list[Violation] = []
    fields.check_id(found, "student_id", request.student_id)
    fields.check_id(found, "course_id", request.course_id)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return Unenroll(
        request_id=request_id,
        caller=caller,
        reason=request.reason,
        student_id=request.student_id,
        course_id=request.course_id,
        allow_missing=request.allow_missing,
        etag=request.etag,
    )


def swap_enrollment(request: pb.SwapEnrollmentRequest, caller: Caller) -> Swap:
    """A student to move from one course into another."""
    found: list[Violation] = []
    fields.check_id(found, "student_id", request.student_id)
    fields.check_id(found, "from_course_id", request.from_course_id)
    fields.check_id(found, "to_course_id", request.to_course_id)
    if request.from_course_id == request.to_course_id:
        found.append(invalid_field("to_course_id", "must not be the course to leave"))
    fields.check_on_full(found, request.on_full)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return Swap(
        request_id=request_id,
        caller=caller,
        reason=request.reason,
        validate_only=request.validate_only,
        student_id=request.student_id,
        from_course_id=request.from_course_id,
        to_course_id=request.to_course_id,
        waitlist=request.on_full == pb.ON_FULL_WAITLIST,
    )


def explain_enrollment(request: pb.ExplainEnrollmentRequest, _: Caller) -> ExplainQuery:
    """A student, and the courses to explain."""
    found: list[Violation] = []
    fields.check_id(found, "student_id", request.student_id)
    fields.check_ids(found, "course_ids", request.course_ids, MAX_COURSES)
    fields.check_on_full(found, request.on_full)
    _refuse_if(found)
    return ExplainQuery(request.student_id, tuple(request.course_ids), request.on_full == pb.ON_FULL_WAITLIST)


def get_enrollment(request: pb.GetEnrollmentRequest, _: Caller) -> EnrollmentQuery:
    """One student in one course."""
    found: list[Violation] = []
    fields.check_id(found, "student_id", request.student_id)
    fields.check_id(found, "course_id", request.course_id)
    _refuse_if(found)
    return EnrollmentQuery(request.student_id, request.course_id)


def list_student_courses(
    request: pb.ListStudentCoursesRequest, _: Caller
) -> tuple[StudentCoursesQuery | PastStudentCoursesQuery, Page]:
    """A page of the courses of a student."""
    found: list[Violation] = []
    fields.check_id(found, "student_id", request.student_id)
    states = fields.check_states(found, request.states)
    scope = f"ListStudentCourses {request.student_id} {states}"
    if request.HasField("as_of"):
        moment = _moment(found, request.as_of)
        page = pages.parse(found, f"{scope} {moment}", request.page_size, request.page_token)
        _refuse_if(found)
        past = PastStudentCoursesQuery(request.student_id, page.after[0], page.rows_to_read, states, moment)
        return past, page
    carries = partial(resume.carries, Scope(student_id=request.student_id))
    page = pages.parse(found, scope, request.page_size, request.page_token, carries=carries)
    _refuse_if(found)
    return StudentCoursesQuery(request.student_id, page.after[0], page.rows_to_read, states), page


def list_course_students(
    request: pb.ListCourseStudentsRequest, _: Caller
) -> tuple[CourseStudentsQuery | PastCourseStudentsQuery, Page]:
    """A page of the students of a course."""
    found: list[Violation] = []
    fields.check_id(found, "course_id", request.course_id)
    states = fields.check_states(found, request.states)
    scope = f"ListCourseStudents {request.course_id} {states}"
    if request.HasField("as_of"):
        moment = _moment(found, request.as_of)
        page = pages.parse(found, f"{scope} {moment}", request.page_size, request.page_token, _STATES, IDS)
        _refuse_if(found)
        state, key = page.after
        return PastCourseStudentsQuery(request.course_id, (state, key), page.rows_to_read, states, moment), page
    carries = partial(resume.carries, Scope(course_id=request.course_id))
    page = pages.parse(found, scope, request.page_size, request.page_token, _STATES, IDS, carries=carries)
    _refuse_if(found)
    state, key = page.after
    return CourseStudentsQuery(request.course_id, (state, key), page.rows_to_read, states), page


def _moment(found: list[Violation], as_of: Timestamp) -> datetime:
    """The moment that a list is to be of; any moment where it is none."""
    before = len(found)
    fields.check_time(found, "as_of", as_of)
    return moment_of(as_of) if len(found) == before else EPOCH


def watch_enrollment_events(request: pb.WatchEnrollmentEventsRequest, _: Caller) -> tuple[Scope, Mark | None]:
    """Whose events to watch, and from where on; None: from the beginning."""
    found: list[Violation] = []
    if request.course_id:
        fields.check_id(found, "course_id", request.course_id)
    if request.student_id:
        fields.check_id(found, "student_id", request.student_id)
    if request.course_id and request.student_id:
        found.append(invalid_field("student_id", "must not be given together with course_id"))
    _refuse_if(found)
    scope = Scope(request.course_id, request.student_id)
    mark = resume.parse(found, scope, request.resume_token)
    _refuse_if(found)
    return scope, mark


def import_enrollments(request: pb.ImportEnrollmentsRequest, caller: Caller) -> Import:
    """A chunk of pairs to enroll, named by our ids or by external ids."""
    found: list[Violation] = []
    if request.student_external_ids or request.course_external_ids:
        _check_pairs(found, request, "student_external_ids", "course_external_ids", "external ids")
        _refuse_ids(found, request, "student_ids", "course_ids")
    else:
        _check_pairs(found, request, "student_ids", "course_ids", "ids")
    fields.check_on_full(found, request.on_full)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return Import(
        request_id=request_id,
        caller=caller,
        student_ids=tuple(request.student_ids),
        course_ids=tuple(request.course_ids),
        student_external_ids=tuple(request.student_external_ids),
        course_external_ids=tuple(request.course_external_ids),
        waitlist=request.on_full == pb.ON_FULL_WAITLIST,
    )


def _check_pairs(
    found: list[Violation], request: pb.ImportEnrollmentsRequest, students: str, courses: str, what: str
) -> None:
    """As many of the one as of the other, each of which may exist."""
    if not 1 <= len(getattr(request, students)) <= MAX_IMPORT_ROWS:
        found.append(invalid_field(students, f"must have 1 to {MAX_IMPORT_ROWS} {what}"))
    if len(getattr(request, courses)) != len(getattr(request, students)):
        found.append(invalid_field(courses, f"must have as many {what} as {students}"))
    for name in (students, courses):
        values = getattr(request, name)
        if what == "ids" and min(values, default=1) <= 0:
            found.append(invalid_field(name, "must be positive ids"))
        elif what != "ids" and not all(map(fields.is_external_id, values)):
            found.append(invalid_field(name, "must be external ids of 1 to 255 printable characters"))


def import_students(request: pb.ImportStudentsRequest, caller: Caller) -> ImportStudents:
    """A chunk of students to create or update; a row that cannot be valid is left to be reported."""
    names, request_id = _check_upsert(request, "students", _STUDENT_FIELDS)
    rows = _Unique(request.students, lambda found, row: _check_student(found, row, _STUDENT_FIELDS))
    return ImportStudents(request_id=request_id, caller=caller, fields=names, students=tuple(rows.each(_new_student)))


def import_courses(request: pb.ImportCoursesRequest, caller: Caller) -> ImportCourses:
    """A chunk of courses to create or update; a row that cannot be valid is left to be reported."""
    names, request_id = _check_upsert(request, "courses", _COURSE_FIELDS)
    rows = _Unique(request.courses, _check_new_course)
    return ImportCourses(request_id=request_id, caller=caller, fields=names, courses=tuple(rows.each(_new_course)))


def _check_upsert(
    request: pb.ImportStudentsRequest | pb.ImportCoursesRequest, rows: str, known: Sequence[str]
) -> tuple[tuple[str, ...], UUID | None]:
    """The fields that are to be updated, none where it is all of them, and the request_id."""
    found: list[Violation] = []
    if not 1 <= len(getattr(request, rows)) <= MAX_UPSERT_ROWS:
        found.append(invalid_field(rows, f"must have 1 to {MAX_UPSERT_ROWS} rows"))
    allowed = [name for name in known if name != "external_id"]
    names = _masked(found, request.update_mask.paths, allowed) if request.HasField("update_mask") else []
    request_id = _check_request(found, request)
    _refuse_if(found)
    return tuple(names), request_id


class _Unique(Generic[Part]):
    """The rows of an import that can be valid: each with an external id that no row before it has."""

    def __init__(self, rows: Iterable[Part], check: Callable[[list[Violation], Part], None]) -> None:
        self._rows = rows
        self._check = check

    def each(self, read: Callable[[Part], New]) -> Iterator[New | None]:
        """What is read from each row; None from one that cannot be valid."""
        seen: set[str] = set()
        for row in self._rows:
            found: list[Violation] = []
            self._check(found, row)
            number: str = row.external_id  # type: ignore[attr-defined]
            valid = bool(number) and number not in seen and not found
            seen.add(number)
            yield read(row) if valid else None


def reconcile_roster(request: pb.ReconcileRosterRequest, caller: Caller) -> Reconcile:
    """The roster that a course is to have, named by our ids or by external ids."""
    found: list[Violation] = []
    if request.course_external_id or request.student_external_ids:
        _check_external_roster(found, request)
    else:
        fields.check_id(found, "course_id", request.course_id)
        fields.check_ids(found, "student_ids", request.student_ids, MAX_ROSTER, least=0)
    fields.check_count(found, "max_removals", request.max_removals)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return Reconcile(
        request_id=request_id,
        caller=caller,
        validate_only=request.validate_only,
        course_id=request.course_id,
        student_ids=tuple(request.student_ids),
        course_external_id=request.course_external_id,
        student_external_ids=tuple(request.student_external_ids),
        max_removals=request.max_removals,
    )


def _check_external_roster(found: list[Violation], request: pb.ReconcileRosterRequest) -> None:
    wanted = request.student_external_ids
    if not fields.is_external_id(request.course_external_id):
        found.append(invalid_field("course_external_id", "must be an external id of 1 to 255 printable characters"))
    if len(wanted) > MAX_ROSTER:
        found.append(invalid_field("student_external_ids", f"must have 0 to {MAX_ROSTER} external ids"))
    elif len(set(wanted)) != len(wanted):
        found.append(invalid_field("student_external_ids", "must not have duplicates"))
    for index, value in enumerate(wanted[: MAX_ROSTER + 1]):
        if not fields.is_external_id(value):
            found.append(invalid_field(f"student_external_ids[{index}]", "must have 1 to 255 printable characters"))
    _refuse_ids(found, request, "course_id", "student_ids")


def _refuse_ids(found: list[Violation], request: Message, *names: str) -> None:
    given = [name for name in names if getattr(request, name)]
    found += [invalid_field(name, "must not be given together with external ids") for name in given]


# --- waivers ----------------------------------------------------------------------------------------------------


def grant_waivers(request: pb.GrantWaiversRequest, caller: Caller) -> GrantWaivers:
    """Refusals to lift for students in a course."""
    found: list[Violation] = []
    fields.check_id(found, "course_id", request.course_id)
    fields.check_ids(found, "student_ids", request.student_ids, MAX_WAIVERS)
    reasons = fields.check_waivable(found, "reasons", request.reasons)
    fields.check_time(found, "expire_time", request.expire_time)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return GrantWaivers(
        request_id=request_id,
        caller=caller,
        reason=request.reason,
        validate_only=request.validate_only,
        course_id=request.course_id,
        student_ids=tuple(request.student_ids),
        reasons=reasons,
        expire_time=moment_of(request.expire_time) if request.HasField("expire_time") else None,
    )


def revoke_waivers(request: pb.RevokeWaiversRequest, caller: Caller) -> RevokeWaivers:
    """Refusals to lift no more for students in a course."""
    found: list[Violation] = []
    fields.check_id(found, "course_id", request.course_id)
    fields.check_ids(found, "student_ids", request.student_ids, MAX_WAIVERS)
    reasons = fields.check_waivable(found, "reasons", request.reasons, least=0)
    request_id = _check_request(found, request)
    _refuse_if(found)
    return RevokeWaivers(
        request_id=request_id,
        caller=caller,
        reason=request.reason,
        validate_only=request.validate_only,
        course_id=request.course_id,
        student_ids=tuple(request.student_ids),
        reasons=reasons,
    )


def list_waivers(request: pb.ListWaiversRequest, _: Caller) -> tuple[WaiversQuery, Page]:
    """A page of the waivers in a course."""
    found: list[Violation] = []
    fields.check_id(found, "course_id", request.course_id)
    scope = f"ListWaivers {request.course_id}"
    page = pages.parse(found, scope, request.page_size, request.page_token, IDS, IDS)
    _refuse_if(found)
    student_id, sequence = page.after
    return WaiversQuery(request.course_id, (student_id, sequence), page.rows_to_read), page

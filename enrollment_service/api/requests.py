"""From a request to its field violations: everything that no state of the database could make valid.

Each `check_...` raises once with all violations of its request; what passes may be given to the database.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.domain.errors import EnrollmentError, Reason, Violation, invalid_field
from enrollment_service.v1 import enrollment_pb2 as pb

MOST_COURSES = 50
MOST_IMPORT_ROWS = 10_000
MOST_ROSTER = 5_000
# The largest number of students in a page, and how many where the caller does not say.
MOST_PAGE = 1_000
DEFAULT_PAGE = 50

STUDENT_FIELDS = ("full_name", "email")
COURSE_FIELDS = (
    "code",
    "title",
    "description",
    "capacity",
    "waitlist_capacity",
    "enroll_open_time",
    "enroll_close_time",
)

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_CODE = re.compile(r"[A-Za-z0-9\-_. ]{1,40}")
_REASON = re.compile(r"[a-z0-9_.-]{0,64}")
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # years 1 to 9999
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


def _raise(violations: Sequence[Violation]) -> None:
    if violations:
        raise EnrollmentError(violations)


def not_built(field: str) -> EnrollmentError:
    """The feature behind a field or method does not exist yet; it is refused, never ignored."""
    return EnrollmentError.one(Reason.UNIMPLEMENTED, field, "This server does not offer this yet.", field=field)


# --- single fields ----------------------------------------------------------------------------------------------


def _id(found: list[Violation], field: str, value: int) -> None:
    if value <= 0:
        found.append(invalid_field(field, "must be a positive id"))


def _text(found: list[Violation], field: str, value: str, most: int, *, least: int = 1, lines: bool = False) -> None:
    if len(value) > most:
        found.append(invalid_field(field, f"must have at most {most} characters"))
    elif least and not value.strip():
        found.append(invalid_field(field, "must not be empty or blank"))
    elif not (value.isascii() and value.isprintable()) and any(_is_control(one, lines) for one in value):
        found.append(invalid_field(field, "must not have control or bidirectional formatting characters"))


def _is_control(character: str, lines: bool) -> bool:
    if lines and character in "\n\r\t":
        return False
    return character in _BIDI or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def _email(found: list[Violation], field: str, value: str) -> None:
    before = len(found)
    _text(found, field, value, 254)
    if len(found) == before and not _EMAIL.fullmatch(value):
        found.append(invalid_field(field, "must be an e-mail address, like ann@example.org"))


def _code(found: list[Violation], field: str, value: str) -> None:
    if not _CODE.fullmatch(value) or not value.strip():
        found.append(invalid_field(field, "must be 1 to 40 letters, digits, and '-', '_', '.' or space"))


def _count(found: list[Violation], field: str, value: int) -> None:
    if value < 0:
        found.append(invalid_field(field, "must be 0 or more"))


def _time(found: list[Violation], field: str, value: Timestamp) -> None:
    if not (_FIRST_SECOND <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < 1_000_000_000):
        found.append(invalid_field(field, "must be a time within the years 1 to 9999"))


def is_uuid(value: str) -> bool:
    """Whether a text is a UUID in its usual form."""
    return _UUID.fullmatch(value) is not None


def _request_id(found: list[Violation], value: str) -> None:
    if value and not is_uuid(value):
        found.append(invalid_field("request_id", "must be a UUID, like 123e4567-e89b-12d3-a456-426614174000"))


def _reason(found: list[Violation], value: str) -> None:
    if value and not _REASON.fullmatch(value):
        found.append(invalid_field("reason", "must be up to 64 lower-case letters, digits, and '_', '.' or '-'"))


def _on_full(found: list[Violation], value: int) -> None:
    if not 0 <= value <= pb.ON_FULL_WAITLIST:
        found.append(invalid_field("on_full", "must be a known value"))


def _ids(found: list[Violation], field: str, values: Sequence[int], most: int, *, least: int = 1) -> None:
    if not least <= len(values) <= most:
        found.append(invalid_field(field, f"must have {least} to {most} ids"))
    elif len(set(values)) != len(values):
        found.append(invalid_field(field, "must not have duplicates"))
    for index, value in enumerate(values[: most + 1]):
        if value <= 0:
            found.append(invalid_field(f"{field}[{index}]", "must be a positive id"))


def _page(found: list[Violation], page_size: int) -> None:
    if page_size < 0:
        found.append(invalid_field("page_size", "must be 0 or more"))


def page_limit(page_size: int) -> int:
    """How many rows a page has at the most."""
    return min(page_size or DEFAULT_PAGE, MOST_PAGE)


# --- students ---------------------------------------------------------------------------------------------------


def _student_fields(found: list[Violation], student: pb.Student, names: Iterable[str]) -> None:
    checks: dict[str, Callable[[], None]] = {
        "full_name": lambda: _text(found, "student.full_name", student.full_name, 200),
        "email": lambda: _email(found, "student.email", student.email),
    }
    for name in names:
        checks[name]()


def check_create_student(request: pb.CreateStudentRequest) -> None:
    found: list[Violation] = []
    _student_fields(found, request.student, STUDENT_FIELDS)
    _raise(found)


def check_update_student(request: pb.UpdateStudentRequest) -> None:
    found: list[Violation] = []
    _id(found, "student.student_id", request.student.student_id)
    known = _mask(found, request.update_mask.paths, STUDENT_FIELDS)
    _student_fields(found, request.student, known)
    _raise(found)


def check_student_id(request: pb.GetStudentRequest | pb.DeleteStudentRequest) -> None:
    found: list[Violation] = []
    _id(found, "student_id", request.student_id)
    _raise(found)


def _mask(found: list[Violation], paths: Sequence[str], allowed: Sequence[str]) -> list[str]:
    """The known fields that an update mask names."""
    if not paths:
        found.append(invalid_field("update_mask", f"is required; name one or more of {', '.join(allowed)}"))
    if any(path not in allowed for path in paths):
        found.append(invalid_field("update_mask", f"may only name {', '.join(allowed)}"))
    return [name for name in allowed if name in paths]


# --- courses ----------------------------------------------------------------------------------------------------


def _course_fields(found: list[Violation], course: pb.Course, names: Sequence[str]) -> None:
    checks: dict[str, Callable[[], None]] = {
        "code": lambda: _code(found, "course.code", course.code),
        "title": lambda: _text(found, "course.title", course.title, 200),
        "description": lambda: _text(found, "course.description", course.description, 2000, least=0, lines=True),
        "capacity": lambda: _count(found, "course.capacity", course.capacity),
        "waitlist_capacity": lambda: _count(found, "course.waitlist_capacity", course.waitlist_capacity),
        "enroll_open_time": lambda: _time(found, "course.enroll_open_time", course.enroll_open_time),
        "enroll_close_time": lambda: _time(found, "course.enroll_close_time", course.enroll_close_time),
    }
    before = len(found)
    for name in names:
        checks[name]()
    both = course.HasField("enroll_open_time") and course.HasField("enroll_close_time")
    if len(found) == before and both and {"enroll_open_time", "enroll_close_time"} <= set(names):
        opens, closes = course.enroll_open_time, course.enroll_close_time
        if (opens.seconds, opens.nanos) >= (closes.seconds, closes.nanos):
            found.append(invalid_field("course.enroll_close_time", "must be after enroll_open_time"))


def check_create_course(request: pb.CreateCourseRequest) -> None:
    found: list[Violation] = []
    _course_fields(found, request.course, COURSE_FIELDS)
    _raise(found)


def check_update_course(request: pb.UpdateCourseRequest) -> None:
    found: list[Violation] = []
    _id(found, "course.course_id", request.course.course_id)
    known = _mask(found, request.update_mask.paths, COURSE_FIELDS)
    _course_fields(found, request.course, known)
    _raise(found)


def check_course_id(request: pb.GetCourseRequest | pb.DeleteCourseRequest) -> None:
    found: list[Violation] = []
    _id(found, "course_id", request.course_id)
    _raise(found)


# --- lists ------------------------------------------------------------------------------------------------------


def check_list(request: pb.ListStudentsRequest | pb.ListCoursesRequest) -> None:
    found: list[Violation] = []
    _page(found, request.page_size)
    _text(found, "query", request.query, 254, least=0)
    _raise(found)


def check_list_student_courses(request: pb.ListStudentCoursesRequest) -> None:
    found: list[Violation] = []
    _id(found, "student_id", request.student_id)
    _states(found, request.states)
    _page(found, request.page_size)
    _raise(found)
    if request.HasField("as_of"):
        raise not_built("as_of")


def check_list_course_students(request: pb.ListCourseStudentsRequest) -> None:
    found: list[Violation] = []
    _id(found, "course_id", request.course_id)
    _states(found, request.states)
    _page(found, request.page_size)
    _raise(found)
    if request.HasField("as_of"):
        raise not_built("as_of")


def _states(found: list[Violation], states: Sequence[int]) -> None:
    live = (pb.ENROLLMENT_STATE_ENROLLED, pb.ENROLLMENT_STATE_WAITLISTED)
    if states and any(state not in live for state in states):
        found.append(invalid_field("states", "may only name ENROLLED and WAITLISTED"))


# --- enrollments ------------------------------------------------------------------------------------------------


def check_enroll(request: pb.EnrollStudentRequest) -> None:
    found: list[Violation] = []
    _id(found, "student_id", request.student_id)
    _ids(found, "course_ids", request.course_ids, MOST_COURSES)
    _on_full(found, request.on_full)
    _request_id(found, request.request_id)
    _reason(found, request.reason)
    _raise(found)


def check_unenroll(request: pb.UnenrollStudentRequest) -> None:
    found: list[Violation] = []
    _id(found, "student_id", request.student_id)
    _id(found, "course_id", request.course_id)
    _request_id(found, request.request_id)
    _reason(found, request.reason)
    _raise(found)


def check_swap(request: pb.SwapEnrollmentRequest) -> None:
    found: list[Violation] = []
    _id(found, "student_id", request.student_id)
    _id(found, "from_course_id", request.from_course_id)
    _id(found, "to_course_id", request.to_course_id)
    if request.from_course_id == request.to_course_id:
        found.append(invalid_field("to_course_id", "must not be the course to leave"))
    _request_id(found, request.request_id)
    _reason(found, request.reason)
    _raise(found)


def check_get_enrollment(request: pb.GetEnrollmentRequest) -> None:
    found: list[Violation] = []
    _id(found, "student_id", request.student_id)
    _id(found, "course_id", request.course_id)
    _raise(found)


def check_import(request: pb.ImportEnrollmentsRequest) -> None:
    found: list[Violation] = []
    if not 1 <= len(request.student_ids) <= MOST_IMPORT_ROWS:
        found.append(invalid_field("student_ids", f"must have 1 to {MOST_IMPORT_ROWS} ids"))
    if len(request.course_ids) != len(request.student_ids):
        found.append(invalid_field("course_ids", "must have as many ids as student_ids"))
    if min(request.student_ids, default=1) <= 0:
        found.append(invalid_field("student_ids", "must be positive ids"))
    if min(request.course_ids, default=1) <= 0:
        found.append(invalid_field("course_ids", "must be positive ids"))
    _on_full(found, request.on_full)
    _request_id(found, request.request_id)
    _raise(found)


def check_reconcile(request: pb.ReconcileRosterRequest) -> None:
    found: list[Violation] = []
    _id(found, "course_id", request.course_id)
    _ids(found, "student_ids", request.student_ids, MOST_ROSTER, least=0)
    _count(found, "max_removals", request.max_removals)
    _request_id(found, request.request_id)
    _raise(found)


def parse_request_id(value: str) -> UUID | None:
    """A checked request_id."""
    return UUID(value) if value else None

"""The kinds of rows that `import` sends: which columns a CSV file of them has, and how rows become chunks.

Which kind a file has is told by its header.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.api.fields import is_external_id
from enrollment_service.v1 import enrollment_pb2 as pb

LARGEST_ID = 2**63 - 1
MAX_DIGITS = len(str(LARGEST_ID))
MAX_COUNT = 2**31 - 1
_COUNTED = ("capacity", "waitlist_capacity")
_TIMED = ("enroll_open_time", "enroll_close_time")
_OPTIONAL = ("description", *_COUNTED, *_TIMED)

Values = Mapping[str, str]


class InvalidRowError(Exception):
    """What stands in a row cannot be sent."""


class Row(NamedTuple):
    """A row that can be sent: its line in the file, what it is shown as if it is rejected, and what is sent."""

    line: int
    shown: tuple[str, ...]
    sent: Any


@dataclass(frozen=True)
class Kind:
    """A kind of rows.

    Attributes:
        name: of the rows, as one speaks of them.
        columns: that a file must have.
        optional: that it may have.
        shown: by which of them a rejected row is known, and what these are called.
        counts: of the answers.
        most: rows in a chunk.
        read: what is sent of a row of a file, given its values by column.
        request: a chunk, given what is sent of its rows and the columns of the file.
        method: of the client.
    """

    name: str
    columns: tuple[str, ...]
    shown: Mapping[str, str]
    counts: tuple[str, ...]
    most: int
    read: Callable[[Values], Any]
    request: Callable[[Sequence[Any], Sequence[str]], Any]
    method: str
    optional: tuple[str, ...] = ()


def _ids_in(values: Values) -> tuple[int, int]:
    return _id_in(values["student_id"]), _id_in(values["course_id"])


def _id_in(text: str) -> int:
    digits = text.lstrip("0")
    # The length first: Python refuses to read a number of thousands of digits.
    if not (digits.isascii() and digits.isdigit() and len(digits) <= MAX_DIGITS and int(digits) <= LARGEST_ID):
        raise InvalidRowError
    return int(digits)


def _external_ids_in(values: Values) -> tuple[str, str]:
    return _external_id_in(values["student_external_id"]), _external_id_in(values["course_external_id"])


def _external_id_in(text: str) -> str:
    if not is_external_id(text):
        raise InvalidRowError
    return text


def _student_in(values: Values) -> pb.Student:
    return pb.Student(external_id=values["external_id"], full_name=values["full_name"], email=values["email"])


def _course_in(values: Values) -> pb.Course:
    course = pb.Course(external_id=values["external_id"], code=values["code"], title=values["title"])
    course.description = values.get("description", "")
    for name in _COUNTED:
        if text := values.get(name, ""):
            setattr(course, name, _count_in(text))
    for name in _TIMED:
        if text := values.get(name, ""):
            getattr(course, name).CopyFrom(_time_in(text))
    return course


def _count_in(text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) <= MAX_DIGITS and int(text) <= MAX_COUNT):
        raise InvalidRowError
    return int(text)


def _time_in(text: str) -> Timestamp:
    """A time in ISO 8601; where it is, it must say: a file may come from anywhere."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRowError from None
    if moment.tzinfo is None:
        raise InvalidRowError
    stamp = Timestamp()
    try:
        stamp.FromDatetime(moment)
    except OverflowError:  # in UTC it is before the year 1, or after 9999
        raise InvalidRowError from None
    return stamp


def _pairs_by_ids(rows: Sequence[tuple[int, int]], _: Sequence[str]) -> pb.ImportEnrollmentsRequest:
    return pb.ImportEnrollmentsRequest(
        student_ids=[student_id for student_id, _ in rows], course_ids=[course_id for _, course_id in rows]
    )


def _pairs_by_external_ids(rows: Sequence[tuple[str, str]], _: Sequence[str]) -> pb.ImportEnrollmentsRequest:
    return pb.ImportEnrollmentsRequest(
        student_external_ids=[student for student, _ in rows], course_external_ids=[course for _, course in rows]
    )


def _students(rows: Sequence[pb.Student], _: Sequence[str]) -> pb.ImportStudentsRequest:
    return pb.ImportStudentsRequest(students=rows)


def _courses(rows: Sequence[pb.Course], columns: Sequence[str]) -> pb.ImportCoursesRequest:
    """Of courses that are there already only what the file has a column for is changed."""
    written = [name for name in ("code", "title", *_OPTIONAL) if name in columns]
    return pb.ImportCoursesRequest(courses=rows, update_mask=FieldMask(paths=written))


_ENTERED, _UPSERTED = ("enrolled", "waitlisted", "already_enrolled"), ("created", "updated", "unchanged")
ENROLLMENTS = Kind(
    name="enrollments",
    columns=("student_id", "course_id"),
    shown={"student_id": "student", "course_id": "course"},
    counts=_ENTERED,
    most=10_000,
    read=_ids_in,
    request=_pairs_by_ids,
    method="import_enrollments",
)
EXTERNAL_ENROLLMENTS = Kind(
    name="enrollments",
    columns=("student_external_id", "course_external_id"),
    shown={"student_external_id": "student", "course_external_id": "course"},
    counts=_ENTERED,
    most=10_000,
    read=_external_ids_in,
    request=_pairs_by_external_ids,
    method="import_enrollments",
)
STUDENTS = Kind(
    name="students",
    columns=("external_id", "full_name", "email"),
    shown={"external_id": "student"},
    counts=_UPSERTED,
    most=5_000,
    read=_student_in,
    request=_students,
    method="import_students",
)
COURSES = Kind(
    name="courses",
    columns=("external_id", "code", "title"),
    optional=_OPTIONAL,
    shown={"external_id": "course"},
    counts=_UPSERTED,
    most=5_000,
    read=_course_in,
    request=_courses,
    method="import_courses",
)
KINDS = (ENROLLMENTS, EXTERNAL_ENROLLMENTS, STUDENTS, COURSES)

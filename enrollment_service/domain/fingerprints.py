"""What a request_id stands for, as bytes that outlive a deploy: the same request has the same fingerprint for ever.

A fingerprint is the number of its encoding and then the SHA-256 of the request in it. Encoding 1 is the method and its
fields, as JSON without spaces, names sorted; a field at its default is left out, so that a field that is added later
changes no fingerprint. Of an update every field that it names is in it, also one that is cleared. Times are ISO 8601
in UTC. `tests/domain/test_fingerprints.py` holds golden bytes of each method: they may be added to, never changed.

This is not what is stored. Who knows a name and an address could tell from a bare hash whether somebody of that name
was created, so `store/requests.py` stores it under a key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

from enrollment_service.domain.commands import (
    Command,
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
from enrollment_service.domain.records import NewCourse, NewStudent

_ENCODING = b"\x01"

# Of each command: its method, and the fields that make its payload. The names are part of the encoding; an attribute
# that is renamed one day keeps its old name here.
_PAYLOADS: dict[type[Command[Any]], tuple[str, tuple[str, ...]]] = {
    CreateStudent: ("CreateStudent", ("student",)),
    UpdateStudent: ("UpdateStudent", ("student_id", "changes", "etag")),
    DeleteStudent: ("DeleteStudent", ("student_id", "etag", "force")),
    CreateCourse: ("CreateCourse", ("course", "reason")),
    UpdateCourse: ("UpdateCourse", ("course_id", "changes", "etag", "reason")),
    DeleteCourse: ("DeleteCourse", ("course_id", "etag", "force", "reason")),
    Enroll: ("EnrollStudent", ("student_id", "course_ids", "waitlist", "reason", "drop_course_ids")),
    Unenroll: ("UnenrollStudent", ("student_id", "course_id", "allow_missing", "etag", "reason")),
    Swap: ("SwapEnrollment", ("student_id", "from_course_id", "to_course_id", "reason", "waitlist")),
    Import: (
        "ImportEnrollments",
        ("student_ids", "course_ids", "student_external_ids", "course_external_ids", "waitlist"),
    ),
    ImportStudents: ("ImportStudents", ("students", "fields")),
    ImportCourses: ("ImportCourses", ("courses", "fields")),
    Reconcile: (
        "ReconcileRoster",
        ("course_id", "student_ids", "course_external_id", "student_external_ids", "max_removals"),
    ),
    GrantWaivers: ("GrantWaivers", ("course_id", "student_ids", "reasons", "expire_time", "reason")),
    RevokeWaivers: ("RevokeWaivers", ("course_id", "student_ids", "reasons", "reason")),
}


def fingerprint(command: Command[Any]) -> bytes:
    """Tells apart two payloads under one request_id."""
    return _ENCODING + hashlib.sha256(encoded(command)).digest()


def encoded(command: Command[Any]) -> bytes:
    """What is hashed: the request in encoding 1."""
    method, names = _PAYLOADS[type(command)]
    payload = {name: _PLAIN.get(name, _as_it_is)(value) for name in names if (value := getattr(command, name))}
    return json.dumps([method, payload], separators=(",", ":"), sort_keys=True).encode()


def _as_it_is(value: Any) -> Any:
    return value


def _of_new(new: NewStudent | NewCourse) -> dict[str, Any]:
    defaults = new._field_defaults
    return _of_fields(
        {name: value for name, value in new._asdict().items() if name not in defaults or value != defaults[name]}
    )


def _of_rows(rows: Sequence[NewStudent | NewCourse | None]) -> list[dict[str, Any] | None]:
    return [None if row is None else _of_new(row) for row in rows]


def _of_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value.isoformat() if isinstance(value, datetime) else value for name, value in fields.items()}


# How fields are written that JSON does not know.
_PLAIN: dict[str, Callable[[Any], Any]] = {
    "student": _of_new,
    "course": _of_new,
    "students": _of_rows,
    "courses": _of_rows,
    "changes": _of_fields,
    "expire_time": datetime.isoformat,
}

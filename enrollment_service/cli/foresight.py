"""Which rows of an export a server would refuse: found without sending them, by the checks that the server makes.

Which addresses are taken is worked out as for one chunk. In a larger import a new student may get the address that a
row of an earlier chunk gives up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from enrollment_service.api import fields
from enrollment_service.cli.rows import Row
from enrollment_service.domain.errors import Violation

INVALID_FIELD, EMAIL_TAKEN = "INVALID_FIELD", "EMAIL_TAKEN"


def refused_students(rows: Sequence[Row], known: Mapping[str, Any], addresses: Mapping[str, str]) -> dict[str, str]:
    """Why rows are refused, by their external ids.

    Args:
        rows: students.
        known: those who are there, by external id.
        addresses: who has which address, in lower case.
    """
    refused = {row.sent.external_id: INVALID_FIELD for row in rows if not _is_student(row.sent)}
    valid = [row.sent for row in rows if row.sent.external_id not in refused]
    holders = dict(addresses)
    # What is new is created first.
    for student in sorted(valid, key=lambda student: student.external_id in known):
        external_id, address = student.external_id, student.email.lower()
        if holders.setdefault(address, external_id) != external_id:
            refused[external_id] = EMAIL_TAKEN
        elif external_id in known and (before := known[external_id].email.lower()) != address:
            del holders[before]
    return refused


def refused_courses(rows: Sequence[Row]) -> dict[str, str]:
    """Why rows are refused, by their external ids."""
    return {row.sent.external_id: INVALID_FIELD for row in rows if not _is_course(row.sent)}


def _is_student(student: Any) -> bool:
    found: list[Violation] = []
    fields.check_text(found, "full_name", student.full_name, fields.MAX_NAME)
    fields.check_email(found, "email", student.email)
    return not found and fields.is_external_id(student.external_id)


def _is_course(course: Any) -> bool:
    found: list[Violation] = []
    fields.check_code(found, "code", course.code)
    fields.check_text(found, "title", course.title, fields.MAX_TITLE)
    return not found and fields.is_external_id(course.external_id)

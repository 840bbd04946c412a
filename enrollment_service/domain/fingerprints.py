"""What a request_id stands for, as bytes that outlive a deploy: the same request has the same fingerprint for ever.

A fingerprint is the number of its encoding and then the SHA-256 of the request in it. Encoding 1 is the method and its
fields, as JSON without spaces, names sorted; a field at its default is left out, so that a field
that is added later changes no fingerprint. `tests/domain/test_fingerprints.py` holds golden bytes of each method: they
may be added to, never changed.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from enrollment_service.domain.commands import Command, Enroll, Import, Reconcile, Swap, Unenroll

_ENCODING = b"\x01"

# Of each command that takes a request_id: its method, and the fields that make its payload. The names are part of the
# encoding; an attribute that is renamed one day keeps its old name here.
_PAYLOADS: dict[type[Command[Any]], tuple[str, tuple[str, ...]]] = {
    Enroll: ("EnrollStudent", ("student_id", "course_ids", "waitlist", "reason")),
    Unenroll: ("UnenrollStudent", ("student_id", "course_id", "allow_missing", "etag", "reason")),
    Swap: ("SwapEnrollment", ("student_id", "from_course_id", "to_course_id", "reason")),
    Import: ("ImportEnrollments", ("student_ids", "course_ids", "waitlist")),
    Reconcile: ("ReconcileRoster", ("course_id", "student_ids", "max_removals")),
}


def fingerprint(command: Command[Any]) -> bytes:
    """Tells apart two payloads under one request_id."""
    return _ENCODING + hashlib.sha256(encoded(command)).digest()


def encoded(command: Command[Any]) -> bytes:
    """What is hashed: the request in encoding 1."""
    method, names = _PAYLOADS[type(command)]
    payload = {name: value for name in names if (value := getattr(command, name))}
    return json.dumps([method, payload], separators=(",", ":"), sort_keys=True).encode()

"""What may be logged of a request that has not been checked yet: ids of ours and of the caller, nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

from google.protobuf.descriptor import Descriptor

from enrollment_service.api.fields import is_uuid
from enrollment_service.api.requests import MAX_COURSES

Ids: TypeAlias = dict[str, Any]

_FIELDS = (
    "student_id",
    "course_id",
    "course_ids",
    "drop_course_ids",
    "from_course_id",
    "to_course_id",
    "request_id",
    "validate_only",
)
# Messages inside requests that have such a field.
_PARTS = {"student": "student_id", "course": "course_id"}


def ids_reader(kind: Descriptor) -> Callable[[Any], Ids]:
    """Reads what may be logged from requests of one type; of no request, nothing."""
    names = tuple(name for name in _FIELDS if name in kind.fields_by_name)
    parts = tuple((part, name) for part, name in _PARTS.items() if part in kind.fields_by_name)

    def read(request: Any) -> Ids:
        ids: Ids = {}
        if request is None:
            return ids
        for name in names:
            if value := _loggable(name, getattr(request, name)):
                ids[name] = value
        for part, name in parts:
            if value := getattr(getattr(request, part), name):
                ids[name] = value
        return ids

    return read


def _loggable(name: str, value: Any) -> Any:
    """No text but a UUID, and no list without end."""
    if name == "request_id":
        return value if is_uuid(value) else ""
    return list(value[:MAX_COURSES]) if name.endswith("course_ids") else value

"""Answers as the JSON that is kept for retries, and back. In terms of the domain, so that old records stay readable."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from enrollment_service.domain.commands import Answer, EnrollmentsAnswer, ImportAnswer, ReconcileAnswer
from enrollment_service.domain.errors import Reason
from enrollment_service.domain.records import Enrollment


def encode(answer: Answer) -> str:
    """An answer as JSON. Details of students and courses are left out: a retry is told today's."""
    if isinstance(answer, EnrollmentsAnswer):
        value: dict[str, Any] = {"enrollments": [one._asdict() for one in answer.enrollments]}
    elif isinstance(answer, ImportAnswer):
        value = {"import": answer._asdict()}
    elif isinstance(answer, ReconcileAnswer):
        value = {"reconcile": answer._asdict()}
    else:
        raise TypeError(f"{type(answer).__name__} is not kept for retries")
    return orjson.dumps(value).decode()


def decode(text: str) -> EnrollmentsAnswer | ImportAnswer | ReconcileAnswer:
    """The answer that was kept; of enrollments without their courses."""
    value = orjson.loads(text)
    if "enrollments" in value:
        return EnrollmentsAnswer(tuple(map(_enrollment, value["enrollments"])))
    if "import" in value:
        kept = value["import"]
        kept["rejected"] = tuple((index, Reason(reason)) for index, reason in kept["rejected"])
        return ImportAnswer(**kept)
    kept = value["reconcile"]
    return ReconcileAnswer(tuple(kept["added"]), tuple(kept["removed"]), kept["unchanged_count"])


def _enrollment(value: dict[str, Any]) -> Enrollment:
    return Enrollment(**value | {key: _time(value[key]) for key in ("enroll_time", "create_time")})


def _time(value: str | None) -> datetime | None:
    return datetime.fromisoformat(value) if value else None

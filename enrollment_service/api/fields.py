"""Checks of single request fields. Each adds what is wrong with a value to the violations found so far."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from google.protobuf.timestamp_pb2 import Timestamp

from enrollment_service.domain.errors import Reason, Violation, invalid_field
from enrollment_service.domain.records import WAIVABLE, ServiceReason
from enrollment_service.v1 import enrollment_pb2 as pb

# Of the name of a student and the title of a course, in characters.
MAX_NAME = 200
MAX_TITLE = 200

_EMAIL = re.compile(r"[^@\s]+@[^@\s]+")
_CODE = re.compile(r"[A-Za-z0-9\-_. ]{1,40}")
_REASON = re.compile(r"[a-z0-9_.-]{0,64}")
_OWN_REASONS = frozenset(ServiceReason)
_UUID = re.compile(r"[0-9a-fA-F]{8}-(?:[0-9a-fA-F]{4}-){3}[0-9a-fA-F]{12}")
_FIRST_SECOND, _LAST_SECOND = -62_135_596_800, 253_402_300_799  # years 1 to 9999
_BIDI = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_NUMBERS = {reason: pb.ErrorReason.Value(f"ERROR_REASON_{reason}") for reason in Reason}
_ABOUT_SEATS = {_NUMBERS[Reason.COURSE_FULL], _NUMBERS[Reason.WAITLIST_FULL]}
_LIVE = (pb.ENROLLMENT_STATE_ENROLLED, pb.ENROLLMENT_STATE_WAITLISTED)
_ALL_LIVE = pb.ENROLLMENT_STATE_ENROLLED | pb.ENROLLMENT_STATE_WAITLISTED


def check_id(found: list[Violation], field: str, value: int) -> None:
    """An id of a student or a course."""
    if value <= 0:
        found.append(invalid_field(field, "must be a positive id"))


def check_ids(found: list[Violation], field: str, values: Sequence[int], most: int, *, least: int = 1) -> None:
    """`least` to `most` different ids."""
    if not least <= len(values) <= most:
        found.append(invalid_field(field, f"must have {least} to {most} ids"))
    elif len(set(values)) != len(values):
        found.append(invalid_field(field, "must not have duplicates"))
    for index, value in enumerate(values[: most + 1]):
        if value <= 0:
            found.append(invalid_field(f"{field}[{index}]", "must be a positive id"))


def check_text(
    found: list[Violation], field: str, value: str, most: int, *, least: int = 1, lines: bool = False
) -> None:
    """A text of up to `most` characters; with `least` = 0 it may be empty, with `lines` it may have several lines."""
    if len(value) > most:
        found.append(invalid_field(field, f"must have at most {most} characters"))
    elif least and not value.strip():
        found.append(invalid_field(field, "must not be empty or blank"))
    elif not (value.isascii() and value.isprintable()) and any(_is_control(letter, lines) for letter in value):
        found.append(invalid_field(field, "must not have control or bidirectional formatting characters"))


def _is_control(character: str, lines: bool) -> bool:
    if lines and character in "\n\r\t":
        return False
    return character in _BIDI or unicodedata.category(character) in ("Cc", "Cs", "Zl", "Zp")


def check_email(found: list[Violation], field: str, value: str) -> None:
    """An e-mail address of up to 254 characters."""
    before = len(found)
    check_text(found, field, value, 254)
    if len(found) == before and not _EMAIL.fullmatch(value):
        found.append(invalid_field(field, "must be an e-mail address, like ann@example.org"))


def check_code(found: list[Violation], field: str, value: str) -> None:
    """The code of a course."""
    if not _CODE.fullmatch(value) or not value.strip():
        found.append(invalid_field(field, "must be 1 to 40 letters, digits, and '-', '_', '.' or space"))


def is_external_id(value: str) -> bool:
    """Whether a text can be the number that another system uses."""
    return 0 < len(value) <= 255 and value.isprintable()


def check_external_id(found: list[Violation], field: str, value: str) -> None:
    """The number that another system uses, or nothing."""
    if value and not is_external_id(value):
        found.append(invalid_field(field, "must have up to 255 characters, all of them printable"))


def check_count(found: list[Violation], field: str, value: int) -> None:
    """A number of seats, of places or of students."""
    if value < 0:
        found.append(invalid_field(field, "must be 0 or more"))


def check_time(found: list[Violation], field: str, value: Timestamp) -> None:
    """A moment that the database can keep."""
    if not (_FIRST_SECOND <= value.seconds <= _LAST_SECOND and 0 <= value.nanos < 1_000_000_000):
        found.append(invalid_field(field, "must be a time within the years 1 to 9999"))


def is_uuid(value: str) -> bool:
    """Whether a text is a UUID in its usual form."""
    return _UUID.fullmatch(value) is not None


def check_request_id(found: list[Violation], value: str) -> None:
    """A UUID, or nothing."""
    if value and not is_uuid(value):
        found.append(invalid_field("request_id", "must be a UUID, like 123e4567-e89b-12d3-a456-426614174000"))


def check_reason(found: list[Violation], value: str) -> None:
    """A code for the event log that is none of the service's own, or nothing."""
    if value and not _REASON.fullmatch(value):
        found.append(invalid_field("reason", "must be up to 64 lower-case letters, digits, and '_', '.' or '-'"))
    elif value in _OWN_REASONS:
        found.append(invalid_field("reason", "is one that only the service gives; choose another"))


def check_waivable(found: list[Violation], field: str, values: Sequence[int], *, least: int = 1) -> tuple[Reason, ...]:
    """Different refusals that a waiver can lift; returns them in the order in which they are shown."""
    known = {_NUMBERS[reason]: reason for reason in WAIVABLE}
    if len(values) < least:
        found.append(invalid_field(field, f"is required; name one or more of {', '.join(WAIVABLE)}"))
    elif len(set(values)) != len(values):
        found.append(invalid_field(field, "must not have duplicates"))
    if any(value in _ABOUT_SEATS for value in values):
        found.append(invalid_field(field, "can never lift what is about seats; raise the capacity instead"))
    elif any(value not in known for value in values):
        found.append(invalid_field(field, f"may only name {', '.join(WAIVABLE)}"))
    return tuple(reason for number, reason in known.items() if number in values)


def check_on_full(found: list[Violation], value: int) -> None:
    """A known value of OnFull."""
    if not 0 <= value <= pb.ON_FULL_WAITLIST:
        found.append(invalid_field("on_full", "must be a known value"))


def check_states(found: list[Violation], states: Sequence[int]) -> int:
    """The states that a list asks for, one bit each (they are 1 and 2); both where it names none."""
    if not states:
        return _ALL_LIVE
    mask = 0
    for state in states:
        if state not in _LIVE:
            found.append(invalid_field("states", "may only name ENROLLED and WAITLISTED"))
            break
        mask |= state
    return mask

"""The three calls that a newcomer tries first: `python -m dev` prints them, the README shows their answers."""

from __future__ import annotations

from collections.abc import Iterator

FIRST_CALLS = {
    "CreateStudent": '{"student": {"full_name": "Ann Lee", "email": "ann@example.org"}}',
    "CreateCourse": '{"course": {"code": "ART-1", "title": "Drawing", "capacity": 30}}',
    "EnrollStudent": '{"student_id": 1, "course_ids": [1]}',
}


def command_lines(address: str) -> Iterator[str]:
    """The calls as commands for a server on this address, which need nothing else installed."""
    # In another terminal ENROLLMENT_LISTEN may not be set.
    elsewhere = "" if address == "127.0.0.1:50051" else f" --address {address}"
    for method, request in FIRST_CALLS.items():
        yield f".venv/bin/python -m enrollment_service call {method} '{request}'{elsewhere}"

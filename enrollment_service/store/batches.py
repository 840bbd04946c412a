"""The statements of a batch, of whatever commands: what its connection prepares ahead."""

from __future__ import annotations

from datetime import datetime

from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.store import courses, locks, requests, seats, students, waivers
from enrollment_service.store.statements import Prepared


def batch_statements(clock: ColumnElement[datetime]) -> list[Prepared]:
    """All that a batch may send, by a clock."""
    return [
        *seats.batch_statements(clock),
        *students.batch_statements(),
        *courses.batch_statements(),
        *waivers.batch_statements(),
        *requests.batch_statements(),
        *locks.batch_statements(),
    ]

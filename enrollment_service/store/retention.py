"""Statements that forget old events. What may be forgotten is said in the functions that the migrations have made.

They belong to the owner of the tables: the service may call them, and may not delete an event itself.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Interval, Text, bindparam, column, func, literal_column, select
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.store.statements import Prepared, bigint, integer, timestamp
from enrollment_service.store.transactions import DriverConnection


class Reached(NamedTuple):
    """How far the old events have been looked through: the time, the course and the sequence of an event."""

    event_time: datetime
    course_id: int
    sequence: int


# Before all events.
START = Reached(datetime(1, 1, 2, tzinfo=UTC), 0, 0)


def _advance() -> Prepared:
    """In whole days, so that it happens once a day."""
    now: ColumnElement[datetime] = func.now()
    begin = now - bindparam("retention", type_=Interval())
    return Prepared(select(func.advance_log_horizon(func.date_trunc(_text("day"), begin, _text("UTC")))))


def _text(value: str) -> ColumnElement[str]:
    return literal_column(f"'{value}'", Text)


def _purge() -> Prepared:
    after = (bindparam("event_time", type_=timestamp), bindparam("course_id", type_=bigint))
    call = func.purge_log(*after, bindparam("sequence", type_=bigint), bindparam("most", type_=integer))
    found = call.table_valued(*map(column, ("after_time", "after_course", "after_sequence", "deleted")))
    return Prepared(select(found))


_advance_horizon = _advance()
_purge_piece = _purge()


async def advance(connection: DriverConnection, retention: timedelta) -> bool:
    """Says from now on that events older than `retention` may be gone; whether that was new. Nothing is deleted yet."""
    return bool((await _advance_horizon.fetch_one(connection, retention=retention))[0])


async def purge(connection: DriverConnection, after: Reached, most: int) -> tuple[Reached | None, int]:
    """Looks at up to `most` old events and deletes those that nothing rests on.

    Returns:
        How far it came, None if there is no more or somebody else is at it; and how many it has deleted.
    """
    *reached, deleted = await _purge_piece.fetch_one(connection, **after._asdict(), most=most)
    return None if reached[0] is None else Reached(*reached), deleted

"""Statements that read the event log, and where in it a reader is. Writing it is part of `seats.py`.

What is read lies between two snapshots: not visible in the one that was read up to, visible in the next. Everything
that the next one sees is committed, so statements of different moments, on different connections, read the same of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from functools import lru_cache
from hashlib import blake2b
from typing import Any, NamedTuple

from sqlalchemy import ARRAY, Text, any_, bindparam, cast, func, literal_column, not_, select, tuple_, union_all
from sqlalchemy.sql.expression import ColumnElement
from sqlalchemy.types import UserDefinedType

from enrollment_service.domain.errors import DatabaseUnavailable
from enrollment_service.domain.feed import LAST, NOTHING, Key, Place, Scope, Snapshot
from enrollment_service.domain.records import Event, LoggedEvent
from enrollment_service.store.faults import MisconfiguredError
from enrollment_service.store.models import EventRow, LogHorizonRow, Xid8
from enrollment_service.store.statements import Prepared, array, bigint, constant, integer, text
from enrollment_service.store.transactions import DriverConnection

# Null on a standby, whose snapshots are not those of its primary. Of the write-ahead log it is what is flushed, which
# no crash takes back, and what is visible was flushed before. The timeline is not asked of the control file, which
# learns of a new one only after a promotion. What names the log is what a dump does not bring along.
place_column: ColumnElement[str | None] = literal_column(
    """CASE WHEN NOT pg_is_in_recovery() THEN concat_ws(';', pg_current_snapshot(),
    coalesce((SELECT xid FROM enrollment_events ORDER BY xid DESC LIMIT 1), '2'),
    left(pg_walfile_name(pg_current_wal_flush_lsn()), 8), pg_current_wal_flush_lsn() - '0/0',
    concat_ws(',',
        (SELECT epoch FROM feed_epoch), (SELECT system_identifier FROM pg_control_system()),
        (SELECT oid FROM pg_database WHERE datname = current_database()),
        to_regclass('enrollment_events')::oid)) END""",
    Text,
)


class _PgSnapshot(UserDefinedType[Any]):
    cache_ok = True

    def get_col_spec(self, **_: Any) -> str:
        return "pg_snapshot"


def _snapshot(name: str) -> ColumnElement[Any]:
    """A snapshot that is given as text, read once per statement rather than once per row."""
    return select(cast(bindparam(name, type_=text), _PgSnapshot())).scalar_subquery()


def _sees(snapshot: ColumnElement[Any], xid: Any) -> ColumnElement[bool]:
    return func.pg_visible_in_snapshot(xid, snapshot)


_key = tuple_(EventRow.course_id, EventRow.sequence)
_columns = [getattr(EventRow, name) for name in Event._fields]
_after = tuple_(bindparam("after_course", type_=bigint), bindparam("after_sequence", type_=bigint))
_end = tuple_(bindparam("end_course", type_=bigint), bindparam("end_sequence", type_=bigint))
_of_student = EventRow.student_id == bindparam("student_id", type_=bigint)


def _walk(*of: ColumnElement[bool]) -> tuple[Prepared, Prepared]:
    """The key that a piece of the log ends with, and what the piece has."""
    within = (*of, _key > _after, _key <= _end)
    end = (
        select(EventRow.course_id, EventRow.sequence)
        .where(*within)
        .order_by(EventRow.course_id, EventRow.sequence)
        .offset(bindparam("skipped", type_=integer))
        .limit(constant(1))
    )
    piece = (
        select(*_columns)
        .where(*within, not_(_sees(_snapshot("seen"), EventRow.xid)), _sees(_snapshot("upto"), EventRow.xid))
        .order_by(EventRow.course_id, EventRow.sequence)
    )
    return Prepared(end), Prepared(piece)


def _new() -> Prepared:
    """What became visible, found by who wrote it: those who were under way, and those who came later."""
    begun_before = EventRow.xid == any_(cast(array("under_way", text), ARRAY(Xid8())))
    begun_since = (
        EventRow.xid >= cast(bindparam("seen_xmax", type_=text), Xid8()),
        EventRow.xid < cast(bindparam("upto_xmax", type_=text), Xid8()),
    )
    new = union_all(
        select(*_columns, EventRow.xid).where(begun_before), select(*_columns, EventRow.xid).where(*begun_since)
    ).subquery()
    return Prepared(
        select(*(new.c[name] for name in Event._fields))
        .where(tuple_(new.c.course_id, new.c.sequence) > _after, _sees(_snapshot("upto"), new.c.xid))
        .order_by(new.c.course_id, new.c.sequence)
        .limit(bindparam("most", type_=integer))
    )


_forgotten = select(cast(LogHorizonRow.purged_xid, Text)).scalar_subquery()
_place = Prepared(select(place_column, func.clock_timestamp(), _forgotten))
_end_of_log, _piece_of_log = _walk()
_end_of_student, _piece_of_student = _walk(_of_student)
_read_new = _new()
# A transaction that has not begun yet cannot have written anything: such rows came from somewhere else.
_foreign = Prepared(
    select(EventRow.xid).where(EventRow.xid >= func.pg_snapshot_xmax(func.pg_current_snapshot())).limit(constant(1))
)


@lru_cache(maxsize=64)
def place_of(shown: str | None) -> Place | None:
    """The place that a statement with `place_column` has shown."""
    if shown is None:
        return None
    snapshot, newest, timeline, position, log = shown.split(";")
    epoch = blake2b(log.encode(), digest_size=8).hexdigest()
    return Place(Snapshot.of(snapshot).below(int(newest) + 1), epoch, int(timeline, 16), int(position))


class Present(NamedTuple):
    """Where the log is now, and the time.

    Attributes:
        place: the snapshot, and the history.
        now: the time.
        forgotten: of events of transactions up to this one some may have been deleted; None if none was.
    """

    place: Place
    now: datetime
    forgotten: int | None


async def read_present(connection: DriverConnection) -> Present:
    """Where the log is now.

    Raises:
        DatabaseUnavailable: this is a standby.
    """
    shown, now, forgotten = await _place.fetch_one(connection)
    if (place := place_of(shown)) is None:
        raise DatabaseUnavailable
    return Present(place, now, None if forgotten is None else int(forgotten))


async def check_log(connection: DriverConnection) -> None:
    """Returns if every event was written by a transaction of this database.

    Raises:
        MisconfiguredError: not so. Whoever follows the log would not see such events before their time has come.
    """
    if await _foreign.fetch(connection):
        raise MisconfiguredError(
            "the event log was restored from another database: run `python -m enrollment_service new-epoch` as the "
            "owner of its tables"
        )


async def give_new_epoch(connection: DriverConnection) -> None:
    """Has this transaction written the whole log, and gives the log another name: all tokens expire."""
    await connection.execute("LOCK TABLE enrollment_events IN EXCLUSIVE MODE")
    await connection.execute("UPDATE enrollment_events SET xid = pg_current_xact_id()")
    await connection.execute("UPDATE feed_epoch SET epoch = gen_random_uuid()")
    # What was forgotten stays forgotten, but no token of this epoch is older.
    await connection.execute(
        f"UPDATE log_horizon SET purged_xid = '{NOTHING.xmin:d}' WHERE purged_xid IS NOT NULL"  # noqa: S608 - a number
    )


async def read_new(
    connection: DriverConnection, seen: Snapshot, upto: Snapshot, after: Key, most: int
) -> list[LoggedEvent]:
    """What `upto` sees and `seen` does not, of all courses, by key; up to `most` events after a key."""
    rows = await _read_new.fetch(
        connection,
        under_way=[str(xid) for xid in seen.under_way],
        seen_xmax=str(seen.xmax),
        upto_xmax=str(upto.xmax),
        upto=upto.text,
        after_course=after[0],
        after_sequence=after[1],
        most=most,
    )
    return [*map(LoggedEvent._make, rows)]


async def read_piece(
    connection: DriverConnection, scope: Scope, seen: Snapshot, upto: Snapshot, after: Key, length: int
) -> tuple[Sequence[LoggedEvent], Key | None]:
    """A piece of the log: what `upto` sees and `seen` does not of the next `length` events after a key, by key.

    Returns:
        The events, and the key that the piece ends with; None if it is the last one.
    """
    end_of, piece_of = (_end_of_student, _piece_of_student) if scope.student_id else (_end_of_log, _piece_of_log)
    begin, end = (max(after, (scope.course_id, 0)), (scope.course_id, LAST[1])) if scope.course_id else (after, LAST)
    within = {"after_course": begin[0], "after_sequence": begin[1]}
    if scope.student_id:
        within["student_id"] = scope.student_id
    found = await end_of.fetch(connection, **within, end_course=end[0], end_sequence=end[1], skipped=length - 1)
    last: Key | None = (found[0][0], found[0][1]) if found else None
    end = last or end
    rows = await piece_of.fetch(
        connection, **within, end_course=end[0], end_sequence=end[1], seen=seen.text, upto=upto.text
    )
    return [*map(LoggedEvent._make, rows)], last

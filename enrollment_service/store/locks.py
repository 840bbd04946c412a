"""Statements about locks alone: wait for one row, find out which rows others hold, and end who stands still."""

from __future__ import annotations

from collections.abc import Collection

import asyncpg
import structlog
from sqlalchemy import any_, select, text
from sqlalchemy.orm import InstrumentedAttribute

from enrollment_service.domain.footprint import COURSES, SEATS, SOMETHING, STUDENTS, Row
from enrollment_service.store.database import MAX_IDLE_IN_TRANSACTION_MS
from enrollment_service.store.models import CourseRow, SeatsRow, StudentRow
from enrollment_service.store.statements import Prepared, array
from enrollment_service.store.transactions import DriverConnection

log = structlog.get_logger()

# How long a transaction may wait for a lock while it holds others, in milliseconds. If it waited longer, one held row
# would spread to all that the waiter holds. At first nobody waits for longer than batches usually take; only who has
# found out which row is held, and has waited for that one alone, may then wait longer for others.
MAX_WAIT_HOLDING_MS = 100
MAX_WAIT_BRIEFLY_MS = 30

_wanted = array("ids")


def _locked_or_skipped(key: InstrumentedAttribute[int], *, share: bool) -> Prepared:
    """The rows that could be locked at once: for a change, or only as a foreign key does it."""
    return Prepared(
        select(key).where(key == any_(_wanted)).with_for_update(read=share, key_share=True, skip_locked=True)
    )


_KEYS = {SEATS: SeatsRow.course_id, COURSES: CourseRow.id, STUDENTS: StudentRow.id}
_there = {table: Prepared(select(key).where(key == any_(_wanted))) for table, key in _KEYS.items()}
_free = {table: _locked_or_skipped(key, share=table != SEATS) for table, key in _KEYS.items()}


# Sessions of this service that have locked something and have waited for their process too long, though not between two
# statements, where PostgreSQL itself would end them. Only the COPY of an import leaves room for that.
_end_frozen = Prepared(
    text(
        "SELECT count(*) FILTER (WHERE pg_terminate_backend(pid)) FROM pg_stat_activity "  # noqa: S608
        "WHERE datname = current_database() AND usename = session_user "
        "AND application_name = current_setting('application_name') "
        "AND state = 'active' AND wait_event_type = 'Client' AND backend_xid IS NOT NULL "
        f"AND query_start < clock_timestamp() - interval '{MAX_IDLE_IN_TRANSACTION_MS} milliseconds'"
    )
)


def batch_statements() -> list[Prepared]:
    """Those that a batch may send."""
    return [*_there.values(), *_free.values(), _end_frozen]


class RowBusyError(Exception):
    """A row that a transaction waited for, holding nothing, stayed locked by others."""


async def wait_for(connection: DriverConnection, row: Row, max_wait_ms: int) -> None:
    """Locks one row, as the first of its transaction; a row that does not exist is no reason to wait.

    SOMETHING cannot be waited for, so it is only tried again. One round trip. From then on the transaction waits for
    other locks no longer than MAX_WAIT_HOLDING_MS.

    Raises:
        RowBusyError: others held it for all of `max_wait_ms`.
    """
    if row == SOMETHING:
        await connection.execute(f"SET LOCAL lock_timeout = {MAX_WAIT_BRIEFLY_MS:d}")
        return
    try:
        await connection.execute(
            f"SET LOCAL lock_timeout = {max_wait_ms:d};"
            f"SELECT FROM {row.table} WHERE {_KEYS[row.table].key} = {row.id:d} FOR NO KEY UPDATE;"
            f"SET LOCAL lock_timeout = {MAX_WAIT_HOLDING_MS:d}"
        )
    except asyncpg.LockNotAvailableError as error:
        raise RowBusyError from error


async def end_frozen(connection: DriverConnection) -> None:
    """Ends sessions of servers that stand still in the middle of a statement, so that their locks are free."""
    (ended,) = await _end_frozen.fetch_one(connection)
    if ended:
        log.warning("sessions of servers that stand still ended", count=ended)


async def find_busy(connection: DriverConnection, rows: Collection[Row]) -> set[Row]:
    """Which of the rows others hold right now, in a way that enrolling somebody would wait for."""
    busy: set[Row] = set()
    for table in _KEYS:
        if ids := [row.id for row in rows if row.table == table]:
            there = {row[0] for row in await _there[table].fetch(connection, ids=ids)}
            free = {row[0] for row in await _free[table].fetch(connection, ids=ids)}
            busy.update(Row(table, row_id) for row_id in there - free)
    return busy

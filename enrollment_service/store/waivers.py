"""Statements about waivers: load those that a batch needs, write what it changed of them, list them.

A row lifts one refusal; those that one event granted belong together and are shown as one waiver.
"""

from __future__ import annotations

from collections.abc import Sequence

from sqlalchemy import delete, func, select, tuple_
from sqlalchemy.dialects.postgresql import aggregate_order_by
from sqlalchemy.dialects.postgresql import insert as insert_or_update
from sqlalchemy.ext.asyncio import AsyncConnection

from enrollment_service.domain.errors import Reason, Refusal, course_not_found
from enrollment_service.domain.queries import WaiversQuery
from enrollment_service.domain.records import WAIVABLE, Waiver
from enrollment_service.domain.state import Pair, State, Waivers
from enrollment_service.store.models import CourseRow, WaiverRow
from enrollment_service.store.statements import PIECE, Prepared, bigint, rows_of, text, timestamp
from enrollment_service.store.transactions import DriverConnection

_VALUES = ("expire_time", "create_time", "actor", "sequence")


def _load() -> Prepared:
    pairs = rows_of(student_ids=bigint, course_ids=bigint)
    return Prepared(
        select(
            WaiverRow.student_id, WaiverRow.course_id, WaiverRow.reason, *(getattr(WaiverRow, name) for name in _VALUES)
        )
        .join_from(
            pairs,
            WaiverRow,
            (WaiverRow.course_id == pairs.c.course_ids) & (WaiverRow.student_id == pairs.c.student_ids),
        )
        .order_by(WaiverRow.course_id, WaiverRow.student_id)
    )


def _put() -> Prepared:
    rows = rows_of(
        course_ids=bigint,
        student_ids=bigint,
        reasons=text,
        expire_times=timestamp,
        create_times=timestamp,
        actors=text,
        sequences=bigint,
    )
    put = insert_or_update(WaiverRow).from_select(["course_id", "student_id", "reason", *_VALUES], select(*rows.c))
    return Prepared(
        put.on_conflict_do_update(constraint="pk_waivers", set_={name: getattr(put.excluded, name) for name in _VALUES})
    )


def _take() -> Prepared:
    rows = rows_of(course_ids=bigint, student_ids=bigint, reasons=text)
    key = tuple_(WaiverRow.course_id, WaiverRow.student_id, WaiverRow.reason)
    return Prepared(delete(WaiverRow).where(key.in_(select(*rows.c))))


_load_waivers, _put_waivers, _take_waivers = _load(), _put(), _take()


def batch_statements() -> list[Prepared]:
    """Those that a batch may send."""
    return [_load_waivers, _put_waivers, _take_waivers]


async def load_waivers(connection: DriverConnection, pairs: Sequence[Pair]) -> dict[Pair, Waivers]:
    """The waivers of the pairs of student and course that have any, by the refusal that each lifts."""
    found: dict[Pair, dict[Reason, Waiver]] = {}
    for start in range(0, len(pairs), PIECE):
        student_ids, course_ids = zip(*pairs[start : start + PIECE], strict=True)
        for student_id, course_id, name, *values in await _load_waivers.fetch(
            connection, student_ids=student_ids, course_ids=course_ids
        ):
            reason = Reason(name)
            found.setdefault((student_id, course_id), {})[reason] = Waiver(course_id, student_id, (reason,), *values)
    return dict(found)


async def write_waivers(connection: DriverConnection, state: State) -> None:
    """Writes what a decision changed of waivers, in courses whose seat rows this transaction has locked."""
    put, taken = [], []
    for (student_id, course_id), reason in sorted(state.changed_waivers, key=lambda one: (one[0][::-1], one[1])):
        waiver = state.waivers[student_id, course_id].get(reason)
        if waiver is None:
            taken.append((course_id, student_id, reason))
        else:
            values = (waiver.expire_time, waiver.create_time, waiver.actor, waiver.sequence)
            put.append((course_id, student_id, reason, *values))
    for statement, rows in ((_put_waivers, put), (_take_waivers, taken)):
        for start in range(0, len(rows), PIECE):
            columns = zip(*rows[start : start + PIECE], strict=True)
            await statement.fetch(connection, **dict(zip(_PARAMETERS, columns, strict=False)))


_PARAMETERS = ("course_ids", "student_ids", "reasons", "expire_times", "create_times", "actors", "sequences")


async def list_waivers(connection: AsyncConnection, query: WaiversQuery) -> list[Waiver]:
    """The waivers in a course by student, and by when they were granted.

    Raises:
        Refusal: COURSE_NOT_FOUND.
    """
    exists = select(CourseRow.id).where(CourseRow.id == query.course_id)
    if (await connection.execute(exists)).one_or_none() is None:
        raise Refusal([course_not_found(query.course_id)])
    reasons = func.array_agg(aggregate_order_by(WaiverRow.reason, WaiverRow.reason))
    key = (WaiverRow.student_id, WaiverRow.sequence)
    # All rows of one event have the same of these.
    same = (WaiverRow.expire_time, WaiverRow.create_time, WaiverRow.actor)
    statement = (
        select(WaiverRow.student_id, reasons, *same, WaiverRow.sequence)
        .where(WaiverRow.course_id == query.course_id, tuple_(*key) > query.after)
        .group_by(*key, *same)
        .order_by(*key)
        .limit(query.limit)
    )
    found = []
    for student_id, names, expires, granted, actor, sequence in await connection.execute(statement):
        lifted = tuple(sorted(map(Reason, names), key=WAIVABLE.index))
        found.append(Waiver(query.course_id, student_id, lifted, expires, granted, actor, sequence))
    return found

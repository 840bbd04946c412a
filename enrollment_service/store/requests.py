"""Statements about request ids: claim them, read what a claimed one was answered, record answers, purge old ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import Interval, Text, Uuid, bindparam, cast, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import BYTEA, JSONB
from sqlalchemy.dialects.postgresql import insert as insert_or_skip

from enrollment_service.store.database import DriverConnection
from enrollment_service.store.models import Request
from enrollment_service.store.seats import rows_of
from enrollment_service.store.statements import Prepared, bigint, text

Key = tuple[str, UUID]

_uuid = Uuid()
_bytes = BYTEA()


class Recorded(NamedTuple):
    """What stands under a request_id that another call has used."""

    fingerprint: bytes
    outcome: str


def _claim() -> Prepared:
    rows = rows_of(actors=text, request_ids=_uuid, fingerprints=_bytes)
    return Prepared(
        insert_or_skip(Request)
        .from_select(
            ["actor", "request_id", "fingerprint"], select(*rows.c).order_by(rows.c.actors, rows.c.request_ids)
        )
        .on_conflict_do_nothing()
        .returning(Request.actor, Request.request_id),
        *(each.name for each in rows.c),
    )


def _keys(rows: object) -> object:
    return tuple_(Request.actor, Request.request_id).in_(select(rows.c.actors, rows.c.request_ids))  # type: ignore[attr-defined]


def _read() -> Prepared:
    rows = rows_of(actors=text, request_ids=_uuid)
    statement = select(Request.actor, Request.request_id, Request.fingerprint, cast(Request.outcome, Text))
    return Prepared(statement.where(_keys(rows)), "actors", "request_ids")  # type: ignore[arg-type]


def _record() -> Prepared:
    rows = rows_of(actors=text, request_ids=_uuid, outcomes=text)
    return Prepared(
        update(Request)
        .values(outcome=cast(rows.c.outcomes, JSONB))
        .where(Request.actor == rows.c.actors, Request.request_id == rows.c.request_ids),
        *(each.name for each in rows.c),
    )


def _release() -> Prepared:
    rows = rows_of(actors=text, request_ids=_uuid)
    return Prepared(delete(Request).where(_keys(rows)), "actors", "request_ids")  # type: ignore[arg-type]


def _purge() -> Prepared:
    oldest = (
        select(Request.actor, Request.request_id)
        .where(Request.create_time < func.now() - bindparam("retention", type_=Interval()))
        .order_by(Request.create_time)
        .limit(bindparam("most", type_=bigint))
        .with_for_update(skip_locked=True)
    )
    return Prepared(
        delete(Request).where(tuple_(Request.actor, Request.request_id).in_(oldest)).returning(Request.request_id),
        "retention",
        "most",
    )


_claim_ids = _claim()
_read_recorded = _read()
_record_outcomes = _record()
_release_ids = _release()
_purge_expired = _purge()


async def claim(connection: DriverConnection, fingerprints: Mapping[Key, bytes]) -> dict[Key, Recorded]:
    """Claims the ids for this transaction; waits for other transactions that are claiming the same.

    Returns:
        What was recorded for the ids that could not be claimed, because a call before has used them.
    """
    rows = await _claim_ids.fetch(connection, *_columns(fingerprints), list(fingerprints.values()))
    claimed = {(row["actor"], row["request_id"]) for row in rows}
    lost = [key for key in fingerprints if key not in claimed]
    if not lost:
        return {}
    found = await _read_recorded.fetch(connection, *_columns(lost))
    recorded = {(actor, request_id): Recorded(*kept) for actor, request_id, *kept in found}
    # What was there a moment ago may have been purged since, and is free again.
    free = {key: fingerprints[key] for key in lost if key not in recorded}
    return recorded | await claim(connection, free) if free else recorded


async def record(connection: DriverConnection, outcomes: Mapping[Key, str]) -> None:
    """Stores the answers, as JSON, of claimed ids whose commands took effect."""
    if outcomes:
        await _record_outcomes.fetch(connection, *_columns(outcomes), list(outcomes.values()))


async def release(connection: DriverConnection, keys: Sequence[Key]) -> None:
    """Gives up claimed ids whose commands were refused: a retry is decided anew."""
    if keys:
        await _release_ids.fetch(connection, *_columns(keys))


async def purge(connection: DriverConnection, *, retention: object, most: int) -> int:
    """Deletes up to `most` expired ids, the oldest first; returns how many."""
    return len(await _purge_expired.fetch(connection, retention, most))


def _columns(keys: Iterable[Key]) -> tuple[list[str], list[UUID]]:
    pairs = list(keys)
    return [actor for actor, _ in pairs], [request_id for _, request_id in pairs]

"""Statements about request ids: claim them, read what a claimed one was answered, record answers, purge old ones.

Fingerprints are stored under a key that never leaves the database: a row of `requests` alone says nothing about the
names and addresses in a request, not even to somebody who guesses them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from typing import Any, NamedTuple

from sqlalchemy import Interval, Text, bindparam, cast, delete, func, select, tuple_, update
from sqlalchemy.dialects.postgresql import BYTEA, JSONB
from sqlalchemy.dialects.postgresql import insert as insert_or_skip
from sqlalchemy.sql.expression import ColumnElement

from enrollment_service.domain.commands import RequestKey
from enrollment_service.store.models import FingerprintKeyRow, RequestRow
from enrollment_service.store.statements import Prepared, bigint, rows_of, text, uuid
from enrollment_service.store.transactions import DriverConnection

_bytes = BYTEA()


class Recorded(NamedTuple):
    """What stands under a request_id that another call has used, and whether that was for the same request."""

    is_same: bool
    outcome: str


def _keyed(fingerprint: Any) -> ColumnElement[bytes]:
    """The fingerprint as it is stored.

    A plain hash over key and fingerprint is as good as an HMAC here, because both always have the same length. If the
    key were missing this would be NULL, which the table refuses.
    """
    key = select(FingerprintKeyRow.key).scalar_subquery()
    return func.sha256(key.op("||")(fingerprint))


def _claim() -> Prepared:
    rows = rows_of(actors=text, request_ids=uuid, fingerprints=_bytes)
    return Prepared(
        insert_or_skip(RequestRow)
        .from_select(
            ["actor", "request_id", "fingerprint"],
            select(rows.c.actors, rows.c.request_ids, _keyed(rows.c.fingerprints)).order_by(
                rows.c.actors, rows.c.request_ids
            ),
        )
        .on_conflict_do_nothing()
        .returning(RequestRow.actor, RequestRow.request_id)
    )


def _keys(rows: object) -> object:
    return tuple_(RequestRow.actor, RequestRow.request_id).in_(select(rows.c.actors, rows.c.request_ids))  # type: ignore[attr-defined]


def _read() -> Prepared:
    rows = rows_of(actors=text, request_ids=uuid, fingerprints=_bytes)
    is_same = RequestRow.fingerprint == _keyed(rows.c.fingerprints)
    return Prepared(
        select(RequestRow.actor, RequestRow.request_id, is_same, cast(RequestRow.outcome, Text)).join_from(
            rows,
            RequestRow,
            (RequestRow.actor == rows.c.actors) & (RequestRow.request_id == rows.c.request_ids),
        )
    )


def _record() -> Prepared:
    rows = rows_of(actors=text, request_ids=uuid, outcomes=text)
    return Prepared(
        update(RequestRow)
        .values(outcome=cast(rows.c.outcomes, JSONB))
        .where(RequestRow.actor == rows.c.actors, RequestRow.request_id == rows.c.request_ids)
    )


def _release() -> Prepared:
    rows = rows_of(actors=text, request_ids=uuid)
    return Prepared(delete(RequestRow).where(_keys(rows)))  # type: ignore[arg-type]


def _purge() -> Prepared:
    key = (RequestRow.actor, RequestRow.request_id)
    oldest = (
        select(*key)
        .where(RequestRow.create_time < func.now() - bindparam("retention", type_=Interval()))
        .order_by(RequestRow.create_time)
        .limit(bindparam("limit", type_=bigint))
        .with_for_update(skip_locked=True)
    )
    return Prepared(
        delete(RequestRow)
        .where(tuple_(RequestRow.actor, RequestRow.request_id).in_(oldest))
        .returning(RequestRow.request_id)
    )


_claim_ids = _claim()
_read_recorded = _read()
_record_outcomes = _record()
_release_ids = _release()
_purge_expired = _purge()


def batch_statements() -> list[Prepared]:
    """Those that a batch may send."""
    return [_claim_ids, _read_recorded, _record_outcomes, _release_ids]


async def claim(connection: DriverConnection, fingerprints: Mapping[RequestKey, bytes]) -> dict[RequestKey, Recorded]:
    """Claims the ids for this transaction; waits for other transactions that are claiming the same.

    Returns:
        What was recorded for the ids that could not be claimed, because a call before has used them.
    """
    rows = await _claim_ids.fetch(connection, **_columns(fingerprints), fingerprints=list(fingerprints.values()))
    claimed = {(row["actor"], row["request_id"]) for row in rows}
    lost = [key for key in fingerprints if key not in claimed]
    if not lost:
        return {}
    found = await _read_recorded.fetch(connection, **_columns(lost), fingerprints=[fingerprints[key] for key in lost])
    recorded = {(actor, request_id): Recorded(*kept) for actor, request_id, *kept in found}
    # What was there a moment ago may have been purged since, and is free again.
    free = {key: fingerprints[key] for key in lost if key not in recorded}
    return recorded | await claim(connection, free) if free else recorded


async def record(connection: DriverConnection, outcomes: Mapping[RequestKey, str]) -> None:
    """Stores the answers, as JSON, of claimed ids whose commands took effect."""
    if outcomes:
        await _record_outcomes.fetch(connection, **_columns(outcomes), outcomes=list(outcomes.values()))


async def release(connection: DriverConnection, keys: Sequence[RequestKey]) -> None:
    """Gives up claimed ids whose commands were refused: a retry is decided anew."""
    if keys:
        await _release_ids.fetch(connection, **_columns(keys))


async def confirm_replay(connection: DriverConnection) -> None:
    """Makes a transaction that only repeats answers leave something to flush and to replicate.

    A replay may be acknowledged only when what it repeats is as durable as a fresh commit would be.
    """
    await connection.execute("SELECT pg_logical_emit_message(true, 'enrollment', 'replay')")


async def purge(connection: DriverConnection, *, retention: timedelta, limit: int) -> int:
    """Deletes up to `limit` expired ids, the oldest first; returns how many."""
    return len(await _purge_expired.fetch(connection, retention=retention, limit=limit))


def _columns(keys: Iterable[RequestKey]) -> dict[str, Sequence[object]]:
    pairs = list(keys)
    return {"actors": [actor for actor, _ in pairs], "request_ids": [request_id for _, request_id in pairs]}

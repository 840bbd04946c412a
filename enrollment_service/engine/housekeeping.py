"""What is done in the background, off every call's way: old request ids and old events are forgotten."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from functools import partial

import structlog

from enrollment_service.store import requests
from enrollment_service.store import retention as old_events
from enrollment_service.store.database import Database
from enrollment_service.telemetry import metrics
from enrollment_service.telemetry.logs import describe

log = structlog.get_logger()

# So few at a time that nobody notices.
STEP = 1_000
EVENTS_STEP = 500


async def purge_for_ever(
    database: Database, *, retention: timedelta, event_retention: timedelta | None, interval: float
) -> None:
    """Deletes what is older than its retention, in small steps, about every `interval` seconds.

    Args:
        database: where.
        retention: of request ids.
        event_retention: of events; None: they are kept for ever.
        interval: in seconds.
    """
    metrics.last_purge.set_to_current_time()
    while True:
        # Jittered, so that several servers do not do it together.
        await asyncio.sleep(interval * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        try:
            deleted = await purge_expired(database, retention)
            forgotten = 0 if event_retention is None else await forget_events(database, event_retention)
        except Exception as error:  # noqa: BLE001 - housekeeping never ends the service; it tries again
            log.warning("purge failed", error=describe(error))
            metrics.purges_failed.inc()
            continue
        metrics.purges_done.inc()
        metrics.last_purge.set_to_current_time()
        if deleted:
            log.info("purged request ids", count=deleted)
        if forgotten:
            log.info("forgot old events", count=forgotten)


async def purge_expired(database: Database, retention: timedelta) -> int:
    """Deletes all request ids older than `retention`; returns how many."""
    held = database.hold()
    deleted = 0
    try:
        while True:
            step = await held.transact(partial(requests.purge, retention=retention, limit=STEP))
            deleted += step
            metrics.purged.inc(step)
            if step < STEP:
                return deleted
    finally:
        await held.close()


async def forget_events(database: Database, retention: timedelta) -> int:
    """Deletes the events older than `retention` that nothing rests on; returns how many.

    It happens once a day, by the first server that comes.
    """
    held = database.hold()
    deleted = 0
    try:
        if not await held.transact(partial(old_events.advance, retention=retention)):
            return 0
        reached: old_events.Reached | None = old_events.START
        while reached is not None:
            reached, step = await held.transact(partial(old_events.purge, after=reached, most=EVENTS_STEP))
            deleted += step
        return deleted
    finally:
        await held.close()

"""What is done in the background, off every call's way.

Old request ids and old events are forgotten, and waiters get the seats that a clock which was set back has made theirs.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from datetime import timedelta
from functools import partial

import structlog

from enrollment_service.domain.commands import UpdateCourse
from enrollment_service.domain.errors import Refusal
from enrollment_service.engine.writer import Writer
from enrollment_service.store import courses, requests
from enrollment_service.store import retention as old_events
from enrollment_service.store.database import Database
from enrollment_service.telemetry import metrics
from enrollment_service.telemetry.logs import describe

log = structlog.get_logger()

# So few at a time that nobody notices.
STEP = 1_000
EVENTS_STEP = 500
# With the jitter never more than a minute.
SETTLE_SECONDS = 35.0


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


async def settle_for_ever(database: Database, writer: Writer) -> None:
    """Gives free seats to those who wait beside them, twice a minute or so."""
    while True:
        await asyncio.sleep(SETTLE_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        try:
            settled = await settle(database, writer)
        except Exception as error:  # noqa: BLE001 - housekeeping never ends the service; it tries again
            log.warning("looking for free seats failed", error=describe(error))
            continue
        if settled:
            log.warning("waiters were promoted late; was the clock of the database set back?", courses=settled)


async def settle(database: Database, writer: Writer) -> int:
    """Gives the free seats of every course to those who wait beside them; returns of how many courses.

    A command does this for the courses that it locks. Here are those that nobody has called for since the clock of the
    database was set back past their close time.
    """
    held = database.hold()
    try:
        found = await held.read(lambda connection: courses.find_unsettled(connection, database.clock, STEP))
    finally:
        await held.close()
    for course_id in found:
        # Changing nothing promotes whom it can; a course that has been deleted meanwhile has no waiters.
        with contextlib.suppress(Refusal):
            await writer.submit(UpdateCourse(course_id=course_id, changes={}))
    return len(found)

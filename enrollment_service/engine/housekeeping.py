"""What is done in the background, off every call's way: old request ids are forgotten."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta
from functools import partial

import structlog

from enrollment_service.store import requests
from enrollment_service.store.database import Database
from enrollment_service.telemetry import metrics
from enrollment_service.telemetry.logs import describe

log = structlog.get_logger()

# So few at a time that nobody notices.
STEP = 1_000


async def purge_for_ever(database: Database, *, retention: timedelta, interval: float) -> None:
    """Deletes request ids older than `retention`, in small steps, about every `interval` seconds."""
    metrics.last_purge.set_to_current_time()
    while True:
        # Jittered, so that several servers do not do it together.
        await asyncio.sleep(interval * random.uniform(0.5, 1.5))  # noqa: S311 - no secret
        try:
            deleted = await purge_expired(database, retention)
        except Exception as error:  # noqa: BLE001 - housekeeping never ends the service; it tries again
            log.warning("purge failed", error=describe(error))
            metrics.purges_failed.inc()
            continue
        metrics.purges_done.inc()
        metrics.last_purge.set_to_current_time()
        if deleted:
            log.info("purged request ids", count=deleted)


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

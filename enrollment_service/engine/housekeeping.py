"""What is done in the background, off every call's way: old request ids are forgotten."""

from __future__ import annotations

import asyncio
import random
from datetime import timedelta

import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from enrollment_service.store.database import Lane
from enrollment_service.store.requests import purge
from enrollment_service.telemetry.logs import describe

log = structlog.get_logger()

# So few at a time that nobody notices.
STEP = 1_000


async def purge_for_ever(engine: AsyncEngine, *, retention: timedelta, interval: float) -> None:
    """Deletes request ids older than `retention`, in small steps, about every `interval` seconds."""
    while True:
        # Jittered, so that several servers do not do it together.
        await asyncio.sleep(interval * random.uniform(0.5, 1.5))
        try:
            deleted = await purge_expired(engine, retention)
        except Exception as error:  # noqa: BLE001 - housekeeping never ends the service; it tries again
            log.warning("purge failed", error=describe(error))
            continue
        if deleted:
            log.info("purged request ids", count=deleted)


async def purge_expired(engine: AsyncEngine, retention: timedelta) -> int:
    """Deletes all request ids older than `retention`; returns how many."""
    lane = Lane(engine)
    deleted = 0
    try:
        while True:
            async with lane.transaction() as connection:
                step = await purge(connection, retention=retention, most=STEP)
            deleted += step
            if step < STEP:
                return deleted
    finally:
        await lane.close()

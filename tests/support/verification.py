"""What `verify` says about a database of a test, by the test's own clock where it has one."""

from __future__ import annotations

from enrollment_service.store.checks import Finding, verify
from enrollment_service.store.database import Database
from tests.support.databases import connected
from tests.support.services import settings_for


async def wrong_in(url: str) -> list[Finding]:
    """The promises that the database breaks."""
    async with connected(url) as connection:
        has_clock = await connection.fetchval("SELECT to_regclass('test_clock') IS NOT NULL")
        now = await connection.fetchval("SELECT now FROM test_clock") if has_clock else None
    database = Database(settings_for(url))
    try:
        return await verify(database, now)
    finally:
        await database.close()

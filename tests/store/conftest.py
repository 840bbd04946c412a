"""Fixtures of the store's tests."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from tests.support.databases import PostgresServer, connected
from tests.support.migrated import Migrated


@pytest.fixture
async def empty(postgres_server: PostgresServer) -> AsyncIterator[Migrated]:
    """A database without any table."""
    async with postgres_server.database() as url, connected(url) as connection:
        yield Migrated(url, connection)

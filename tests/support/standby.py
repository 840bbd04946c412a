"""A PostgreSQL that is to be lost, and a standby that follows it asynchronously and is to take over."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from dev.postgres import EmbeddedPostgres
from dev.programs import EmbeddedPostgresError
from tests.support.databases import PATIENCE, Connection, connected, destroyed, kill, migrate, temporary_folder


class Pair:
    """The two servers, with a migrated database."""

    def __init__(self, primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
        self.primary = primary
        self.standby = standby

    async def part(self) -> None:
        """Lets the standby catch up, then cuts it off: what is committed from now on never reaches it."""
        async with connected(self.primary.url) as here, connected(self.standby.url) as there:
            position = await here.fetchval("SELECT pg_current_wal_flush_lsn()::text")
            await until(there, f"SELECT pg_last_wal_replay_lsn() >= '{position}'")
            await there.execute("ALTER SYSTEM SET primary_conninfo = ''")
            await there.execute("SELECT pg_reload_conf()")
            await until(there, "SELECT NOT EXISTS (SELECT FROM pg_stat_wal_receiver)")

    async def fail_over(self) -> None:
        """The primary is lost, and the standby takes its place."""
        kill(self.primary)
        async with connected(self.standby.url) as there:
            assert await there.fetchval("SELECT pg_promote()")


@contextmanager
def primary_and_standby() -> Iterator[Pair]:
    """Both run, and the standby follows."""
    with (
        temporary_folder() as folder,
        destroyed(EmbeddedPostgres(folder / "primary")) as primary,
        destroyed(EmbeddedPostgres(folder / "standby")) as standby,
    ):
        try:
            migrate(primary.ensure_running())
            copy(primary, standby)
            standby.ensure_running()
        except EmbeddedPostgresError as error:
            pytest.skip(f"no PostgreSQL of the test's own: {error}")
        yield Pair(primary, standby)


def copy(primary: EmbeddedPostgres, standby: EmbeddedPostgres) -> None:
    """Makes the files of a standby, which will follow as soon as it is started."""
    folder = standby._server
    folder.mkdir(mode=0o700, parents=True)
    standby._programs.give(folder)
    where = [f"--dbname={primary.url}", f"--pgdata={standby._cluster}"]
    standby._programs.run("pg_basebackup", *where, "--write-recovery-conf", "--checkpoint=fast", "--no-sync")
    shutil.copy(primary.home / "password", standby.home)


async def until(connection: Connection, fact: str) -> None:
    """Returns once something is so."""
    async with asyncio.timeout(PATIENCE):
        while not await connection.fetchval(fact):  # noqa: ASYNC110 - the database announces nothing
            await asyncio.sleep(0.01)

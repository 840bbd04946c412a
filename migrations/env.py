"""Runs the migrations: one migrator at a time, on the configured database, never waiting long for a table lock."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Iterator
from functools import partial

from alembic import context
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from enrollment_service.settings import Settings
from enrollment_service.store.connect import Password, connect
from enrollment_service.store.models import Base, Xid8
from enrollment_service.store.rights import grant, grant_no_more, granted_roles

# Any number, as long as every migrator uses the same.
ADVISORY_LOCK = 7_205_011_964
LONGEST_WAIT = 300.0
POLL = 0.2
CONNECT_TIMEOUT = 10.0


@contextlib.contextmanager
def database() -> Iterator[tuple[str, Password]]:
    """The URL and the password: the caller's, those of the settings, or in a checkout those of the embedded database.

    The embedded one runs for as long as the block lasts.

    Raises:
        CommandError: there is none of these.
    """
    if given := context.config.attributes.get("database_url"):
        yield given, context.config.attributes.get("password")
        return
    settings = Settings()
    if settings.database_url:
        yield settings.database_url, settings.password
        return
    try:
        from dev.postgres import EmbeddedPostgres
    except ModuleNotFoundError as error:
        raise CommandError("Set ENROLLMENT_DATABASE_URL to postgresql://user:password@host:port/database.") from error
    with EmbeddedPostgres() as postgres:
        yield postgres.url, None


def take_turn(connection: Connection) -> None:
    """Waits until no other migrator is at work; polls, because a waiting lock would itself block others' DDL."""
    deadline = time.monotonic() + LONGEST_WAIT
    while not connection.execute(text("SELECT pg_try_advisory_lock(:key)"), {"key": ADVISORY_LOCK}).scalar_one():
        if time.monotonic() > deadline:
            raise CommandError("another migration has been running for too long")
        time.sleep(POLL)


def migrate(connection: Connection) -> None:
    """Brings the schema to the wanted revision, with the rights of those who serve on it, in one transaction."""
    connection.execute(text("SET lock_timeout = '5s'"))
    take_turn(connection)
    connection.commit()
    # SQLAlchemy does not know the type, and would warn of it whenever models and tables are compared.
    connection.dialect.ischema_names["xid8"] = Xid8  # type: ignore[attr-defined]
    steps: list[str] = []
    context.configure(
        connection=connection,
        target_metadata=Base.metadata,
        compare_type=True,
        compare_server_default=True,
        on_version_apply=lambda *, step, **_: steps.append(str(step)),
    )
    try:
        with context.begin_transaction():
            context.run_migrations()
            if steps:
                for role in granted_roles(connection):
                    grant(connection, role)
            if app_role := context.config.attributes.get("app_role"):
                grant_no_more(connection, app_role)
    finally:
        connection.rollback()
        connection.execute(text("SELECT pg_advisory_unlock(:key)"), {"key": ADVISORY_LOCK})
        connection.commit()


async def online(url: str, password: Password) -> None:
    """Connects and migrates."""
    creator = partial(connect, url, password=password, timeout_seconds=CONNECT_TIMEOUT, server_settings={})
    engine = create_async_engine(
        "postgresql+asyncpg://", async_creator=creator, poolclass=NullPool, hide_parameters=True
    )
    async with engine.connect() as connection:
        await connection.run_sync(migrate)
    await engine.dispose()


def offline() -> None:
    """Prints the SQL instead of running it (`alembic upgrade head --sql`)."""
    context.configure(dialect_name="postgresql", target_metadata=Base.metadata, literal_binds=True)
    with context.begin_transaction():
        context.run_migrations()


if context.is_offline_mode():
    offline()
else:
    with database() as (url, password):
        asyncio.run(online(url, password))

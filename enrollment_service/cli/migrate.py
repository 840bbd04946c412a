"""The command `migrate`: Alembic up to the newest revision, on the database of the settings.

The migrations lie at the top of a checkout, and in the package where it is installed from a wheel. `alembic.ini` is
for the command `alembic` in a checkout; nothing here needs it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import click

from enrollment_service.cli.configuration import read_settings_with_database
from enrollment_service.cli.endings import FAILED, end, explained
from enrollment_service.settings import Settings
from enrollment_service.telemetry import logs

PACKAGE = Path(__file__).resolve().parents[1]


@click.command()
@click.option("--app-role", metavar="ROLE", help="Also give this role the rights to serve, and no others; needed once.")
def migrate(app_role: str | None) -> None:
    """Bring the database to the schema this version needs.

    Roles that were given the rights to serve before also get those on new tables.
    """
    from alembic.util import CommandError

    settings = read_settings_with_database()
    logs.configure(settings.log_level)
    try:
        with explained(FAILED):
            asyncio.run(_look_first(settings))
            run_migrations(settings.database_url, settings.password, app_role)
    except CommandError as error:
        end(str(error), FAILED)


async def _look_first(settings: Settings) -> None:
    """Ends well where there is something to migrate, or nothing left to do."""
    from enrollment_service.store.database import Database, OlderSchemaError

    database = Database(settings)
    try:
        with suppress(OlderSchemaError):
            await database.check_schema()
        await database.check_may_migrate()
    finally:
        await database.close()


def run_migrations(database_url: str, password: Callable[[], str] | None = None, app_role: str | None = None) -> None:
    """Runs Alembic up to the newest revision; the same as `alembic upgrade head`.

    Args:
        database_url: what to migrate, as the owner of the schema.
        password: gives the password where the URL has none.
        app_role: the role that is to serve, if it is new.
    """
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", f"{_migrations()}".replace("%", "%%"))  # a % is configparser's own
    config.attributes["database_url"] = database_url
    config.attributes["password"] = password
    config.attributes["app_role"] = app_role
    command.upgrade(config, "head")


def _migrations() -> Path:
    installed = PACKAGE / "migrations"
    return installed if installed.is_dir() else PACKAGE.with_name("migrations")

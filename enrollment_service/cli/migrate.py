"""The command `migrate`: Alembic up to the newest revision, on the database of the settings."""

from __future__ import annotations

from pathlib import Path

import click

from enrollment_service.cli.configuration import read_settings_with_database
from enrollment_service.telemetry import logs

PROJECT = Path(__file__).resolve().parents[2]


@click.command()
def migrate() -> None:
    """Bring the database to the schema this version needs."""
    settings = read_settings_with_database()
    logs.configure(settings.log_level)
    run_migrations(settings.database_url)


def run_migrations(database_url: str) -> None:
    """Runs Alembic up to the newest revision; the same as `alembic upgrade head`."""
    from alembic import command
    from alembic.config import Config

    config = Config(PROJECT / "alembic.ini")
    config.attributes["database_url"] = database_url
    command.upgrade(config, "head")

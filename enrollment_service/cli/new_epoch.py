"""The command `new-epoch`: after a restore of the database, makes the event log one that can be followed again."""

from __future__ import annotations

import asyncio

import click

from enrollment_service.cli.configuration import read_settings_with_database
from enrollment_service.cli.endings import FAILED, explained
from enrollment_service.settings import Settings


@click.command("new-epoch")
def new_epoch() -> None:
    """Make a restored event log one that can be followed, and let all resume tokens expire.

    As the owner of the tables, with the service stopped. It writes every event anew.
    """
    settings = read_settings_with_database()
    with explained(FAILED):
        asyncio.run(_give(settings))


async def _give(settings: Settings) -> None:
    from enrollment_service.store.database import Database

    database = Database(settings)
    try:
        await database.check_schema()
        await database.give_new_epoch()
    finally:
        await database.close()
    click.echo("The event log has a new epoch; all resume tokens have expired.")

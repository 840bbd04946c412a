"""The command `verify`: runs every check of `store/checks.py` on the live database and prints what it finds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from enrollment_service.cli.configuration import read_settings_with_database
from enrollment_service.cli.endings import explained
from enrollment_service.settings import Settings

if TYPE_CHECKING:
    from enrollment_service.store.checks import Check, Finding

# The exit statuses, beside that of a database which can never be checked as it is (`endings.UNUSABLE`).
FINE, BROKEN, UNCHECKED = 0, 1, 2


@click.command()
def verify() -> None:
    """Check every promise on the live database; exit status 1 if one is broken, with the ids."""
    settings = read_settings_with_database()
    with explained(UNCHECKED):
        sys.exit(asyncio.run(_verify(settings)))


async def _verify(settings: Settings) -> int:
    from enrollment_service.store.checks import results
    from enrollment_service.store.database import Database

    database = Database(settings)
    try:
        await database.check_schema()
        return await _print(results(database))
    finally:
        await database.close()


async def _print(results: AsyncGenerator[tuple[Check, Finding | None], None]) -> int:
    from enrollment_service.store.checks import CHECKS

    wrong = 0
    width = max(len(check.name) for check in CHECKS)
    async with aclosing(results):
        async for check, finding in results:
            click.echo(f"{check.name:{width}}  {'ok' if finding is None else f'WRONG  {check.promise} {finding}'}")
            wrong += finding is not None
    click.echo(f"{len(CHECKS)} checks, {wrong} found something wrong.")
    return BROKEN if wrong else FINE

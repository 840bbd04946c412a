"""The command `verify`: runs every check of `store/checks.py` on the live database and prints what it finds."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import TYPE_CHECKING

import click

from enrollment_service.cli.configuration import read_settings_with_database
from enrollment_service.settings import Settings

if TYPE_CHECKING:
    from enrollment_service.store.checks import Check, Finding

# The exit statuses.
FINE, BROKEN, UNCHECKED = 0, 1, 2


@click.command()
def verify() -> None:
    """Check every promise on the live database; exit status 1 if one is broken, with the ids."""
    sys.exit(asyncio.run(_verify(read_settings_with_database())))


async def _verify(settings: Settings) -> int:
    from enrollment_service.store.checks import results
    from enrollment_service.store.database import SCHEMA_REVISION, Database
    from enrollment_service.store.faults import Fault, fault_of

    database = Database(settings)
    try:
        revision = await database.schema_revision()
        if revision != SCHEMA_REVISION:
            click.echo(f"The database has schema revision {revision or 'none'}, this version checks {SCHEMA_REVISION}.")
            return UNCHECKED
        return await _print(results(database))
    except Exception as error:
        if fault_of(error) is Fault.OTHER:
            raise
        click.echo("The database does not answer.")
        return UNCHECKED
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

"""The command `roles`: the database's two roles, set up by an administrator."""

from __future__ import annotations

import asyncio
from pathlib import Path

import click

from enrollment_service.cli.configuration import read_settings_with_database
from enrollment_service.cli.endings import FAILED, UNUSABLE, end, explained
from enrollment_service.settings import SecretFileError, read_secret

_PASSWORD_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command()
@click.argument("migrator")
@click.argument("app")
@click.option("--migrator-password-file", type=_PASSWORD_FILE, help="The migrator's password from now on.")
@click.option("--app-password-file", type=_PASSWORD_FILE, help="The app role's password from now on.")
def roles(migrator: str, app: str, migrator_password_file: Path | None, app_password_file: Path | None) -> None:
    """Set up two roles: MIGRATOR, to own the schema, and APP, to serve as.

    For an administrator of the database of ENROLLMENT_DATABASE_URL. Roles that are there stay, and keep their
    passwords where no file is given.
    """
    from enrollment_service.store.roles import Login, set_up_roles

    settings = read_settings_with_database()
    logins = Login(migrator, _password(migrator_password_file)), Login(app, _password(app_password_file))
    with explained(FAILED):
        asyncio.run(set_up_roles(settings, *logins))


def _password(file: Path | None) -> str | None:
    if file is None:
        return None
    try:
        return read_secret(file, "a password's file")
    except SecretFileError as error:
        end(str(error), UNUSABLE)

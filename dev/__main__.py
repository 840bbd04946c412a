"""`python -m dev`: the service with a database that is there and migrated, in the dev profile; what `make run` calls.

The database is the embedded one, or that of ENROLLMENT_DATABASE_URL. `python -m dev migrate` only migrates it. Both
set the environment up and then run the service's own commands, so there is no second way to migrate or to serve.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import click

from dev.first_calls import command_lines
from dev.postgres import EmbeddedPostgres
from enrollment_service.cli.configuration import read_settings
from enrollment_service.cli.endings import FAILED, end
from enrollment_service.cli.main import cli as service
from enrollment_service.settings import Settings, reachable


@click.group(invoke_without_command=True)
@click.option("--rest", is_flag=True, help="Also serve REST and gRPC-Web, on ENROLLMENT_REST_LISTEN.")
@click.pass_context
def cli(context: click.Context, *, rest: bool) -> None:
    """Migrate, show what to call, and serve in the dev profile until SIGTERM."""
    if context.invoked_subcommand is not None:
        return
    with database() as settings, door(settings) if rest else contextlib.nullcontext():
        service(["migrate"], standalone_mode=False)
        click.echo("Try it from another terminal:", err=True)
        for line in command_lines(settings.address):
            click.echo(f"  {line}", err=True)
        service(["serve"], standalone_mode=False)


@cli.command()
def migrate() -> None:
    """Only migrate the database."""
    with database():
        service(["migrate"], standalone_mode=False)


@contextlib.contextmanager
def database() -> Iterator[Settings]:
    """Sets the environment to the dev profile and to a database that runs inside the block."""
    os.environ["ENROLLMENT_PROFILE"] = "dev"
    settings = read_settings(secrets=True)  # what does not fit is said before anything is started
    if settings.database_url:
        yield settings
        return
    with EmbeddedPostgres() as postgres:
        os.environ["ENROLLMENT_DATABASE_URL"] = postgres.url
        yield read_settings(secrets=True)


@contextlib.contextmanager
def door(settings: Settings) -> Iterator[None]:
    """REST inside the block, in front of the service."""
    from dev.door import DoorError, listen_address, open_door

    try:
        listen = listen_address()
        with open_door(listen, settings.address):
            click.echo(
                f"REST is on http://{reachable(listen)}, and http://{reachable(listen)}/docs explains it.", err=True
            )
            yield
    except DoorError as error:
        end(str(error), FAILED)


if __name__ == "__main__":
    cli(prog_name="python -m dev")

"""The command line: serve, migrate, health, verify, dev. `python -m enrollment_service --help` lists it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import click
from pydantic import ValidationError

from enrollment_service.cli.call import call
from enrollment_service.settings import Settings
from enrollment_service.telemetry import logs

PROJECT = Path(__file__).resolve().parents[2]
FIRST_CALLS = {
    "CreateStudent": '{"student": {"full_name": "Ann Lee", "email": "ann@example.org"}}',
    "CreateCourse": '{"course": {"code": "ART-1", "title": "Drawing", "capacity": 30}}',
    "EnrollStudent": '{"student_id": 1, "course_ids": [1]}',
}


# Nothing here forks while gRPC runs; its handlers for that would only cost time and print warnings.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "0")


def read_settings(**overrides: object) -> Settings:
    """The settings from the environment; exits with a readable message where they do not fit."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(["ENROLLMENT", *(str(part).upper() for part in problem["loc"])]) if problem["loc"] else ""
            said = problem["msg"].removeprefix("Value error, ")
            click.echo(f"{name + ': ' if name else ''}{said}", err=True)
        sys.exit(2)


def _need_database(settings: Settings) -> Settings:
    if not settings.database_url:
        click.echo("Set ENROLLMENT_DATABASE_URL, or run `make run` for a server with a database of its own.", err=True)
        sys.exit(2)
    return settings


@click.group()
def cli() -> None:
    """Enrollment Service: students, courses, and who sits in which course."""


cli.add_command(call)


@cli.command()
def serve() -> None:
    """Serve until SIGTERM, in ENROLLMENT_WORKERS processes."""
    run_server(_need_database(read_settings()))


@cli.command(hidden=True)
def worker() -> None:
    """Serve as one of several processes; ends when the process that started it does."""
    _serve_here(_need_database(read_settings()), ends_with_parent=True)


@cli.command()
def migrate() -> None:
    """Bring the database to the schema this version needs."""
    settings = read_settings()
    logs.configure(settings.log_level)
    run_migrations(settings.database_url)


@cli.command()
@click.option("--timeout", default=3.0, show_default=True, help="Seconds to wait for the answer.")
def health(timeout: float) -> None:
    """Ask the server on ENROLLMENT_LISTEN whether it serves; exit status 0 if so."""
    from enrollment_service.cli.health import check

    sys.exit(check(read_settings().address, timeout))


@cli.command()
def verify() -> None:
    """Check every promise on the live database; exit status 1 if one is broken, with the ids."""
    from enrollment_service.store.checks import report

    sys.exit(asyncio.run(report(_need_database(read_settings()), click.echo)))


@cli.command("import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--waitlist", is_flag=True, help="Rows that find a course full join its waitlist.")
@click.option("--chunk-size", type=click.IntRange(1, 10_000), default=5_000, show_default=True, help="Rows per chunk.")
@click.option("--rejected", type=click.Path(dir_okay=False, path_type=Path), help="Write rejected rows to this CSV.")
def import_(file: Path, waitlist: bool, chunk_size: int, rejected: Path | None) -> None:
    """Enroll the rows of a CSV FILE (student_id,course_id) through the server on ENROLLMENT_LISTEN.

    Exit status 0 if every row is enrolled or waitlisted now, 1 if rows were rejected.
    """
    from enrollment_service.cli.importer import run

    sys.exit(run(file, read_settings().address, waitlist=waitlist, chunk_size=chunk_size, rejected=rejected))


@cli.command()
def dev() -> None:
    """Serve in the dev profile on an embedded PostgreSQL (or on ENROLLMENT_DATABASE_URL), migrated first."""
    settings = read_settings(profile="dev")
    if settings.database_url:
        _serve_for_development(settings)
        return
    from dev.postgres import EmbeddedPostgres

    with EmbeddedPostgres() as postgres:
        _serve_for_development(read_settings(profile="dev", database_url=postgres.url))


def _serve_for_development(settings: Settings) -> None:
    run_migrations(settings.database_url)
    click.echo("Try it from another terminal:", err=True)
    for method, request in FIRST_CALLS.items():
        # In another terminal ENROLLMENT_LISTEN may not be set.
        elsewhere = "" if settings.address == "127.0.0.1:50051" else f" --address {settings.address}"
        click.echo(f"  .venv/bin/python -m enrollment_service call {method} '{request}'{elsewhere}", err=True)
    run_server(settings)


def run_server(settings: Settings) -> None:
    """Serves until it is told to stop: in this process, or in several that this one watches."""
    if settings.workers == 1:
        _serve_here(settings)
        return
    import asyncio

    from enrollment_service.cli.workers import supervise

    # Workers read their settings from the environment.
    os.environ["ENROLLMENT_PROFILE"] = settings.profile
    os.environ["ENROLLMENT_DATABASE_URL"] = settings.database_url
    buffer = logs.configure(settings.log_level)
    try:
        sys.exit(asyncio.run(supervise(settings)))
    except OSError as error:
        click.echo(f"cannot serve on {settings.listen}: {error.strerror}", err=True)
        sys.exit(1)
    finally:
        buffer.flush()


def _serve_here(settings: Settings, *, ends_with_parent: bool = False) -> None:
    import uvloop

    from enrollment_service.app import WrongSchemaError
    from enrollment_service.app import serve as serve_until_stopped
    from enrollment_service.cli.workers import UNUSABLE

    buffer = logs.configure(settings.log_level)
    try:
        uvloop.run(serve_until_stopped(settings, ends_with_parent=ends_with_parent))
    except WrongSchemaError as error:
        click.echo(str(error), err=True)
        sys.exit(UNUSABLE)
    except RuntimeError as error:
        if "bind" not in str(error).lower():
            raise
        click.echo(f"cannot serve on {settings.listen}: the address is in use or not ours", err=True)
        sys.exit(1)
    finally:
        buffer.flush()


def run_migrations(database_url: str) -> None:
    """Runs Alembic up to the newest revision; the same as `alembic upgrade head`."""
    from alembic import command
    from alembic.config import Config

    config = Config(PROJECT / "alembic.ini")
    config.attributes["database_url"] = database_url
    command.upgrade(config, "head")


if __name__ == "__main__":
    cli(prog_name="python -m enrollment_service")

"""The command line: serve, migrate, health, dev. `python -m enrollment_service --help` lists it."""

from __future__ import annotations

import sys
from pathlib import Path

import click
from pydantic import ValidationError

from enrollment_service import logs
from enrollment_service.settings import Settings

PROJECT = Path(__file__).resolve().parent.parent
FIRST_CALLS = {
    "CreateStudent": '{"student": {"full_name": "Ann Lee", "email": "ann@example.org"}}',
    "CreateCourse": '{"course": {"code": "ART-1", "title": "Drawing", "capacity": 30}}',
    "EnrollStudent": '{"student_id": 1, "course_ids": [1]}',
}


def read_settings(**overrides: object) -> Settings:
    """The settings from the environment; exits with a readable message where they do not fit."""
    try:
        return Settings(**overrides)  # type: ignore[arg-type]
    except ValidationError as error:
        for problem in error.errors():
            name = "_".join(["ENROLLMENT", *(str(part).upper() for part in problem["loc"])]) if problem["loc"] else ""
            click.echo(f"{name + ': ' if name else ''}{problem['msg']}", err=True)
        sys.exit(2)


def _need_database(settings: Settings) -> Settings:
    if not settings.database_url:
        click.echo("Set ENROLLMENT_DATABASE_URL, or run `make run` for a server with a database of its own.", err=True)
        sys.exit(2)
    return settings


@click.group()
def cli() -> None:
    """Enrollment Service: students, courses, and who sits in which course."""


@cli.command()
def serve() -> None:
    """Serve until SIGTERM."""
    run_server(_need_database(read_settings()))


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
    from enrollment_service.health import check

    sys.exit(check(read_settings().listen, timeout))


@cli.command()
def dev() -> None:
    """Serve in the dev profile on an embedded PostgreSQL (or on ENROLLMENT_DATABASE_URL), migrated first."""
    settings = read_settings(profile="dev")
    if settings.database_url:
        _serve_for_development(settings)
        return
    from enrollment_service.embedded import EmbeddedPostgres

    with EmbeddedPostgres() as postgres:
        _serve_for_development(read_settings(profile="dev", database_url=postgres.url))


def _serve_for_development(settings: Settings) -> None:
    run_migrations(settings.database_url)
    address = settings.listen.replace("0.0.0.0:", "127.0.0.1:")
    click.echo("Try it from another terminal:", err=True)
    for method, request in FIRST_CALLS.items():
        click.echo(f"  grpcurl -plaintext -d '{request}' {address} enrollment.v1.EnrollmentService/{method}", err=True)
    run_server(settings)


def run_server(settings: Settings) -> None:
    """Serves in this process until it is told to stop."""
    import uvloop

    from enrollment_service.server import WrongSchemaError
    from enrollment_service.server import serve as serve_until_stopped

    buffer = logs.configure(settings.log_level)
    try:
        uvloop.run(serve_until_stopped(settings))
    except WrongSchemaError as error:
        click.echo(str(error), err=True)
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

"""The settings of a command: where they do not fit, it ends with exit status 2 and a message, never a traceback."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import NoReturn

import click
from pydantic import ValidationError

from enrollment_service.settings import Settings

UNFIT = 2


def read_settings() -> Settings:
    """The settings from the environment."""
    try:
        return Settings()
    except ValidationError as error:
        _end(*_problems(error))


def read_settings_with_database() -> Settings:
    """The same for commands that need a database."""
    settings = read_settings()
    if not settings.database_url:
        _end(
            "Set ENROLLMENT_DATABASE_URL to postgresql://user:password@host:port/database. "
            "In a checkout, `make run` brings a database of its own."
        )
    return settings


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        said = problem["msg"].removeprefix("Value error, ")
        name = "_".join(["ENROLLMENT", *(str(part).upper() for part in problem["loc"])])
        yield f"{name}: {said}" if problem["loc"] else said


def _end(*lines: str) -> NoReturn:
    for line in lines:
        click.echo(line, err=True)
    sys.exit(UNFIT)

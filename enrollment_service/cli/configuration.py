"""The settings of a command: where they do not fit, it ends with exit status 2 and a message, never a traceback."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from functools import cache
from typing import Any, NoReturn

import click
from pydantic import ValidationError

from enrollment_service.cli.endings import UNUSABLE, end
from enrollment_service.settings import PREFIX, SecretFileError, Settings

UNFIT = 2


# The folder of the embedded PostgreSQL and the address for REST, which `dev/` reads before it runs these commands.
DEVELOPMENT = {"ENROLLMENT_DATA_DIR", "ENROLLMENT_REST_LISTEN"}


def read_settings(*, warn: bool = True, secrets: bool = False) -> Settings:
    """The settings from the environment; what there only looks like one is warned of.

    Args:
        warn: whether to warn.
        secrets: whether to read the secrets that are in files. Who only calls a server needs none, and may not be
            allowed to.
    """
    if warn:
        _warn_of_unknown()
    unread: dict[str, Any] = {} if secrets else dict.fromkeys(f"{name}_file" for name in Settings.secrets())
    try:
        return Settings(**unread)
    except SecretFileError as error:
        end(str(error), UNUSABLE)
    except ValidationError as error:
        _end(*_problems(error))


def read_settings_with_database(*, warn: bool = True) -> Settings:
    """The same for commands that need a database."""
    settings = read_settings(warn=warn, secrets=True)
    if not settings.database_url:
        _end(
            "Set ENROLLMENT_DATABASE_URL to postgresql://user:password@host:port/database. "
            "In a checkout, `make run` brings a database of its own."
        )
    return settings


def read_settings_to_serve(*, warn: bool = True) -> Settings:
    """The same for a server, which must not be open to anybody by mistake."""
    settings = read_settings_with_database(warn=warn)
    if problems := list(settings.problems_of_serving()):
        _end(*problems)
    return settings


@cache
def _warn_of_unknown() -> None:
    """Once per process: `make run` runs several commands in one."""
    known = Settings.variables() | DEVELOPMENT
    for name in sorted(os.environ):
        if name.upper().startswith(PREFIX) and name.upper() not in known:
            click.echo(f"{name} is not a setting and has no effect{_hint(name, known)}", err=True)


def _hint(name: str, known: set[str]) -> str:
    from difflib import get_close_matches

    names = {candidate.removeprefix(PREFIX): candidate for candidate in known}
    close = get_close_matches(name.upper().removeprefix(PREFIX), names, n=1)
    return f"; did you mean {names[close[0]]}?" if close else ""


def _problems(error: ValidationError) -> Iterator[str]:
    for problem in error.errors():
        said = problem["msg"].removeprefix("Value error, ")
        name = "_".join(["ENROLLMENT", *(str(part).upper() for part in problem["loc"])])
        yield f"{name}: {said}" if problem["loc"] else said


def _end(*lines: str) -> NoReturn:
    for line in lines:
        click.echo(line, err=True)
    sys.exit(UNFIT)

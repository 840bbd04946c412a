"""How a command ends that cannot do its work: one line on standard error, and an exit status to act on."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NoReturn

import click

# It may work another time.
FAILED = 1
# The settings, the rights or the schema are wrong: started again, it would end the same way (EX_CONFIG).
UNUSABLE = 78


def end(line: str, status: int) -> NoReturn:
    """Ends the command."""
    click.echo(line, err=True)
    sys.exit(status)


@contextmanager
def explained(status: int | None = None) -> Iterator[None]:
    """Work with the database and with files of the settings goes inside; where it cannot be done, the command ends.

    Args:
        status: how to end where the database fails in a way that may pass; by default such errors are raised on.
    """
    from enrollment_service.api.auth.files import UnusableFileError
    from enrollment_service.store.database import WrongSchemaError
    from enrollment_service.store.faults import Fault, explanation_of, facts_of

    try:
        yield
    except (WrongSchemaError, UnusableFileError) as error:
        end(str(error), UNUSABLE)
    except Exception as error:
        facts = facts_of(error)
        if facts["fault"] == Fault.MISCONFIGURED.name:
            end(explanation_of(error), UNUSABLE)
        ours = facts["fault"] == Fault.OTHER.name and "sqlstate" not in facts
        if ours or status is None:
            raise
        end(explanation_of(error), status)

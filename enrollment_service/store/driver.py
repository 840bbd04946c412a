"""The driver's connection as this service has it."""

from __future__ import annotations

from typing import Any

import asyncpg
from asyncpg.prepared_stmt import PreparedStatement


class DriverConnection(asyncpg.Connection):
    """A connection with what has been prepared on it, by statement.

    The driver's own cache would not do: it forgets each statement five minutes after it was prepared.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.prepared: dict[object, PreparedStatement] = {}

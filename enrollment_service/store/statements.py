"""Statements written in SQLAlchemy Core against the models, compiled once, sent on a driver connection.

asyncpg prepares each on first use and keeps it per connection.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

from asyncpg import Record
from sqlalchemy import ARRAY, BigInteger, BindParameter, ColumnElement, SmallInteger, Text, bindparam, literal_column
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.sql.expression import ClauseElement
from sqlalchemy.types import TypeEngine

from enrollment_service.store.database import DriverConnection
from enrollment_service.store.models import timestamptz

_DIALECT = dialect()  # type: ignore[no-untyped-call]

bigint = BigInteger()
smallint = SmallInteger()
text = Text()
timestamp = timestamptz


def array(name: str, of: TypeEngine[Any] = bigint) -> BindParameter[Any]:
    """A parameter that takes a list of values."""
    return bindparam(name, type_=ARRAY(of))


def constant(value: int) -> ColumnElement[int]:
    """A number written into the statement: a generic plan can match it with the condition of a partial index."""
    return literal_column(str(value), BigInteger)


def next_id(table: str) -> ColumnElement[int]:
    """The next id of a table, from the sequence behind its `id`."""
    return literal_column(f"nextval(pg_get_serial_sequence('{table}', 'id'))", BigInteger)


class Prepared:
    """A statement and the order in which the driver wants its parameters."""

    def __init__(self, statement: ClauseElement, *parameters: str) -> None:
        self._statement = statement
        self._parameters = parameters

    @cached_property
    def _compiled(self) -> tuple[str, tuple[int, ...]]:
        compiled = self._statement.compile(dialect=_DIALECT)
        names: list[str] = compiled.positiontup or []  # type: ignore[attr-defined]
        unknown = set(self._parameters) ^ set(names)
        assert not unknown, f"parameters do not match the statement: {sorted(unknown)}"
        return str(compiled), tuple(self._parameters.index(name) for name in names)

    @property
    def sql(self) -> str:
        """The statement as PostgreSQL sees it."""
        return self._compiled[0]

    async def fetch(self, connection: DriverConnection, *arguments: Any) -> list[Record]:
        """Runs the statement; arguments stand in the order of the parameters' names."""
        sql, order = self._compiled
        return await connection.fetch(sql, *[arguments[index] for index in order])

    async def fetch_one(self, connection: DriverConnection, *arguments: Any) -> Record:
        """Runs a statement that always returns exactly one row."""
        return (await self.fetch(connection, *arguments))[0]

"""Statements written in SQLAlchemy Core against the models, compiled once, sent prepared on a driver connection.

Each is prepared once on a connection: when it is first used there, or before, as those of transactions that lock rows
(see `transactions.HeldConnection`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable, Iterator
from functools import cached_property
from itertools import chain, combinations
from typing import Any, NamedTuple, TypeVar

from asyncpg import Record
from asyncpg.prepared_stmt import PreparedStatement
from sqlalchemy import (
    ARRAY,
    BigInteger,
    BindParameter,
    Boolean,
    ColumnElement,
    Integer,
    SmallInteger,
    Text,
    Uuid,
    bindparam,
    column,
    func,
    literal_column,
)
from sqlalchemy.dialects.postgresql.asyncpg import dialect
from sqlalchemy.orm import InstrumentedAttribute
from sqlalchemy.sql.expression import ClauseElement
from sqlalchemy.types import TypeEngine

from enrollment_service.store.driver import DriverConnection
from enrollment_service.store.models import timestamptz

Part = TypeVar("Part")

# So many rows are worked on at a time, before others go on: about a millisecond's work.
PIECE = 500

_DIALECT = dialect()  # type: ignore[no-untyped-call]

bigint = BigInteger()
integer = Integer()
smallint = SmallInteger()
text = Text()
uuid = Uuid()
boolean = Boolean()
timestamp = timestamptz


def array(name: str, of: TypeEngine[Any] = bigint) -> BindParameter[Any]:
    """A parameter that takes a list of values."""
    return bindparam(name, type_=ARRAY(of))


def or_empty(column: InstrumentedAttribute[str | None]) -> ColumnElement[str]:
    """A text that may be NULL as the domain has it: empty where there is none."""
    return func.coalesce(column, literal_column("''", Text)).label(column.key)


def parked(row_id: ColumnElement[int] | InstrumentedAttribute[int]) -> ColumnElement[str]:
    """A value for a unique text that nobody can be given, for the moment in which the text is handed on to another."""
    return func.concat(func.chr(constant(1)), row_id)


class UpsertKeys(NamedTuple):
    """The natural key that a row of an import asks for and who has it, and who has its external id with which key.

    Natural keys are in the form in which the database compares them.
    """

    wanted: str | None
    holder: int | None
    found: int | None
    had: str | None


def constant(value: int) -> ColumnElement[int]:
    """A number written into the statement: a generic plan can match it with the condition of a partial index."""
    return literal_column(str(value), BigInteger)


def combinations_of(parts: Iterable[Part]) -> Iterator[tuple[Part, ...]]:
    """Every choice of one or more of the parts, in their order."""
    known = list(parts)
    return chain.from_iterable(combinations(known, size) for size in range(1, len(known) + 1))


def next_id(table: str) -> ColumnElement[int]:
    """The next id of a table, from the sequence behind its `id`; which one that is, is looked up once, not per row."""
    return literal_column(f"nextval((SELECT pg_get_serial_sequence('{table}', 'id')::regclass))", BigInteger)


def rows_of(**columns: TypeEngine[Any]) -> Any:
    """Arrays of equal length as a table: `unnest(...)`, one column per array, named after its parameter."""
    arrays = [array(name, of) for name, of in columns.items()]
    shape = [column(name, of) for name, of in columns.items()]
    return func.unnest(*arrays).table_valued(*shape).render_derived()


class Prepared:
    """A statement to be sent on a driver connection, with its arguments by the names of its parameters."""

    def __init__(self, statement: ClauseElement) -> None:
        self._statement = statement

    @cached_property
    def _compiled(self) -> tuple[str, tuple[str, ...]]:
        compiled = self._statement.compile(dialect=_DIALECT)
        return str(compiled), tuple(compiled.positiontup or ())  # type: ignore[attr-defined]

    @property
    def sql(self) -> str:
        """The statement as PostgreSQL sees it."""
        return self._compiled[0]

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of its parameters, in PostgreSQL's order; one that is used twice stands there twice."""
        return self._compiled[1]

    async def prepare(self, connection: DriverConnection) -> PreparedStatement:
        """Prepares the statement on a connection, for as long as that lasts."""
        prepared = connection.prepared[self] = await connection.prepare(self.sql)
        return prepared

    async def fetch(self, connection: DriverConnection, **arguments: Any) -> list[Record]:
        """Runs the statement."""
        prepared = connection.prepared.get(self) or await self.prepare(connection)
        return await prepared.fetch(*[arguments[name] for name in self.parameters])

    async def pieces(self, connection: DriverConnection, **arguments: Any) -> AsyncIterator[Record]:
        """Runs a statement inside a transaction and fetches its rows piece by piece."""
        prepared = connection.prepared.get(self) or await self.prepare(connection)
        async for row in prepared.cursor(*[arguments[name] for name in self.parameters], prefetch=PIECE):
            yield row

    async def fetch_one(self, connection: DriverConnection, **arguments: Any) -> Record:
        """Runs a statement that always returns exactly one row."""
        return (await self.fetch(connection, **arguments))[0]

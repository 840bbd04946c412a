"""Prefix queries: what begins with what a caller typed, taken literally, whatever its case, found by an index."""

from __future__ import annotations

from typing import Any

from sqlalchemy import ColumnElement, func, literal, or_, text
from sqlalchemy.ext.asyncio import AsyncConnection
from sqlalchemy.orm import InstrumentedAttribute

_ESCAPE = "/"


def begins_with(prefix: str, *columns: InstrumentedAttribute[Any]) -> ColumnElement[bool]:
    """Whether any of the columns begins with the prefix; the database lowers both, so that they fit each other."""
    literally = "".join(_ESCAPE + letter if letter in f"%_{_ESCAPE}" else letter for letter in prefix)
    pattern = func.lower(literal(literally + "%"))
    return or_(*(func.lower(column).like(pattern, escape=_ESCAPE) for column in columns))


async def plan_for_prefixes(connection: AsyncConnection) -> None:
    """Until the transaction ends, plans with the actual pattern: a generic plan cannot use an index for one."""
    await connection.execute(text("SET LOCAL plan_cache_mode = force_custom_plan"))
